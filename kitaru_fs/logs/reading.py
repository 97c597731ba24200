"""Reading what a run printed, and following what it prints."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec

from kitaru_fs.logs.segments import segments

__all__ = ["Printed", "follow_printed", "read_printed"]

_INTERVAL = 0.1
_LOOKS_A_SECOND = 10


class Printed(NamedTuple):
    """A piece of what a run printed; pieces follow each other without anything between.

    Attributes:
        at: UTC, ISO 8601 with milliseconds.
        text: As printed, redacted.
        name: The step's name; empty for what the flow itself printed. Several, separated by
            commas, where steps overlapped and it cannot be told which one's it is.
        step: The step's number; None while it is in flight, and where it never ended.
        commit: The step's commit; None likewise.
        attempt: 1 for the first try.
        replayed: Printed during a replay, so not for the first time.
    """

    at: str
    text: str
    name: str = ""
    step: int | None = None
    commit: str | None = None
    attempt: int = 1
    replayed: bool = False


_Source = tuple[str, str, int]


class _Reader:
    """Reads what a run printed, from its beginning, and what has been added since.

    Args:
        run: The run's directory.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._segment: Path | None = None
        self._offset = 0

    def records(self) -> Iterator[dict[str, Any]]:
        """Yields what was added since the last call."""
        for path in segments(self._run):
            if self._segment is not None and path.name < self._segment.name:
                continue
            if path != self._segment:
                self._segment, self._offset = path, 0
            yield from self._rest(path)

    def _rest(self, path: Path) -> Iterator[dict[str, Any]]:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return  # it went meanwhile
        with os.fdopen(descriptor, "rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                try:
                    record = msgspec.json.decode(line)
                except msgspec.MsgspecError:
                    continue  # torn by a crash
                if isinstance(record, dict):
                    yield cast("dict[str, Any]", record)


def read_printed(run: Path) -> list[Printed]:
    """Returns all that a run printed and that is kept, oldest first."""
    records = list(_Reader(run).records())
    steps: dict[_Source, dict[str, Any]] = {}
    found: list[Printed] = []
    # Backwards: a commit stands after what was printed on the way to it.
    for record in reversed(records):
        source = (record.get("by", ""), record.get("key", ""), record.get("attempt", 1))
        if "step" in record:
            steps[source] = record
        elif (piece := _piece(record, steps.get(source))) is not None:
            found.append(piece)
    found.reverse()
    return found


def follow_printed(run: Path, is_over: Callable[[], bool]) -> Iterator[Printed]:
    """Yields all that a run printed, then what it prints, until it is over.

    A step's number is not known yet when its prints are yielded.

    Args:
        run: The run's directory.
        is_over: Says whether nothing more will be printed; asked once a second.
    """
    reader = _Reader(run)
    over = False
    looks = 0
    while True:
        for record in reader.records():
            if (piece := _piece(record)) is not None:
                yield piece
        if over:
            return
        looks = (looks + 1) % _LOOKS_A_SECOND
        over = looks == 1 and is_over()
        if not over:
            time.sleep(_INTERVAL)


def _piece(record: dict[str, Any], step: dict[str, Any] | None = None) -> Printed | None:
    """A record as a piece of text; None for one that says something else."""
    if "lost" in record:
        return Printed(record["at"], f"({record['lost']} bytes were not kept: the disk refused)\n")
    if "text" not in record:
        return None
    return Printed(
        record["at"],
        record["text"],
        record.get("name") or ", ".join(record.get("among", ())),
        step["step"] if step else None,
        step["commit"] if step else None,
        record.get("attempt", 1),
        record.get("replayed", False),
    )
