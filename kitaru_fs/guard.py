"""A lock under which a signal's interrupt waits: a commit is never left half way by Ctrl-C."""

from __future__ import annotations

import threading
from types import TracebackType

__all__ = ["Guard"]


class Guard:
    """A re-entrant lock that puts an interrupt off until its holder has left it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._inside = threading.local()
        self._pending: BaseException | None = None

    @property
    def _depth(self) -> int:
        return getattr(self._inside, "depth", 0)

    def __enter__(self) -> Guard:
        # Counted before the lock is taken and until after it is given up, so that an interrupt
        # between the two finds the thread inside.
        self._inside.depth = self._depth + 1
        try:
            self._lock.acquire()
        except BaseException:
            self._inside.depth -= 1
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()
        self._inside.depth -= 1
        outside = self._inside.depth == 0 and self._pending is not None
        if outside and threading.current_thread() is threading.main_thread():
            pending, self._pending = self._pending, None
            assert pending is not None
            raise pending

    def interrupt(self, error: BaseException) -> None:
        """From a signal handler: raises now, or when the interrupted thread leaves the lock."""
        if self._depth:
            self._pending = error
        else:
            raise error
