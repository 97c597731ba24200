"""One execution of a step, from its beginning to its commit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kitaru_fs.clock import seconds, stamp, utc_now
from kitaru_fs.engine.replay import Call
from kitaru_fs.entry import Entry, Usage
from kitaru_fs.snapshot.filetree import DirRef

if TYPE_CHECKING:
    import asyncio

__all__ = ["Attempt"]


class Attempt:
    """One execution of a step that is in flight.

    Args:
        call: The call.
        number: 1 for the first try.
        before: What `files/` held when it began; None if other steps were in flight.

    Attributes:
        task: The task that executes it, if it is async.
        overlap: Names of the steps that were in flight at the same time.
        metadata: What `note()` added.
        usage: What it spent.
        body: A short text for the commit message.
        beside: Files that stand beside its entry, by the ends of their names.
        author: Who acts, if not the flow.
        source: Where its output is from, if a human set it.
        effect: What it does outside of the run.
        idempotency_key: The same for every attempt of this call.
    """

    def __init__(self, call: Call, number: int, before: DirRef | None) -> None:
        self.call = call
        self.number = number
        self.before = before
        self.started = utc_now()
        self.clock = seconds()
        self.task: asyncio.Task[Any] | None = None
        self.overlap: set[str] = set()
        self.metadata: dict[str, Any] = {}
        self.usage: Usage | None = None
        self.body = ""
        self.beside: dict[str, bytes] = {}
        self.author = ""
        self.source: dict[str, Any] | None = None
        self.effect = ""
        self.idempotency_key = ""

    def entry(self, kind: str) -> Entry:
        """Returns its journal entry, as of now."""
        return Entry(
            step=0,
            key=self.call.key,
            name=self.call.name,
            kind=kind,
            attempt=self.number,
            started=stamp(self.started),
            duration=round(seconds() - self.clock, 6),
            input=self.call.input,
            overlap=sorted(self.overlap),
            usage=self.usage,
            metadata=self.metadata or None,
            source=self.source,
            effect=self.effect or None,
        )
