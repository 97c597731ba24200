"""How often equal calls were made, in eight bytes a call.

A run of a hundred thousand different calls must not remember each by its name and arguments. Two
calls that fall together by chance count as equal ones, and do so again when the flow is replayed.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from hashlib import blake2b

__all__ = ["Occurrences"]

_RECENT = 8192


class Occurrences:
    """Counts of calls, by what equal ones have in common."""

    def __init__(self) -> None:
        self._once = array("Q")
        self._recent: set[int] = set()
        self._more: dict[int, int] = {}

    def count(self, base: str) -> int:
        """Returns how often it was counted."""
        return self._count(_hash(base))

    def add(self, base: str) -> int:
        """Counts it once more; returns how often it was counted now."""
        number = _hash(base)
        count = self._count(number) + 1
        if count > 1:
            self._more[number] = count
        else:
            self._recent.add(number)
            if len(self._recent) > _RECENT:
                self._once = array("Q", sorted((*self._once, *self._recent)))
                self._recent.clear()
        return count

    def _count(self, number: int) -> int:
        more = self._more.get(number)
        if more is not None:
            return more
        if number in self._recent:
            return 1
        at = bisect_left(self._once, number)
        return int(at < len(self._once) and self._once[at] == number)


def _hash(base: str) -> int:
    return int.from_bytes(blake2b(base.encode("utf-8", "surrogatepass"), digest_size=8).digest())
