"""Keeping secrets out of entries and requests as they are committed, and filling them in again.

What a flow gets back on replay (a step's output or error, what the flow observed, its arguments)
is filled in again, at the places that `secrets` lists. All else is masked for good.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import msgspec

from kitaru_fs.entry import Entry, GivenOutput
from kitaru_fs.redaction.redactor import Redactor
from kitaru_fs.rundir.repository import Request

__all__ = [
    "error_of",
    "fill_beside",
    "fill_for_replay",
    "input_of",
    "mask_entry",
    "mask_request",
    "observed_of",
    "output_of",
]

# Of what waits for something from outside, the question too: its default may come of it.
_QUESTION = "input"
_FILLED: dict[str, Any] = {
    _QUESTION: Any,
    "error": dict[str, Any],
    "observed": dict[str, list[Any]],
    "given": list[GivenOutput],
}
# These are filled in again, or cannot hold a text from outside.
_NOT_MASKED = frozenset(
    {
        "error",
        "observed",
        "given",
        "output",
        "output_file",
        "key",
        "beside",
        "secrets",
        "step",
        "kind",
        "status",
    }
    | {"attempt", "started", "duration", "usage", "retry", "cause", "dropped", "anew"}
    | {"wait", "message", "delivery"}
)
_MASKED = tuple(name for name in Entry.__struct_fields__ if name not in _NOT_MASKED)


class Masked(NamedTuple):
    """What stands beside an entry, without its secrets: its output, and further files."""

    output: bytes | None
    beside: Mapping[str, bytes] | None


def mask_entry(
    redactor: Redactor,
    entry: Entry,
    output: bytes | None,
    beside: Mapping[str, bytes] | None = None,
    masked: Collection[str] = (),
) -> Masked:
    """Takes the secrets out of an entry and of what stands beside it.

    Args:
        redactor: The run's.
        entry: The entry; it is changed.
        output: Its output, as JSON.
        beside: The files beside it.
        masked: Fields that come from another entry, masked already.

    Raises:
        OSError: The disk refused the vault.
    """
    places: list[str] = []
    if output is not None:
        output, places = redactor.redact_json(output, "output")
    waits = entry.status == "waiting"
    for name, kind in _FILLED.items():
        value: Any = getattr(entry, name)
        if value is not None and (name != _QUESTION or waits):
            hidden, found = redactor.redact_json(msgspec.json.encode(value), name)
            if found:
                setattr(entry, name, msgspec.json.decode(hidden, type=kind))
                places += found
    if beside:
        beside, found = _mask_beside(redactor, beside)
        places += found
    done = {*masked, _QUESTION} if waits else masked
    shown = {n: value for n in _MASKED if (value := getattr(entry, n)) and n not in done}
    raw = msgspec.json.encode(shown)
    hidden = redactor.mask_json(raw)
    if hidden is not raw:
        for name, value in msgspec.json.decode(hidden).items():
            setattr(entry, name, value)
    # Whoever made it has masked it; nothing is masked twice.
    entry.key = redactor.mask_text(entry.key, again=True)
    if places:
        entry.secrets = places
        redactor.save()
    return Masked(output, beside)


def _mask_beside(
    redactor: Redactor, beside: Mapping[str, bytes]
) -> tuple[dict[str, bytes], list[str]]:
    hidden = {end: redactor.redact_bytes(data) for end, data in beside.items()}
    return hidden, [f"beside/{end}" for end in beside if hidden[end] is not beside[end]]


def output_of(redactor: Redactor, entry: Entry, output: bytes) -> bytes:
    """Returns an entry's output with its secrets filled in.

    Raises:
        SecretMissingError: Neither the environment nor the vault has one of them.
    """
    if not entry.secrets:
        return output
    return redactor.fill_json(output, entry.secrets, "output", _where("output", entry))


def error_of(redactor: Redactor, entry: Entry) -> dict[str, Any]:
    """Returns an entry's error with its secrets filled in. Raises as `output_of` does."""
    return _filled(redactor, entry, "error") or {}


def observed_of(redactor: Redactor, entry: Entry) -> dict[str, list[Any]] | None:
    """Returns what a flow observed before an entry. Raises as `output_of` does."""
    return _filled(redactor, entry, "observed")


def fill_for_replay(redactor: Redactor, entry: Entry) -> None:
    """Fills in what a flow observed or asked, and what was set by hand for later calls.

    Raises:
        SecretMissingError: Neither the environment nor the vault has one of their secrets.
    """
    entry.observed = observed_of(redactor, entry)
    entry.given = _filled(redactor, entry, "given")
    if entry.status == "waiting":
        entry.input = _filled(redactor, entry, _QUESTION)


def fill_beside(redactor: Redactor, entry: Entry, end: str, data: bytes) -> bytes:
    """Returns a file that stands beside an entry. Raises as `output_of` does."""
    if f"beside/{end}" not in (entry.secrets or ()):
        return data
    return redactor.fill_bytes(data, _where("content", entry))


def _filled(redactor: Redactor, entry: Entry, name: str) -> Any:
    value: Any = getattr(entry, name)
    if value is None or not entry.secrets:
        return value
    raw = msgspec.json.encode(value)
    filled = redactor.fill_json(raw, entry.secrets, name, _where(name, entry))
    return value if filled is raw else msgspec.json.decode(filled, type=_FILLED[name])


def _where(what: str, entry: Entry) -> str:
    return f"the {what} of step {entry.step} ({entry.name})"


def mask_request(redactor: Redactor, request: Request) -> Request:
    """Returns a request without its secrets. Its key is masked already, where it is looked for.

    Raises:
        OSError: The disk refused the vault.
    """
    document = msgspec.json.encode(request)
    if redactor.mask_json(document) is document:
        return request
    arguments, places = redactor.redact_json(msgspec.json.encode(request.input), "input")
    shown = msgspec.structs.replace(request, input={}, key=None)
    rest = redactor.mask_json(msgspec.json.encode(shown))
    redactor.save()
    return msgspec.structs.replace(
        msgspec.json.decode(rest, type=Request),
        input=msgspec.json.decode(arguments),
        key=request.key,
        secrets=places or None,
    )


def input_of(redactor: Redactor, request: Request) -> dict[str, Any]:
    """Returns a run's arguments with their secrets filled in. Raises as `output_of` does."""
    if not request.secrets:
        return request.input
    raw = msgspec.json.encode(request.input)
    where = f"the input of run {request.run}"
    return msgspec.json.decode(redactor.fill_json(raw, request.secrets, "input", where))
