"""Interrupting plain code that takes too long."""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from kitaru_fs.engine.guard import interrupt

__all__ = ["call_within"]

T = TypeVar("T")


class _TimedOut(BaseException):
    """Thrown into the function: no `except Exception` of the user's takes it for its own.

    A class without arguments is also all that CPython can throw into another thread.
    """


def call_within(seconds: float, error: Exception, function: Callable[[], T]) -> T:
    """Calls a function; raises `error` from it if it takes longer than `seconds`.

    In the main thread a timer signal interrupts system calls too. In another thread the function is
    interrupted at its next Python instruction, so a blocking call ends late; it never goes on in
    the background.
    """
    in_main = threading.current_thread() is threading.main_thread()
    limit = _by_signal if in_main and hasattr(signal, "setitimer") else _by_thread
    try:
        with limit(seconds):
            return function()
    except _TimedOut as interrupted:
        # The frames say where it was.
        raise error.with_traceback(interrupted.__traceback__) from None


@contextmanager
def _by_signal(seconds: float) -> Generator[None]:
    over = False

    def fire(_number: int, _frame: FrameType | None) -> None:
        if not over:
            interrupt(_TimedOut())

    before = signal.signal(signal.SIGALRM, fire)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        finally:
            over = True
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        # None: whoever handled it did so outside Python, and cannot be put back.
        signal.signal(signal.SIGALRM, signal.SIG_DFL if before is None else before)


@contextmanager
def _by_thread(seconds: float) -> Generator[None]:
    target = ctypes.c_ulong(threading.get_ident())
    throw = ctypes.pythonapi.PyThreadState_SetAsyncExc
    guard = threading.Lock()
    over = fired = False

    def fire() -> None:
        nonlocal fired
        with guard:
            if not over:
                fired = True
                throw(target, ctypes.py_object(_TimedOut))

    timer = threading.Timer(seconds, fire)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with guard:
            over = True
        timer.cancel()
        if fired:
            # Thrown as the body ended: it must not hit what comes after.
            throw(target, None)
