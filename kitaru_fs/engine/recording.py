"""What a run's journal held when this process took the run up: read once whole, then by step.

A journal may be long and its entries large, so few stay in memory: each is read again when its call
comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kitaru_fs.engine.guard import Guard
from kitaru_fs.entry import Entry, decode_entry
from kitaru_fs.errors import FormatError
from kitaru_fs.rundir.journal import Journal

__all__ = ["Recording"]

# So much of a journal's beginning is held as it was read: most journals are no longer.
_HELD_BYTES = 8 << 20


class Recording:
    """The entries of a journal.

    Args:
        journal: The run's journal.
        ready: Makes an entry ready for replay, in place.
        guard: Serializes what is done with the run.
    """

    def __init__(self, journal: Journal, ready: Callable[[Entry], None], guard: Guard) -> None:
        self._journal = journal
        self._ready = ready
        self._guard = guard
        self._held: dict[int, bytes] = {}
        self._last: Entry | None = None

    def __iter__(self) -> Iterator[Entry]:
        """Yields every entry, in journal order.

        Raises:
            FormatError: An entry cannot be read.
            RunDamagedError: An object is missing.
        """
        room = _HELD_BYTES
        for content in self._journal.contents():
            entry = decode_entry(content)
            room -= len(content)
            if room >= 0:
                self._held[entry.step] = content
            self._ready(entry)
            yield entry

    def at(self, step: int) -> Entry:
        """Returns a step's entry.

        Raises:
            FormatError: It is gone, or cannot be read.
            RunDamagedError: An object is missing.
        """
        with self._guard:
            if self._last is not None and self._last.step == step:
                return self._last
            held = self._held.pop(step, None)
            entry = decode_entry(held) if held is not None else self._journal.read(step)
            if entry.step != step:
                raise FormatError(f"the entry of step {step} says that it is of step {entry.step}")
            self._ready(entry)
            self._last = entry
            return entry
