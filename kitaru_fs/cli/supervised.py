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
    holder = workspace.supervisor
    if holder is None:
        say(f"run {run.id}: queued, but no supervisor runs in this workspace")
        say("  kitaru up starts it")
    elif not as_json:
        say(f"run {run.id}: queued; the supervisor starts it (pid {holder.pid})")
    return 0


def say_who_goes_on(run: Run, workspace: Workspace) -> None:
    """Says of a run that could go on which process will, or which command makes one."""
    holder = workspace.supervisor
    if holder is not None:
        say(f"  the supervisor (pid {holder.pid}) goes on with it")
    else:
        say("  no supervisor runs in this workspace:")
        say(f"  kitaru resume {run.id} goes on, or kitaru up with all that can")
