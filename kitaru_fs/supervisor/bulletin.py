"""What a supervisor does, for others to read: `.kitaru/up/now.json`, while it has the lock."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from kitaru_fs.clock import seconds
from kitaru_fs.supervisor.lock import read_lock_holder

__all__ = ["Bulletin", "read_bulletin"]

# Seconds between two writes: nobody reads faster.
_INTERVAL = 0.2


class Bulletin:
    """The file, as its supervisor writes it.

    Args:
        folder: `.kitaru/up`.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "now.json"
        self._written = b""
        self._next = 0.0
        self._is_owed = False

    @property
    def owed(self) -> float:
        """Seconds until what changed meanwhile may be written; infinity where nothing may have."""
        return self._next - seconds() if self._is_owed else math.inf

    def write(self, content: Callable[[], dict[str, Any]]) -> None:
        """Writes what is new, if the last one is old enough.

        Args:
            content: Returns it.
        """
        self._is_owed = seconds() < self._next
        if self._is_owed:
            return
        self._next = seconds() + _INTERVAL
        encoded = msgspec.json.encode(content())
        if encoded == self._written:
            return
        new = self._file.with_suffix(".new")
        # A disk that is full keeps the last one, which is old; the supervisor goes on.
        with contextlib.suppress(OSError):
            new.write_bytes(encoded)
            os.rename(new, self._file)
            self._written = encoded

    def remove(self) -> None:
        """Removes the file: the supervisor ends."""
        with contextlib.suppress(OSError):
            self._file.unlink()


def read_bulletin(workspace: Path) -> dict[str, Any] | None:
    """Returns who supervises a workspace, and what that does; None if nobody does.

    Args:
        workspace: The workspace's directory.
    """
    holder = read_lock_holder(workspace)
    if holder is None:
        return None
    content: dict[str, Any] = {}
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        content = msgspec.json.decode(
            (workspace / ".kitaru" / "up" / "now.json").read_bytes(), type=dict[str, Any]
        )
    # One that was killed left its own.
    if content.pop("pid", None) != holder.pid:
        content = {}
    found: dict[str, Any] = {**holder._asdict(), "concurrency": 0, "queued": 0}
    for name in ("driven", "queue", "held", "schedules"):
        found[name] = []
    return found | content
