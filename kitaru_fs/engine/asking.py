"""Asking the outside: the way of a call that waits for a reply, a message or a time.

Two outcomes of the journal belong to it: that it was asked, and what came of it. What is replayed
is taken as it is; but an answer from which the flow has not gone on yet counts only if the flow
still asks the same and can read it. Else it is asked anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

from kitaru_fs.engine.effects import Effect, Pend, claimed, replayed
from kitaru_fs.engine.execution import Execution
from kitaru_fs.engine.pending import Pending, Question
from kitaru_fs.engine.tasks import own_task
from kitaru_fs.entry import Entry
from kitaru_fs.rundir.arrivals import asked_of
from kitaru_fs.values import ValueSchemaError

__all__ = ["asking", "pend", "pend_async"]


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
    replay = execution.replay
    if replay.recorded(question.asked.key) is None and replay.recorded(question.call.key):
        # A fork's, whose reply a human set: nobody was asked.
        outcome = yield from claimed(execution, question.call)
        assert isinstance(outcome, Entry)
        return replayed(execution, outcome, question.codec)
    opening = yield from claimed(execution, question.asked)
    if isinstance(opening, Entry):
        outcome = yield from claimed(execution, question.call)
        if isinstance(outcome, Entry):
            if not replay.finished or _counts(execution, question, opening, outcome):
                return replayed(execution, outcome, question.codec)
        elif replay.open.get(opening.key) is opening and _asks(opening, question):
            came = yield Pend(execution.desk.enter(question, opening))
            return replayed(execution, came, question.codec)
    given = execution.given(question.call)
    if given is not None:
        return replayed(execution, execution.desk.take(question, given), question.codec)
    opening = execution.desk.ask(question, body)
    came = yield Pend(execution.desk.enter(question, opening))
    return replayed(execution, came, question.codec)


def _counts(execution: Execution, question: Question, opening: Entry, outcome: Entry) -> bool:
    if not _asks(opening, question):
        return False
    try:
        if outcome.status == "ok":
            question.codec.decode(execution.output_of(outcome))
    except ValueSchemaError as error:
        execution.tell("notice", f"step {outcome.step} does not fit, so it is asked again: {error}")
        return False
    return True


def _asks(opening: Entry, question: Question) -> bool:
    return asked_of(opening).get("digest", "") == question.digest


def pend(pending: Pending) -> Entry:
    """Waits in plain code for what comes from outside.

    Raises:
        Left: The process leaves the run.
    """
    execution = pending.execution
    of_a_task = execution.loop is not None
    with execution.callers.waits(of_a_task=of_a_task):
        return pending.ticket.result()


async def pend_async(pending: Pending) -> Entry:
    """Waits in async code for what comes from outside."""
    execution = pending.execution
    own_task(execution)
    pending.task = asyncio.current_task()
    futures = execution.lobby.futures
    future = asyncio.wrap_future(pending.ticket)
    futures[future] = pending.ticket
    try:
        return await future
    except asyncio.CancelledError:
        execution.desk.give_up(pending)
        raise
    finally:
        del futures[future]
