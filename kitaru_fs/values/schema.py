"""What a reply must look like: an annotation as a JSON schema, and JSON checked against one.

The schema is what others than the flow's own process have: a command that answers, a program that
shows a form. The flow itself reads a reply by its annotation (`Codec.decode`), which may ask more.
"""

from __future__ import annotations

import datetime
import decimal
import pathlib
import uuid
from importlib import import_module
from typing import Any

import msgspec

from kitaru_fs.values.selfdescribed import ValueSchemaError, extends

__all__ = ["check_json", "json_schema", "read_text"]

_FORMATS: dict[str, type] = {
    "date-time": datetime.datetime,
    "date": datetime.date,
    "time": datetime.time,
    "duration": datetime.timedelta,
    "uuid": uuid.UUID,
    "decimal": decimal.Decimal,
}
_YES = {"yes": True, "y": True, "no": False, "n": False}


def json_schema(annotation: Any) -> dict[str, Any]:
    """Returns the JSON schema of an annotation; `{}`, which allows all, where there is none."""
    try:
        return msgspec.json.schema(annotation, schema_hook=_hook)
    except Exception:
        # It mixes in what msgspec does not know; pydantic may.
        return _by_pydantic(annotation)


def _hook(cls: Any) -> dict[str, Any]:
    if extends(cls, pathlib.PurePath):
        return {"type": "string", "format": "path"}
    raise NotImplementedError


def _by_pydantic(annotation: Any) -> dict[str, Any]:
    try:
        from pydantic import TypeAdapter

        return TypeAdapter(annotation).json_schema()
    except Exception:
        # Nor does pydantic: whatever comes is read by the annotation alone.
        return {}


def check_json(raw: bytes, schema: Any) -> None:
    """Checks JSON against a schema.

    Raises:
        ValueSchemaError: It does not fit, or is no JSON; the text says where and what is wrong.
    """
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueSchemaError(f"it is no valid JSON: {error}") from None
    if not isinstance(schema, dict) or not schema:
        return
    jsonschema: Any = import_module("jsonschema")
    formats = jsonschema.FormatChecker(formats=())
    for name, kind in _FORMATS.items():
        formats.checks(name, raises=msgspec.ValidationError)(_convertible(kind))
    validator = jsonschema.Draft202012Validator(schema, format_checker=formats)
    error = jsonschema.exceptions.best_match(validator.iter_errors(value))
    if error is not None:
        where = "" if not error.absolute_path else f" at {error.json_path}"
        raise ValueSchemaError(f"{error.message}{where}")


def _convertible(kind: type) -> Any:
    def check(value: object) -> bool:
        # A format says something of texts only.
        return not isinstance(value, str) or msgspec.convert(value, kind) is not None

    return check


def read_text(text: str, schema: Any) -> bytes:
    """Returns as JSON what a human wrote: JSON, or plain text where the schema takes a string.

    Args:
        text: What was written; for a boolean also yes or no.
        schema: What it must fit.

    Raises:
        ValueSchemaError: It does not fit either way.
    """
    raw = text.strip().encode("utf-8", "surrogateescape")
    plain = msgspec.json.encode(text.encode("utf-8", "replace").decode())
    first: ValueSchemaError | None = None
    for form in (raw, plain, _yes_or_no(text)):
        try:
            check_json(form, schema)
            return form
        except ValueSchemaError as error:
            # Of what is no JSON, say what is wrong with it as a text.
            if first is None and (form is not raw or _is_json(raw)):
                first = error
    assert first is not None
    raise first


def _is_json(raw: bytes) -> bool:
    try:
        msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _yes_or_no(text: str) -> bytes:
    said = _YES.get(text.strip().lower())
    # No JSON at all where it is neither.
    return b"" if said is None else msgspec.json.encode(said)
