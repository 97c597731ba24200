"""What the entries of a run cost, each counted once, on whatever branch it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from kitaru_fs.entry import Usage
from kitaru_fs.errors import FormatError
from kitaru_fs.rundir.history import OpenRun
from kitaru_fs.storage.objects import parse_tree

__all__ = ["Cost", "costs_of"]


class Cost(NamedTuple):
    """What one entry cost.

    Attributes:
        name: The step's name.
        model: The model that was asked; empty where the entry does not say.
        day: The day (UTC) that it began on, as `2026-11-22`.
        usage: What it used.
    """

    name: str
    model: str
    day: str
    usage: Usage


class _Entry(msgspec.Struct):
    step: int
    name: str
    kind: str
    started: str = ""
    input: Any = None
    usage: Usage | None = None


_decode = msgspec.json.Decoder(_Entry).decode


def costs_of(opened: OpenRun) -> Iterator[Cost]:
    """Yields what the entries of a run cost, those of branches that were left included.

    What a fork took over from another run is that run's cost.

    Raises:
        FormatError: An entry cannot be read.
        RunDamagedError: An object is missing.
    """
    seen: set[bytes] = set()
    for branch in opened.branches():
        tip = opened.tip(branch)
        if tip is None:
            continue
        point = opened.repository.nearest_point(tip)
        if point.journal is None or "Kitaru-Total" not in point.trailers:
            # Nothing was spent on the way there.
            continue
        yield from _new(opened, point.journal, seen)


def _new(opened: OpenRun, journal: bytes, seen: set[bytes]) -> Iterator[Cost]:
    store = opened.repository.store
    shards = parse_tree(store.read(journal, "tree"))
    fresh = [entry.sha for _, entry in sorted(shards.items()) if entry.sha not in seen]
    seen.update(fresh)
    wanted: list[bytes] = []
    for _, data in store.read_many(fresh):
        for name, entry in sorted(parse_tree(data).items()):
            if name.endswith(b".json") and entry.sha not in seen:
                seen.add(entry.sha)
                wanted.append(entry.sha)
    found: list[Cost] = []
    for _, content in store.read_many(wanted):
        try:
            entry = _decode(content)
        except msgspec.MsgspecError as error:
            raise FormatError(
                f"a journal entry cannot be read: {error}", hint="`kitaru doctor RUN`"
            ) from error
        if entry.kind == "fork":
            found.clear()
        if entry.usage is not None and entry.usage.requests:
            asked: Any = entry.input
            asked = asked.get("model") if hasattr(asked, "get") else None
            model = asked if isinstance(asked, str) else ""
            found.append(Cost(entry.name, model, entry.started[:10], entry.usage))
    yield from found
