"""The time of day that a test sets for the processes that it starts, while they go on."""

from __future__ import annotations

import struct
import time
from datetime import UTC, datetime
from pathlib import Path

from .shim import build_shim

__all__ = ["SetClock", "can_set_clock"]


def can_set_clock() -> bool:
    """Whether processes can be given a clock of their own here."""
    return build_shim("clock.c") is not None


class SetClock:
    """A clock, set to the machine's until it is moved.

    Args:
        root: Where a file for it is made.
    """

    def __init__(self, root: Path) -> None:
        self._file = root / "clock"
        self._shift = 0
        self._write()

    @property
    def environment(self) -> dict[str, str]:
        """What makes a process go by it."""
        return {"LD_PRELOAD": str(build_shim("clock.c")), "TEST_CLOCK": str(self._file)}

    @property
    def now(self) -> datetime:
        """What it shows."""
        return datetime.fromtimestamp((time.time_ns() + self._shift) / 1e9, UTC)

    def set(self, moment: datetime) -> None:
        """Sets it, for the processes that go by it already, too."""
        self._shift += int((moment - self.now).total_seconds() * 1e9)
        self._write()

    def _write(self) -> None:
        # In place: they have it in their memory. Eight aligned bytes are never seen half written.
        with open(self._file, "r+b" if self._file.exists() else "w+b") as file:
            file.write(struct.pack("=q", self._shift))
