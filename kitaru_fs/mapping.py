"""`STEP.map(items)`: one call for each item, some at the same time."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, Future, ThreadPoolExecutor, wait
from typing import Any

from kitaru_fs.engine.execution import Execution
from kitaru_fs.engine.replay import Call

__all__ = ["map_async", "map_plain"]

_MOST_THREADS = 32


async def map_async(running: Sequence[Coroutine[Any, Any, Any]], limit: int | None) -> list[Any]:
    """Awaits calls, at most `limit` at the same time; the first failure cancels the others."""
    gate = asyncio.Semaphore(limit or max(1, len(running)))

    failed = False

    async def one(call: Coroutine[Any, Any, Any]) -> Any:
        nonlocal failed
        async with gate:
            if failed:
                # The place that the failure gave up is nobody's: the others are being cancelled.
                raise asyncio.CancelledError
            try:
                return await call
            except BaseException:
                failed = True
                raise

    tasks = [asyncio.ensure_future(one(call)) for call in running]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for call in running:
            call.close()
        raise


def map_plain(
    execution: Execution,
    calls: Sequence[Call],
    run: Callable[[int], Any],
    limit: int | None,
) -> list[Any]:
    """Makes calls in threads, at most `limit` at the same time.

    The first failure keeps what has not begun from beginning; what is in flight ends first.

    Args:
        execution: The run.
        calls: The calls.
        run: Makes the call of a number.
        limit: How many run at the same time; None for as many as there are, 32 at most.
    """
    size = min(limit or _MOST_THREADS, len(calls))
    callers = execution.callers
    pool = ThreadPoolExecutor(size)
    orderly, failed = True, False
    with callers.plain_code(), callers.fan_out(len(calls), size) as work:

        def one(number: int) -> Any:
            nonlocal failed
            with work():
                if failed and execution.replay.recorded(calls[number].key) is None:
                    raise CancelledError
                try:
                    return run(number)
                except BaseException:
                    # Seen by the threads that take the next items before the caller wakes up.
                    failed = True
                    raise

        try:
            contexts = [contextvars.copy_context() for _ in calls]
            futures = [pool.submit(context.run, one, i) for i, context in enumerate(contexts)]
            wait(futures, return_when=FIRST_EXCEPTION)
        except BaseException:
            # An orderly stop does not wait for steps; what they commit now is refused.
            orderly = False
            raise
        finally:
            pool.shutdown(wait=orderly, cancel_futures=True)
    failures = [failure for future in futures if (failure := _failure(future)) is not None]
    if failures:
        failures += _take_recorded(execution, calls, futures, run)
        # Which of several came first is what the journal says, live as on replay.
        raise min(failures, key=lambda error: execution.causes.find(error) or 0)
    return [future.result() for future in futures]


def _take_recorded(
    execution: Execution,
    calls: Sequence[Call],
    futures: Sequence[Future[Any]],
    run: Callable[[int], Any],
) -> list[Exception]:
    """Takes the outcomes of calls that did not begin this time, but did when they were recorded."""
    failures: list[Exception] = []
    left = {
        step: number
        for number, future in enumerate(futures)
        if _did_not_begin(future)
        and (step := execution.replay.recorded(calls[number].key)) is not None
    }
    for _, number in sorted(left.items()):
        try:
            run(number)
        except Exception as error:
            failures.append(error)
    return failures


def _failure(future: Future[Any]) -> BaseException | None:
    return None if _did_not_begin(future) else future.exception(timeout=0)


def _did_not_begin(future: Future[Any]) -> bool:
    return future.cancelled() or isinstance(future.exception(timeout=0), CancelledError)
