"""`wait`, `sleep` and `receive` for flows that are a plain `def`; see `kitaru_fs.wait` and so on.

from kitaru_fs.sync import wait

@flow
def publish() -> None:
    if wait("publish", "Publish this?", schema=bool):
        ...
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, TypeVar, overload

from kitaru_fs.engine.asking import asking, refuse_in_loop
from kitaru_fs.engine.execution import Execution
from kitaru_fs.engine.pending import Question
from kitaru_fs.engine.protocol import drive
from kitaru_fs.waiting import (
    NO_DEFAULT,
    NoDefault,
    Seconds,
    in_flow,
    receiving,
    sleeping,
    waiting,
)

__all__ = ["receive", "sleep", "wait"]

T = TypeVar("T")


@overload
def wait(
    name: str, question: str = "", *, timeout: Seconds | None = None, default: Any = NO_DEFAULT
) -> Any: ...
@overload
def wait(
    name: str,
    question: str = "",
    *,
    schema: type[T],
    timeout: Seconds | None = None,
    default: T | NoDefault = NO_DEFAULT,
) -> T: ...
@overload
def wait(
    name: str,
    question: str = "",
    *,
    schema: Any,
    timeout: Seconds | None = None,
    default: Any = NO_DEFAULT,
) -> Any: ...
def wait(
    name: str,
    question: str = "",
    *,
    schema: Any = Any,
    timeout: Seconds | None = None,
    default: Any = NO_DEFAULT,
) -> Any:
    """Asks a human, or another program, and returns the reply; see `kitaru_fs.wait`."""
    execution = _in_plain_flow("wait()")
    return _ask(execution, waiting(execution, name, question, schema, timeout, default))


def sleep(duration: float | timedelta | datetime) -> None:
    """Sleeps, for as long as it takes; see `kitaru_fs.sleep`."""
    execution = _in_plain_flow("sleep()")
    _ask(execution, sleeping(execution, duration))


@overload
def receive(topic: str, *, timeout: Seconds | None = None) -> Any: ...
@overload
def receive(topic: str, *, schema: type[T], timeout: Seconds | None = None) -> T: ...
@overload
def receive(topic: str, *, schema: Any, timeout: Seconds | None = None) -> Any: ...
def receive(topic: str, *, schema: Any = Any, timeout: Seconds | None = None) -> Any:
    """Returns the next message on a topic; see `kitaru_fs.receive`."""
    execution = _in_plain_flow("receive()")
    return _ask(execution, receiving(execution, topic, schema, timeout))


def _ask(execution: Execution, question: Question) -> Any:
    return drive(execution, asking(execution, question))


def _in_plain_flow(what: str) -> Execution:
    execution = in_flow(what)
    refuse_in_loop(execution, f"kitaru_fs.sync: {what}")
    return execution
