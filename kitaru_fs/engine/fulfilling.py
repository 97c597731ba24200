"""Telling a loop from other threads what it waits for: many at a time, with one call."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections import deque

__all__ = ["fulfil"]


class _Fulfilled:
    """What one loop is to be told."""

    def __init__(self) -> None:
        self.futures: deque[asyncio.Future[None]] = deque()
        self.is_told = False


_loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Fulfilled] = (
    weakref.WeakKeyDictionary()
)


def fulfil(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
    """Fulfils a future of a loop, from any thread; one that is done, or whose loop is closed, is
    left alone.
    """
    fulfilled = _loops.get(loop)
    if fulfilled is None:
        fulfilled = _loops.setdefault(loop, _Fulfilled())
    fulfilled.futures.append(future)
    if not fulfilled.is_told:
        fulfilled.is_told = True
        # A loop that is closed has nobody who waits.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_tell, fulfilled)


def _tell(fulfilled: _Fulfilled) -> None:
    # Before they are taken: what comes from here on is told again.
    fulfilled.is_told = False
    while fulfilled.futures:
        future = fulfilled.futures.popleft()
        if not future.done():
            future.set_result(None)
