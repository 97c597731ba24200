"""Making the runs of schedules that are due, each by a process of its own.

The user's code is imported there and never in the supervisor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from kitaru_fs.supervisor.schedules import Due, Schedules
from kitaru_fs.supervisor.workers import Workers
from kitaru_fs.workspace import Workspace

__all__ = ["Scheduler"]


class Scheduler:
    """What stands between the schedules and the processes.

    Args:
        schedules: When they are due.
        workers: Where processes are started.
        tell: Told what happens: its kind, the run, its flow, a text.
    """

    def __init__(
        self, schedules: Schedules, workers: Workers, tell: Callable[[str, str, str, str], None]
    ) -> None:
        self._schedules = schedules
        self._workers = workers
        self._tell = tell
        self._making: dict[str, Due] = {}

    def __bool__(self) -> bool:
        """Whether a run is being made."""
        return bool(self._making)

    def start(self, workspace: Workspace, now: float, environment: Mapping[str, str]) -> None:
        """Starts to make the runs that are due.

        Args:
            workspace: The workspace, as it is now.
            now: Seconds since the epoch.
            environment: Variables for the processes.
        """
        for due in self._schedules.due(now):
            name = f"schedule-{due.id}"
            given = msgspec.json.encode(due.schedule.input).decode()
            args = ["run", due.schedule.flow, "--input", given, "--key", due.key]
            try:
                self._workers.command(name, [*args, "--detach", "--json"], environment)
            except OSError as error:
                why = f"no process could be started: {error.strerror}"
                self._fail(due, why, workspace, now)
                continue
            self._schedules.begin(due)
            self._making[name] = due

    def end(self, name: str, error: str, workspace: Workspace, now: float) -> str | None:
        """Notes that a process ended; returns the run that it made.

        Args:
            name: What it was started as.
            error: What it told; empty for nothing.
            workspace: The workspace, as it is now.
            now: Seconds since the epoch.
        """
        due = self._making.pop(name)
        # How the command ended tells how the run stands; it may be there from an earlier try.
        run = workspace.find_key(due.key)
        if run is None:
            self._fail(due, error or "its process died", workspace, now)
            return None
        self._schedules.made(due)
        self._tell("scheduled", run.id, due.schedule.flow, f"for {due.at}")
        return run.id

    def _fail(self, due: Due, why: str, workspace: Workspace, now: float) -> None:
        wait = self._schedules.failed(due, now, workspace.settings.up)
        flow = due.schedule.flow
        text = f"the schedule of {flow!r} for {due.at}: {why}; again in {wait:.0f} s"
        self._tell("backoff", "", flow, text)
