"""What a flow and a step know of the run that they are in."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import Context, ContextVar
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from kitaru_fs import clock
from kitaru_fs.errors import UsageError

if TYPE_CHECKING:
    from kitaru_fs.engine.attempts import Attempt
    from kitaru_fs.engine.execution import Execution

__all__ = [
    "StepInfo",
    "current_attempt",
    "current_execution",
    "files",
    "in_attempt",
    "in_execution",
    "note",
    "now",
    "patched",
    "random",
    "this_step",
    "uuid4",
]

_execution: ContextVar[Execution | None] = ContextVar("kitaru_fs.execution", default=None)
_attempt: ContextVar[Attempt | None] = ContextVar("kitaru_fs.attempt", default=None)


def current_execution(context: Context | None = None) -> Execution | None:
    """Returns the run that the calling code is in, or that of a context; None outside a flow."""
    return _execution.get() if context is None else context.get(_execution)


def current_attempt() -> Attempt | None:
    """Returns the step that the calling code is in; None in a flow itself and outside."""
    return _attempt.get()


@contextmanager
def in_execution(execution: Execution) -> Generator[None]:
    """Makes a run the current one."""
    outer = _execution.set(execution)
    inner = _attempt.set(None)
    try:
        yield
    finally:
        _attempt.reset(inner)
        _execution.reset(outer)


@contextmanager
def in_attempt(attempt: Attempt) -> Generator[None]:
    """Makes a step's attempt the current one."""
    token = _attempt.set(attempt)
    try:
        yield
    finally:
        _attempt.reset(token)


class StepInfo(NamedTuple):
    """The step that is running.

    Attributes:
        number: The number that its commit gets, if no other step commits before it.
        attempt: 1 for the first try.
        idempotency_key: The same for every attempt of this step, also after a crash; another after
            a rewind. Pass it on to services that take one.
        run: The run's id.
        name: The step's name.
    """

    number: int
    attempt: int
    idempotency_key: str
    run: str
    name: str


def _required(what: str) -> Execution:
    execution = _execution.get()
    if execution is None:
        raise UsageError(
            f"{what} was called outside a flow",
            hint="call it in a function marked @flow, or in a step that a flow calls",
        )
    return execution


def files() -> Path:
    """Returns the run's `files/` directory: the agent's working directory.

    During replay the files are first put to the point that the flow has reached.

    Raises:
        UsageError: It was called outside a flow.
    """
    execution = _required("files()")
    if _attempt.get() is not None:
        return execution.path / "files"
    return execution.files_dir()


def this_step() -> StepInfo:
    """Returns the step that is running.

    Raises:
        UsageError: It was called outside a step.
    """
    execution = _required("this_step()")
    attempt = _attempt.get()
    if attempt is None:
        raise UsageError("this_step() was called outside a step", hint="call it in an @step")
    return StepInfo(
        number=execution.step + 1,
        attempt=attempt.number,
        idempotency_key=attempt.idempotency_key,
        run=execution.run,
        name=attempt.call.name,
    )


def note(**metadata: Any) -> None:
    """Adds metadata to the running step's entry; in the flow itself, to the next entry.

    Args:
        metadata: Values with a JSON form.

    Raises:
        UsageError: It was called outside a flow, or a value has no JSON form.
    """
    import msgspec

    from kitaru_fs.values import NoJsonForm, codec_for, encode_arguments

    execution = _required("note()")
    try:
        codec_for(Any).encode(metadata)
    except NoJsonForm as error:
        raise UsageError(f"note(): {error}", hint="pass values that JSON can hold") from error
    # Nobody reads them back as Python values, so they stand in their readable form.
    shown = msgspec.json.decode(msgspec.json.encode(encode_arguments(metadata)))
    attempt = _attempt.get()
    if attempt is None:
        execution.observations.note(shown)
    else:
        attempt.metadata.update(shown)


def _observe(name: str, produce: Any) -> Any:
    execution = _execution.get()
    # In a step the value is part of the step; outside a flow there is nothing to replay.
    if execution is None or _attempt.get() is not None:
        return produce()
    return execution.observations.observe(name, produce)


def now() -> datetime:
    """Returns the time in UTC; in a flow, the same on replay."""
    return datetime.fromisoformat(str(_observe("now", lambda: clock.utc_now().isoformat())))


def uuid4() -> UUID:
    """Returns a random UUID; in a flow, the same on replay."""
    return UUID(str(_observe("uuid4", lambda: str(clock.uuid4()))))


def random() -> float:
    """Returns a random number in [0, 1); in a flow, the same on replay."""
    return float(_observe("random", clock.random))


def patched(change: str) -> bool:
    """Says whether a run goes the way of changed code.

    A run that passed this point before the change was made goes the old way (False), also when it
    is resumed later; one that comes here first goes the new way (True), for good.

    Args:
        change: A name for the change, unique in the flow.

    Returns:
        In a step always True: a step that is executed is executed by the changed code.

    Raises:
        UsageError: It was called outside a flow.
    """
    execution = _required("patched()")
    return _attempt.get() is not None or execution.observations.patched(change)
