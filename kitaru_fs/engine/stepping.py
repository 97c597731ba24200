"""Executing the live steps of a run: each attempt begins, and ends in one commit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kitaru_fs.engine.attempts import Attempt
from kitaru_fs.engine.replay import CANCELLED, Call
from kitaru_fs.entry import Entry, GivenOutput
from kitaru_fs.errors import StorageError

if TYPE_CHECKING:
    from kitaru_fs.engine.execution import Execution

__all__ = ["Stepping"]


class Stepping:
    """The attempts of a run's live steps.

    Args:
        execution: The run.
    """

    def __init__(self, execution: Execution) -> None:
        self._run = execution

    def given(self, call: Call) -> GivenOutput | None:
        """Returns the output that a human set for a live call, in place of its execution."""
        with self._run.guard:
            return self._run.replay.given.take(call.key, call.name)

    def unknown(self, call: Call) -> Entry | None:
        """Returns the intent of a live call whose last attempt came to no end, if it had one."""
        with self._run.guard:
            return self._run.replay.intents.pop(call.key, None)

    def begin(self, call: Call, effect: str = "", intent: Entry | None = None) -> Attempt:
        """Begins an attempt of a live step.

        Args:
            call: The call.
            effect: What it does outside of the run: that is committed before it begins.
            intent: The same of an attempt before, which came to no end: its key is passed on.

        Raises:
            StorageError: `files/` cannot be read, or the disk refused.
            RunInterrupted: The run is being stopped.
        """
        with self._run.writing():
            self._run.torn = False
            before = self._run.replay.failed_attempts[call.key]
            attempt = self._run.ledger.begin(call, before + 1)
            attempt.effect = effect
            recorded = intent.idempotency_key if intent is not None else None
            attempt.idempotency_key = recorded or self._idempotency_key(call)
            if effect:
                self._run.ledger.intend(attempt)
            return attempt

    def _idempotency_key(self, call: Call) -> str:
        identity = f"{self._run.run}\0{self._run.branch}\0{call.key}"
        return hashlib.sha256(identity.encode()).hexdigest()[:32]

    def succeed(self, attempt: Attempt, output: bytes | None) -> tuple[Entry, int]:
        """Commits an attempt's output with what it did to `files/`. It is not durable yet.

        Returns:
            The entry, and the ticket that `wait` and `later` take; then the step may be
            acknowledged.

        Raises:
            StorageError: The disk refused.
        """
        with self._run.writing():
            entry, ticket = self._run.ledger.succeed(attempt, output)
            self._run.beside.note(entry)
            return entry, ticket

    def wait(self, ticket: int) -> None:
        """Waits until a commit is durable.

        Raises:
            StorageError: The disk refused: the run cannot go on.
        """
        try:
            self._run.repository.store.wait(ticket)
        except StorageError as error:
            self._run.damage(error)
            raise

    def later(self, ticket: int, done: Callable[[], None]) -> bool:
        """Calls `done`, in another thread, once `wait` would return, or raise, at once.

        Returns:
            Whether it will be called: not where nothing else of this process could go on meanwhile.
        """
        if self._run.is_alone and not self._run.ledger.in_flight:
            return False
        return self._run.repository.store.later(ticket, done)

    def fail(self, attempt: Attempt, error: dict[str, Any], *, retry: bool) -> Entry:
        """Commits a failed attempt: what it left in `files/` is kept aside and put back.

        Args:
            attempt: The attempt.
            error: `type`, `args`, `message`, `traceback`.
            retry: Whether another attempt follows.

        Raises:
            StorageError: The disk refused.
        """
        with self._run.writing():
            entry = self._run.ledger.fail(attempt, error, retry=retry)
            self._run.beside.note(entry)
            self._run.replay.failed_attempts[attempt.call.key] += 1
            return entry

    def cancel(self, attempt: Attempt) -> None:
        """Records that a step was cancelled; nothing is recorded once the run stops."""
        run = self._run
        with run.guard:
            stops = run.over or run.halted is not None or run.tree.stopping
            if stops or id(attempt) not in run.ledger.in_flight:
                run.torn = run.torn or attempt.call.kind != "child"
                self.abandon(attempt)
                return
            if attempt.call.kind == "child":
                # The child goes on where it stands if it is called again.
                self.abandon(attempt)
                run.observations.gave_up(attempt.call.key)
                return
            run.torn = True
            error = {"type": CANCELLED, "args": None, "message": "the step was cancelled"}
            with run.writing():
                run.ledger.fail(attempt, error, retry=False)

    def abandon(self, attempt: Attempt) -> None:
        """Forgets an attempt that ended without an outcome."""
        with self._run.guard:
            self._run.ledger.in_flight.pop(id(attempt), None)

    def in_flight(self) -> list[Attempt]:
        """Returns the attempts that have begun and not ended."""
        with self._run.guard:
            return list(self._run.ledger.in_flight.values())

    def files_seen(self) -> str | None:
        """Returns what a step that begins now finds in `files/`, as the ids of git trees.

        Returns:
            None while other steps are in flight: what it finds depends on them.
        """
        with self._run.writing():
            return self._run.ledger.files_seen()

    def any_in_flight(self) -> bool:
        """Says whether a step is executed; runs that the flow called are none."""
        return any(attempt.call.kind != "child" for attempt in self.in_flight())

    def begin_child(self, call: Call, run: str) -> None:
        """Commits that a child run begins, before it does."""
        with self._run.writing():
            self._run.ledger.begin_child(call, run)
