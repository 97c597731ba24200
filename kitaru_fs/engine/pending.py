"""What a flow asks of the outside, and a call that waits for it in this process."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from kitaru_fs.clock import parse_stamp, stamp, utc_now
from kitaru_fs.engine.replay import Call
from kitaru_fs.entry import Entry
from kitaru_fs.values import Codec

if TYPE_CHECKING:
    import asyncio

    from kitaru_fs.engine.execution import Execution

__all__ = ["Left", "Pending", "Question"]


class Left(BaseException):
    """The process leaves the run; thrown into plain code where it waits.

    No `except Exception` of the flow's takes it for a failure of its own.
    """


class Question(NamedTuple):
    """What a call asks of the outside.

    Attributes:
        call: The call; its input is what is recorded of the question.
        codec: Reads what comes.
        timeout: How long it waits, in seconds; None for no limit.
        until: Until when it waits, instead.
        default: What comes of it, as JSON, if nothing else does; None for an error.
        digest: Changes with what is asked: an answer counts for this only.
    """

    call: Call
    codec: Codec
    timeout: float | None = None
    until: datetime | None = None
    default: bytes | None = None
    digest: str = ""

    def opening(self) -> Entry:
        """Returns the entry that says that it is asked, as of now."""
        now = utc_now()
        until = self.until
        if self.timeout is not None:
            until = now + timedelta(seconds=self.timeout)
        recorded: dict[str, Any] = dict(self.call.input)
        if until is not None:
            recorded["until"] = stamp(until)
        return Entry(
            step=0,
            key=self.call.key,
            name=self.call.name,
            kind=self.call.kind,
            status="waiting",
            started=stamp(now),
            input=recorded,
        )


class Pending:
    """A call that waits in this process.

    Args:
        execution: The run whose flow made it.
        question: What it asks; None for a call that a pause holds back.
        opening: The entry that says so.

    Attributes:
        until: When its time is over; None for never.
        topic: The topic that it receives from; None if it does not.
        ticket: Gets the entry of what came of it.
        task: The task that waits for it; None for a thread.
    """

    def __init__(
        self, execution: Execution, question: Question | None = None, opening: Entry | None = None
    ) -> None:
        self.execution = execution
        self.question = question
        self.opening = opening
        self.ticket: Future[Entry] = Future()
        self.task: asyncio.Task[Any] | None = None
        recorded: Mapping[str, Any] = (opening.input if opening is not None else None) or {}
        until = recorded.get("until")
        self.until = parse_stamp(until) if until else None
        self.topic: str | None = recorded.get("topic")

    @property
    def is_question(self) -> bool:
        """Whether a reply can end it."""
        return self.opening is not None and self.opening.kind == "wait" and self.topic is None
