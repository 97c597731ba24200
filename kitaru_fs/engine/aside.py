"""Taking runs up and bringing them to rest beside the loop: where many run, their syncs overlap."""

from __future__ import annotations

import asyncio
import contextvars
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["aside"]

R = TypeVar("R")

# More of them get in the loop's way: each wants the interpreter too.
_THREADS = 2
_pool: ThreadPoolExecutor | None = None


def _forget_after_fork() -> None:
    global _pool
    _pool = None


os.register_at_fork(after_in_child=_forget_after_fork)


async def aside(call: Callable[[], R]) -> R:
    """Makes a call in a thread. It is never left half way: a cancellation comes at the next await.

    Raises:
        Exception: What the call raises.
    """
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="kitaru-aside")
    future = _pool.submit(contextvars.copy_context().run, call)
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()
            task.cancel()
        return call() if future.cancelled() else future.result()
