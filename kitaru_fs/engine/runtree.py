"""What a run and the runs that it called wait for together, and when their process leaves.

They share a process, so it leaves when none of them can go on: no step is executed, no task or
thread of any flow moves, and what they wait for has not come for as long as it lingers. Leaving is
an orderly stop: an async flow is cancelled, a plain one gets `Left` where it waits, and whoever
called the first of the flows gets `RunWaiting`.
"""

from __future__ import annotations

import asyncio
import math
import threading
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kitaru_fs.clock import monotonic, utc_now
from kitaru_fs.engine import poller
from kitaru_fs.engine.pending import Left, Pending
from kitaru_fs.errors import KitaruError, RunCancelled, RunPaused, RunWaiting
from kitaru_fs.quoting import printable

if TYPE_CHECKING:
    from kitaru_fs.engine.execution import Execution
    from kitaru_fs.engine.tasks import Survey
    from kitaru_fs.rundir.options import Asker

__all__ = ["RunTree"]

# Deadlines are times of day: a clock that is set is noticed after so many seconds.
_LONGEST = 1.0
_SOON = 0.005
_AGAIN = 0.05


class RunTree:
    """The executions of one run, and of the runs that it called, in this process.

    Args:
        linger: How long they stay for what may come, in seconds.

    Attributes:
        members: The executions, the first run's first.
        asker: Who puts the questions to a human, if there is one.
        stopping: A signal asked the process to stop.
        futures: What tasks await, for the tickets of what their calls wait for.
    """

    def __init__(self, linger: float) -> None:
        self._linger = linger
        self._lock = threading.RLock()
        self._since = monotonic()
        self._check_at: float | None = None
        self._checking = False
        self._seen: Survey | None = None
        self._open_until: float | None = None
        self._held_back: set[Pending] = set()
        self.members: list[Execution] = []
        self.asker: Asker | None = None
        self.stopping = False
        self.futures: dict[asyncio.Future[Any], Future[Any]] = {}

    # Who is in it

    def join(self, execution: Execution) -> None:
        """Notes that an execution begins."""
        with self._lock:
            self.members.append(execution)

    def part(self, execution: Execution) -> None:
        """Notes that an execution ended."""
        with self._lock:
            if execution in self.members:
                self.members.remove(execution)
            if not self.members:
                poller.dismiss(self)
        self.touch()

    # What is waited for

    def enter(self, pending: Pending) -> None:
        """Notes that a call waits; from here on the poller looks after what comes."""
        self.touch()
        if pending.opening is None:
            with self._lock:
                self._held_back.add(pending)
        elif self.asker is not None and pending.is_question:
            self.asker.ask(pending.execution.path, pending.opening)
        poller.attend(self)

    def over(self, pending: Pending) -> None:
        """Notes that a call does not wait any more."""
        if self.asker is not None and pending.opening is not None:
            self.asker.over(pending.execution.path, pending.opening)
        self.touch()

    def heed(self, asked: Execution, execution: Execution) -> Pending | None:
        """Heeds what somebody asked of a run.

        Args:
            asked: The run.
            execution: The run that is about to go on: the same, or one that it called.

        Returns:
            What a call waits for instead of going on, if it is to be paused.

        Raises:
            RunCancelled: It is to be cancelled.
        """
        if asked.is_asked("cancel"):
            self._cancel(asked)
            assert execution.halted is not None
            raise execution.halted
        if not asked.is_asked("pause"):
            return None
        pending = Pending(execution)
        self.enter(pending)
        return pending

    def _cancel(self, execution: Execution) -> None:
        error = RunCancelled(f"the run {execution.run} was cancelled", run=execution.run)
        self.leave(error, execution)

    def touch(self) -> None:
        """Notes that something happened: the process lingers from here on."""
        self._since = monotonic()
        self._check_at = None

    def pendings(self) -> list[Pending]:
        """Returns the calls that wait in this process."""
        with self._lock:
            found = list(self._held_back)
            for member in self.members:
                found += list(member.mailbox.pendings.values()) if member.has_mailbox else []
            return found

    def directories(self) -> list[str]:
        """Returns the directories in which a change may be what is waited for."""
        with self._lock:
            members = list(self.members)
        return [str(member.mailbox.inbox.path) for member in members if member.has_mailbox]

    # The poller's round

    def look(self) -> float:
        """Takes in what has come, and leaves if it is time.

        Returns:
            After how many seconds to look again, if nothing changes before.
        """
        with self._lock:
            members = list(self.members)
        for member in members:
            if member.is_asked("cancel") and member.is_driven:
                self._cancel(member)
            elif member.has_mailbox:
                try:
                    member.mailbox.look()
                except KitaruError as error:
                    self.leave(error, member)
        self._consider_leaving()
        return self._next_look()

    def _next_look(self) -> float:
        now = utc_now()
        delays = [_LONGEST]
        for pending in self.pendings():
            if pending.until is not None:
                delays.append((pending.until - now).total_seconds())
        with self._lock:
            for member in self.members:
                if member.has_mailbox and member.mailbox.look_at is not None:
                    delays.append(member.mailbox.look_at - monotonic())
        delays.append(self._leave_at() - monotonic())
        return max(0.0, min(delays))

    def _leave_at(self) -> float:
        """When leaving is to be considered, by the clock that only goes forward."""
        if self._checking:
            return monotonic() + _LONGEST
        if self._check_at is not None:
            return self._check_at
        since = max([self._since, *(member.last_commit for member in self.members)])
        return since + self._stay()

    def _stay(self) -> float:
        """How long the process stays, from the last thing that happened on."""
        pendings = self.pendings()
        until = [one.until for one in pendings if one.until is not None]
        left = min(((one - utc_now()).total_seconds() for one in until), default=None)
        if left is not None and left <= self._linger:
            # It comes before a process that is started for it would be there.
            return max(left, 0.0) + _LONGEST
        only_times = all(one.opening is None or one.opening.kind == "sleep" for one in pendings)
        if only_times or self._is_paused():
            return 0.0
        is_asking = self.asker is not None and self.asker.is_asking
        return math.inf if is_asking else self._linger

    # Leaving

    def leave(self, error: KitaruError, first: Execution | None = None) -> None:
        """Ends the work on an execution, and on those that it called, from outside of its flow.

        Args:
            error: What whoever called its flow gets, whatever the flow makes of it.
            first: The execution; the first of all by default.
        """
        with self._lock:
            if not self.members:
                return
            first = first or self.members[0]
            family = [member for member in self.members if member.was_called_by(first)]
        for member in family:
            member.leaving = "first" if member is first else "along"
            member.end_replay(error)
        for pending in self.pendings():
            if pending.execution in family and pending.task is None:
                with suppress(InvalidStateError):
                    pending.ticket.set_exception(Left())
        for member in family:
            caller = member.caller if member is not first else None
            if member.loop is not None and (caller is None or caller.loop is None):
                with suppress(RuntimeError):  # its loop is closed: it has ended
                    member.loop.call_soon_threadsafe(member.cancel_flow)

    def _waiting(self) -> KitaruError:
        first = self.members[0]
        if self._is_paused():
            return RunPaused(
                f"the run {first.run} is paused",
                hint=f"kitaru resume {first.run} goes on",
                run=first.run,
            )
        names = dict.fromkeys(
            printable(one.opening.name, 80) for one in self.pendings() if one.opening is not None
        )
        return RunWaiting(
            f"the run {first.run} waits for: {', '.join(names)}",
            hint=f"kitaru status {first.run} says what for, `kitaru answer` replies",
            run=first.run,
        )

    def _consider_leaving(self) -> None:
        if monotonic() < self._leave_at() or not self.pendings():
            return
        self._check_at = monotonic() + max(_AGAIN, min(self._linger, _LONGEST))
        loop = next((one.loop for one in self.members if one.loop is not None), None)
        if loop is None:
            if self._can_leave() and self._threads_wait(0):
                self.leave(self._waiting())
            return
        self._checking = True
        try:
            loop.call_soon_threadsafe(self._check_in_loop, loop)
        except RuntimeError:
            self._checking = False  # it is closed: its flow has ended

    def _check_in_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        from kitaru_fs.engine.tasks import concerned, horizon, survey, will_wake

        self._checking = False
        if not self._can_leave():
            return
        members = list(self.members)
        tasks = concerned(loop, members, self.futures)
        seen = survey(loop, members, self.futures, tasks)
        if seen.moves or not self._threads_wait(seen.threads) or will_wake(loop, tasks):
            return
        if seen != self._seen:
            # What a finished task wakes is seen only after the loop has gone round.
            self._seen, self._open_until = seen, None
            self._checking = True
            loop.call_later(_SOON, self._check_in_loop, loop)
            return
        if seen.is_open:
            self._open_until = self._open_until or horizon(loop, members)
            if loop.time() < self._open_until:
                return
        self.leave(self._waiting())

    def _can_leave(self) -> bool:
        """Says whether no execution is at a step, replays, or is being stopped."""
        return bool(self.members) and all(
            member.is_driven and not member.steps.any_in_flight() for member in self.members
        )

    def _is_paused(self) -> bool:
        return any(member.is_asked("pause") for member in self.members)

    def _threads_wait(self, of_tasks: int) -> bool:
        """Says whether every thread of the flows waits, those that so many tasks wait for included.

        A thread that runs a flow which another called in plain code counts in both.
        """
        running = sum(member.callers.running for member in self.members) + of_tasks
        called = sum(member.caller is not None and member.loop is None for member in self.members)
        return sum(member.callers.waiting for member in self.members) + called >= running
