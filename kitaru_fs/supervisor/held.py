"""Why a supervisor leaves a run to a human."""

from __future__ import annotations

from pathlib import Path

from kitaru_fs.holding.requests import who_asked
from kitaru_fs.rundir.charge import MOVED, read_charge
from kitaru_fs.rundir.leaving import moved_by_hand, was_driven
from kitaru_fs.rundir.status import ENDED
from kitaru_fs.storage.refs import Refs
from kitaru_fs.supervisor.troubles import read_trouble

__all__ = ["MOVED_BY_HAND", "why_held"]

MOVED_BY_HAND = "moved by hand"


def why_held(run: Path, workspace: Path, status: str) -> str:
    """Returns why a run is left to a human's `kitaru resume`; empty if it is not.

    Args:
        run: Its directory.
        workspace: The workspace's.
        status: The run's status.

    Raises:
        RunDamagedError: The run's HEAD cannot be read.
    """
    if status in ENDED:
        return ""
    git_dir = run / ".git"
    paused = who_asked(git_dir, "pause")
    if paused is not None:
        return f"paused by {paused['by']}" if paused["by"] else "paused"
    if read_charge(git_dir) == MOVED:
        return MOVED_BY_HAND
    if moved_by_hand(git_dir, Refs(git_dir), crashed=was_driven(git_dir)):
        return MOVED_BY_HAND
    trouble = read_trouble(workspace, run.name)
    return trouble.reason if trouble is not None and trouble.held else ""
