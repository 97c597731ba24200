"""Asking the outside: the way of a call that waits for a reply, a message or a time.

Two outcomes of the journal belong to it: that it was asked, and what came of it. What is replayed
is taken as it is; but an answer from which the flow has not gone on yet counts only if the flow
still asks the same and can read it. Else it is asked anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

from kitaru_fs.engine.effects import Effect, Pend, claimed, replayed
from kitaru_fs.engine.execution import Execution
from kitaru_fs.engine.pending import Pending, Question
from kitaru_fs.engine.replay import LIVE, Call, Outcome, asked_key
from kitaru_fs.engine.tasks import own_task
from kitaru_fs.entry import Entry
from kitaru_fs.errors import UsageError
from kitaru_fs.rundir.arrivals import asked_of
from kitaru_fs.values import ValueSchemaError

__all__ = ["Answer", "answered", "asking", "pend", "pend_async", "refuse_in_loop"]


class Answer(NamedTuple):
    """What came of a question.

    Attributes:
        opening: The entry that asked; None if nobody was asked.
        outcome: The entry that answers.
    """

    opening: Entry | None
    outcome: Entry


def asking(execution: Execution, question: Question, body: str = "") -> Generator[Effect, Any, Any]:
    """Yields what to do to ask something of the outside; returns what came, read by its codec.

    Args:
        execution: The run.
        question: What is asked.
        body: A short text for the commit message.

    Raises:
        WaitTimeout: Nothing came in time.
        WaitRejected: A human refused to answer.
        MessageError: The message that came does not fit.
        KitaruError: The run cannot go on.
    """
    answer = yield from answered(execution, question.call, lambda: question, body)
    return replayed(execution, answer.outcome, question.codec)


def answered(
    execution: Execution,
    call: Call,
    ask: Callable[[], Question],
    body: str = "",
    *,
    is_settled: bool = False,
) -> Generator[Effect, Any, Answer]:
    """Yields what to do to ask something of the outside; returns what was asked and what came.

    Args:
        execution: The run.
        call: The call that asks.
        ask: Says what it asks now.
        body: A short text for the commit message.
        is_settled: Whoever calls looks whether a recorded answer counts.

    Raises:
        KitaruError: The run cannot go on.
    """
    replay = execution.replay
    opening, outcome = yield from _recorded(execution, call)
    if outcome is not None and (is_settled or opening is None or not replay.finished):
        return Answer(opening, outcome)
    # The flow has not gone on from it yet.
    question = ask()
    asks_the_same = opening is not None and _asks(opening, question)
    if outcome is not None and asks_the_same and _fits(execution, question, outcome):
        return Answer(opening, outcome)
    given = execution.steps.given(call)
    if given is not None:
        return Answer(None, execution.mailbox.take(question, given))
    is_open = outcome is None and asks_the_same and _is_open(replay.open.get(call.key), opening)
    if opening is None or not is_open:
        opening = execution.mailbox.ask(question, body)
    came = yield Pend(execution.mailbox.enter(question, opening))
    return Answer(opening, came)


def _recorded(
    execution: Execution, call: Call
) -> Generator[Effect, Any, tuple[Entry | None, Entry | None]]:
    """Yields until it is known what the journal has of a call: that it was asked, what came."""
    asked = call._replace(key=asked_key(call.key))
    opening: Outcome | None = None
    if execution.replay.recorded(asked.key) is not None or (
        execution.replay.recorded(call.key) is None
    ):
        opening = yield from claimed(execution, asked)
    # Else it is a fork's, whose reply a human set: nobody was asked.
    outcome = LIVE if opening is LIVE else (yield from claimed(execution, call))
    return (
        opening if isinstance(opening, Entry) else None,
        outcome if isinstance(outcome, Entry) else None,
    )


def _is_open(asked: Entry | None, opening: Entry | None) -> bool:
    return asked is not None and opening is not None and asked.step == opening.step


def _fits(execution: Execution, question: Question, outcome: Entry) -> bool:
    if outcome.status != "ok":
        return True
    try:
        question.codec.decode(execution.secrecy.output_of(outcome))
    except ValueSchemaError as error:
        what = f"the reply of step {outcome.step} does not fit, so it is asked again: {error}"
        execution.tell("notice", what)
        return False
    return True


def _asks(opening: Entry, question: Question) -> bool:
    return asked_of(opening).get("digest", "") == question.digest


def refuse_in_loop(execution: Execution, what: str) -> None:
    """Refuses plain code that waits in a thread that runs an event loop.

    Raises:
        UsageError: The calling thread does.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise UsageError(
        f"{what} was called in an event loop, which it would block while it waits",
        hint="make it `async`, or call what waits with `await asyncio.to_thread(...)`",
        run=execution.run,
    )


def pend(pending: Pending) -> Entry:
    """Waits in plain code for what comes from outside.

    Raises:
        Left: The process leaves the run.
    """
    execution = pending.execution
    of_a_task = execution.loop is not None
    with execution.callers.waits(pending.ticket, of_a_task=of_a_task):
        return pending.ticket.result()


async def pend_async(pending: Pending) -> Entry:
    """Waits in async code for what comes from outside."""
    execution = pending.execution
    own_task(execution)
    pending.task = asyncio.current_task()
    futures = execution.tree.futures
    future = asyncio.wrap_future(pending.ticket)
    futures[future] = pending.ticket
    try:
        return await future
    except asyncio.CancelledError:
        execution.mailbox.give_up(pending)
        raise
    finally:
        del futures[future]
