"""What commands say of the supervisor that goes on with what they began."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kitaru_fs.cli.output import result, result_json, say

if TYPE_CHECKING:
    from kitaru_fs.run import Run
    from kitaru_fs.workspace import Workspace

__all__ = ["say_who_goes_on", "show_queued"]


def show_queued(run: Run, workspace: Workspace, *, as_json: bool) -> int:
    """Shows a run that a supervisor is to start; returns the exit status."""
    if as_json:
        result_json(run.state())
    else:
        result(run.id)
    say_who_goes_on(workspace, f"run {run.id}: queued", "starts it", as_json=as_json)
    return 0


def say_who_goes_on(workspace: Workspace, what: str, does: str, *, as_json: bool) -> None:
    """Says that a supervisor goes on, or that none runs and how one is started.

    Args:
        workspace: The workspace.
        what: What was done.
        does: What the supervisor does about it, as a verb.
        as_json: Say only what a program's user has to know.
    """
    seat = workspace.supervisor
    if seat is None:
        say(f"{what}, but no supervisor runs in this workspace")
        say(f"  kitaru up {does}")
    elif not as_json:
        say(f"{what}; the supervisor {does} (pid {seat.pid})")
