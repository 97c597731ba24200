"""Bringing a reply or a message to a run from a command: into its journal, or to its holder.

A run that nobody drives is taken up, and the reply or message is committed at once. To one that a
process holds it is given through the inbox; if that process ends before it took it in, it is taken
back and committed after all. Either way it is in the run once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import msgspec

from kitaru_fs.clock import monotonic, nonce, parse_stamp, stamp, utc_now
from kitaru_fs.entry import Entry, parse_trailers
from kitaru_fs.errors import ConflictError, HeldError, UsageError
from kitaru_fs.holding.lock import Holder, read_holder
from kitaru_fs.quoting import printable
from kitaru_fs.rundir.arrivals import asked_of, message_entry, rejection_entry, reply_entry
from kitaru_fs.rundir.held import Held, hold, rest
from kitaru_fs.rundir.history import open_run
from kitaru_fs.rundir.inbox import ENVELOPE, MAX_LETTER, Envelope, Inbox
from kitaru_fs.rundir.leaving import was_torn
from kitaru_fs.rundir.openings import openings
from kitaru_fs.rundir.options import Options
from kitaru_fs.storage.objects import Person
from kitaru_fs.values import ValueSchemaError
from kitaru_fs.values.schema import check_json

__all__ = ["Delivered", "deliver_message", "deliver_reply"]

_PATIENCE = 10.0
_LOOK = 0.02


class Delivered(NamedTuple):
    """How a reply or message got there.

    Attributes:
        run: The run's id.
        step: The step that holds it; None where its holder has not taken it in yet.
        holder: The process that it was given to.
    """

    run: str
    step: int | None
    holder: Holder | None


def deliver_reply(
    path: Path, options: Options, question: Entry, value: bytes | None, reason: str = ""
) -> Delivered:
    """Replies to an open question of a run.

    Args:
        path: The run's directory.
        options: How it is taken up; `identity` is who replies.
        question: The entry that asked.
        value: The reply as JSON; None refuses to reply.
        reason: Why it refuses.

    Raises:
        UsageError: The reply does not fit the question.
        ConflictError: The question is open no more.
    """
    run = path.name
    asked = asked_of(question)
    until = asked.get("until")
    if until is not None and parse_stamp(until) <= utc_now():
        raise ConflictError(
            f"the wait {printable(question.name, 80)} of run {run} was over at {until}",
            hint=f"kitaru resume {run} goes on without a reply",
            run=run,
        )
    if value is not None:
        _check(value, asked.get("schema"), f"the wait {printable(question.name, 80)} of run {run}")
    envelope = Envelope(
        wait=question.step, asked=question.started, rejects=value is None, reason=reason
    )

    def commit(held: Held, delivery: str) -> None:
        opening = held.writer.open.get(question.key)
        if opening is None or (opening.step, opening.started) != (question.step, question.started):
            raise ConflictError(
                f"the wait {printable(question.name, 80)} of run {run} is open no more",
                hint=f"kitaru log {run} says what came of it",
                run=run,
            )
        if value is None:
            entry, output = rejection_entry(opening, reason, delivery, run=run)
        else:
            entry, output = reply_entry(opening, delivery), value
        _add(held, options, entry, output, status="running")

    return _deliver(path, options, envelope, value, commit)


def deliver_message(path: Path, options: Options, topic: str, value: bytes) -> Delivered:
    """Sends a message to a run; it is kept until the run receives it.

    Args:
        path: The run's directory.
        options: How it is taken up; `identity` is who sends.
        topic: The topic.
        value: The message as JSON.

    Raises:
        UsageError: It does not fit what the run waits to receive.
        ConflictError: The run has ended.
    """
    run = path.name
    with open_run(path) as opened:
        if opened.point.status in ("completed", "cancelled"):
            raise ConflictError(
                f"the run {run} is {opened.point.status}: it receives nothing any more",
                hint="rewind it first, if it is to go on",
                run=run,
            )
        is_waiting = opened.point.status == "waiting" and not was_torn(opened.repository.git_dir)
        schemas = openings(opened).topics.get(topic, [])
    if schemas:
        _check(value, schemas[0], f"what run {run} receives on {printable(topic, 80)}")

    def commit(held: Held, delivery: str) -> None:
        status = held.writer.status
        if status in ("running", "waiting"):
            status = "waiting" if is_waiting and not schemas else "running"
        _add(held, options, message_entry(topic, delivery), value, status=status)

    return _deliver(path, options, Envelope(topic=topic), value, commit, in_order=True)


def _check(value: bytes, schema: object, what: str) -> None:
    if len(value) > MAX_LETTER:
        raise UsageError(
            f"{len(value)} bytes are too much for {what}: the most are {MAX_LETTER}",
            hint="put it into a file, and send the file's name",
        )
    try:
        check_json(value, schema)
    except ValueSchemaError as error:
        raise UsageError(
            f"the value does not fit {what}: {error}",
            hint=f"its schema is {msgspec.json.encode(schema).decode()}",
        ) from error


def _deliver(
    path: Path,
    options: Options,
    envelope: Envelope,
    value: bytes | None,
    commit: Callable[[Held, str], None],
    *,
    in_order: bool = False,
) -> Delivered:
    envelope.value = msgspec.Raw(value if value is not None else b"null")
    envelope.author = options.human()
    envelope.sent = stamp()
    inbox = Inbox(path)
    deadline = monotonic() + _PATIENCE
    while True:
        # What lies in the inbox came before it.
        if not (in_order and inbox.letters()):
            try:
                delivered = _commit(path, options, commit, inbox if in_order else None)
            except HeldError:
                delivered = None
            if delivered is not None:
                return delivered
        holder = read_holder(path / ".git")
        name = inbox.put(envelope)
        delivered = _await_taking(path, inbox, name, deadline)
        if delivered is not None:
            return delivered
        holder = read_holder(path / ".git")
        if holder is None or holder.alive is not True:
            if in_order or not inbox.take_back(name):
                return Delivered(path.name, _step_of(path, name), None)
            continue
        return Delivered(path.name, None, holder)


def _commit(
    path: Path, options: Options, commit: Callable[[Held, str], None], after: Inbox | None
) -> Delivered | None:
    """Commits it; None if something that a killed process had in its hands came before it."""
    with hold(path, options) as held:
        waits = after is not None and bool(after.claimed())
        if not waits:
            commit(held, nonce())
        rest(held.repository, held.writer.root, held.files.scanner, held.lock)
        return None if waits else Delivered(path.name, held.writer.step, None)


def _add(held: Held, options: Options, entry: Entry, output: bytes | None, *, status: str) -> None:
    author = Person(*options.human(), int(utc_now().timestamp()))
    held.writer.add(entry, files=held.writer.files, status=status, author=author, output=output)


def _await_taking(path: Path, inbox: Inbox, name: str, deadline: float) -> Delivered | None:
    """Waits until a run's holder took an envelope in, or ended; None for any other end.

    Raises:
        ConflictError: It refused it.
    """
    while monotonic() < deadline:
        if not (inbox.path / name).exists():
            step = _step_of(path, name)
            if step is not None:
                return Delivered(path.name, step, None)
            for refused, why in inbox.refused():
                if refused.endswith(name):
                    inbox.forget_refused(refused)
                    raise ConflictError(f"the run {path.name} refused it: {why}", run=path.name)
        holder = read_holder(path / ".git")
        if holder is None or holder.alive is not True:
            return None
        time.sleep(_LOOK)
    return None


def _step_of(path: Path, name: str) -> int | None:
    """Returns the step that holds what an envelope brought; None if none does yet."""
    word = name.removesuffix(ENVELOPE).rpartition("-")[2]
    with open_run(path) as opened:
        for sha in islice(opened.repository.ancestors(opened.head), 1000):
            trailers = parse_trailers(opened.repository.read_commit(sha).message)
            if trailers.get("Kitaru-Delivery") == word:
                return int(trailers["Kitaru-Step"])
    return None
