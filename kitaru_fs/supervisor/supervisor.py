"""The supervisor of a workspace: one loop that looks at runs and starts processes that drive them.

What is true stands in the runs' directories, and is read anew whenever something may have changed:
a watched directory, a process that ended, a time that has come, and all of them now and then. The
loop's own memory is no more than what it saw last, so it can be killed at any time.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from kitaru_fs.clock import seconds, utc_now
from kitaru_fs.errors import HeldError
from kitaru_fs.run import Run
from kitaru_fs.supervisor.bulletin import Bulletin
from kitaru_fs.supervisor.followed import Followed
from kitaru_fs.supervisor.glance import Glance
from kitaru_fs.supervisor.livesettings import LiveSettings
from kitaru_fs.supervisor.lock import has_lock, take_lock
from kitaru_fs.supervisor.queue import Ready, RunQueue
from kitaru_fs.supervisor.roster import Roster, Seen
from kitaru_fs.supervisor.scheduler import Scheduler
from kitaru_fs.supervisor.schedules import Schedules
from kitaru_fs.supervisor.starter import Ended, needed_modules
from kitaru_fs.supervisor.times import Times
from kitaru_fs.supervisor.troubles import Troubles
from kitaru_fs.supervisor.watcher import Watcher
from kitaru_fs.supervisor.workers import Driving, Workers
from kitaru_fs.workspace import Workspace

__all__ = ["Happened", "Supervisor"]

# Seconds between two looks at everything: what no watch told is found then.
_CHECK = 10.0
# The clock may be set while the loop sleeps.
_LONGEST_SLEEP = 1.0
_LOOKING = 0.05
_KILL_AFTER = 10.0
# How long the first start may wait until all runs are known.
_ACQUAINTANCE = 1.0
# What the start of a process may take.
_LEAD = 1.0
# So many of the queue are shown to those who watch.
_SHOWN = 20


class Happened(NamedTuple):
    """Something that the supervisor did or saw.

    Attributes:
        kind: `began` (a process for a run), `ended` (that process; `text` is how), `held` (a run
            is left to a human; `text` says why), `backoff` (`text` says why and how long),
            `scheduled` (a run was made for a schedule), `damaged`, `notice`.
        run: The run; empty where it is about none.
        flow: Its flow.
    """

    kind: str
    run: str
    flow: str
    text: str


class Supervisor:
    """Drives the runs of a workspace until it is stopped.

    Args:
        workspace: The workspace.
        overrides: Settings that win over its `kitaru.toml`, also when that is changed.
        once: End when nothing is left that can go on.
        listener: Told what happens.
    """

    def __init__(
        self,
        workspace: Workspace,
        *,
        overrides: Mapping[str, object] | None = None,
        once: bool = False,
        listener: Callable[[Happened], None] | None = None,
    ) -> None:
        self._once = once
        self._listener = listener
        self._folder = workspace.path / ".kitaru" / "up"
        self._runs = str(workspace.runs_dir)
        self._live_settings = LiveSettings(workspace, overrides or {}, self._folder)
        self._ready = selectors.DefaultSelector()
        self._woken, self._waking = socket.socketpair()
        self._waking.setblocking(False)
        self._queue = RunQueue()
        self._times = Times()
        self._roster = Roster(workspace.path)
        self._troubles = Troubles(self._folder)
        self._workers = Workers(
            workspace.path,
            self._folder,
            self._troubles,
            needed_modules(workspace.path),
            self._listen_to_workers,
        )
        self._workers_socket: socket.socket | None = None
        self._followed = Followed(self._ready)
        self._watcher = Watcher()
        self._bulletin = Bulletin(self._folder)
        self._schedules = Schedules(workspace.path, self._folder)
        self._scheduler = Scheduler(self._schedules, self._workers, self._tell)
        self._places: dict[str, tuple[str, ...]] = {}
        self._owners: dict[str, str] = {}
        self._watches = False
        self._runs_identity = 0
        self._said: dict[str, tuple[str, str]] = {}
        self._lock = -1
        self._check_at = 0.0
        self._start_at = 0.0
        self._asked_to_stop = 0
        self._stage = 0
        self._next_stage = 0.0

    @property
    def _workspace(self) -> Workspace:
        return self._live_settings.workspace

    def stop(self) -> None:
        """Asks for the end; may be called by a signal handler.

        The first time, steps in flight get time to finish; the second time they are stopped in
        order, the third time killed.
        """
        self._asked_to_stop += 1
        with contextlib.suppress(OSError):
            self._waking.send(b".")

    def run(self) -> None:
        """Supervises.

        Raises:
            HeldError: Another supervisor does.
            StorageError: The disk refused.
        """
        self._lock = take_lock(self._workspace.path)
        try:
            self._make_folder()
            self._ready.register(self._woken, selectors.EVENT_READ)
            self._ready.register(self._watcher.woken, selectors.EVENT_READ)
            self._workers.warm_up()
            self._roster.load()
            self._schedules.follow(self._workspace.settings.schedule, utc_now().timestamp())
            self._start_at = seconds() + _ACQUAINTANCE
            while not self._is_done():
                self._sleep()
                self._go_round()
        finally:
            self._roster.save()
            self._bulletin.remove()
            self._workers.close()
            self._watcher.close()
            self._followed.close()
            self._ready.close()
            for end in (self._woken, self._waking):
                end.close()
            os.close(self._lock)

    # The loop

    def _sleep(self) -> None:
        now = utc_now().timestamp()
        delays = [_LONGEST_SLEEP, self._check_at - seconds(), self._times.next() - now]
        delays += [self._bulletin.owed, self._schedules.next(now) - now, self._live_settings.owed]
        if not self._roster.is_looked_at or (self._queue and self._room() > 0):
            delays.append(0.0)
        for key, _ in self._ready.select(max(0.0, min(delays))):
            if key.fileobj is self._woken:
                self._woken.recv(4096)

    def _go_round(self) -> None:
        now = utc_now().timestamp()
        self._take_changes()
        if self._live_settings.owed <= 0:
            self._follow_settings()
        ended, commands = self._workers.ended()
        for one, driving in ended:
            self._end(one, driving, now)
        for name, error in commands.items():
            made = self._scheduler.end(name, error, self._workspace, now)
            self._roster.look_at([made] if made else [])
        self._roster.look_at(self._times.take(now))
        self._roster.look_at(self._followed.ended())
        if seconds() >= self._check_at:
            self._check()
        for seen in self._roster.look(now + self._lead, _LOOKING):
            self._settle(seen, now)
        if self._asked_to_stop:
            self._stop_in_stages()
        else:
            self._scheduler.start(self._workspace, now, self._live_settings.environment)
            if self._knows_enough():
                self._fill(now)
        if self._roster.is_looked_at or not self._watches:
            self._watches = True
            fixed = (self._runs, str(self._workspace.path))
            self._watcher.watch(self._owners.keys() | fixed)
        self._bulletin.write(self._at_work)

    def _is_done(self) -> bool:
        if self._asked_to_stop:
            return self._stage > 0 and not self._workers
        is_idle = not self._queue and not self._workers and self._roster.is_looked_at
        return self._once and self._check_at > 0 and is_idle and not self._scheduler

    def _check(self) -> None:
        self._check_at = seconds() + _CHECK
        if not has_lock(self._workspace.path, self._lock):
            self._take_seat_again()
        self._follow_settings()
        self._follow_runs_dir()
        self._roster.check()
        self._roster.save()

    def _follow_settings(self) -> None:
        if said := self._live_settings.follow():
            self._tell("notice", text=said)
            self._schedules.follow(self._workspace.settings.schedule, utc_now().timestamp())

    def _follow_runs_dir(self) -> None:
        """Watches `runs/` anew where it is another: made after the start, or deleted and made."""
        try:
            identity = os.stat(self._workspace.runs_dir).st_ino
        except OSError:
            identity = 0
        if identity != self._runs_identity:
            self._runs_identity = identity
            self._watcher.forget(self._runs)

    def _take_seat_again(self) -> None:
        try:
            holder = take_lock(self._workspace.path)
        except HeldError as error:
            self._tell("notice", text=f".kitaru/ was deleted, and now {error.message}: it goes on")
            self.stop()
            return
        os.close(self._lock)
        self._lock = holder
        self._make_folder()

    def _make_folder(self) -> None:
        # Somebody may delete `.kitaru/` at any time: it is made again once that is noticed.
        with contextlib.suppress(FileNotFoundError):
            self._folder.mkdir(parents=True, exist_ok=True)

    def _take_changes(self) -> None:
        for place in self._watcher.changed():
            if place == self._runs:
                self._roster.list()
            elif place == str(self._workspace.path):
                self._follow_settings()
                self._follow_runs_dir()
            elif place in self._owners:
                self._roster.look_at([self._owners[place]])

    # Runs

    def _settle(self, seen: Seen, now: float) -> None:
        """Does what a look at a run calls for."""
        name, found = seen.name, seen.glance
        if name in self._workers:
            return  # looked at when its process ends
        if seen.error is not None:
            self._say(name, "damaged", "", seen.error.message)
        need = found.need if found is not None else "nothing"
        if need not in ("start", "resume"):
            self._queue.discard(name)
        self._times.set(name, None)
        self._followed.follow(name, found.holder if found and need == "driven" else None)
        self._watch(name, found)
        if found is None or need in ("nothing", "driven"):
            if seen.error is None:
                self._said.pop(name, None)
        elif need == "held":
            self._say(name, "held", found.flow, found.why)
        elif need == "wait":
            self._times.set(name, found.at - self._lead if found.at is not None else None)
        else:
            self._stand_in_queue(name, found, now)

    def _stand_in_queue(self, name: str, found: Glance, now: float) -> None:
        trouble = self._troubles.read(name)
        if trouble is not None and trouble.held:
            self._queue.discard(name)
            self._say(name, "held", found.flow, trouble.reason)
            return
        # A clock that was set back must not make it wait for longer than it ever would.
        longest = now + self._workspace.settings.up.max_backoff
        until = min(trouble.until, longest) if trouble is not None else now
        if until > now:
            self._queue.discard(name)
            self._times.set(name, until)
            return
        begun = found.need == "resume"
        self._queue.put(Ready(name, found.flow, found.since, begun, found.why))

    @property
    def _lead(self) -> float:
        """How long before its time a run is woken: its process stays until that comes."""
        return min(_LEAD, self._workspace.settings.linger)

    def _room(self) -> int:
        if self._asked_to_stop:
            return 0
        taken = len(self._workers) + len(self._followed.supervised)
        return self._workspace.settings.limits.concurrency - taken

    def _knows_enough(self) -> bool:
        """Says whether who is next can be told: all were looked at once, if that takes not long."""
        if self._check_at > 0 and self._roster.is_looked_at:
            self._start_at = 0.0
        return seconds() >= self._start_at

    def _fill(self, now: float) -> None:
        limits = self._workspace.settings.limits.flows
        while self._queue and self._room() > 0:
            running = self._workers.flows()
            for name in self._followed.supervised:
                running[self._roster.glances[name].flow] += 1
            ready = self._queue.next(running, limits.get)
            if ready is None:
                return
            found = self._roster.glances[ready.name]
            try:
                self._workers.start(ready, found.step, now, self._live_settings.environment)
            except OSError as error:
                self._tell("notice", text=f"no process could be started: {error.strerror}")
                self._times.set(ready.name, now + _LONGEST_SLEEP)
                return
            self._watch(ready.name, None)
            self._tell("began", ready.name, ready.flow, ready.why)

    def _end(self, ended: Ended, driving: Driving, now: float) -> None:
        name = ended.run
        seen = self._roster.look_now(name, now + self._lead)
        run = Run(self._workspace.runs_dir / name, self._workspace)
        if not self._asked_to_stop:
            settings = self._workspace.settings.up
            trouble = self._workers.judge(ended, driving, run, seen.glance, now, settings)
            if trouble is not None and not trouble.held:
                wait = max(0.0, trouble.until - now)
                text = f"{trouble.reason}; again in {wait:.0f} s" if wait else trouble.reason
                self._tell("backoff", name, driving.flow, text)
        self._settle(seen, now)
        if ended.status in (None, 4):
            # Somebody else has it, or nobody knows: not at once again.
            self._queue.discard(name)
            self._times.set(name, now + _LONGEST_SLEEP)
        if seen.glance is not None:
            self._tell("ended", name, driving.flow, seen.glance.status)

    def _watch(self, name: str, found: Glance | None) -> None:
        """Watches what tells that a run may go on."""
        places: list[str] = []
        runs = self._runs
        if found is not None and found.need in ("wait", "driven", "held"):
            places.append(f"{runs}/{name}/.git/kitaru")
        if found is not None and found.need == "wait":
            for run in found.runs:
                places += [f"{runs}/{run}/inbox", f"{runs}/{run}/.git/kitaru"]
        before = self._places.pop(name, ())
        if places:
            self._places[name] = tuple(places)
        for place in before:
            self._owners.pop(place, None)
        self._owners.update(dict.fromkeys(places, name))

    # Stopping

    def _stop_in_stages(self) -> None:
        if self._stage == 0:
            self._enter(1, self._workspace.settings.up.grace, None)
        if self._stage == 1 and (self._asked_to_stop > 1 or seconds() >= self._next_stage):
            self._enter(2, _KILL_AFTER, signal.SIGTERM)
        if self._stage == 2 and (self._asked_to_stop > 2 or seconds() >= self._next_stage):
            self._enter(3, _KILL_AFTER, signal.SIGKILL)

    def _enter(self, stage: int, patience: float, number: signal.Signals | None) -> None:
        self._stage = stage
        self._next_stage = seconds() + patience
        self._check_at = min(self._check_at, self._next_stage)
        if number is not None:
            self._workers.signal(number)
        if self._workers:
            what = ("finish their steps", "stop", "are killed")[stage - 1]
            self._tell("notice", text=f"{len(self._workers)} processes {what}")

    # Telling

    def _say(self, name: str, kind: str, flow: str, text: str) -> None:
        """Tells something of a run, once."""
        if self._said.get(name) != (kind, text):
            self._said[name] = kind, text
            self._tell(kind, name, flow, text)

    def _at_work(self) -> dict[str, Any]:
        """What it does now."""
        driven = [
            {"run": name, "flow": one.flow, "pid": self._workers.pids.get(name, 0), "why": one.why}
            for name, one in self._workers.driving.items()
        ]
        for name in self._followed.supervised:
            found = self._roster.glances[name]
            pid = found.holder.pid if found.holder is not None else 0
            driven.append({"run": name, "flow": found.flow, "pid": pid, "why": found.why})
        queue = [
            {"run": one.name, "flow": one.flow, "why": one.why} for one in self._queue.first(_SHOWN)
        ]
        held = [
            {"run": name, "why": text}
            for name, (kind, text) in self._said.items()
            if kind == "held"
        ]
        return {
            "pid": os.getpid(),
            "concurrency": self._workspace.settings.limits.concurrency,
            "driven": driven,
            "queued": len(self._queue),
            "queue": queue,
            "held": held[:_SHOWN],
            "schedules": self._schedules.upcoming(),
        }

    def _tell(self, kind: str, run: str = "", flow: str = "", text: str = "") -> None:
        if self._listener is not None:
            self._listener(Happened(kind, run, flow, text))

    def _listen_to_workers(self, control: socket.socket | None) -> None:
        if self._workers_socket is not None:
            self._ready.unregister(self._workers_socket)
        self._workers_socket = control
        if control is not None:
            self._ready.register(control, selectors.EVENT_READ)
