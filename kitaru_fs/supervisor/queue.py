"""Who is next: first come, first served within a flow, and the flows in turn."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from typing import NamedTuple

__all__ = ["Ready", "RunQueue"]

# What was begun goes before what was not, unless that has stood in line for so much longer.
_HEAD_START = 3600.0


class Ready(NamedTuple):
    """A run that could go on.

    Attributes:
        name: Its id.
        flow: Its flow's name.
        since: When it could for the first time, in seconds since the epoch.
        begun: It was driven before.
        why: What it goes on for.
    """

    name: str
    flow: str
    since: float
    begun: bool
    why: str


_Place = tuple[float, str]


class RunQueue:
    """The runs that could go on and are not driven."""

    def __init__(self) -> None:
        self._ready: dict[str, Ready] = {}
        self._flows: dict[str, list[_Place]] = {}
        self._served: dict[str, int] = {}
        self._turn = 0

    def __len__(self) -> int:
        return len(self._ready)

    def __contains__(self, name: str) -> bool:
        return name in self._ready

    def put(self, ready: Ready) -> None:
        """Puts a run in the line; one that stands there keeps its place."""
        before = self._ready.get(ready.name)
        if before is not None and before.begun == ready.begun and before.flow == ready.flow:
            self._ready[ready.name] = ready._replace(since=before.since)
            return
        self._ready[ready.name] = ready
        heapq.heappush(self._flows.setdefault(ready.flow, []), _place(ready))

    def first(self, count: int) -> list[Ready]:
        """Returns those who stand first in line, whatever the limits of their flows."""
        return heapq.nsmallest(count, self._ready.values(), key=_place)

    def discard(self, name: str) -> None:
        """Takes a run out of the line, if it stands there."""
        self._ready.pop(name, None)

    def next(self, running: Mapping[str, int], limit: Callable[[str], int | None]) -> Ready | None:
        """Takes the next run out of the line; None if there is none that may go on.

        Args:
            running: How many runs of each flow are driven now.
            limit: How many of a flow's may be; None for no limit of its own.
        """
        open_flows: list[tuple[int, int, _Place, str]] = []
        for flow in list(self._flows):
            self._drop_gone(flow)
            if flow not in self._flows:
                continue
            most, now = limit(flow), running.get(flow, 0)
            if most is None or now < most:
                open_flows.append((now, self._served.get(flow, 0), self._flows[flow][0], flow))
        if not open_flows:
            return None
        *_, flow = min(open_flows)
        self._turn += 1
        self._served[flow] = self._turn
        _, name = heapq.heappop(self._flows[flow])
        return self._ready.pop(name)

    def _drop_gone(self, flow: str) -> None:
        places = self._flows[flow]
        while places and not self._is(places[0][1], flow):
            heapq.heappop(places)
        if not places:
            del self._flows[flow]

    def _is(self, name: str, flow: str) -> bool:
        ready = self._ready.get(name)
        return ready is not None and ready.flow == flow


def _place(ready: Ready) -> _Place:
    # Commits have times in seconds; ids begin with theirs in milliseconds.
    return ready.since - (_HEAD_START if ready.begun else 0.0), ready.name
