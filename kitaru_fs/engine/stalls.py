"""Waiting for a ticket of the replay, and seeing when nothing can ever fulfil it.

A call that the journal does not hold waits for the journaled ones. If every task and thread of the
flow waits so, the flow makes other calls than its journal holds: that is divergence. Who waits for
something else (a timer, a socket, a thread) may still make the expected call, so it is waited for.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

from kitaru_fs.engine.divergence import blocked_loop
from kitaru_fs.engine.execution import Execution
from kitaru_fs.engine.replay import Outcome, Ticket
from kitaru_fs.engine.tasks import Survey, horizon, own_task, survey

__all__ = ["watch_async", "watch_sync"]

_FIRST_LOOK = 0.005
_LONGEST = 1.0
# How long threads that the flow's own code started, of which nothing is known, may take.
_THREAD_PATIENCE = 30.0


class _Watch:
    """Looks, while tasks of one execution wait for its replay, whether any can go on."""

    def __init__(self) -> None:
        self.tickets: dict[asyncio.Future[Outcome], Ticket] = {}
        self._timer: asyncio.Handle | None = None
        self._last: Survey | None = None
        self._until: float | None = None

    def wake(self, loop: asyncio.AbstractEventLoop, execution: Execution) -> None:
        """Looks soon, and from then on as long as it must."""
        if self._timer is None:
            self._last = None
            self._timer = loop.call_soon(self._look, loop, execution, _FIRST_LOOK)

    def _look(self, loop: asyncio.AbstractEventLoop, execution: Execution, delay: float) -> None:
        self._timer = None
        if execution.replay.finished or not (self.tickets or execution.callers.waiting):
            return
        seen = survey(loop, [execution], self.tickets)
        moves = seen.moves or not execution.callers.all_wait(seen.threads)
        if moves or seen != self._last:
            # What a finished task wakes is seen only after the loop has gone round.
            self._last, self._until = seen, None
            delay = min(delay * 2, _LONGEST) if moves else _FIRST_LOOK
        elif not seen.is_open or self._is_over(loop, execution):
            execution.stalled()
            return
        else:
            delay = min(delay * 2, _LONGEST)
        self._timer = loop.call_later(delay, self._look, loop, execution, delay)

    def _is_over(self, loop: asyncio.AbstractEventLoop, execution: Execution) -> bool:
        if self._until is None:
            self._until = horizon(loop, [execution])
        return loop.time() >= self._until


_watches: weakref.WeakKeyDictionary[Execution, _Watch] = weakref.WeakKeyDictionary()


async def watch_async(execution: Execution, ticket: Ticket) -> Outcome:
    """Waits for a ticket in async code.

    Raises:
        DivergenceError: No task of the flow can go on.
    """
    loop = asyncio.get_running_loop()
    watch = _watches.setdefault(execution, _Watch())
    future = asyncio.wrap_future(ticket, loop=loop)
    own_task(execution)
    watch.tickets[future] = ticket
    watch.wake(loop, execution)
    try:
        return await future
    except asyncio.CancelledError:
        execution.withdraw(ticket)
        raise
    finally:
        del watch.tickets[future]


def watch_sync(execution: Execution, ticket: Ticket) -> Outcome:
    """Waits for a ticket in plain code.

    Raises:
        DivergenceError: No thread and no task of the flow can go on.
    """
    loop: Any = execution.loop
    if threading.get_ident() == execution.callers.loop_thread:
        with execution.callers.plain_code(), execution.callers.waits(ticket, of_a_task=False):
            return _wait_in_loop(execution, ticket, loop)
    if loop is None or execution.callers.block_loop:
        with execution.callers.waits(ticket, of_a_task=False):
            return _wait(execution, ticket)
    with execution.callers.waits(ticket, of_a_task=True):
        watch = _watches.setdefault(execution, _Watch())
        loop.call_soon_threadsafe(watch.wake, loop, execution)
        return ticket.result()


def _wait(execution: Execution, ticket: Ticket) -> Outcome:
    waited = 0.0
    while True:
        if not ticket.done() and execution.callers.all_wait():
            execution.stalled()
        before = execution.replay.replayed
        try:
            return ticket.result(timeout=_FIRST_LOOK if waited == 0 else _LONGEST)
        except FutureTimeoutError:
            if ticket.done():
                raise
        waited = waited + _LONGEST if execution.replay.replayed == before else _LONGEST
        if waited >= _THREAD_PATIENCE:
            execution.stalled()


def _wait_in_loop(execution: Execution, ticket: Ticket, loop: asyncio.AbstractEventLoop) -> Outcome:
    """Waits in a plain step that an async flow calls: its tasks cannot go on meanwhile."""
    watch = _watches.get(execution)
    while not ticket.done():
        seen = survey(loop, [execution], watch.tickets if watch is not None else {})
        if execution.callers.all_wait(seen.threads):
            stuck = execution.replay.stuck
            if seen.others_move and stuck is not None:
                execution.end_replay(blocked_loop(execution.run, stuck[0]))
            else:
                execution.stalled()
        try:
            return ticket.result(timeout=_FIRST_LOOK)
        except FutureTimeoutError:
            if ticket.done():
                raise
    return ticket.result()
