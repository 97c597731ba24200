"""Pausing and cancelling a run from outside: directly, or by asking the process that drives it."""

from __future__ import annotations

import time
from pathlib import Path

from kitaru_fs.clock import monotonic
from kitaru_fs.engine.execution import Execution
from kitaru_fs.errors import ConflictError, HeldError
from kitaru_fs.holding.lock import read_holder
from kitaru_fs.holding.requests import Asked, ask, is_asked, withdraw
from kitaru_fs.rundir.history import open_run
from kitaru_fs.rundir.options import Options
from kitaru_fs.rundir.status import ENDED, called_by
from kitaru_fs.storage.store import storage_error

__all__ = ["cancel", "pause"]

_PATIENCE = 10.0
_LOOK = 0.02


def cancel(path: Path, options: Options) -> bool:
    """Ends a run for good; says whether it has ended, or its holder will do so. See `Run.cancel`.

    Raises:
        ConflictError: It is completed or cancelled already.
    """
    deadline = monotonic() + _PATIENCE
    while True:
        _refuse_ended(path, "cancelled")
        try:
            execution = Execution.open(path, options)
        except HeldError:
            _ask(path, "cancel", options)
            if not _is_let_go(path, deadline):
                return False
            if _status(path) == "cancelled":
                return _cancel_left(path, options)
            # It ended by itself, or died: then nobody has cancelled it yet.
            withdraw(path / ".git", "cancel")
            continue
        try:
            execution.ending.cancel()
        finally:
            execution.close()
        return True


def _cancel_left(path: Path, options: Options) -> bool:
    """Cancels what a cancelled run called and its process could not end: a plain flow in a thread.

    Returns:
        Whether all of it has ended.
    """
    with open_run(path) as opened:
        called = [path.parent / name for name in called_by(opened)]
    left = [run for run in called if is_asked(run / ".git", "cancel") and _status(run) not in ENDED]
    outcomes = [cancel(run, options) for run in left]
    return all(outcomes)


def pause(path: Path, options: Options) -> bool:
    """Stops a run until `resume`; says whether it is at rest. See `Run.pause`.

    Raises:
        ConflictError: It has ended.
    """
    _refuse_ended(path, "paused")
    _ask(path, "pause", options)
    if not _is_let_go(path, monotonic() + _PATIENCE):
        return False
    if _status(path) in ("completed", "cancelled"):
        withdraw(path / ".git", "pause")
        _refuse_ended(path, "paused")
    return True


def _ask(path: Path, what: Asked, options: Options) -> None:
    try:
        ask(path / ".git", what, options.human())
    except OSError as error:
        raise storage_error(error, f"asking for a {what}", then="try again") from error


def _refuse_ended(path: Path, what: str) -> None:
    status = _status(path)
    if status in ("completed", "cancelled"):
        raise ConflictError(
            f"the run {path.name} is {status}, so it cannot be {what}",
            hint="rewind it first, if that is what you want",
            run=path.name,
        )


def _status(path: Path) -> str:
    with open_run(path) as opened:
        return opened.point.status


def _is_let_go(path: Path, deadline: float) -> bool:
    """Waits until no process drives a run; says whether that is so."""
    while True:
        holder = read_holder(path / ".git")
        if holder is None or holder.alive is not True:
            return True
        if monotonic() >= deadline:
            return False
        time.sleep(_LOOK)
