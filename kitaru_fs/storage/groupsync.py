"""Waiting for the disk together: one sync for all that was written before it began.

Who waits in plain code syncs itself, or waits for who does already. Async code leaves the sync to a
few threads of the process, so that its loop goes on meanwhile: what other steps write until then
goes with the next sync, and the syncs of several runs reach the disk at once, which merges them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from time import monotonic

__all__ = ["GroupSync"]

_THREADS = 8
# Seconds: beside a sync that takes longer, others are worth a thread of their own.
_SLOW = 0.001


class _Syncers:
    """The threads of the process that sync for those who do not wait."""

    def __init__(self) -> None:
        self._work: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._started = 0
        self._took = 0.0

    def do(self, sync: Callable[[], None]) -> None:
        """Leaves a sync to the next thread that is free."""
        self._work.put(sync)
        most = _THREADS if self._took > _SLOW else 1
        # Another one where there is work for it. Of two calls at once each may start one: no harm.
        if self._started < min(most, self._work.qsize()):
            self._started += 1
            threading.Thread(target=self._serve, name="kitaru-sync", daemon=True).start()

    def _serve(self) -> None:
        while True:
            sync = self._work.get()
            begun = monotonic()
            try:
                sync()
            except BaseException:
                # This thread ends: the next sync has another.
                self._started -= 1
                raise
            self._took = monotonic() - begun


def _start_anew() -> None:
    global _syncers
    _syncers = _Syncers()


_syncers = _Syncers()
os.register_at_fork(after_in_child=_start_anew)


class GroupSync:
    """What was written to one file, in order, and how far it is on the disk.

    Args:
        sync: Waits until all that was written is on the disk.
    """

    def __init__(self, sync: Callable[[], None]) -> None:
        self._sync = sync
        self._state = threading.Condition(threading.Lock())
        self._written = 0
        self._synced = 0
        self._busy = False
        self._failure: OSError | None = None
        self._waiting: list[tuple[int, Callable[[], None]]] = []

    def written(self) -> int:
        """Notes that something was written; returns its ticket."""
        with self._state:
            self._written += 1
            return self._written

    def all_synced(self) -> None:
        """Notes that all that was written is durable elsewhere."""
        with self._state:
            self._finish(self._written, None)

    def wait(self, ticket: int) -> None:
        """Waits until what a ticket stands for is on the disk.

        Raises:
            OSError: The disk refused: what was written since the last sync may be lost.
        """
        while True:
            with self._state:
                if self._failure is not None:
                    raise self._failure
                if self._synced >= ticket:
                    return
                if self._busy:
                    self._state.wait()
                    continue
                self._busy = True
                target = self._written
            self._sync_to(target)

    def later(self, ticket: int, done: Callable[[], None]) -> bool:
        """Leaves the sync to a thread.

        Args:
            ticket: What stands for what was written.
            done: Called by that thread once `wait` would return, or raise, at once; it must neither
                wait nor raise.

        Returns:
            Whether it will be called: not if `wait` would return at once already.
        """
        with self._state:
            if self._failure is not None or self._synced >= ticket:
                return False
            self._waiting.append((ticket, done))
            if self._busy:
                return True
            self._busy = True
        _syncers.do(self._run)
        return True

    def close(self) -> None:
        """Waits for a sync that is under way; what it syncs may then be closed."""
        with self._state:
            while self._busy:
                self._state.wait()

    def _run(self) -> None:
        with self._state:
            target = self._written
        self._sync_to(target)

    def _sync_to(self, target: int) -> None:
        failure: OSError | None = None
        try:
            self._sync()
        except OSError as error:
            failure = error
        with self._state:
            self._busy = False
            self._finish(target, failure)
            again = bool(self._waiting) and not self._busy
            if again:
                self._busy = True
        if again:
            # Behind the other runs that wait for a thread.
            _syncers.do(self._run)

    def _finish(self, target: int, failure: OSError | None) -> None:
        if failure is not None:
            self._failure = failure
            due, self._waiting = self._waiting, []
        else:
            self._synced = max(self._synced, target)
            due = [item for item in self._waiting if item[0] <= self._synced]
            self._waiting = [item for item in self._waiting if item[0] > self._synced]
        self._state.notify_all()
        for _, done in due:
            done()
