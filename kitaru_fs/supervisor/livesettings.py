"""The settings that a supervisor goes by: those of `kitaru.toml`, or the last good ones."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping
from pathlib import Path

from kitaru_fs.clock import seconds
from kitaru_fs.errors import KitaruError
from kitaru_fs.workspace import Workspace

__all__ = ["LiveSettings"]

# Seconds for which a file that was changed is left alone.
_SETTLED = 0.25


class LiveSettings:
    """A workspace whose settings follow their file, as long as that makes sense.

    Args:
        workspace: The workspace, as it is now.
        overrides: Settings that win over the file.
        folder: `.kitaru/up`, where the last good settings are kept for the runs' processes.

    Attributes:
        workspace: With the settings in force.
        environment: What makes another process go by them.
    """

    def __init__(self, workspace: Workspace, overrides: Mapping[str, object], folder: Path) -> None:
        self.workspace = workspace
        self.environment: dict[str, str] = {}
        self._overrides = overrides
        self._file = workspace.path / "kitaru.toml"
        self._kept = folder / "settings.toml"
        self._signature = self._seen = _signature(self._file)
        self._seen_at = 0.0
        self._good = _read(self._file)

    @property
    def owed(self) -> float:
        """Seconds until `follow` is to look again at a change; infinity where there is none."""
        if self._seen == self._signature:
            return math.inf
        return self._seen_at + _SETTLED - seconds()

    def follow(self) -> str:
        """Reads the file again if it was changed; returns what there is to say of that.

        An editor may empty it before it writes: it is read once it has stayed as it is for a while.
        """
        now = _signature(self._file)
        if now != self._seen:
            self._seen, self._seen_at = now, seconds()
        if self.owed > 0:
            return ""
        self._signature, text = now, _read(self._file)
        try:
            self.workspace = Workspace(self.workspace.path, overrides=self._overrides)
        except KitaruError as error:
            with contextlib.suppress(OSError):
                self._kept.write_bytes(self._good)
                self.environment = {"KITARU_SETTINGS": str(self._kept)}
            return f"{error.message}: the last good settings stay in force"
        self._good, self.environment = text, {}
        return "kitaru.toml was changed, and is in force"


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
