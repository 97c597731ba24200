"""The way of one step: claim, execute, commit, try again. Written once, driven two ways.

`travel` is a generator that says what to do next; `drive` does it in plain code, `drive_async` in
async code. So a `def` step and an `async def` step cannot differ in what they journal.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Literal, NamedTuple

from kitaru_fs.clock import random
from kitaru_fs.engine.approval import Approval, approving, is_asked_for, still_holds
from kitaru_fs.engine.asking import pend, pend_async
from kitaru_fs.engine.attempts import Attempt
from kitaru_fs.engine.context import in_attempt
from kitaru_fs.engine.effects import (
    Effect,
    Execute,
    Pend,
    Settle,
    Sleep,
    Wait,
    claimed,
    decoded,
    replayed,
)
from kitaru_fs.engine.execution import Execution
from kitaru_fs.engine.fulfilling import fulfil
from kitaru_fs.engine.replay import Call
from kitaru_fs.engine.stalls import watch_async, watch_sync
from kitaru_fs.engine.unknown import Answers
from kitaru_fs.entry import Entry
from kitaru_fs.errors import (
    DivergenceError,
    HeldError,
    OutputError,
    RunInterrupted,
    RunWaiting,
    StepTimeout,
    StorageError,
)
from kitaru_fs.quoting import printable
from kitaru_fs.values import Codec, NoJsonForm
from kitaru_fs.values.failures import as_raised, capture

__all__ = ["OnUnknown", "Policy", "drive", "drive_async", "travel"]

# These end the process's work on the run; they are no outcome of a step.
_NOT_AN_OUTCOME = (DivergenceError, HeldError, RunInterrupted, RunWaiting, StorageError)


OnUnknown = Literal["ask", "retry", "skip"]


class Policy(NamedTuple):
    """How a step is tried.

    Attributes:
        retries: How many further attempts follow a failed one.
        timeout: Seconds that an attempt may take; None for no limit.
        backoff: Seconds before the second attempt; doubled each time.
        max_backoff: The longest wait, in seconds.
        retry_on: The exception types that are tried again.
        effect: What an attempt does outside of the run; empty if nothing.
        on_unknown: What becomes of an attempt that may have had its effect and came to no end.
    """

    retries: int = 0
    timeout: float | None = None
    backoff: float = 1.0
    max_backoff: float = 60.0
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    effect: str = ""
    on_unknown: OnUnknown = "ask"


def travel(
    execution: Execution, call: Call, codec: Codec, policy: Policy
) -> Generator[Effect, Any, Any]:
    """Yields what to do for one call; returns its value.

    Raises:
        Exception: What the step failed with, live exactly as on replay.
        KitaruError: The run cannot go on.
    """
    approved: Approval = None
    if call.approval and is_asked_for(execution, call):
        approved = yield from approving(execution, call)
    answers = Answers(execution, call, codec)
    yield from answers.replay()
    outcome = yield from claimed(execution, call)
    if isinstance(outcome, Entry):
        return replayed(execution, outcome, codec)
    given = execution.steps.given(call)
    if given is not None:
        # In place of the step's execution, a human has set its output.
        attempt = execution.steps.begin(call)
        attempt.source = given.source
        return (yield from _take(execution, attempt, bytes(given.output), codec))
    intent = execution.steps.unknown(call)
    if intent is not None and policy.effect and policy.on_unknown == "ask":
        output = (yield from answers.about(intent)).output
        if output is not None:
            attempt = execution.steps.begin(call)
            attempt.metadata["answered"] = "a human said what became of it"
            return (yield from _take(execution, attempt, output, codec))
    if intent is not None and policy.effect and policy.on_unknown == "skip":
        attempt = execution.steps.begin(call)
        attempt.metadata["skipped"] = "it is not known whether it was done"
        return (yield from _take(execution, attempt, b"null", codec))
    held_back = execution.hold_back()
    if held_back is not None:
        yield Pend(held_back)
    while call.approval and not still_holds(execution, call, approved):
        approved = yield from approving(execution, call)
    while True:
        attempt = execution.steps.begin(call, policy.effect, intent)
        intent = None
        try:
            value = yield Execute(attempt)
            output = encode_output(execution, call, codec, value)
        except (asyncio.CancelledError, GeneratorExit):
            execution.steps.cancel(attempt)
            raise
        except _NOT_AN_OUTCOME as error:
            # A child run's, mostly: the flow must not go on as if the call had had an outcome.
            execution.steps.abandon(attempt)
            raise execution.end_replay(error) from None
        except Exception as error:
            failure = capture(error, execution.secrecy.cut)
            retry = (
                attempt.number <= policy.retries
                and isinstance(error, policy.retry_on)
                and not isinstance(error, OutputError)
            )
            entry = execution.steps.fail(attempt, failure.record(), retry=retry)
            if not retry:
                raised = as_raised(
                    error, failure, step_name=call.name, run=execution.run, number=entry.step
                )
                execution.causes.remember(raised, entry.step)
                if raised is error:
                    raise
                raise raised from error
            yield Sleep(_delay(policy, attempt.number))
            continue
        _, ticket = execution.steps.succeed(attempt, output)
        yield Settle(ticket)
        return value


def _take(
    execution: Execution, attempt: Attempt, output: bytes, codec: Codec
) -> Generator[Effect, Any, Any]:
    """Commits an output without executing the step; returns its value."""
    entry, ticket = execution.steps.succeed(attempt, output)
    yield Settle(ticket)
    return decoded(execution, entry, codec, output)


def encode_output(execution: Execution, call: Call, codec: Codec, value: Any) -> bytes:
    """Returns a value as JSON.

    Raises:
        OutputError: It has no JSON form that is equal on replay.
    """
    try:
        return codec.encode(value)
    except NoJsonForm as error:
        raise OutputError(
            f"the output of step {call.name!r} cannot be journaled: {error.finding}",
            hint=error.advice,
            run=execution.run,
            step=execution.step + 1,
        ) from error


def _delay(policy: Policy, failed: int) -> float:
    # A power that no float holds is beyond any limit.
    doubled = policy.backoff * 2.0 ** min(failed - 1, 1000)
    return min(policy.max_backoff, doubled + random() * policy.backoff / 2)


def _no_function() -> Any:
    raise AssertionError("this way executes nothing")


def drive(
    execution: Execution,
    steps: Generator[Effect, Any, Any],
    function: Callable[[], Any] = _no_function,
    timeout: float | None = None,
) -> Any:
    """Drives `travel` in plain code."""
    send: Any = None
    error: BaseException | None = None
    try:
        while True:
            try:
                effect = steps.throw(error) if error is not None else steps.send(send)
            except StopIteration as stop:
                return stop.value
            send = error = None
            try:
                if isinstance(effect, Execute):
                    with in_attempt(effect.attempt):
                        send = _call_with_timeout(function, timeout, effect.attempt.call.name)
                elif isinstance(effect, Settle):
                    execution.steps.wait(effect.ticket)
                elif isinstance(effect, Wait):
                    send = watch_sync(execution, effect.ticket)
                elif isinstance(effect, Pend):
                    send = pend(effect.pending)
                else:
                    execution.wait_to_retry(effect.seconds)
                    time.sleep(effect.seconds)
            except BaseException as caught:
                error = caught
    finally:
        steps.close()


async def drive_async(
    execution: Execution,
    steps: Generator[Effect, Any, Any],
    function: Callable[[], Awaitable[Any]] = _no_function,
    timeout: float | None = None,
) -> Any:
    """Drives `travel` in async code."""
    send: Any = None
    error: BaseException | None = None
    try:
        while True:
            try:
                effect = steps.throw(error) if error is not None else steps.send(send)
            except StopIteration as stop:
                return stop.value
            send = error = None
            try:
                if isinstance(effect, Execute):
                    effect.attempt.task = asyncio.current_task()
                    with in_attempt(effect.attempt):
                        send = await _await_with_timeout(
                            function, timeout, effect.attempt.call.name
                        )
                elif isinstance(effect, Settle):
                    await _settle(execution, effect.ticket)
                elif isinstance(effect, Wait):
                    send = await watch_async(execution, effect.ticket)
                elif isinstance(effect, Pend):
                    send = await pend_async(effect.pending)
                else:
                    execution.wait_to_retry(effect.seconds)
                    await asyncio.sleep(effect.seconds)
            except BaseException as caught:
                error = caught
    finally:
        steps.close()


async def _settle(execution: Execution, ticket: int) -> None:
    """Waits until a commit is durable, while other tasks go on."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    settled = loop.create_future()

    later = execution.steps.later(ticket, lambda: fulfil(loop, settled))
    if not later:
        execution.steps.wait(ticket)
    try:
        # At least one round of the loop: what else there is to do may have waited for this step.
        await (settled if later else asyncio.sleep(0))
    except asyncio.CancelledError:
        # The step has its outcome: what cancels the flow reaches it at its next await.
        if task is not None:
            task.uncancel()
            task.cancel()
    execution.steps.wait(ticket)


async def _await_with_timeout(
    function: Callable[[], Awaitable[Any]], timeout: float | None, name: str
) -> Any:
    if timeout is None:
        return await function()
    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            return await function()
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise _timed_out(name, timeout) from error


def _call_with_timeout(function: Callable[[], Any], timeout: float | None, name: str) -> Any:
    if timeout is None:
        return function()
    from kitaru_fs.engine.timeouts import call_within

    return call_within(timeout, _timed_out(name, timeout), function)


def _timed_out(name: str, timeout: float) -> StepTimeout:
    return StepTimeout(f"step {printable(name, 200)} took longer than its timeout of {timeout:g} s")
