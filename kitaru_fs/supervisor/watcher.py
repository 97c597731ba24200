"""Noticing changes in directories, as a hint: what is true is read from them.

Two watches, since one cannot be added to: one of those directories that were watched for long, one
of the newest, so that a new one does not cost what all do.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterable
from typing import Any

__all__ = ["Watcher"]

# Milliseconds between two looks for events, and how long those that belong together are gathered.
_STEP = 20
_GATHER = 1
_NEWEST = 500
_TRIES = 3


class Watcher:
    """Watches a set of directories, not what is below them.

    Attributes:
        woken: Is readable when something has changed.
    """

    def __init__(self) -> None:
        self.woken, self._waking = socket.socketpair()
        for end in (self.woken, self._waking):
            end.setblocking(False)
        self._lock = threading.Lock()
        self._changed: set[str] = set()
        self._wanted: set[str] = set()
        self._old = _Watch(self._note)
        self._new = _Watch(self._note)

    def watch(self, wanted: set[str]) -> None:
        """Watches these directories, and no others; those that are new count as changed.

        Args:
            wanted: Absolute paths; what is no directory is left out.
        """
        if wanted == self._wanted:
            return
        added = wanted - self._wanted
        self._wanted = wanted
        newest = (self._new.places & wanted) | (added - self._old.places)
        gone = len(self._old.places - wanted)
        if len(newest) > _NEWEST or gone > _NEWEST + len(wanted) // 2:
            self._old.set(wanted)
            newest = set[str]()
        self._new.set(newest)
        if added:
            # What came before they were watched is not told.
            self._note(added)

    def forget(self, place: str) -> None:
        """Takes a directory for one that is not watched: another has its place."""
        self._wanted = self._wanted - {place}
        for watch in (self._old, self._new):
            if place in watch.places:
                watch.set(watch.places - {place})

    def changed(self) -> set[str]:
        """Returns the directories that have changed since the last call."""
        with contextlib.suppress(BlockingIOError):
            while self.woken.recv(4096):
                pass
        with self._lock:
            changed, self._changed = self._changed, set()
        return changed

    def close(self) -> None:
        """Watches nothing any more."""
        self._old.set(set())
        self._new.set(set())
        for end in (self.woken, self._waking):
            end.close()

    def _note(self, places: Iterable[str]) -> None:
        with self._lock:
            self._changed.update(places)
        with contextlib.suppress(OSError):
            self._waking.send(b".")


class _Watch:
    """One set of directories that is watched as a whole, by a thread of its own."""

    def __init__(self, note: Any) -> None:
        self._note = note
        self._running: threading.Event | None = None
        self.places: set[str] = set()

    def set(self, places: set[str]) -> None:
        if places == self.places:
            return
        before, self._running = self._running, None
        self.places = places
        self._begin(places)
        if before is not None:
            # After the next one has begun: what changes between is told by either.
            before.set()

    def _begin(self, places: set[str]) -> None:
        from watchfiles import _rust_notify

        watch = None
        # One that goes meanwhile fails them all.
        for _ in range(_TRIES):
            there = sorted(place for place in places if os.path.isdir(place))
            if not there:
                return
            try:
                watch = _rust_notify.RustNotify(there, False, False, 300, False, True)
                break
            except FileNotFoundError:
                continue
            except (OSError, _rust_notify.WatchfilesRustInternalError):
                break
        if watch is None:
            return  # no watches are to be had: what is looked at tells, a little later
        stop = threading.Event()
        self._running = stop
        threading.Thread(target=self._follow, args=(watch, stop), daemon=True).start()

    def _follow(self, watch: Any, stop: threading.Event) -> None:
        while True:
            found = watch.watch(_GATHER, _STEP, 0, stop)
            if not isinstance(found, str):
                self._note({os.path.dirname(path) for _, path in found})
            elif found == "stop":
                watch.close()
                return
