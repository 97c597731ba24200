"""When runs are to be looked at."""

from __future__ import annotations

import heapq
import math

__all__ = ["Times"]


class Times:
    """One time of day for each run, in seconds since the epoch."""

    def __init__(self) -> None:
        self._at: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []

    def set(self, name: str, at: float | None) -> None:
        """Sets a run's time; None for none."""
        if at is None:
            self._at.pop(name, None)
        elif self._at.get(name) != at:
            self._at[name] = at
            heapq.heappush(self._heap, (at, name))

    def next(self) -> float:
        """Returns the first time; infinity if there is none."""
        self._drop_gone()
        return self._heap[0][0] if self._heap else math.inf

    def take(self, now: float) -> list[str]:
        """Returns the runs whose time has come; they have none any more."""
        taken: list[str] = []
        while self.next() <= now:
            _, name = heapq.heappop(self._heap)
            del self._at[name]
            taken.append(name)
        return taken

    def _drop_gone(self) -> None:
        while self._heap and self._at.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
