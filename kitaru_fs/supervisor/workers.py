"""The processes that drive runs for a supervisor: starting them, and judging how they ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from kitaru_fs.config.settings import UpSettings
from kitaru_fs.errors import KitaruError
from kitaru_fs.run import Run
from kitaru_fs.supervisor.glance import Glance
from kitaru_fs.supervisor.held import MOVED_BY_HAND
from kitaru_fs.supervisor.queue import Ready
from kitaru_fs.supervisor.starter import Ended, Starter, errors_in
from kitaru_fs.supervisor.troubles import Trouble, Troubles

__all__ = ["Driving", "Workers"]

# Entries that are no step forward.
_NO_PROGRESS = frozenset({"resume", "failed", "edit", "intent", "start"})


class Driving(NamedTuple):
    """A run that a process drives.

    Attributes:
        flow: Its flow's name.
        step: The number of its last commit when the process was started.
        since: When that was, in seconds since the epoch.
        why: What it goes on for.
    """

    flow: str
    step: int
    since: float
    why: str


class Workers:
    """The processes of one supervisor.

    Args:
        workspace: The workspace's directory.
        folder: `.kitaru/up`.
        troubles: Which runs do not go on as they should.
        modules: What the processes' parent imports for them.
        changed: Told the socket that is to be listened to, when that is another.
    """

    def __init__(
        self,
        workspace: Path,
        folder: Path,
        troubles: Troubles,
        modules: list[str],
        changed: Callable[[socket.socket | None], None],
    ) -> None:
        self._workspace = workspace
        self._folder = folder
        self._troubles = troubles
        self._starter = Starter(workspace, modules, changed)
        self._driving: dict[str, Driving] = {}
        self._commands: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._driving

    def __len__(self) -> int:
        return len(self._driving)

    @property
    def driving(self) -> Mapping[str, Driving]:
        """The runs that are driven, by their ids."""
        return self._driving

    @property
    def pids(self) -> Mapping[str, int]:
        """Their processes; 0 for one that is being started."""
        return self._starter.pids

    def flows(self) -> Counter[str]:
        """Returns how many runs of each flow are driven."""
        return Counter(driving.flow for driving in self._driving.values())

    def warm_up(self) -> None:
        """Gets ready to start processes.

        Raises:
            OSError: No process is to be had.
        """
        self._starter.warm_up()

    def start(self, ready: Ready, step: int, now: float, environment: Mapping[str, str]) -> None:
        """Starts a process that drives a run.

        Args:
            ready: The run.
            step: The number of its last commit.
            now: Seconds since the epoch.
            environment: Variables beside this process's.

        Raises:
            OSError: No process is to be had.
        """
        path = self._workspace / "runs" / ready.name
        args = ["--workspace", str(self._workspace), "resume", str(path), "--supervised"]
        self._starter.start(ready.name, args, self._errors(ready.name), environment)
        self._driving[ready.name] = Driving(ready.flow, step, now, ready.why)

    def command(self, name: str, args: Sequence[str], environment: Mapping[str, str]) -> None:
        """Starts a command that drives no run.

        Args:
            name: A name of its own.
            args: Its command line.
            environment: Variables beside this process's.

        Raises:
            OSError: No process is to be had.
        """
        args = ["--workspace", str(self._workspace), *args]
        self._starter.start(name, args, self._errors(name), environment)
        self._commands.add(name)

    def signal(self, number: signal.Signals) -> None:
        """Sends all of them a signal."""
        for name in self._driving:
            self._starter.signal(name, number)

    def ended(self) -> tuple[list[tuple[Ended, Driving]], dict[str, str]]:
        """Returns the runs' processes that ended since the last call, and of the commands that did,
        by their names, what error they told; empty for none.
        """
        found: list[tuple[Ended, Driving]] = []
        commands: dict[str, str] = {}
        for ended in self._starter.events():
            driving = self._driving.pop(ended.run, None)
            if driving is not None:
                found.append((ended, driving))
            elif ended.run in self._commands:
                self._commands.discard(ended.run)
                commands[ended.run] = self._take_error(ended.run).get("message", "")
        return found, commands

    def judge(
        self,
        ended: Ended,
        driving: Driving,
        run: Run,
        found: Glance | None,
        now: float,
        settings: UpSettings,
    ) -> Trouble | None:
        """Says what keeps a run from going on whose process ended; None if nothing does.

        Args:
            ended: How it ended.
            driving: What it drove.
            run: The run.
            found: How that stands now.
            now: Seconds since the epoch.
            settings: What to do about trouble.
        """
        error = self._take_error(ended.run)
        if found is not None and found.need not in ("start", "resume"):
            self._troubles.forget(ended.run)
            return None
        if ended.status is None or ended.status == 4:
            return None  # nobody knows; or another was first
        if error.get("type") == "MovedError":
            return self._troubles.hold(ended.run, MOVED_BY_HAND)
        reason = _reason(ended.status, error)
        if ended.status == 5:
            return self._troubles.hold(ended.run, reason)
        progressed = _progressed(run, driving.step)
        if ended.status in (0, 3) and progressed:
            self._troubles.forget(ended.run)
            return None
        return self._troubles.note(
            ended.run, reason, progressed=progressed, now=now, settings=settings
        )

    def close(self) -> None:
        """Lets go of the processes."""
        self._starter.close()

    def _take_error(self, name: str) -> dict[str, str]:
        error = errors_in(self._errors(name)) or {}
        with contextlib.suppress(OSError):
            os.unlink(self._errors(name))
        return error

    def _errors(self, name: str) -> Path:
        return self._folder / f"{name}.err"


def _reason(status: int, error: Mapping[str, str]) -> str:
    if error.get("message"):
        return error["message"]
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"its process died ({signal.Signals(-status).name})"
    if status == 130:
        return "its process was stopped"
    if status in (0, 3):
        return "it was woken, and nothing came of it"
    return f"its process ended with status {status}"


def _progressed(run: Run, step: int) -> bool:
    """Says whether a run has made a step since it stood at another."""
    with contextlib.suppress(KitaruError):
        return any(
            line.step is not None and line.step > step and line.kind not in _NO_PROGRESS
            for line in run.refresh().log()
        )
    return False
