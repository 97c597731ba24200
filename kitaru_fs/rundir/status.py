"""A run's status, from its last commit and from who drives it."""

from __future__ import annotations

from kitaru_fs.holding.lock import Holder
from kitaru_fs.rundir.history import OpenRun
from kitaru_fs.rundir.leaving import never_driven, was_torn
from kitaru_fs.rundir.repository import Request

__all__ = ["ENDED", "called_by", "caller_of", "status_of"]

ENDED = frozenset({"completed", "failed", "cancelled"})


def status_of(opened: OpenRun, request: Request, holder: Holder | None) -> str:
    """Returns a run's status: its last commit's, or `queued`, or `interrupted`.

    Args:
        opened: The run.
        request: What was asked of it.
        holder: Who holds it, or died holding it.
    """
    status = opened.point.status
    is_driven = holder is not None and holder.alive is not False
    if status not in ("running", "waiting") or is_driven:
        return status
    git_dir = opened.repository.git_dir
    if was_torn(git_dir):
        return "interrupted"
    if status == "waiting":
        return status
    # What it waited for has come, or it was never begun: a process is all it lacks.
    has_come = opened.point.trailers.get("Kitaru-Kind") in ("reply", "message")
    is_first = request.detached and request.run == opened.repository.path.name
    return "queued" if has_come or (is_first and never_driven(git_dir)) else "interrupted"


def caller_of(opened: OpenRun, request: Request) -> str | None:
    """Returns the run that called this one, and goes on with it; a copy is nobody's child.

    Args:
        opened: The run.
        request: What was asked of it.
    """
    path = opened.repository.path
    if request.parent is None or request.run != path.name:
        return None
    caller = request.parent["run"]
    return caller if (path.parent / caller / ".git").exists() else None


def called_by(opened: OpenRun) -> list[str]:
    """Returns the ids of the runs that a run called on the way to HEAD, in the order called."""
    entries = opened.repository.journal(opened.point).entries()
    return list(dict.fromkeys(entry.child for entry in entries if entry.child is not None))
