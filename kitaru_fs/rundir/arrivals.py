"""What comes from outside as journal entries: a reply to a question, a message on a topic.

One shape for both ways that they come in: through the process that holds the run, and by a command
that takes a stopped run up to commit them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import msgspec

from kitaru_fs.clock import parse_stamp, stamp, utc_now
from kitaru_fs.entry import Entry
from kitaru_fs.errors import AmbiguousError, NotFoundError, WaitRejected, WaitTimeout
from kitaru_fs.quoting import printable, slug
from kitaru_fs.values.failures import capture

__all__ = [
    "asked_of",
    "find_wait",
    "is_question",
    "message_entry",
    "message_key",
    "rejection_entry",
    "reply_entry",
    "timeout_entry",
]


def asked_of(opening: Entry) -> Mapping[str, Any]:
    """Returns what an entry of status `waiting` says of what it waits for."""
    asked: Any = opening.input
    return cast("dict[str, Any]", asked) if isinstance(asked, dict) else {}


def is_question(opening: Entry) -> bool:
    """Says whether it waits for a reply: not for a message, a time or a child run."""
    return opening.kind == "wait" and "topic" not in asked_of(opening)


def find_wait(openings: Iterable[Entry], name: str | None, *, run: str) -> Entry:
    """Returns the open question that a name names.

    Args:
        openings: What is open.
        name: Its name, or the number of the step that asked it; None for the only one.
        run: The run's id, for errors.

    Raises:
        NotFoundError: There is none.
        AmbiguousError: More than one fits; the message lists them.
    """
    questions = [opening for opening in openings if is_question(opening)]
    fits = questions
    if name is not None:
        fits = [one for one in questions if one.name == name]
        fits = fits or [one for one in questions if str(one.step) == name]
        fits = fits or [one for one in questions if slug(one.name) == name]
    if len(fits) == 1:
        return fits[0]
    if fits:
        shown = ", ".join(f"{printable(one.name, 80)} (step {one.step})" for one in fits[:12])
        raise AmbiguousError(
            f"run {run} waits for more than one reply: {shown}",
            hint=f"name one of them, by its step if need be: --wait {fits[0].step}",
            run=run,
        )
    open_ones = ", ".join(printable(one.name, 80) for one in questions[:12])
    raise NotFoundError(
        f"run {run} does not wait for a reply" + (f" named {name!r}" if name is not None else ""),
        hint=f"it waits for: {open_ones}" if open_ones else f"kitaru status {run}",
        run=run,
    )


def reply_entry(opening: Entry, delivery: str) -> Entry:
    """Returns the entry of a reply to a question; its output is the reply."""
    return Entry(
        step=0,
        key=opening.key,
        name=opening.name,
        kind="reply",
        started=stamp(),
        wait=opening.step,
        delivery=delivery,
    )


def rejection_entry(
    opening: Entry, reason: str, delivery: str, *, run: str
) -> tuple[Entry, bytes | None]:
    """Returns the entry of a refusal to answer, and its output: the default, where there is one."""
    entry = reply_entry(opening, delivery)
    default = _default(opening)
    if default is not None:
        entry.metadata = {"rejected": reason or True}
        return entry, default
    said = f": {reason}" if reason else ""
    error = WaitRejected(
        f"the wait {printable(opening.name, 80)} of run {run} was rejected{said}", reason=reason
    )
    entry.status, entry.error = "failed", capture(error).record()
    return entry, None


def timeout_entry(opening: Entry, *, run: str) -> tuple[Entry, bytes | None]:
    """Returns the entry of a wait whose time is over, and its output.

    A sleep ends so, a question with its default where it has one, everything else with an error.
    """
    started = parse_stamp(opening.started)
    default = _default(opening)
    entry = Entry(
        step=0,
        key=opening.key,
        name=opening.name,
        kind=opening.kind,
        started=opening.started,
        duration=max(0.0, (utc_now() - started).total_seconds()),
        wait=opening.step,
    )
    if opening.kind == "sleep" or default is not None:
        return entry, default
    what = "message" if "topic" in asked_of(opening) else "reply"
    error = WaitTimeout(
        f"no {what} came for {printable(opening.name, 80)} of run {run}"
        f" before {asked_of(opening).get('until')}"
    )
    entry.kind, entry.status, entry.error = "failed", "failed", capture(error).record()
    return entry, None


def message_key(topic: str) -> str:
    """Returns the key of the messages on a topic."""
    return f"message:{topic}"


def message_entry(topic: str, delivery: str) -> Entry:
    """Returns the entry of a message; its output is the message."""
    return Entry(
        step=0,
        key=message_key(topic),
        name=topic,
        kind="message",
        started=stamp(),
        delivery=delivery,
    )


def _default(opening: Entry) -> bytes | None:
    asked = asked_of(opening)
    return msgspec.json.encode(asked["default"]) if "default" in asked else None
