"""Branches beside each other, as `kitaru log --all` draws them: a lane each, the oldest first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kitaru_fs.rundir.history import LogLine

__all__ = ["draw_lanes", "where_it_left"]


def where_it_left(lines: Sequence[LogLine]) -> dict[str, LogLine]:
    """Returns the last common commit of each branch but the first, by the branch's name."""
    by_commit = {line.commit: line for line in lines}
    left: dict[str, LogLine] = {}
    for line in lines:
        before = by_commit.get(line.parent or "")
        if before is not None and before.branch != line.branch:
            left.setdefault(line.branch, before)
    return left


def draw_lanes(lines: Sequence[LogLine]) -> Iterable[str]:
    """Yields what stands before each line: its own lane's dot, and the lanes that are open there.

    Args:
        lines: The commits, branch after branch.
    """
    branches = list(dict.fromkeys(line.branch for line in lines))
    lane = {branch: number for number, branch in enumerate(branches)}
    leaves: dict[str, list[int]] = {}
    for branch, line in where_it_left(lines).items():
        leaves.setdefault(line.commit, []).append(lane[branch])
    waiting: set[int] = set()
    for line in lines:
        own = lane[line.branch]
        waiting.discard(own)
        opening = leaves.get(line.commit, [])
        last = max(opening, default=-1)
        cells: list[str] = []
        for number in range(len(branches)):
            if number == own:
                cells.append("●")
            elif number in opening:
                cells.append("╮" if number == last else "┬")
            elif own < number < last:
                cells.append("┼" if number in waiting else "─")
            else:
                cells.append("│" if number in waiting else " ")
        waiting.update(opening)
        yield "".join(cells)
