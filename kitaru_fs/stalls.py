"""Waiting for a ticket of the replay, and seeing when nothing can ever fulfil it.

A call that the journal does not hold waits for the journaled ones. If every task of the flow waits
so, the flow makes other calls than its journal holds: that is divergence. A task that waits for
something else (a timer, a socket, a thread) may still make the expected call, so it is waited for.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import sys
import threading
import weakref
from concurrent.futures import TimeoutError as FutureTimeoutError
from types import CodeType
from typing import Any

from kitaru_fs.context import current_execution
from kitaru_fs.execution import Execution
from kitaru_fs.replay import Outcome, Ticket

__all__ = ["watch_async", "watch_sync"]

_FIRST_LOOK = 0.005
_LONGEST = 1.0
_THREAD_PATIENCE = 30.0
# Innermost frames that wait for other tasks of the same loop, not for the outside.
_WAITS_FOR_TASKS = {
    ("asyncio", "taskgroups.py"): None,
    ("asyncio", "locks.py"): None,
    ("asyncio", "queues.py"): None,
    ("asyncio", "tasks.py"): "_wait",
    ("_backends", "_asyncio.py"): "__aexit__",
}

_watched: weakref.WeakKeyDictionary[Execution, set[asyncio.Future[Outcome]]] = (
    weakref.WeakKeyDictionary()
)
_owners: weakref.WeakKeyDictionary[asyncio.Task[Any], Execution] = weakref.WeakKeyDictionary()


async def watch_async(execution: Execution, ticket: Ticket) -> Outcome:
    """Waits for a ticket in async code.

    Raises:
        DivergenceError: No task of the flow can go on.
    """
    loop = asyncio.get_running_loop()
    future = asyncio.wrap_future(ticket, loop=loop)
    task = asyncio.current_task()
    if task is not None:
        _owners[task] = execution
    futures = _watched.setdefault(execution, set())
    if not futures:
        loop.call_soon(_look, loop, execution, _FIRST_LOOK)
    futures.add(future)
    try:
        return await future
    except asyncio.CancelledError:
        execution.withdraw(ticket)
        raise
    finally:
        futures.discard(future)


def _look(loop: asyncio.AbstractEventLoop, execution: Execution, delay: float) -> None:
    futures = _watched.get(execution)
    if not futures or execution.replay.finished:
        return
    if not any(future.done() for future in futures) and not any(
        _can_go_on(task, futures) for task in _tasks_of(loop, execution)
    ):
        stuck = execution.replay.stuck
        if stuck is not None or not execution.replay.waits_for_cancelled:
            execution.diverge(stuck)
            return
    loop.call_later(delay, _look, loop, execution, min(delay * 2, _LONGEST))


def _tasks_of(loop: asyncio.AbstractEventLoop, execution: Execution) -> list[asyncio.Task[Any]]:
    found: list[asyncio.Task[Any]] = []
    for task in asyncio.all_tasks(loop):
        if sys.version_info >= (3, 12):
            owner = task.get_context().run(current_execution)
        else:
            owner = _owners.get(task, execution if task not in execution.other_tasks else None)
        if owner is execution:
            found.append(task)
    return found


def _can_go_on(task: asyncio.Task[Any], ours: set[asyncio.Future[Outcome]]) -> bool:
    waiter: Any = getattr(task, "_fut_waiter", None)
    if waiter is None or waiter.done():
        return True
    if waiter in ours or isinstance(waiter, asyncio.Task):
        return False
    if type(waiter).__name__ == "_GatheringFuture":
        return False
    code = _innermost(task.get_coro())
    if code is None:
        return True
    folder, _, name = code.co_filename.replace("\\", "/").rpartition("/")
    wanted = _WAITS_FOR_TASKS.get((folder.rpartition("/")[2], name), "")
    return wanted is not None and wanted != code.co_name


def _innermost(awaited: Any) -> CodeType | None:
    """Returns the code of the innermost coroutine or generator that a task awaits."""
    code: CodeType | None = None
    while awaited is not None:
        if inspect.iscoroutine(awaited):
            code, awaited = awaited.cr_code, awaited.cr_await
        elif inspect.isasyncgen(awaited):
            code, awaited = awaited.ag_code, awaited.ag_await
        elif inspect.isgenerator(awaited):
            code, awaited = awaited.gi_code, awaited.gi_yieldfrom
        else:
            # `__anext__`, `asend` and `athrow` do not say which generator they drive.
            awaited = next(
                (
                    one
                    for one in gc.get_referents(awaited)
                    if inspect.isasyncgen(one) or inspect.iscoroutine(one)
                ),
                None,
            )
    return code


def watch_sync(execution: Execution, ticket: Ticket) -> Outcome:
    """Waits for a ticket in plain code.

    Raises:
        DivergenceError: No thread of the flow can go on.
    """
    alone = threading.get_ident() == execution.thread
    waited = 0.0
    while True:
        if alone and execution.workers == 0:
            if not ticket.done():
                execution.diverge(execution.replay.stuck)
            return ticket.result()
        before = execution.replay.replayed
        try:
            return ticket.result(timeout=_LONGEST)
        except FutureTimeoutError:
            if ticket.done():
                raise
        waited = waited + _LONGEST if execution.replay.replayed == before else 0.0
        if waited >= _THREAD_PATIENCE:
            execution.diverge(execution.replay.stuck)
