"""What a run waits for, with the runs that it called: open questions, and what would wake it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from kitaru_fs.clock import utc_now
from kitaru_fs.entry import Entry
from kitaru_fs.errors import AmbiguousError, KitaruError, NotFoundError, UsageError
from kitaru_fs.holding.lock import read_holder
from kitaru_fs.quoting import printable
from kitaru_fs.rundir.arrivals import asked_of, find_wait
from kitaru_fs.rundir.history import OpenRun, open_run, read_log
from kitaru_fs.rundir.inbox import Inbox
from kitaru_fs.rundir.openings import Offer, Openings, offers, openings
from kitaru_fs.values import NoJsonForm, ValueSchemaError, codec_for

__all__ = [
    "Awaited",
    "OpenWait",
    "Wake",
    "awaited",
    "encode_reply",
    "find_open_wait",
    "open_waits",
    "read_reply",
]


class OpenWait(NamedTuple):
    """A question that waits for a reply.

    Attributes:
        path: The directory of the run that asks: the run itself, or one that it called.
        entry: The entry that asked.
        offers: What was replied to it before, on other branches.
    """

    path: Path
    entry: Entry
    offers: list[Offer]

    def read_text(self, text: str) -> bytes:
        """Returns as JSON what a human wrote as the reply.

        Raises:
            UsageError: It does not fit.
        """
        what = f"the wait {printable(self.entry.name, 80)} of run {self.path.name}"
        return read_reply(text, asked_of(self.entry).get("schema"), what)

    def to_json(self) -> dict[str, Any]:
        """Returns it as the command line's `--json` has it."""
        asked = asked_of(self.entry)
        found: dict[str, Any] = {
            "name": self.entry.name,
            "question": asked.get("question", ""),
            "schema": asked.get("schema", {}),
            "until": asked.get("until"),
            "run": self.path.name,
            "step": self.entry.step,
            "asked": self.entry.started,
        }
        if "default" in asked:
            found["default"] = asked["default"]
        if "call" in asked:
            found["call"] = asked["call"]
        if self.offers:
            found["offered"] = [
                {"value": one.value, "by": one.by, "branch": one.branch, "step": one.step}
                for one in self.offers
            ]
        return found


class Wake(NamedTuple):
    """What would wake a run that waits.

    Attributes:
        reason: What it could go on with now: `inbox`, `time`, `child`; None if it must wait.
        at: When it can go on for the time alone; None for never.
        topics: The topics that a message would wake it on.
        runs: The directories of the runs whose inboxes bring that: its own, and those of the runs
            that it called and that have not ended.
    """

    reason: str | None
    at: datetime | None
    topics: list[str]
    runs: list[Path]


class Awaited(NamedTuple):
    """What one run waits for, itself and through those that it called."""

    waits: list[OpenWait]
    wake: Wake


def awaited(path: Path, opened: OpenRun) -> Awaited:
    """Returns what a run waits for.

    Args:
        path: Its directory.
        opened: The same, open.
    """
    own = openings(opened)
    waits = [OpenWait(path, entry, offers(opened, entry)) for entry in own.questions]
    reason = _reason(path, own)
    at, topics, runs = own.until, list(own.topics), [path]
    for child in (path.parent / name for name in own.children):
        if not (child / ".git").is_dir():
            # Its caller was killed before it was made, or somebody took it away: it is made anew.
            reason = reason or "child"
            continue
        try:
            with open_run(child) as below:
                status = below.point.status
                # What it waited for has come, or it has ended.
                if status != "waiting" and not _is_driven(child):
                    reason = reason or "child"
                if status not in ("running", "waiting"):
                    continue
                found = awaited(child, below)
        except KitaruError:
            continue  # moved away, or damaged: whoever resumes the run is told
        waits += found.waits
        reason = reason or found.wake.reason
        at = min(filter(None, (at, found.wake.at)), default=None)
        topics += found.wake.topics
        runs += found.wake.runs
    return Awaited(waits, Wake(reason, at, list(dict.fromkeys(topics)), runs))


def open_waits(path: Path) -> list[OpenWait]:
    """Returns the questions of a run, and of those that it called, that wait for a reply."""
    with open_run(path) as opened:
        return awaited(path, opened).waits


def _reason(path: Path, own: Openings) -> str | None:
    if own.until is not None and own.until <= utc_now():
        return "time"
    try:
        inbox = Inbox(path)
        # Also what a process had in its hands when it was killed.
        return "inbox" if inbox.letters() or inbox.claimed() else None
    except KitaruError:
        return None


def _is_driven(path: Path) -> bool:
    holder = read_holder(path / ".git")
    return holder is not None and holder.alive is not False


def find_open_wait(path: Path, waits: list[OpenWait], name: str | None) -> OpenWait:
    """Returns the question of a run that a name names.

    Args:
        path: The run's directory, for errors.
        waits: Its questions.
        name: A wait's name, or the number of the step that asked; None for the only one.

    Raises:
        NotFoundError: There is none; the message says what became of it, if that is known.
        AmbiguousError: More than one fits.
    """
    entries = [one.entry for one in waits]
    try:
        entry = find_wait(entries, name, run=path.name)
    except NotFoundError as error:
        _explain(path, name, error)
        raise
    except AmbiguousError as error:
        if len({one.path for one in waits}) > 1:
            asking = ", ".join(dict.fromkeys(one.path.name for one in waits))
            error.hint = f"name the run that asks as RUN: {asking}"
        raise
    return next(one for one in waits if one.entry is entry)


def _explain(path: Path, name: str | None, error: NotFoundError) -> None:
    """Says of a wait that is not open why it is not."""
    with open_run(path) as opened:
        if opened.point.status in ("completed", "cancelled", "failed"):
            error.message = f"the run {path.name} is {opened.point.status}: it waits for no reply"
            return
        lines = list(read_log(opened))
    for line in reversed(lines):
        is_outcome = line.kind == "reply" or (line.kind == "wait" and line.status == "ok")
        if is_outcome and name in (None, line.name):
            what = "answered" if line.kind == "reply" else "over"
            error.message = (
                f"the wait {printable(line.name, 80)} of run {path.name} was {what} at step"
                f" {line.step}"
            )
            return


def encode_reply(value: Any) -> bytes:
    """Returns a Python value as the JSON of its type.

    Raises:
        UsageError: It has none.
    """
    try:
        return codec_for(type(value)).encode(value)
    except NoJsonForm as error:
        raise UsageError(
            f"the value cannot be sent: {error}", hint="give what has a JSON form"
        ) from error


def read_reply(text: str, schema: Any, what: str) -> bytes:
    """Returns as JSON what a human wrote: JSON, or plain text where the schema takes a text.

    Args:
        text: What they wrote.
        schema: The JSON schema that it must fit.
        what: What it is for, for the error.

    Raises:
        UsageError: It does not fit.
    """
    from kitaru_fs.values.schema import read_text

    try:
        return read_text(text, schema)
    except ValueSchemaError as error:
        shown = msgspec.json.encode(schema).decode()
        raise UsageError(
            f"the value does not fit {what}: {error}", hint=f"its schema is {printable(shown, 500)}"
        ) from error
