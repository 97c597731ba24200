"""Outputs that a human set in a fork, for calls that are made after its first live step.

Such a call is known by its key. Where an earlier replacement changed its arguments, and with them
its key, it is known by its place: the N-th outcome of its name.
"""

from __future__ import annotations

from collections import Counter

from kitaru_fs.entry import GivenOutput

__all__ = ["Given"]


class Given:
    """What was set by hand and not asked for yet. The caller serializes its use."""

    def __init__(self) -> None:
        self._outputs: list[GivenOutput] = []
        self._counts: Counter[str] = Counter()

    def load(self, outputs: list[GivenOutput]) -> None:
        """Takes what an entry of the journal sets."""
        self._outputs += outputs

    def count(self, key: str, name: str) -> None:
        """Counts an outcome that the journal holds."""
        self._counts[name] += 1
        self._outputs = [one for one in self._outputs if one.key != key]

    def take(self, key: str, name: str) -> GivenOutput | None:
        """Returns what was set for a call that begins; None for a call that is executed."""
        if not self._outputs:
            return None
        self._counts[name] += 1
        nth = self._counts[name]
        by_key = [one for one in self._outputs if one.key == key]
        by_place = [one for one in self._outputs if (one.name, one.nth) == (name, nth)]
        for found in (*by_key, *by_place):
            self._outputs.remove(found)
            return found
        return None
