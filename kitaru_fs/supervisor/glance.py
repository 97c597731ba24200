"""What a supervisor has to know of a run, read from its directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, NamedTuple

from kitaru_fs.holding.lock import Holder
from kitaru_fs.run import Run
from kitaru_fs.rundir.charge import SUPERVISED, read_charge
from kitaru_fs.supervisor.held import ENDED

__all__ = ["Glance", "Signature", "glance", "signature"]

Need = Literal["nothing", "start", "resume", "wait", "driven", "held"]
Signature = tuple[int, int, int]


class Glance(NamedTuple):
    """How a run stands, as far as a supervisor has to do with it.

    Attributes:
        flow: Its flow's name.
        status: Its status.
        need: `start` (it is queued, and nobody ever drove it), `resume` (it can go on), `wait` (for
            what comes from outside), `driven` (a process holds it), `held` (a human moved it),
            `nothing`.
        why: What it goes on for, or why it is held.
        since: Since when, in seconds since the epoch.
        at: When its time comes, if it waits for one; in seconds since the epoch.
        step: The number of its last commit.
        holder: Who holds it.
        runs: The directories of the runs that bring what it waits for: its own and its children's.
    """

    flow: str
    status: str
    need: Need
    why: str = ""
    since: float = 0.0
    at: float | None = None
    step: int = 0
    holder: Holder | None = None
    runs: tuple[str, ...] = ()


_WAKES = {
    "inbox": "something lies in its inbox",
    "time": "its time has come",
    "child": "a run that it called has ended",
}


def glance(run: Run, now: float) -> Glance:
    """Looks at a run.

    Args:
        run: The run.
        now: Times up to this one, in seconds since the epoch, have come.

    Raises:
        KitaruError: It cannot be read.
    """
    holder = run.holder
    found = Glance(
        run.flow,
        run.status,
        "nothing",
        since=run.updated.timestamp(),
        step=run.step,
        holder=holder,
    )
    if holder is not None and holder.alive is not False:
        return found._replace(need="driven")
    if found.status in ENDED or run.is_child:
        return found
    if held := run.held:
        return found._replace(need="held", why=held)
    if found.status == "queued":
        if run.step == 0:
            return found._replace(need="start", why="queued")
        return found._replace(need="resume", why="what it waited for has come")
    if found.status == "waiting":
        return _of_a_wait(run, found, now)
    if run.crashed:
        return found._replace(need="resume", why="its process died")
    if read_charge(run.path / ".git") == SUPERVISED:
        return found._replace(need="resume", why="handed over")
    return found


def _of_a_wait(run: Run, found: Glance, now: float) -> Glance:
    wake = run.wake
    at = wake.at.timestamp() if wake.at is not None else None
    runs = tuple(map(str, wake.runs))
    if wake.reason is not None or (at is not None and at <= now):
        why = _WAKES.get(wake.reason or "time", wake.reason or "")
        since = at if wake.reason in (None, "time") and at is not None else now
        return found._replace(need="resume", why=why, since=since, runs=runs)
    return found._replace(need="wait", at=at, runs=runs)


def signature(run: Path) -> Signature | None:
    """Returns what changes when a run is taken up, let go, moved or written to; None if it is gone.

    Args:
        run: Its directory.
    """
    try:
        private = os.stat(run / ".git" / "kitaru").st_mtime_ns
    except OSError:
        return None
    return private, _mtime(run / "inbox"), _mtime(run / ".git" / "HEAD")


def _mtime(path: Path) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0
