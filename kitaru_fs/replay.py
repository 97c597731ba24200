"""Matching the calls that a flow makes with the outcomes that its journal holds.

A call's key is its name, a digest of its arguments, and how many equal calls came before it: so
keys do not depend on which of several concurrent steps finishes first. Outcomes are handed out in
the order recorded; a call that the journal does not hold waits until all are handed out, since it
may be the first live step of one branch of the flow while another branch still replays.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any, NamedTuple

from kitaru_fs.entry import Entry
from kitaru_fs.errors import DivergenceError

__all__ = ["LIVE", "Call", "Replay", "Ticket"]

_NO_OUTCOME = frozenset({"start", "resume", "edit", "fork", "intent", "end", "reply", "message"})
CANCELLED = "cancelled"


class Call(NamedTuple):
    """One call of a step: its key, its name, its kind and its arguments as they are recorded."""

    key: str
    name: str
    kind: str
    input: Any


class _Live:
    """Says that the journal holds no outcome of a call: it is executed."""


LIVE = _Live()
Outcome = Entry | _Live
Ticket = Future[Outcome]


class Replay:
    """What is left of a journal to be replayed. The caller serializes its use.

    Args:
        entries: The journal's entries, in order.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._counts: Counter[str] = Counter()
        self._outcomes: dict[str, Entry] = {}
        self._order: deque[str] = deque()
        self._waiting: dict[str, tuple[Call, Ticket]] = {}
        self._missing: list[tuple[Call, Ticket]] = []
        self._diverged: DivergenceError | None = None
        self.failed_attempts: Counter[str] = Counter()
        self.cancelled: set[str] = set()
        self.children: dict[str, str] = {}
        self.observed: dict[str, deque[Any]] = {}
        self.patches: set[str] = set()
        self.replayed = 0
        self._load(entries)

    def _load(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            observed: dict[str, list[Any]] = (entry.metadata or {}).get("observed") or {}
            for name, values in observed.items():
                self.observed.setdefault(name, deque()).extend(values)
            if entry.kind == "end":
                if entry.cause is not None:
                    self._drop(entry.cause)
                continue
            if entry.kind in _NO_OUTCOME:
                continue
            if entry.status == "waiting":
                if entry.kind == "child" and entry.metadata:
                    self.children[entry.key] = str(entry.metadata.get("run"))
                continue
            if entry.kind == "failed":
                if (entry.error or {}).get("type") == CANCELLED:
                    self.cancelled.add(entry.key)
                    continue
                self.failed_attempts[entry.key] += 1
                if entry.retry:
                    continue
            self._outcomes.pop(entry.key, None)
            self._outcomes[entry.key] = entry
        self._order.extend(self._outcomes)
        self.patches.update(self.observed.pop("patched", ()))

    def _drop(self, step: int) -> None:
        for key, entry in self._outcomes.items():
            if entry.step == step:
                del self._outcomes[key]
                # A failure that ended the run is tried anew, with all its attempts.
                self.failed_attempts[key] = 0
                return

    @property
    def finished(self) -> bool:
        """Whether every outcome was handed out."""
        return not self._order

    @property
    def expected(self) -> Entry | None:
        """The outcome that comes next."""
        return self._outcomes[self._order[0]] if self._order else None

    def key(self, base: str) -> str:
        """Returns the key of the next call with this name and arguments."""
        self._counts[base] += 1
        return f"{base}#{self._counts[base]}"

    def claim(self, call: Call) -> Outcome | Ticket:
        """Returns a call's outcome, `LIVE`, or a ticket that will hold one of them.

        Raises:
            DivergenceError: The flow left its journal before.
        """
        if self._diverged is not None:
            raise self._diverged
        if not self._order:
            return LIVE
        if call.key == self._order[0]:
            outcome = self._take()
            self.advance()
            return outcome
        ticket: Ticket = Future()
        if call.key in self._outcomes:
            self._waiting[call.key] = (call, ticket)
        else:
            self._missing.append((call, ticket))
        return ticket

    def _take(self) -> Entry:
        self.replayed += 1
        return self._outcomes.pop(self._order.popleft())

    def advance(self) -> None:
        """Hands out what is due: outcomes in order, then leave to execute."""
        while self._order and self._order[0] in self._waiting:
            _, ticket = self._waiting.pop(self._order[0])
            outcome = self._take()
            if not ticket.cancelled():
                ticket.set_result(outcome)
        if not self._order:
            missing, self._missing = self._missing, []
            for _, ticket in missing:
                if not ticket.cancelled():
                    ticket.set_result(LIVE)

    def withdraw(self, ticket: Ticket) -> None:
        """Forgets a call that its caller gave up."""
        self._missing = [item for item in self._missing if item[1] is not ticket]
        for key, (_, waiting) in list(self._waiting.items()):
            if waiting is ticket:
                del self._waiting[key]

    @property
    def stuck(self) -> Call | None:
        """A waiting call that the journal does not hold and that was never cancelled, if any."""
        for call, _ in self._missing:
            if call.key not in self.cancelled:
                return call
        return None

    @property
    def waits_for_cancelled(self) -> bool:
        """Whether a call waits that the flow itself had cancelled, and may cancel again."""
        return any(call.key in self.cancelled for call, _ in self._missing)

    def diverge(self, error: DivergenceError) -> None:
        """Ends the replay: every waiting call, and every later one, raises the error."""
        self._diverged = error
        pending = [ticket for _, ticket in self._waiting.values()]
        pending += [ticket for _, ticket in self._missing]
        self._waiting.clear()
        self._missing.clear()
        for ticket in pending:
            if not ticket.cancelled():
                ticket.set_exception(error)

    def pending_tickets(self) -> list[Ticket]:
        """Returns the tickets that somebody waits for."""
        return [ticket for _, ticket in (*self._waiting.values(), *self._missing)]
