"""`wait`, `sleep` and `receive`: where an async flow waits for a human, the clock, a message."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, TypeVar, overload

import msgspec

from kitaru_fs.engine.asking import asking
from kitaru_fs.engine.context import current_attempt, current_execution
from kitaru_fs.engine.execution import Execution
from kitaru_fs.engine.pending import Question
from kitaru_fs.engine.protocol import drive_async
from kitaru_fs.engine.replay import Call
from kitaru_fs.errors import UsageError
from kitaru_fs.values import NoJsonForm, codec_for, digest
from kitaru_fs.values.schema import json_schema

__all__ = [
    "NO_DEFAULT",
    "NoDefault",
    "receive",
    "receiving",
    "sleep",
    "sleeping",
    "wait",
    "waiting",
]

T = TypeVar("T")
D = TypeVar("D")
Seconds = float | timedelta


class NoDefault(Enum):
    """Says that there is no default: None may be one."""

    NO_DEFAULT = "no default"


NO_DEFAULT = NoDefault.NO_DEFAULT


@overload
def wait(
    name: str, question: str = "", *, timeout: Seconds | None = None, default: Any = NO_DEFAULT
) -> Coroutine[Any, Any, Any]: ...
@overload
def wait(
    name: str,
    question: str = "",
    *,
    schema: type[T],
    timeout: Seconds | None = None,
    default: T | NoDefault = NO_DEFAULT,
) -> Coroutine[Any, Any, T]: ...
@overload
def wait(
    name: str,
    question: str = "",
    *,
    schema: Any,
    timeout: Seconds | None = None,
    default: Any = NO_DEFAULT,
) -> Coroutine[Any, Any, Any]: ...
def wait(
    name: str,
    question: str = "",
    *,
    schema: Any = Any,
    timeout: Seconds | None = None,
    default: Any = NO_DEFAULT,
) -> Coroutine[Any, Any, Any]:
    """Asks a human, or another program, and waits for the reply.

    The question is committed before anyone is asked. The process stays for as long as `linger`
    says; then it ends, and the run goes on when it is resumed with the reply.

    Args:
        name: What the reply is for, in a word.
        question: What is asked.
        schema: The type of the reply: any that a step may return.
        timeout: How long to wait, in seconds or as a `timedelta`; None for no limit.
        default: What it returns if nothing came in time, or the human refuses to answer.

    Returns:
        What is awaited; it returns the reply.

    Raises:
        WaitTimeout: No reply came in time, and there is no default.
        WaitRejected: A human refused to answer, and there is no default.
        UsageError: It was called outside a flow or in a step, or an argument does not make sense.
    """
    execution = _in_async_flow("wait")
    return _ask(execution, waiting(execution, name, question, schema, timeout, default))


def sleep(duration: float | timedelta | datetime) -> Coroutine[Any, Any, None]:
    """Sleeps, for as long as it takes; restarts do not matter.

    Args:
        duration: How long, in seconds or as a `timedelta`; or until when, as a `datetime` (without
            a zone, in local time).

    Returns:
        What is awaited; it returns when the time has come.

    Raises:
        UsageError: It was called outside a flow or in a step, or the duration makes no sense.
    """
    execution = _in_async_flow("sleep")
    return _ask(execution, sleeping(execution, duration))


@overload
def receive(topic: str, *, timeout: Seconds | None = None) -> Coroutine[Any, Any, Any]: ...
@overload
def receive(
    topic: str, *, schema: type[T], timeout: Seconds | None = None
) -> Coroutine[Any, Any, T]: ...
@overload
def receive(
    topic: str, *, schema: Any, timeout: Seconds | None = None
) -> Coroutine[Any, Any, Any]: ...
def receive(
    topic: str, *, schema: Any = Any, timeout: Seconds | None = None
) -> Coroutine[Any, Any, Any]:
    """Receives the next message on a topic: each once, in the order sent.

    A message that was sent before anybody receives is kept until then.

    Args:
        topic: The topic.
        schema: The type of the message: any that a step may return.
        timeout: How long to wait, in seconds or as a `timedelta`; None for no limit.

    Returns:
        What is awaited; it returns the message.

    Raises:
        WaitTimeout: No message came in time.
        MessageError: The message does not fit the schema. It counts as received.
        UsageError: It was called outside a flow or in a step, or an argument does not make sense.
    """
    execution = _in_async_flow("receive")
    return _ask(execution, receiving(execution, topic, schema, timeout))


async def _ask(execution: Execution, question: Question) -> Any:
    return await drive_async(execution, asking(execution, question))


# What is asked, for plain code as for async code. Keys are reserved here, at the call: they must
# not depend on who runs first.


def waiting(
    execution: Execution, name: str, question: str, schema: Any, timeout: Any, default: Any
) -> Question:
    """Returns what a `wait` asks."""
    _check_name("wait", name)
    codec = codec_for(schema)
    recorded = {"question": question, "schema": json_schema(schema)}
    encoded = None
    if default is not NO_DEFAULT:
        try:
            encoded = codec.encode(default)
            codec.decode(encoded)
        except (NoJsonForm, ValueError) as error:
            raise UsageError(
                f"wait({name!r}): the default {default!r} does not fit the schema: {error}",
                hint="give a default of the schema's type",
            ) from error
    what = digest(execution.secrecy.mask(msgspec.json.encode(recorded)))
    return Question(
        Call(execution.secrecy.text_key("wait", name), name, "wait", {**recorded, "digest": what}),
        codec,
        timeout=_seconds("wait", timeout),
        default=encoded,
        digest=what,
    )


def sleeping(execution: Execution, duration: float | timedelta | datetime) -> Question:
    """Returns what a `sleep` asks."""
    codec = codec_for(Any)
    if isinstance(duration, datetime):
        # A time is as often as not reckoned from the clock: the one that was recorded counts.
        call = Call(execution.secrecy.key("sleep"), "sleep", "sleep", {})
        return Question(call, codec, until=duration.astimezone(UTC))
    seconds = _seconds("sleep", duration)
    if seconds is None:
        raise UsageError("sleep(None): say how long", hint="seconds, a timedelta or a datetime")
    call = Call(execution.secrecy.key(f"sleep:{seconds!r}"), "sleep", "sleep", {"seconds": seconds})
    return Question(call, codec, timeout=seconds)


def receiving(execution: Execution, topic: str, schema: Any, timeout: Any) -> Question:
    """Returns what a `receive` asks."""
    _check_name("receive", topic)
    recorded = {"topic": topic, "schema": json_schema(schema)}
    call = Call(execution.secrecy.text_key("receive", topic), f"receive {topic}", "wait", recorded)
    return Question(call, codec_for(schema), timeout=_seconds("receive", timeout))


def _in_async_flow(what: str) -> Execution:
    execution = in_flow(f"{what}()")
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise UsageError(
            f"{what}() was called in a plain `def` flow, which cannot await it",
            hint=f"write `from kitaru_fs.sync import {what}`, or make the flow an `async def`",
            run=execution.run,
        ) from None
    return execution


def in_flow(what: str) -> Execution:
    """Returns the run whose flow calls.

    Raises:
        UsageError: It was called outside a flow, or in a step.
    """
    execution = current_execution()
    if execution is None:
        raise UsageError(
            f"{what} was called outside a flow", hint="call it in a function marked @flow"
        )
    if current_attempt() is not None:
        raise UsageError(
            f"{what} was called in a step, which is executed in one go",
            hint="call it in the flow, before or after the step; a step that must be approved is"
            " @step(approve=True)",
            run=execution.run,
        )
    return execution


def _check_name(what: str, name: str) -> None:
    if not isinstance(name, str) or not name.strip() or len(name) > 200:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(
            f"{what}({name!r}): a name is a text of 1 to 200 characters", hint="give it a word"
        )


def _seconds(what: str, given: Any) -> float | None:
    if given is None:
        return None
    seconds = given.total_seconds() if isinstance(given, timedelta) else given
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise UsageError(
            f"{what}: {given!r} is no length of time", hint="give seconds, or a timedelta"
        )
    # A thousand years: more is a mistake, and no date any more.
    if not 0 <= seconds <= 31_557_600_000:
        raise UsageError(f"{what}: {given!r} seconds make no sense", hint="give 0 or more")
    return float(seconds)
