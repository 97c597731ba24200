"""What one live run waits for from outside, and taking in what comes: replies, messages, times.

An outcome is committed first and handed out then, so what the flow has seen is in the journal. It
is taken in by whichever thread comes by: the one that waits, or the poller.
"""

from __future__ import annotations

from concurrent.futures import InvalidStateError
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from kitaru_fs.clock import monotonic, parse_stamp, stamp, utc_now
from kitaru_fs.engine.pending import Pending, Question
from kitaru_fs.engine.replay import Replay
from kitaru_fs.entry import Entry, GivenOutput
from kitaru_fs.errors import AmbiguousError, MessageError, NotFoundError
from kitaru_fs.quoting import printable, quote_path
from kitaru_fs.rundir.arrivals import (
    asked_of,
    find_wait,
    message_entry,
    rejection_entry,
    reply_entry,
    timeout_entry,
)
from kitaru_fs.rundir.inbox import Claim, Inbox, InboxRefused, Letter, Refused, Unripe
from kitaru_fs.rundir.writer import Writer
from kitaru_fs.values import Codec, NoJsonForm, ValueSchemaError
from kitaru_fs.values.failures import capture

if TYPE_CHECKING:
    from kitaru_fs.engine.execution import Execution
    from kitaru_fs.engine.ledger import Ledger

__all__ = ["Mailbox"]

# So many files are taken in before the flow has its turn again.
_AT_ONCE = 100
# A file's time of change may be that much behind the clock.
_TICK_NS = 20_000_000
_LOOK_AGAIN = 0.5


class Mailbox:
    """What one live run waits for.

    Args:
        execution: The run.
        ledger: Commits what it did.
        writer: Knows what is open.
        replay: Knows the messages that nothing received.

    Attributes:
        pendings: The calls that wait in this process, by key.
        look_at: When the inbox is to be looked at again without a sign of a change.
    """

    def __init__(
        self, execution: Execution, ledger: Ledger, writer: Writer, replay: Replay
    ) -> None:
        self._execution = execution
        self._ledger = ledger
        self._writer = writer
        self._replay = replay
        self._given_up: set[str] = set()
        self._looked_back = False
        self._told: str | None = None
        self.inbox = Inbox(execution.path)
        self.pendings: dict[str, Pending] = {}
        self.look_at: float | None = None

    def ask(self, question: Question, body: str = "") -> Entry:
        """Commits that something is asked, and from when on; returns the entry.

        Raises:
            StorageError: The disk refused.
        """
        with self._execution.writing():
            entry = question.opening()
            if question.default is not None:
                entry.input["default"] = msgspec.Raw(question.default)
            self._ledger.ask(entry, body)
            self._given_up.discard(entry.key)
            return entry

    def take(self, question: Question, given: GivenOutput) -> Entry:
        """Commits a reply that a human set in a fork, so that nobody is asked; returns its entry.

        Raises:
            StorageError: The disk refused.
        """
        call = question.call
        entry = Entry(
            step=0,
            key=call.key,
            name=call.name,
            kind="reply",
            started=stamp(),
            source=given.source,
        )
        with self._execution.writing():
            self._ledger.settle(entry, bytes(given.output))
        return entry

    def enter(self, question: Question, opening: Entry) -> Pending:
        """Notes that a call waits in this process, and looks whether what it waits for is there.

        Raises:
            StorageError: The disk refused.
        """
        pending = Pending(self._execution, question, opening)
        with self._execution.writing():
            self.pendings[opening.key] = pending
            self._execution.tree.enter(pending)
            if pending.topic is not None:
                self._hand_out(pending.topic)
            self._take_in()
            self._expire()
        return pending

    def give_up(self, pending: Pending) -> None:
        """Notes that the flow does not wait any more for what it asked."""
        with self._execution.guard:
            if pending.opening is None or self._execution.halted is not None:
                return
            key = pending.opening.key
            self.pendings.pop(key, None)
            self._execution.tree.over(pending)
            if self._execution.is_driven and not self._execution.tree.stopping:
                self._given_up.add(key)
                self._execution.observations.gave_up(key)

    def look(self) -> None:
        """Takes in what has come.

        Raises:
            KitaruError: The disk refused; the run goes on no further.
        """
        with self._execution.guard:
            if not self.pendings or not self._execution.is_driven:
                return
            with self._execution.writing():
                self._take_in()
                self._expire()

    # Times

    def _expire(self) -> None:
        now = utc_now()
        due = [one for one in self.pendings.values() if one.until is not None and one.until <= now]
        for pending in sorted(due, key=lambda one: one.until or now):
            opening = pending.opening
            assert opening is not None
            entry, output = timeout_entry(opening, run=self._execution.run)
            self._ledger.settle(entry, output)
            self._settled(pending, entry)

    # Letters

    def _take_in(self) -> None:
        self.look_at = None
        try:
            claims = self._look_back() + self._claim()
        except (InboxRefused, OSError) as error:
            # What was claimed already is found again.
            self._looked_back = False
            said = error.message if isinstance(error, InboxRefused) else error
            self._tell_once(f"the inbox cannot be taken in: {said}")
            self.look_at = monotonic() + _LOOK_AGAIN
            return
        for claim in claims:
            try:
                self._deliver(claim)
            except Refused as why:
                self._refuse(claim.place, claim.letter.name, str(why))
            else:
                self._release(claim.place)

    def _look_back(self) -> list[Claim]:
        """Returns what an earlier process claimed and did not commit."""
        found: list[Claim] = []
        if self._looked_back:
            return found
        self._looked_back = True
        for word, place in self.inbox.claimed():
            if word in self._replay.deliveries or self._writer.holds_delivery(word):
                self._release(place)
                continue
            try:
                claim = self.inbox.reopen(word, place)
            except Refused as why:
                self._refuse(place, place.name.partition("~")[2], str(why))
            else:
                found += [claim] if claim is not None else []
        return found

    def _claim(self) -> list[Claim]:
        claims: list[Claim] = []
        for name in self.inbox.letters():
            if len(claims) == _AT_ONCE:
                self.look_at = monotonic()
                break
            place = self.inbox.path / name
            try:
                letter = self.inbox.read(name)
                if letter is None or self._is_early(letter):
                    continue
                claim = self.inbox.claim(letter)
            except Unripe:
                self.look_at = monotonic() + _LOOK_AGAIN
            except Refused as why:
                self._refuse(place, name, str(why))
            else:
                claims += [claim] if claim is not None else []
        if claims:
            # Before it is committed: a power cut must not bring it back under its old name.
            self.inbox.sync()
        return claims

    def _is_early(self, letter: Letter) -> bool:
        """Says whether a file answers a question that the flow has not come to wait for yet."""
        opening = self._answered_by(letter)
        return opening is not None and opening.key not in self.pendings

    def _answered_by(self, letter: Letter) -> Entry | None:
        """Returns the open question that a file answers; None if it is a message.

        Raises:
            Refused: It answers a question that is open no more, or one of several.
        """
        questions = [one for one in self._writer.open.values() if one.key not in self._given_up]
        if letter.is_envelope:
            envelope = letter.envelope()
            if envelope.wait is None:
                return None
            for one in questions:
                if (one.step, one.started) == (envelope.wait, envelope.asked):
                    return one
            raise Refused(f"the question of step {envelope.wait} is open no more")
        try:
            letter.name.encode()
            opening = find_wait(questions, letter.subject, run=self._execution.run)
        except NotFoundError:
            return None
        except AmbiguousError as error:
            raise Refused(f"{error.message}; name the file after the step") from None
        except UnicodeEncodeError:
            raise Refused("its name is no UTF-8 text") from None
        # Whoever wrote it had not seen the question.
        asked = parse_stamp(opening.started).timestamp() * 1e9
        return opening if letter.came >= asked - _TICK_NS else None

    def _deliver(self, claim: Claim) -> None:
        letter = claim.letter
        opening = self._answered_by(letter)
        author = letter.envelope().author if letter.is_envelope else None
        author = author or self._execution.options.human()
        if opening is not None:
            self._reply(opening, claim, author)
        elif letter.is_envelope:
            envelope = letter.envelope()
            self._message(envelope.topic, bytes(envelope.value), claim.id, author)
        else:
            self._message(letter.subject, letter.raw, claim.id, author)

    def _reply(self, opening: Entry, claim: Claim, author: tuple[str, str]) -> None:
        pending = self.pendings.get(opening.key)
        if pending is None or pending.question is None:
            raise Refused(f"the question of step {opening.step} is open no more")
        if pending.until is not None and claim.letter.came > pending.until.timestamp() * 1e9:
            raise Refused(f"it came after {asked_of(opening).get('until')}, when the wait was over")
        value: bytes | None
        letter = claim.letter
        envelope = letter.envelope() if letter.is_envelope else None
        if envelope is not None and envelope.rejects:
            entry, value = rejection_entry(
                opening, envelope.reason, claim.id, run=self._execution.run
            )
        else:
            raw = bytes(envelope.value) if envelope is not None else letter.raw
            entry = reply_entry(opening, claim.id)
            try:
                value = _checked(pending.question.codec, raw)
            except (ValueSchemaError, NoJsonForm) as error:
                raise Refused(f"it does not fit the wait {opening.name!r}: {error}") from None
        self._ledger.settle(entry, value, author=author)
        self._replay.deliveries.add(claim.id)
        self._settled(pending, entry)

    def _message(self, topic: str, raw: bytes, delivery: str, author: tuple[str, str]) -> None:
        entry = message_entry(topic, delivery)
        self._ledger.settle(entry, raw, author=author)
        self._replay.deliveries.add(delivery)
        self._replay.messages[entry.step] = entry
        self._hand_out(entry.name)

    def _hand_out(self, topic: str) -> None:
        """Gives the messages of a topic to who waits for them, both in the order that they came."""
        waiting = [one for one in self.pendings.values() if one.topic == topic]
        waiting.sort(key=lambda one: one.opening.step if one.opening is not None else 0)
        steps = sorted(step for step, one in self._replay.messages.items() if one.name == topic)
        for pending, step in zip(waiting, steps, strict=False):
            self._receive(pending, self._replay.messages.pop(step))

    def _receive(self, pending: Pending, message: Entry) -> None:
        opening, question = pending.opening, pending.question
        assert opening is not None
        assert question is not None
        entry = Entry(
            step=0,
            key=opening.key,
            name=opening.name,
            kind="step",
            started=stamp(),
            wait=opening.step,
            message=message.step,
        )
        output: bytes | None = None
        try:
            output = _checked(question.codec, self._execution.secrecy.output_of(message))
        except (ValueSchemaError, NoJsonForm) as error:
            unfit = MessageError(
                f"the message of step {message.step} on {printable(message.name, 80)} does not fit"
                f" what run {self._execution.run} receives: {error}"
            )
            entry.kind, entry.status, entry.error = "failed", "failed", capture(unfit).record()
        self._ledger.settle(entry, output)
        self._settled(pending, entry)

    def _settled(self, pending: Pending, entry: Entry) -> None:
        self.pendings.pop(entry.key, None)
        # Its caller may have given it up in this very moment.
        with suppress(InvalidStateError):
            pending.ticket.set_result(entry)
        self._execution.tree.over(pending)

    def _release(self, place: Path) -> None:
        # Left there, it is known by its id.
        with suppress(OSError):
            self.inbox.release(place)

    def _refuse(self, place: Path, name: str, why: str) -> None:
        shown = quote_path(name.encode("utf-8", "surrogateescape"))
        try:
            kept = self.inbox.refuse(place, name, why)
        except OSError as error:
            self._tell_once(f"inbox/{shown} is refused, and cannot be moved: {why} ({error})")
            return
        self._execution.tell(
            "refused", f"inbox/{shown} is refused: {why}; kept as inbox/refused/{kept.name}"
        )

    def _tell_once(self, sentence: str) -> None:
        if self._told != sentence:
            self._told = sentence
            self._execution.tell("notice", sentence)


def _checked(codec: Codec, raw: bytes) -> bytes:
    """Returns JSON from outside as the journal has such a value.

    Raises:
        ValueSchemaError: It is no such value.
        NoJsonForm: It is one that the journal cannot hold.
    """
    return codec.encode(codec.decode(raw))
