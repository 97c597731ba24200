"""Waiting for the disk together: one sync for all that was written before it began.

Who waits in plain code syncs itself, or waits for who does already. Async code leaves the sync to a
few threads of the process, so that its loop goes on meanwhile: what other steps write until then
goes with the next sync, and the syncs of several runs reach the disk at once, which merges them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

__all__ = ["GroupSync"]

_THREADS = 8
_pool: ThreadPoolExecutor | None = None


def _shared_pool() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="kitaru-sync")
    return _pool


def _forget_after_fork() -> None:
    global _pool
    _pool = None


os.register_at_fork(after_in_child=_forget_after_fork)


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
        self._waiting: list[tuple[int, Future[None]]] = []

    def written(self) -> int:
        """Notes that something was written; returns its ticket."""
        with self._state:
            self._written += 1
            return self._written

    def all_synced(self) -> None:
        """Notes that all that was written is durable elsewhere."""
        with self._state:
            self._finish(self._written, None)

    def is_synced(self, ticket: int) -> bool:
        """Says whether what a ticket stands for is on the disk."""
        return self._synced >= ticket

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

    def later(self, ticket: int) -> Future[None]:
        """Returns what is fulfilled when `wait` would return; the sync is left to a thread."""
        future: Future[None] = Future()
        # From here on nobody can cancel it: it may be fulfilled at any time.
        future.set_running_or_notify_cancel()
        with self._state:
            if self._failure is not None:
                future.set_exception(self._failure)
                return future
            if self._synced >= ticket:
                future.set_result(None)
                return future
            self._waiting.append((ticket, future))
            if self._busy:
                return future
            self._busy = True
        _shared_pool().submit(self._run)
        return future

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
            _shared_pool().submit(self._run)

    def _finish(self, target: int, failure: OSError | None) -> None:
        if failure is not None:
            self._failure = failure
            due, self._waiting = self._waiting, []
        else:
            self._synced = max(self._synced, target)
            due = [item for item in self._waiting if item[0] <= self._synced]
            self._waiting = [item for item in self._waiting if item[0] > self._synced]
        self._state.notify_all()
        for _, future in due:
            if failure is not None:
                future.set_exception(failure)
            else:
                future.set_result(None)
