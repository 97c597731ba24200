"""What the runs of a workspace were when they were last read: `.kitaru/states`, a cache.

A run at rest that nobody moved since is not read again: some `stat`s tell. Who drives a run, or
died driving it, leaves a mark in it, and such a run is always read. Deleting the file costs time
alone.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import msgspec

__all__ = ["StateCache"]

_VERSION = 1
_LARGEST = 16_000
_TICK_NS = 50_000_000
# An empty log is its headers alone.
_EMPTY_LOG = 4096

_Mark = list[int]


class StateCache:
    """The status objects of runs at rest.

    Args:
        folder: The workspace's `.kitaru/`.
        runs: Its `runs/`.
    """

    def __init__(self, folder: Path, runs: Path) -> None:
        self._file = folder / "states"
        self._runs = os.fspath(runs)
        self._known: dict[str, tuple[_Mark, str, bytes]] = {}
        self._used: dict[str, tuple[_Mark, str, bytes]] = {}
        self._is_new = False
        try:
            version, known = msgspec.msgpack.decode(self._file.read_bytes())
            if version == _VERSION:
                self._known = known
        except (OSError, ValueError, TypeError, msgspec.MsgspecError):
            self._known = {}

    def get(self, run: str) -> dict[str, Any] | None:
        """Returns a run's status object, if it is still true."""
        known = self._known.get(run)
        if known is None:
            return None
        mark, branch, state = known
        if self._mark(run, branch) != mark:
            return None
        self._used[run] = known
        return msgspec.json.decode(state)

    def put(self, run: str, state: dict[str, Any]) -> None:
        """Keeps a run's status object, if the run is at rest, and long enough to be known by it."""
        branch = state.get("branch")
        # What a run waits for may be other runs', and may come without a change in it.
        if not isinstance(branch, str) or state["status"] == "waiting" or state["waits"]:
            return
        mark = self._mark(run, branch)
        if mark is None or max(mark) + _TICK_NS > time.time_ns():
            return
        content = msgspec.json.encode({k: v for k, v in state.items() if k != "held"})
        if len(content) <= _LARGEST:
            self._used[run] = (mark, branch, content)
            self._is_new = True

    def save(self) -> None:
        """Keeps it for the next process, if it can."""
        if not self._is_new:
            return
        temporary = self._file.with_name(f"states.{os.getpid()}")
        content = msgspec.msgpack.encode([_VERSION, {**self._known, **self._used}])
        try:
            self._file.parent.mkdir(exist_ok=True)
            temporary.write_bytes(content)
            os.rename(temporary, self._file)
        except OSError:
            # A cache that cannot be written (a read-only disk) is none.
            return

    def _mark(self, run: str, branch: str) -> _Mark | None:
        """Returns what changes when a run at rest does; None for one that is not at rest."""
        git_dir = f"{self._runs}/{run}/.git"
        mark: _Mark = []
        try:
            for name in ("HEAD", f"refs/heads/{branch}", "kitaru/left.json", "kitaru/wal"):
                found = os.stat(f"{git_dir}/{name}", follow_symlinks=False)
                mark += (found.st_mtime_ns, found.st_ino)
            if found.st_size != _EMPTY_LOG:
                return None
        except OSError:
            return None
        for name in ("kitaru/holder.json", "kitaru/driven", "kitaru/asked"):
            if os.path.lexists(f"{git_dir}/{name}"):
                return None
        return mark
