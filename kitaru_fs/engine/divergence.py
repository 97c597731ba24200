"""Saying how a flow left its journal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any, cast

import msgspec

from kitaru_fs.engine.replay import Call
from kitaru_fs.entry import Entry
from kitaru_fs.errors import DivergenceError
from kitaru_fs.quoting import printable

__all__ = ["blocked_loop", "divergence", "shown_call", "unfit_output"]

_LONGEST = 200
_ONE_VALUE = 80
# How much of two long values is shown before the place where they differ.
_BEFORE = 20
# How many places that differ are shown.
_MOST = 3
_ABSENT = object()


def divergence(
    run: str, expected: Entry | None, came: tuple[Call, Entry | None] | None, what: str
) -> DivergenceError:
    """Returns the error for a flow that does not make the call that its journal has next.

    Args:
        run: The run's id.
        expected: What the journal has next; None if nothing.
        came: The call that was made instead, and its own entry if the journal has one later.
        what: What happened if no call was made.
    """
    if expected is None:
        return DivergenceError(f"the flow of run {run} left its journal: {what}", run=run)
    wanted = shown_call(expected.name, expected.input)
    if came is None:
        got = what
    else:
        call, own = came
        got = shown_call(call.name, call.input)
        if call.name == expected.name and own is None:
            changed = _difference(expected.input, call.input)
            wanted = f"{_name(expected.name)} with {', '.join(one for one, _ in changed)}"
            got = f"{_name(call.name)} with {', '.join(other for _, other in changed)}"
        elif own is not None:
            got += f", which the journal has at step {own.step}"
    return DivergenceError(
        f"the flow does not make the calls that its journal holds: at step {expected.step} it"
        f" expects {wanted}, came {got}",
        hint=_hint(run, expected.step),
        run=run,
        step=expected.step,
    )


def unfit_output(run: str, entry: Entry, problem: object) -> DivergenceError:
    """Returns the error for a recorded output that does not fit the step's return type any more."""
    return DivergenceError(
        f"the recorded output of step {entry.step} ({_name(entry.name)}) does not fit the step's"
        f" return type any more: {problem}",
        hint="put the return type back, or make it take both: " + _hint(run, entry.step),
        run=run,
        step=entry.step,
    )


def blocked_loop(run: str, call: Call) -> DivergenceError:
    """Returns the error for a plain step that keeps the rest of its flow from being replayed."""
    name = _name(call.name)
    return DivergenceError(
        f"the plain step {name} of run {run} is called in the event loop before the rest of the"
        f" flow is replayed, and keeps it from going on",
        hint=f"make {name} an `async def`, or call it with `await asyncio.to_thread({name}, ...)`;"
        " nothing was written",
        run=run,
    )


def _hint(run: str, step: int) -> str:
    return (
        'the flow\'s code or input changed: put it back, guard the change with `patched("id")`,'
        f" use the code that ran (kitaru resume {run} --recorded-code), or rewind to before it"
        f" (kitaru show {run}@{step - 1} names the commit, kitaru git {run} -- checkout COMMIT);"
        " nothing was written"
    )


def shown_call(name: str, arguments: Any) -> str:
    """Returns a call as people read it, long arguments cut."""
    return f"{_name(name)}({_arguments(arguments)})"


def _name(name: str) -> str:
    return printable(name, _ONE_VALUE)


def _decoded(recorded: Any) -> dict[str, Any]:
    if isinstance(recorded, msgspec.Raw):
        recorded = msgspec.json.decode(recorded)
    return cast("dict[str, Any]", recorded) if isinstance(recorded, dict) else {}


def _arguments(recorded: Any) -> str:
    items = _decoded(recorded).items()
    text = ", ".join(f"{name}={_value(value)}" for name, value in items)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _difference(expected: Any, came: Any) -> list[tuple[str, str]]:
    """The places in the arguments that differ, as they are in both."""
    changed = list(_apart_at("", _decoded(expected), _decoded(came)))
    if len(changed) > _MOST:
        more = f"{len(changed) - _MOST} more"
        changed[_MOST:] = [(more, more)]
    # Equal arguments: it is another one of as many equal calls.
    return changed or [("these arguments", "the same once more")]


def _apart_at(place: str, one: Any, other: Any) -> Iterator[tuple[str, str]]:
    if one == other and type(one) is type(other):
        return
    if one is _ABSENT or other is _ABSENT:
        first, second = (
            f"no {place}" if value is _ABSENT else f"{place}={_value(value)}"
            for value in (one, other)
        )
        yield first, second
    elif isinstance(one, dict) and isinstance(other, dict):
        ours, theirs = cast("dict[str, Any]", one), cast("dict[str, Any]", other)
        for name in {**ours, **theirs}:
            inner = f"{place}.{name}" if place else name
            yield from _apart_at(inner, ours.get(name, _ABSENT), theirs.get(name, _ABSENT))
    elif isinstance(one, list) and isinstance(other, list):
        items = zip_longest(
            cast("list[Any]", one), cast("list[Any]", other), fillvalue=cast("Any", _ABSENT)
        )
        for number, (mine, yours) in enumerate(items):
            yield from _apart_at(f"{place}[{number}]", mine, yours)
    else:
        left, right = _apart(_text(one), _text(other))
        yield f"{place}={left}", f"{place}={right}"


def _apart(one: str, other: str) -> tuple[str, str]:
    """Two texts, both cut to the place where they begin to differ if they are long."""
    if max(len(one), len(other)) <= _ONE_VALUE:
        return one, other
    same = 0
    while same < min(len(one), len(other)) and one[same] == other[same]:
        same += 1
    start = max(0, same - _BEFORE)
    return _cut(one, start), _cut(other, start)


def _cut(text: str, start: int) -> str:
    shown = text[start : start + _ONE_VALUE]
    before = "…" if start else ""
    return before + shown + ("…" if start + _ONE_VALUE < len(text) else "")


def _value(value: Any) -> str:
    return _cut(_text(value), 0)


def _text(value: Any) -> str:
    return printable(json.dumps(value, ensure_ascii=False))
