"""Commits in quick succession: durable each, but seen by git together, a moment later.

A loose object is a file, and making files is what a fast step would spend its time on. So from the
`MANY`-th commit on that follows another within `QUICK` seconds, commits are left in the log; they
are published after a pause, at the latest after `LONGEST` seconds as a pack, and always before the
run comes to rest. Steps that talk to a model or a process are never that quick.
"""

from __future__ import annotations

import threading
from time import monotonic

from kitaru_fs.engine.guard import Guard
from kitaru_fs.errors import StorageError
from kitaru_fs.rundir.writer import Writer

__all__ = ["Burst"]

QUICK = 0.01
MANY = 16
PAUSE = 0.05
LONGEST = 1.0


class Burst:
    """Decides which commits of a run are deferred, and publishes them.

    Args:
        writer: Adds to the run's branch.
        guard: Serializes the run's use.
    """

    def __init__(self, writer: Writer, guard: Guard) -> None:
        self._writer = writer
        self._guard = guard
        self._last = 0.0
        self._quick = 0
        self._since: float | None = None
        self._timer: threading.Timer | None = None
        self._closed = False

    def joins(self) -> bool:
        """Says whether the commit that is about to be made is deferred. The caller has the guard.

        Raises:
            StorageError: The disk refused what was deferred before.
        """
        now = monotonic()
        self._quick = self._quick + 1 if now - self._last < QUICK else 0
        self._last = now
        if self._since is not None and now - self._since > LONGEST:
            self._writer.checkpoint()
            self._since = None
        if self._quick < MANY or self._closed:
            if self._since is not None:
                self._writer.publish()
                self._since = None
            return False
        if self._since is None:
            self._since = now
            self._wait()
        return True

    def close(self) -> None:
        """Stops waiting; what is deferred is the caller's to publish. The caller has the guard."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self) -> None:
        self._timer = threading.Timer(PAUSE, self._look)
        self._timer.daemon = True
        self._timer.start()

    def _look(self) -> None:
        with self._guard:
            if self._closed or self._since is None:
                return
            if monotonic() - self._last < PAUSE:
                self._wait()
                return
            try:
                self._writer.publish()
            except StorageError:
                # The store remembers it: the next commit raises it in the flow.
                return
            self._since = None
