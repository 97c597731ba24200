"""Outputs that a human gives in place of what a step returned, checked against the step's type."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from kitaru_fs.entry import Entry
from kitaru_fs.errors import OutputError, UsageError
from kitaru_fs.flows import flows_named
from kitaru_fs.quoting import printable
from kitaru_fs.steps import steps_named
from kitaru_fs.values import Codec, NoJsonForm, ValueSchemaError, codec_for

__all__ = ["AsText", "read_output"]

_SHOWN = 200


class AsText(NamedTuple):
    """A value as it stands on a command line: JSON, or plain text where the type is one of text."""

    text: str


def read_output(entry: Entry, value: object) -> bytes:
    """Returns a value as the output of a step, as JSON.

    The step is found by its name among the modules that are loaded; where it is not, as one that is
    made inside a function, any value will do.

    Args:
        entry: What the step returned.
        value: The value, as Python or as JSON has it; or `AsText`.

    Raises:
        UsageError: It does not fit the step's type.
    """
    codecs = _codecs(entry)
    problems: list[Exception] = []
    for codec in codecs:
        for form in _forms(codec, value):
            try:
                return codec.encode(codec.decode(form))
            except (ValueSchemaError, OutputError) as error:
                problems.append(error)
    shown = value.text if isinstance(value, AsText) else repr(value)
    reason = f": {problems[0]}" if problems else ""
    raise UsageError(
        f"{printable(shown, _SHOWN)} does not fit what {entry.name!r} returns{reason}",
        hint="give a value of the type that the step is annotated with, as JSON; nothing was made",
    )


def _codecs(entry: Entry) -> Sequence[Codec]:
    known = flows_named(entry.name) if entry.kind == "child" else steps_named(entry.name)
    return [one.codec for one in known] or [codec_for(Any)]


def _forms(codec: Codec, value: object) -> list[bytes]:
    """The JSON that a value may mean."""
    if isinstance(value, AsText):
        known = _is_json(value.text)
        return [value.text.encode() if known else msgspec.json.encode(value.text)]
    forms: list[bytes] = []
    # A value of the step's own type first; then what only looks like it, as an object for a model.
    for encode in (codec.encode, msgspec.json.encode):
        try:
            forms.append(encode(value))
        except (NoJsonForm, TypeError, ValueError, RecursionError):
            continue
    return forms


def _is_json(text: str) -> bool:
    try:
        json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
