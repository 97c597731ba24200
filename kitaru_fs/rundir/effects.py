"""What steps did outside of a run: no move of the run takes it back."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

from kitaru_fs.entry import parse_trailers
from kitaru_fs.rundir.repository import Repository
from kitaru_fs.storage.objects import Commit

__all__ = ["Effect", "effects_undone"]


class Effect(NamedTuple):
    """Something that a step did outside of the run, or was about to do.

    Attributes:
        step: The step's number; that of its intent, if nothing more is known of it.
        name: The step's name.
        effect: What it does, in its author's words.
        outcome: `done`, `failed`, or `unknown`: its process died, or it was given up.
    """

    step: int
    name: str
    effect: str
    outcome: str

    def to_json(self) -> dict[str, Any]:
        """Returns it as the command line's `--json` has it."""
        return self._asdict()


def effects_undone(repository: Repository, head: bytes, target: bytes) -> list[Effect]:
    """Returns the effects of the steps that a move from one commit to another leaves behind."""
    found: dict[tuple[str, int], Effect] = {}
    for message in reversed(list(_left_behind(repository, head, target))):
        trailers = parse_trailers(message)
        effect = trailers.get("Kitaru-Effect")
        if effect is None:
            continue
        kind, name = trailers.get("Kitaru-Kind", ""), trailers.get("Kitaru-Name", "")
        outcome = {"intent": "unknown", "failed": "failed"}.get(kind, "done")
        # The outcome of an attempt takes the place of its intent.
        which = trailers.get("Kitaru-Key", ""), int(trailers.get("Kitaru-Attempt", 1))
        found[which] = Effect(int(trailers["Kitaru-Step"]), name, effect, outcome)
    return list(found.values())


def _left_behind(repository: Repository, head: bytes, target: bytes) -> Iterator[str]:
    """Yields the messages of the commits that lead to one commit and not to another."""
    here, there = _Place(repository, head), _Place(repository, target)
    while here.sha is not None and here.sha != there.sha:
        if there.sha is None or here.number >= there.number:
            yield here.commit.message
            here = here.parent()
        else:
            there = there.parent()


class _Place:
    """A commit on a branch, and how far along it is: a human's is as far as ours before it."""

    def __init__(self, repository: Repository, sha: bytes | None) -> None:
        self._repository = repository
        self.sha = sha

    @cached_property
    def commit(self) -> Commit:
        assert self.sha is not None
        return self._repository.read_commit(self.sha)

    @cached_property
    def number(self) -> int:
        place = self
        while place.sha is not None:
            step = parse_trailers(place.commit.message).get("Kitaru-Step", "")
            if step.isdigit():
                return int(step)
            place = place.parent()
        return -1

    def parent(self) -> _Place:
        parents = self.commit.parents
        return _Place(self._repository, parents[0] if parents else None)
