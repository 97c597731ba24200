"""Matching the calls that a flow makes with the outcomes that its journal holds.

A call's key is its name, a digest of its arguments, and how many equal calls came before it: so
keys do not depend on which of several concurrent steps finishes first. Outcomes are handed out in
the order recorded; a call that the journal does not hold waits until all are handed out, since it
may be the first live step of one branch of the flow while another branch still replays.

What waits for something from outside (a reply, a message, a time) has two outcomes: that it was
asked, which is an entry of status `waiting`, and what came of it. They are matched one after the
other, the first under `asked_key`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future
from sys import intern
from typing import Any, NamedTuple

from kitaru_fs.engine.given import Given
from kitaru_fs.engine.occurrences import Occurrences
from kitaru_fs.entry import KINDS, Entry
from kitaru_fs.errors import NewerFormatError
from kitaru_fs.quoting import printable

__all__ = ["CANCELLED", "LIVE", "Call", "Outcome", "Replay", "Ticket", "asked_key"]

_NO_OUTCOME = frozenset({"start", "resume", "edit", "fork", "intent", "end", "message"})
CANCELLED = "cancelled"


class Call(NamedTuple):
    """One call of a step.

    Attributes:
        input: Its arguments as they are recorded.
        approval: The key of its approval; empty where it needs none.
    """

    key: str
    name: str
    kind: str
    input: Any
    approval: str = ""


def asked_key(key: str) -> str:
    """Returns the key under which a call's having been asked is matched."""
    return f"{key}?"


class _Live:
    """Says that the journal holds no outcome of a call: it is executed."""


LIVE = _Live()
Outcome = Entry | _Live
Ticket = Future[Outcome]


class _Place(NamedTuple):
    """Where an outcome stands in the journal.

    Attributes:
        step: The step that recorded it.
        name: The call's.
        asked: It says that something was asked.
    """

    step: int
    name: str
    asked: bool

    def is_before(self, entry: Entry) -> bool:
        return entry.step > self.step and self.name not in entry.overlap


class Replay:
    """What is left of a journal to be replayed. The caller serializes its use.

    Args:
        entries: The journal's entries, in order.
        read: Returns an entry again, by its step: outcomes are not held.

    Attributes:
        read: The same.
        failed_attempts: How many attempts of a call failed, by key.
        cancelled: Keys of calls that the flow gave up when it made them last.
        children: The runs that calls of flows began, by key.
        intents: Attempts that were about to have an effect, and of which nothing more is known, by
            key.
        open: What waits for something from outside, or for a child run, by key.
        messages: The messages that nothing received, by step.
        deliveries: What the replies and messages were that were taken in.
        observed: What the flow read of the world: the step that recorded it, and the value.
        patches: The changes that the run has taken up.
        notes: What `note()` added to any entry.
        given: Outputs that were set by hand, for calls that are still to be made.
        replayed: How many outcomes were handed out.
        with_secrets: The steps of those of them that hold secrets.
    """

    def __init__(self, entries: Iterable[Entry], read: Callable[[int], Entry]) -> None:
        """Reads the journal.

        Raises:
            NewerFormatError: It holds what this kitaru does not know.
        """
        self.read = read
        self._counts = Occurrences()
        self._outcomes: dict[str, _Place] = {}
        self._order: deque[str] = deque()
        self._waiting: dict[str, tuple[Call, Ticket]] = {}
        self._missing: list[tuple[Call, Ticket]] = []
        self._due: list[tuple[Ticket, Outcome]] = []
        self._retried: dict[str, _Place] = {}
        self._received: dict[int, int] = {}
        self._began: dict[str, int] = {}
        self.failed_attempts: Counter[str] = Counter()
        self.cancelled: set[str] = set()
        self.children: dict[str, str] = {}
        self.intents: dict[str, Entry] = {}
        self.open: dict[str, Entry] = {}
        self.messages: dict[int, Entry] = {}
        self.deliveries: set[str] = set()
        self.observed: dict[str, deque[tuple[int, Any]]] = {}
        self.patches: set[str] = set()
        self.notes: list[dict[str, Any]] = []
        self.given = Given()
        self.replayed = 0
        self.with_secrets: list[int] = []
        for entry in entries:
            self._load(entry)
        for key, place in self._outcomes.items():
            if not place.asked:
                self.given.count(key, place.name)
        self._order.extend(self._outcomes)

    def _load(self, entry: Entry) -> None:
        if entry.kind not in KINDS:
            raise NewerFormatError(
                f"the entry of step {entry.step} is of a kind that this kitaru does not know:"
                f" {printable(entry.kind, 40)!r}",
                hint="upgrade kitaru-fs, or rewind to a step before it",
            )
        if entry.dropped:
            self._forget(entry.dropped)
        self._load_observed(entry)
        if entry.metadata:
            self.notes.append(entry.metadata)
        if entry.kind == "end" and entry.cause is not None:
            self._try_again(entry.cause)
        if entry.anew:
            self._begin_anew()
        if entry.given:
            self.given.load(entry.given)
        if entry.kind == "intent":
            self.intents[entry.key] = entry
        if entry.delivery is not None:
            self.deliveries.add(entry.delivery)
        if entry.kind in _NO_OUTCOME:
            if entry.kind == "message":
                self.messages[entry.step] = entry
            return
        if entry.status == "waiting":
            self._load_asked(entry)
            return
        if entry.kind == "failed":
            if (entry.error or {}).get("type") == CANCELLED:
                # What it was about to do it may have done.
                self._give_up(entry.key)
                return
            self.failed_attempts[entry.key] += 1
            self.intents.pop(entry.key, None)
            if entry.retry:
                return
        if entry.message in self.messages:
            self._received[entry.step] = self.messages.pop(entry.message).step
        self.open.pop(entry.key, None)
        self._put(entry.key, entry)
        self._retried.pop(entry.key, None)
        self.intents.pop(entry.key, None)

    def _put(self, key: str, entry: Entry) -> None:
        # Taken out first: a call that was tried again stands where it was recorded last.
        self._outcomes.pop(key, None)
        self._outcomes[key] = _Place(entry.step, intern(entry.name), entry.status == "waiting")

    def _load_asked(self, entry: Entry) -> None:
        self.open[entry.key] = entry
        if entry.child is not None:
            self.children[entry.key] = entry.child
            self._began.setdefault(entry.key, entry.step)
            return
        # Asked anew, what was replied before counts for nothing.
        self._outcomes.pop(entry.key, None)
        self._put(asked_key(entry.key), entry)

    def _give_up(self, key: str) -> None:
        # Neither that it was asked, nor what came too late for the flow to see it, is expected: how
        # far a call gets that is given up depends on what else has its turn before.
        for one in (key, asked_key(key)):
            self.cancelled.add(one)
            self._outcomes.pop(one, None)
        self.open.pop(key, None)

    def _load_observed(self, entry: Entry) -> None:
        for name, values in (entry.observed or {}).items():
            if name == "patched":
                self.patches.update(map(str, values))
            elif name == "gave_up":
                for key in map(str, values):
                    self._give_up(key)
            elif entry.kind != "end":
                # What a flow read just before it failed is read anew.
                found = self.observed.setdefault(name, deque())
                found.extend((entry.step, value) for value in values)

    def _try_again(self, step: int) -> None:
        for key, place in self._outcomes.items():
            if place.step == step:
                del self._outcomes[key]
                self._outcomes.pop(asked_key(key), None)
                self._give_back(step)
                self._retried[key] = place
                # With all its attempts.
                self.failed_attempts[key] = 0
                return

    def _begin_anew(self) -> None:
        """Forgets what was begun and has no outcome."""
        for key in [key for key in self.failed_attempts if key not in self._outcomes]:
            del self.failed_attempts[key]
        self.children = {key: run for key, run in self.children.items() if key in self._outcomes}
        self.intents.clear()
        for key in self.open:
            self._outcomes.pop(asked_key(key), None)
        self.open.clear()

    def _forget(self, steps: Iterable[int]) -> None:
        gone = set(steps)
        for step in gone:
            self._give_back(step)
        for key in [key for key, place in self._outcomes.items() if place.step in gone]:
            del self._outcomes[key]
            self.failed_attempts[key] = 0
        for name, values in self.observed.items():
            self.observed[name] = deque(item for item in values if item[0] not in gone)

    def _give_back(self, step: int) -> None:
        """A message that a call received whose outcome does not count any more can be received."""
        message = self._received.pop(step, None)
        if message is not None:
            self.messages[message] = self.read(message)

    @property
    def finished(self) -> bool:
        """Whether every outcome was handed out."""
        return not self._order

    @property
    def expected(self) -> Entry | None:
        """The outcome that comes next."""
        return self.read(self._outcomes[self._order[0]].step) if self._order else None

    @property
    def reached(self) -> int:
        """The last step whose files the flow finds where the replay stands; -1 once it is over."""
        if not self._order:
            return -1
        key = self._order[0]
        # What a flow wrote before it called another is in the commit that the call began with.
        return self._began.get(key, self._outcomes[key].step) - 1

    def recorded(self, key: str) -> int | None:
        """Returns the step of a call's outcome that was not handed out yet."""
        place = self._outcomes.get(key)
        return place.step if place is not None else None

    def outcome(self, key: str) -> Entry | None:
        """Returns a call's outcome that was not handed out yet."""
        place = self._outcomes.get(key)
        return self.read(place.step) if place is not None else None

    def key(self, base: str, earlier: Callable[[], str] | None = None) -> str:
        """Returns the key of the next call with this name and arguments.

        Args:
            base: Both.
            earlier: Returns how an older journal may have them; it goes first where that has it.
        """
        if earlier is not None and any(self._known):
            older = earlier()
            if any(f"{older}#{self._counts.count(older) + 1}" in place for place in self._known):
                base = older
        return f"{base}#{self._counts.add(base)}"

    @property
    def _known(self) -> tuple[Collection[str], ...]:
        """The keys that the journal holds and that are still to be asked for."""
        known = (self._outcomes, self._retried, self.failed_attempts, self.cancelled, self.children)
        return known

    def claim(self, call: Call) -> Outcome | Ticket:
        """Returns a call's outcome, `LIVE`, or a ticket that `deliver` will put one of them in."""
        if not self._order:
            return LIVE
        if call.key == self._order[0]:
            outcome = self._take()
            self._advance()
            return outcome
        ticket: Ticket = Future()
        if call.key in self._outcomes:
            self._waiting[call.key] = (call, ticket)
        else:
            self._missing.append((call, ticket))
        return ticket

    def _take(self) -> Entry:
        entry = self.read(self._outcomes[self._order[0]].step)
        del self._outcomes[self._order.popleft()]
        self.replayed += 1
        if entry.secrets:
            self.with_secrets.append(entry.step)
        return entry

    def _advance(self) -> None:
        while self._order and self._order[0] in self._waiting:
            _, ticket = self._waiting.pop(self._order[0])
            self._due.append((ticket, self._take()))
        if not self._order:
            self._due += [(ticket, LIVE) for _, ticket in self._missing]
            self._missing.clear()

    def deliver(self) -> None:
        """Hands out what is due: outcomes in order, then leave to execute."""
        due, self._due = self._due, []
        for ticket, outcome in due:
            if not ticket.cancelled():
                ticket.set_result(outcome)

    def abandon(self, error: BaseException) -> None:
        """Raises an error from every call that waits."""
        waiting = [ticket for ticket, _ in self._due]
        waiting += [ticket for _, ticket in (*self._waiting.values(), *self._missing)]
        self._due.clear()
        self._waiting.clear()
        self._missing.clear()
        for ticket in waiting:
            if not ticket.cancelled():
                ticket.set_exception(error)

    def withdraw(self, ticket: Ticket) -> str | None:
        """Forgets a call that its caller gave up; returns its key if the journal holds no outcome
        of it and does not say that it was given up."""
        for key, (_, waiting) in list(self._waiting.items()):
            if waiting is ticket:
                del self._waiting[key]
        for item in self._missing:
            if item[1] is ticket:
                self._missing.remove(item)
                return None if item[0].key in self.cancelled else item[0].key
        return None

    def drop_consequences(self) -> list[int]:
        """Gives up the outcomes that followed a failure which is now tried again.

        A flow may have made further calls after the failure that ended its run (in a `finally`, as
        a substitute); it makes them anew, or not at all, by how the failed call ends this time.

        Returns:
            The steps given up; empty if what is left of the journal is anything else.
        """
        for call, _ in self._missing:
            cause = self._retried.get(call.key)
            if cause is not None and all(map(cause.is_before, self._left())):
                steps = [self._outcomes[key].step for key in self._order]
                self._forget(steps)
                self._order.clear()
                self._missing += self._waiting.values()
                self._waiting.clear()
                self._advance()
                return steps
        return []

    def _left(self) -> Iterator[Entry]:
        return (self.read(self._outcomes[key].step) for key in self._order)

    @property
    def stuck(self) -> tuple[Call, Entry | None] | None:
        """A call that waits and is not the expected one, with its entry further on, if any."""
        for call, _ in self._missing:
            if call.key not in self.cancelled:
                return call, None
        for call, _ in self._waiting.values():
            return call, self.outcome(call.key)
        return None

    @property
    def waits_for_cancelled(self) -> bool:
        """Whether a call waits that the flow itself gave up, and may give up again."""
        return any(call.key in self.cancelled for call, _ in self._missing)
