"""Where two values first differ, in value or in type."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import functools
import pathlib
import types
import typing
import uuid
from typing import Any

import msgspec

from kitaru_fs.values.selfdescribed import at_key, extends, is_a, is_fixed, is_record, kind_of

__all__ = [
    "difference",
    "state_of",
]

_ATOMS = frozenset(
    {str, int, bool, types.NoneType, bytes, bytearray, uuid.UUID, dt.date, dt.timedelta}
    | {kind_of(pathlib.Path()), pathlib.PurePosixPath, pathlib.PureWindowsPath}
)

_QUICK = _ATOMS | {float}


def difference(a: Any, b: Any) -> str | None:
    """Where two values first differ in value or type, as `.hits[2]`; `None` if nowhere."""
    cls = kind_of(a)
    if cls is not kind_of(b):
        return ""
    if a is b:
        return None
    if cls in _ATOMS:
        return None if a == b else ""
    if cls is list or cls is tuple:
        return _difference_in_items(a, b)
    if cls is dict:
        return _difference_in_dicts(a, b)
    if cls is float:
        return None if a.hex() == b.hex() else ""
    if cls is set or cls is frozenset:
        return _difference_in_sets(a, b)
    if cls is decimal.Decimal:
        return None if a.as_tuple() == b.as_tuple() else ""
    if cls is dt.datetime or cls is dt.time:
        same = a.replace(tzinfo=None) == b.replace(tzinfo=None) and a.fold == b.fold
        return None if same and _same_zone(a.tzinfo, b.tzinfo) else ""
    return _difference_in_objects(a, b)


def _same_zone(a: dt.tzinfo | None, b: dt.tzinfo | None) -> bool:
    if a is None or b is None:
        return a is b
    if is_fixed(a) and is_fixed(b):
        return a.utcoffset(None) == b.utcoffset(None)
    return kind_of(a) is kind_of(b) and repr(a) == repr(b)


def _difference_in_items(a: Any, b: Any) -> str | None:
    kinds = list(map(type, a))
    if _QUICK.issuperset(kinds) and kinds == list(map(type, b)) and a == b:
        return None
    if len(a) != len(b):
        return ""
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        inner = difference(x, y)
        if inner is not None:
            return f"[{i}]{inner}"
    return None


def _difference_in_dicts(a: dict[Any, Any], b: dict[Any, Any]) -> str | None:
    if _difference_in_items(list(a), list(b)) is not None:
        return ""
    if _difference_in_items(list(a.values()), list(b.values())) is None:
        return None
    for (key, x), y in zip(a.items(), b.values(), strict=True):
        inner = difference(x, y)
        if inner is not None:
            return at_key("", key) + inner
    return None


def _difference_in_sets(a: Any, b: Any) -> str | None:
    if len(a) != len(b):
        return ""
    found = {x: x for x in b}
    left = [x for x in a if x not in found or difference(x, found[x]) is not None]
    rest = [x for x in b if not any(difference(x, y) is None for y in left)] if left else []
    # Items that hashing cannot find (a NaN, objects without __eq__) are matched one by one.
    for x in left:
        if not any(difference(x, y) is None for y in b):
            return "[...]"
    return "[...]" if len(rest) > len(a) - len(left) else None


def _difference_in_objects(a: Any, b: Any) -> str | None:
    if is_a(a, tuple):
        inner = _difference_in_items(a, b)
        if inner is not None:
            return inner
    layout = _layout(kind_of(a))
    ours, theirs = getattr(a, "__dict__", {}), getattr(b, "__dict__", {})
    if layout.slots or layout.hidden or ours.keys() != theirs.keys():
        ours, theirs = state_of(a), state_of(b)
        for name in ours.keys() ^ theirs.keys():
            return f".{name}"
    for name, x in ours.items():
        inner = difference(x, theirs[name])
        if inner is not None:
            return f".{name}{inner}"
    if ours or layout.record or is_a(a, tuple):
        return None
    return None if a == b else ""


class _Layout(typing.NamedTuple):
    """Where the objects of a class hold what they hold."""

    slots: tuple[str, ...]
    hidden: frozenset[str]  # cached properties: computed, so not compared
    defaults: dict[str, Any]  # a field's default that stays on the class is the object's as well
    record: bool


@functools.lru_cache(maxsize=1024)
def _layout(cls: Any) -> _Layout:
    if extends(cls, msgspec.Struct):
        return _Layout(cls.__struct_fields__, frozenset(), {}, True)
    slots: list[str] = []
    hidden: set[str] = set()
    for base in cls.__mro__:
        own = base.__dict__.get("__slots__", ())
        for name in (own,) if isinstance(own, str) else own:
            private = name.startswith("__") and not name.endswith("__")
            slots.append(f"_{base.__name__.lstrip('_')}{name}" if private else name)
        for name, item in base.__dict__.items():
            if isinstance(item, functools.cached_property):
                hidden.add(name)
    # pydantic's own equality leaves out which fields were set, and so does this.
    skipped = {"__dict__", "__weakref__", "__pydantic_fields_set__"}
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    defaults = {
        field.name: field.default for field in fields if field.default is not dataclasses.MISSING
    }
    return _Layout(
        tuple(name for name in slots if name not in skipped),
        frozenset(hidden),
        defaults,
        is_record(cls),
    )


def state_of(value: Any) -> dict[str, Any]:
    """What an object holds: its fields, slots and attributes."""
    layout = _layout(kind_of(value))
    state = {**layout.defaults, **getattr(value, "__dict__", {})}
    for name in layout.slots:
        if hasattr(value, name):
            state[name] = getattr(value, name)
    # `typing` leaves `__orig_class__` on what `Box[int](...)` makes.
    for name in ("__orig_class__", *layout.hidden):
        state.pop(name, None)
    return state
