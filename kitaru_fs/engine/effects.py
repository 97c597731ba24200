"""What the way of a call asks its driver to do, and taking an outcome from the journal.

A way is a generator: it yields effects, which plain and async code carry out each in its manner.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple

from kitaru_fs.engine.attempts import Attempt
from kitaru_fs.engine.divergence import unfit_output
from kitaru_fs.engine.execution import Execution
from kitaru_fs.engine.pending import Pending
from kitaru_fs.engine.replay import LIVE, Call, Outcome, Ticket
from kitaru_fs.entry import Entry
from kitaru_fs.errors import SecretMissingError
from kitaru_fs.values import Codec, ValueSchemaError
from kitaru_fs.values.failures import rebuild, to_failure

__all__ = ["Effect", "Execute", "Pend", "Settle", "Sleep", "Wait", "claimed", "decoded", "replayed"]


class Wait(NamedTuple):
    """Wait for a ticket of the replay."""

    ticket: Ticket


class Execute(NamedTuple):
    """Run the step's function."""

    attempt: Attempt


class Sleep(NamedTuple):
    """Wait before the next attempt."""

    seconds: float


class Pend(NamedTuple):
    """Wait for what comes from outside."""

    pending: Pending


class Settle(NamedTuple):
    """Wait until a commit is durable."""

    ticket: int


Effect = Wait | Execute | Sleep | Pend | Settle


def claimed(execution: Execution, call: Call) -> Generator[Effect, Any, Outcome]:
    """Yields until the journal's outcome of a call is known; returns it, or `LIVE`.

    Raises:
        KitaruError: The run cannot go on.
    """
    outcome = execution.claim(call)
    if isinstance(outcome, Entry) or outcome is LIVE:
        return outcome  # type: ignore[return-value]
    return (yield Wait(outcome))  # type: ignore[arg-type]


def replayed(execution: Execution, entry: Entry, codec: Codec) -> Any:
    """Returns a journaled outcome's value, or raises its journaled failure.

    Raises:
        DivergenceError: The recorded output does not fit the annotation any more.
        SecretMissingError: It holds a secret that nothing here has.
    """
    try:
        return _recorded(execution, entry, codec)
    except SecretMissingError as error:
        raise execution.end_replay(error) from None


def _recorded(execution: Execution, entry: Entry, codec: Codec) -> Any:
    if entry.status == "failed":
        failure = to_failure(execution.secrecy.error_of(entry))
        error = rebuild(failure, step_name=entry.name, run=execution.run, number=entry.step)
        execution.causes.remember(error, entry.step)
        raise error
    return decoded(execution, entry, codec, execution.secrecy.output_of(entry))


def decoded(execution: Execution, entry: Entry, codec: Codec, output: bytes) -> Any:
    """Returns the value of an output of an entry.

    Raises:
        DivergenceError: It does not fit the annotation any more.
    """
    try:
        return codec.decode(output)
    except ValueSchemaError as error:
        raise execution.end_replay(unfit_output(execution.run, entry, error)) from error
