"""Interrupting plain code that takes too long."""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

__all__ = ["interrupt_after"]


@contextmanager
def interrupt_after(seconds: float, error: Exception) -> Generator[None]:
    """Raises `error` in the body if it takes longer than `seconds`.

    In the main thread a timer signal interrupts system calls too. In another thread the error is
    raised at the next Python instruction, so a blocking call ends late; the body never goes on in
    the background.
    """
    if threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer"):
        with _by_signal(seconds, error):
            yield
    else:
        with _by_thread(seconds, error):
            yield


@contextmanager
def _by_signal(seconds: float, error: Exception) -> Generator[None]:
    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise error

    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


class _TimedOut(BaseException):
    """Thrown into the thread; a class without arguments is all that CPython can throw there."""


@contextmanager
def _by_thread(seconds: float, error: Exception) -> Generator[None]:
    target = threading.get_ident()
    guard = threading.Lock()
    state = {"fired": False, "over": False}

    def interrupt() -> None:
        with guard:
            if not state["over"]:
                state["fired"] = True
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(target), ctypes.py_object(_TimedOut)
                )

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    except _TimedOut:
        raise error from None
    finally:
        with guard:
            state["over"] = True
        timer.cancel()
