"""Saying what a rewind, undo or redo does: to the files, what stays, and how to take it back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kitaru_fs.cli.output import result, result_json, say

if TYPE_CHECKING:
    from kitaru_fs.rundir.effects import Effect
    from kitaru_fs.rundir.timetravel import Move

__all__ = ["show_move"]

_SHOWN = 20


def show_move(move: Move, *, planned: bool, as_json: bool) -> None:
    """Writes what a move did, or would do."""
    if as_json:
        result_json(
            {
                "run": move.run,
                "planned": planned,
                "before": {"branch": move.before.branch, "commit": move.before.commit},
                "after": {"branch": move.after.branch, "commit": move.after.commit},
                "step": move.step,
                "new_branch": move.new_branch,
                "changed": move.changed,
                "stays": move.stays,
                "cannot_undo": [effect.to_json() for effect in move.cannot_undo],
                "edited": move.edited,
            }
        )
        return
    verb = "would stand" if planned else "stands"
    made = ", a new branch" if move.new_branch else ""
    result(f"run {move.run} {verb} at step {move.step} on {move.after.branch}{made}")
    _list("changes:", move.changed)
    _list("stays:", move.stays)
    _list("cannot undo:", [_effect(effect) for effect in move.cannot_undo])
    _list("committed as an edit first:", move.edited)
    if planned:
        say("nothing was changed; leave out --dry-run to do it")
        return
    say(f"kept: {move.before.branch} at {move.before.commit[:12]}")
    say(f"to take it back: kitaru undo {move.run}; to go on from here: kitaru resume {move.run}")


def _effect(effect: Effect) -> str:
    how = {"failed": ", which failed", "unknown": "; whether it was done is not known"}
    return f"{effect.effect} (step {effect.step}: {effect.name}{how.get(effect.outcome, '')})"


def _list(title: str, paths: list[str]) -> None:
    for path in paths[:_SHOWN]:
        result(f"  {title} {path}")
    if len(paths) > _SHOWN:
        result(f"  {title} {len(paths) - _SHOWN} more")
