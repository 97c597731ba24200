"""What a flow read of the world and said of itself between two commits: the next one records it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from kitaru_fs.engine.guard import Guard
from kitaru_fs.engine.replay import Replay
from kitaru_fs.entry import Entry

__all__ = ["Observations"]


class Observations:
    """Times, random numbers, changes taken up and notes of one execution's flow.

    Args:
        replay: What the journal holds of them.
        guard: Serializes the use of both.
    """

    def __init__(self, replay: Replay, guard: Guard) -> None:
        self._replay = replay
        self._guard = guard
        self._observed: dict[str, list[Any]] = {}
        self._patches: dict[str, bool] = {}
        self._notes: dict[str, Any] = {}

    def observe(self, name: str, produce: Callable[[], Any]) -> Any:
        """Returns the recorded value of a read of the world, or a new one."""
        with self._guard:
            recorded = self._replay.observed.get(name)
            if recorded:
                return recorded.popleft()[1]
            value = produce()
            self._observed.setdefault(name, []).append(value)
            return value

    def patched(self, change: str) -> bool:
        """Says whether the run goes the way of changed code; see `context.patched`."""
        with self._guard:
            if change not in self._patches:
                recorded = change in self._replay.patches
                self._patches[change] = recorded or self._replay.finished
                if self._patches[change] and not recorded:
                    self._observed.setdefault("patched", []).append(change)
            return self._patches[change]

    def gave_up(self, key: str) -> None:
        """Notes that the flow gave up a call that waited for the replay to end."""
        with self._guard:
            self._observed.setdefault("gave_up", []).append(key)

    def note(self, metadata: dict[str, Any]) -> None:
        """Adds metadata to the next entry."""
        with self._guard:
            self._notes.update(metadata)

    def forget_replayed(self, mask: Callable[[bytes], bytes]) -> None:
        """Forgets the notes that the journal holds: the flow has made them again.

        Args:
            mask: Takes secrets out of JSON text, as the journal does.
        """
        recorded = {_item(*item) for noted in self._replay.notes for item in noted.items()}
        self._notes = {
            name: value
            for name, value in self._notes.items()
            if mask(_item(name, value)) not in recorded
        }

    def record(self, entry: Entry) -> None:
        """Puts what was seen and said since the last commit into an entry."""
        if self._notes:
            entry.metadata = {**self._notes, **(entry.metadata or {})}
            self._notes = {}
        if self._observed:
            entry.observed = self._observed
            self._observed = {}


def _item(name: str, value: Any) -> bytes:
    return msgspec.json.encode([name, msgspec.to_builtins(value)], order="sorted")
