"""Showing what is asked, and how to answer it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, cast

from kitaru_fs.cli import words
from kitaru_fs.cli.output import printable_lines, result, say

__all__ = ["how_to_answer", "show_wait", "shown_schema", "wait_lines"]

_LONGEST = 240
# What says nothing of the form of a value.
_PLAIN = frozenset({"type", "title", "description", "default", "$defs"})


def show_wait(wait: Mapping[str, Any], among: Sequence[Mapping[str, Any]]) -> None:
    """Writes one of the open waits to stdout, and how to answer it to stderr."""
    result(f"{wait['run']}  {wait['name']}")
    for line in wait_lines(wait):
        result(f"  {line}")
    say(f"  {how_to_answer(wait, among)}")


def wait_lines(wait: Mapping[str, Any]) -> list[str]:
    """Returns what is asked, in lines."""
    lines = printable_lines(wait["question"]).split("\n") if wait["question"] else []
    call = wait.get("call")
    if call:
        lines.append(f"call: {call['name']}({_arguments(call['arguments'])})")
        lines.append(f"on files: {call['files'] or 'none'}")
    lines.append(f"reply: {shown_schema(wait['schema'])}")
    if wait["until"]:
        left = words.until(words.moment(wait["until"]))
        default = f", then {_json(wait['default'])}" if "default" in wait else ""
        lines.append(f"until: {wait['until']} ({left}){default}")
    for offer in wait.get("offered", ()):
        lines.append(
            f"earlier reply: {_json(offer['value'])}, by {offer['by']} on {offer['branch']}"
            f" (step {offer['step']}); it counts only if it is given again"
        )
    return lines


def how_to_answer(wait: Mapping[str, Any], among: Sequence[Mapping[str, Any]]) -> str:
    """Returns the command that answers a wait.

    Args:
        wait: The wait.
        among: What else is open.
    """
    beside = [one for one in among if one["run"] == wait["run"] and one is not wait]
    same = any(one["name"] == wait["name"] for one in beside)
    which = str(wait["step"]) if same else shlex.quote(wait["name"])
    value = "yes|no" if shown_schema(wait["schema"]).startswith("yes or no") else "VALUE"
    named = f" --wait {which}" if beside else ""
    return f"kitaru answer {wait['run']} {value}{named}"


def shown_schema(schema: Any) -> str:
    """Returns a JSON schema as people read it, as far as that is short."""
    if not isinstance(schema, dict) or not schema:
        return "any JSON, or text"
    whole = cast("dict[str, Any]", schema)
    shown = _shown(whole, whole.get("$defs", {}))
    return shown if len(shown) <= _LONGEST else _json(whole)


def _shown(schema: dict[str, Any], defs: dict[str, Any]) -> str:
    """A form in words, where they say all of it; a form within itself is shown to its name."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        found, defs = defs.get(name), {key: one for key, one in defs.items() if key != name}
        return name if found is None else _shown(found, defs)
    kind, given = schema.get("type"), set(schema) - _PLAIN
    if kind == "boolean":
        return "yes or no"
    if kind == "null":
        return "null"
    if "enum" in schema:
        return "one of " + ", ".join(map(_json, schema["enum"]))
    if kind in ("integer", "number", "string") and given <= {"format"}:
        plain = {"integer": "a whole number", "number": "a number", "string": "a text"}[kind]
        return f"{plain} ({schema['format']})" if "format" in schema else plain
    if "anyOf" in schema and given == {"anyOf"}:
        forms = [_shown(one, defs) for one in schema["anyOf"]]
        return ", or ".join(one for one in forms if one != "null") + " or null" * ("null" in forms)
    if kind == "array" and given <= {"items"}:
        return f"a list, each {_shown(schema['items'], defs)}" if "items" in schema else "a list"
    if kind == "object" and "properties" in schema:
        needed = schema.get("required", ())
        parts = [
            f"{_json(name)}{'' if name in needed else '?'}: {_shown(one, defs)}"
            for name, one in schema["properties"].items()
        ]
        return f"{{{', '.join(parts)}}}"
    if kind == "object" and given <= {"additionalProperties"}:
        return "{...}"
    return _json(schema)


def _arguments(arguments: Any) -> str:
    if not isinstance(arguments, dict):
        return ""
    items = cast("dict[str, Any]", arguments).items()
    return ", ".join(f"{name}={_json(value)}" for name, value in items)


def _json(value: Any) -> str:
    text = printable_lines(json.dumps(value, ensure_ascii=False))
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
