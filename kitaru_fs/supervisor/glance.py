"""What a supervisor has to know of a run, read from its directory."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

from kitaru_fs.awaited import awaited
from kitaru_fs.entry import FORMAT
from kitaru_fs.holding.lock import Holder, read_holder
from kitaru_fs.rundir.charge import SUPERVISED, read_charge
from kitaru_fs.rundir.history import OpenRun, open_run
from kitaru_fs.rundir.leaving import was_driven
from kitaru_fs.rundir.status import ENDED, caller_of, status_of
from kitaru_fs.supervisor.held import why_held

__all__ = ["Glance", "glance"]

Need = Literal["nothing", "start", "resume", "wait", "driven", "held"]

_WAKES = {
    "inbox": "something lies in its inbox",
    "time": "its time has come",
    "child": "a run that it called can go on, or has ended",
}


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
        runs: The ids of the runs that bring what it waits for: its own and its children's.
        holder: Who holds it.
    """

    flow: str
    status: str
    need: Need = "nothing"
    why: str = ""
    since: float = 0.0
    at: float | None = None
    step: int = 0
    runs: tuple[str, ...] = ()
    holder: Holder | None = None


def glance(path: Path, workspace: Path, now: float) -> Glance:
    """Looks at a run.

    Args:
        path: Its directory.
        workspace: The workspace's.
        now: Times up to this one, in seconds since the epoch, have come.

    Raises:
        KitaruError: It cannot be read.
    """
    holder = read_holder(path / ".git")
    with open_run(path) as opened:
        request = opened.repository.request(opened.point)
        found = Glance(
            request.flow,
            status_of(opened, request, holder),
            since=float(opened.committed_at()),
            step=opened.point.step,
            holder=holder,
        )
        if holder is not None and holder.alive is not False:
            return found._replace(need="driven")
        if found.status in ENDED or caller_of(opened, request) is not None:
            return found
        if opened.repository.format_of(opened.point) > FORMAT:
            return found._replace(need="held", why="a newer kitaru wrote it")
        if held := why_held(path, workspace, found.status):
            return found._replace(need="held", why=held)
        return _of_one_to_go_on(path, opened, found, now)


def _of_one_to_go_on(path: Path, opened: OpenRun, found: Glance, now: float) -> Glance:
    if found.status == "queued" and found.step == 0:
        return found._replace(need="start", why="queued")
    if found.status == "queued":
        return found._replace(need="resume", why="what it waited for has come")
    if found.status == "waiting":
        return _of_a_wait(path, opened, found, now)
    # One that was killed before it noted anything has left its name on the lock.
    if was_driven(path / ".git") or _died_driving(found.holder):
        return found._replace(need="resume", why="its process died")
    if read_charge(path / ".git") == SUPERVISED:
        return found._replace(need="resume", why="handed over")
    return found


def _died_driving(holder: Holder | None) -> bool:
    return holder is not None and (
        holder.purpose in ("up", "run", "resume") or _died_driving(holder.previous)
    )


def _of_a_wait(path: Path, opened: OpenRun, found: Glance, now: float) -> Glance:
    wake = awaited(path, opened).wake
    at = wake.at.timestamp() if wake.at is not None else None
    found = found._replace(at=at, runs=tuple(run.name for run in wake.runs))
    is_due = at is not None and at <= now
    if wake.reason is None and not is_due:
        return found._replace(need="wait")
    reason = wake.reason or "time"
    since = at if reason == "time" and at is not None else now
    return found._replace(need="resume", why=_WAKES.get(reason, reason), since=since)
