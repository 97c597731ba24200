"""Committing what a live run does: each attempt of a step, and the run's end.

A step's commit has `files/` as they are when it ends, and so has one that says what the flow waits
for. Any other that is no outcome (a failed attempt, what came from outside, a flow that failed) has
the files of the commit before: what the flow itself has written since then is written again when
the flow is replayed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kitaru_fs.clock import monotonic, stamp, utc_now
from kitaru_fs.engine.attempts import Attempt
from kitaru_fs.engine.observing import Observations
from kitaru_fs.engine.publishing import Publication
from kitaru_fs.engine.replay import Call
from kitaru_fs.entry import Entry
from kitaru_fs.rundir.repository import agent_author
from kitaru_fs.rundir.workfiles import WorkFiles
from kitaru_fs.rundir.writer import Writer
from kitaru_fs.snapshot.filetree import DirRef
from kitaru_fs.storage.objects import Person

__all__ = ["Ledger"]

Tell = Callable[..., None]


class Ledger:
    """The entries of one live run. The caller serializes its use.

    Args:
        writer: Adds to the run's branch.
        files: The agent's directory.
        observations: What the flow has seen and said since the last commit.
        publication: Told that there is something to be published.
        flow: The flow's name.
        tell: Told what happens, as `Event` has it.

    Attributes:
        in_flight: The attempts that have begun and not ended.
        dropped: Steps that the next entry says are not replayed any more.
        last: When the last commit was made, by the clock that only goes forward.
    """

    def __init__(
        self,
        writer: Writer,
        files: WorkFiles,
        observations: Observations,
        publication: Publication,
        flow: str,
        tell: Tell,
    ) -> None:
        self._writer = writer
        self._files = files
        self._observations = observations
        self._flow = flow
        self._tell = tell
        self._publication = publication
        self.in_flight: dict[int, Attempt] = {}
        self.dropped: list[int] = []
        self.last = 0.0

    def begin(self, call: Call, number: int) -> Attempt:
        """Begins an attempt.

        Raises:
            StorageError: `files/` cannot be read.
        """
        attempt = Attempt(call, number, None if self.in_flight else self._files.scan())
        for other in self.in_flight.values():
            other.overlap.add(call.name)
            attempt.overlap.add(other.call.name)
        self.in_flight[id(attempt)] = attempt
        self._tell("started", call.name, attempt=number, key=call.key)
        return attempt

    def intend(self, attempt: Attempt) -> None:
        """Commits that an attempt is about to have an effect outside of the run.

        Raises:
            StorageError: The disk refused.
        """
        entry = attempt.entry("intent")
        entry.status, entry.idempotency_key = "waiting", attempt.idempotency_key
        self._add(entry, self._writer.files, attempt=attempt)

    def succeed(self, attempt: Attempt, output: bytes | None) -> tuple[Entry, int]:
        """Commits an attempt's output with what it did to `files/`. It is not durable yet.

        Returns:
            The entry, and the ticket that the store's `wait` takes.

        Raises:
            StorageError: The disk refused.
        """
        self.in_flight.pop(id(attempt), None)
        entry = attempt.entry(attempt.call.kind)
        return entry, self._append(entry, self._files.scan(), output=output, attempt=attempt)

    def fail(self, attempt: Attempt, error: dict[str, Any], *, retry: bool) -> Entry:
        """Commits a failed attempt: what it left in `files/` is kept aside and put back.

        Raises:
            StorageError: The disk refused.
        """
        self.in_flight.pop(id(attempt), None)
        entry = attempt.entry("failed")
        entry.status, entry.error, entry.retry = "failed", error, retry or None
        attempt.body = attempt.body or f"{error.get('type')}: {error.get('message')}"
        left, before = None, attempt.before
        if before is not None and not self.in_flight:
            left = self._files.scan()
        if left is None or before is None or self._files.same(left, before):
            self._add(entry, self._writer.files, attempt=attempt)
        else:
            why = f"what attempt {attempt.number} of {entry.name} left"
            self._add_keeping(entry, left, why, attempt=attempt)
            self._files.put(before)
        return entry

    def ask(self, entry: Entry, body: str) -> None:
        """Commits that something from outside is waited for, with what the flow wrote so far.

        Raises:
            StorageError: The disk refused.
        """
        entry.overlap = sorted({attempt.call.name for attempt in self.in_flight.values()})
        self._add(entry, self._files.scan(), body=body)
        # At once: whoever is asked looks at it with git.
        self._writer.publish()

    def settle(
        self, entry: Entry, output: bytes | None, *, author: tuple[str, str] | None = None
    ) -> None:
        """Commits what came from outside; a human's own commit has nothing else in it.

        Raises:
            StorageError: The disk refused.
        """
        self._add(entry, self._writer.files, output=output, human=author)
        self._writer.publish()

    def files_seen(self) -> str | None:
        """Returns the trees of `files/` as they are now; None while steps are in flight.

        Raises:
            StorageError: They cannot be read.
        """
        if self.in_flight:
            return None
        return " ".join(sha.hex() for sha in self._files.scan()[:2] if sha is not None)

    def begin_child(self, call: Call, run: str) -> None:
        """Commits that a child run begins, with what the flow wrote so far.

        Raises:
            StorageError: The disk refused.
        """
        entry = Entry(
            step=0,
            key=call.key,
            name=call.name,
            kind="child",
            status="waiting",
            started=stamp(),
            input=call.input,
            child=run,
        )
        self._add(entry, self._files.scan())

    def note_waiting(self) -> None:
        """Commits that all the run waits for is child runs, which wait.

        Raises:
            StorageError: The disk refused.
        """
        asked = next(iter(self._writer.open.values()))
        entry = Entry(
            step=0,
            key=asked.key,
            name=asked.name,
            kind=asked.kind,
            status="waiting",
            started=stamp(),
            input=asked.input,
            child=asked.child,
        )
        self._add(entry, self._writer.files, status="waiting")

    def end(
        self,
        status: str,
        *,
        output: bytes | None = None,
        error: dict[str, Any] | None = None,
        cause: int | None = None,
    ) -> None:
        """Commits the run's end. What a flow that failed has not committed is kept aside.

        Raises:
            StorageError: The disk refused.
        """
        entry = Entry(
            step=0,
            key="end",
            name=status,
            kind="end",
            status="failed" if status == "failed" else "ok",
            started=stamp(),
            error=error,
            cause=cause,
            overlap=sorted({attempt.call.name for attempt in self.in_flight.values()}),
        )
        self.in_flight.clear()
        now = self._files.scan(full=True)
        if status == "completed" or self._files.same(now, self._writer.files):
            self._add(entry, now, output=output, status=status)
        else:
            self._add_keeping(entry, now, f"what was not committed as it {status}", status=status)
            self._files.put(self._writer.files)

    def put_back(self, why: str) -> None:
        """Keeps aside what no commit holds, and puts `files/` to the last commit.

        Raises:
            StorageError: The disk refused.
        """
        self.in_flight.clear()
        left = self._files.scan(full=True)
        if not self._files.same(left, self._writer.files):
            self._files.keep_now(left, why, self._flow)
            self._files.put(self._writer.files)

    def _add_keeping(
        self,
        entry: Entry,
        left: DirRef,
        why: str,
        *,
        status: str | None = None,
        attempt: Attempt | None = None,
    ) -> None:
        also = self._files.keep(left, why, self._flow)
        entry.kept = next(iter(also))
        self._add(
            entry,
            self._writer.files,
            status=status,
            attempt=attempt,
            also=also,
            trees=left[:2],
            # To be put back yet: what was there before the attempt began.
            forget_staged=False,
        )

    def _add(self, entry: Entry, files: DirRef, **more: Any) -> None:
        self._writer.repository.store.wait(self._append(entry, files, **more))

    def _append(
        self,
        entry: Entry,
        files: DirRef,
        *,
        output: bytes | None = None,
        status: str | None = None,
        attempt: Attempt | None = None,
        body: str = "",
        human: tuple[str, str] | None = None,
        also: dict[str, bytes] | None = None,
        trees: tuple[bytes | None, ...] = (),
        forget_staged: bool = True,
    ) -> int:
        entry.files = self._files.changed(files)
        entry.left_out = self._files.left_out(files) or None
        self._files.notice_bulk(entry.files)
        now = int(utc_now().timestamp())
        if human is not None:
            author = Person(*human, now)
        else:
            entry.dropped, self.dropped = self.dropped or None, []
            self._observations.record(entry)
            author = agent_author((attempt.author if attempt else "") or self._flow, now)
        if self.in_flight:
            # Whatever waits besides, something goes on.
            status = status or "running"
        ticket = self._writer.append(
            entry,
            files=files,
            status=status,
            author=author,
            output=output,
            beside=attempt.beside if attempt else None,
            body=attempt.body if attempt else body,
            also=also,
            trees=trees,
            # A step in flight may yet need what a scan found: its files before it began.
            forget_staged=forget_staged and not self.in_flight and self._files.is_current(files),
        )
        self._files.settle()
        self._publication.due()
        self.last = monotonic()
        self._tell(
            entry.kind if entry.kind in ("failed", "intent") else "committed",
            entry.name if entry.kind != "end" else f"end: {entry.name}",
            step=entry.step,
            attempt=entry.attempt,
            duration=entry.duration,
            files=len(entry.files),
            usage=entry.usage,
            text=_first_line((entry.error or {}).get("message")) or entry.effect or "",
            key=entry.key,
            status=entry.status,
            commit=self._writer.tip.hex(),
        )
        return ticket


def _first_line(text: object) -> str:
    return str(text or "").partition("\n")[0]
