"""A lock under which a signal's interrupt waits: a commit is never left half way by Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType, TracebackType

__all__ = ["Guard", "deferring_interrupts", "interrupt"]

# For all guards of a thread: a child run's commit must not be left half way by its parent's guard.
_inside = threading.local()
_pending: list[BaseException] = []


class Guard:
    """A re-entrant lock that puts an interrupt off until its holder has left it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> Guard:
        # Counted before the lock is taken and until after it is given up, so that an interrupt
        # between the two finds the thread inside.
        _inside.depth = _depth() + 1
        try:
            self._lock.acquire()
        except BaseException:
            _inside.depth -= 1
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()
        _inside.depth -= 1
        if _inside.depth == 0 and _pending and _is_main():
            pending = _pending.pop()
            _pending.clear()
            raise pending


def interrupt(error: BaseException) -> None:
    """From a signal handler: raises now, or when the interrupted thread leaves its last guard."""
    if _depth():
        _pending.append(error)
    else:
        raise error


@contextmanager
def deferring_interrupts() -> Generator[None]:
    """While it is entered, a Ctrl-C that nobody else handles waits for the guards too."""
    if not _is_main() or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    def handle(_number: int, _frame: FrameType | None) -> None:
        interrupt(KeyboardInterrupt())

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _depth() -> int:
    return getattr(_inside, "depth", 0)


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()
