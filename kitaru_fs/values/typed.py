"""The shape that an annotation asks for."""

from __future__ import annotations

import enum
import functools
import pathlib
import types
import typing
from collections import abc
from collections.abc import Callable
from typing import Any

import msgspec

from kitaru_fs.values.annotations import field_names, hints_of, is_unhashable, knows_pydantic, strip
from kitaru_fs.values.selfdescribed import (
    SCALARS,
    extends,
    is_a,
    is_agent_result,
    is_model,
    is_record,
    label_of,
)
from kitaru_fs.values.shapes import (
    Choice,
    Fields,
    Fixed,
    Items,
    Json,
    Keys,
    Member,
    Pydantic,
    Shape,
    Table,
    Text,
    Union,
)

__all__ = [
    "shape_of",
]


def _later(annotation: Any) -> Callable[[], Shape]:
    """A shape made at first use, so that a type may mention itself."""
    return functools.partial(shape_of, annotation)


def shape_of(annotation: Any) -> Shape:
    return _make_shape(annotation) if is_unhashable(annotation) else _known_shape(annotation)


@functools.lru_cache(maxsize=4096)
def _known_shape(annotation: Any) -> Shape:
    return _make_shape(annotation)


def _make_shape(annotation: Any) -> Shape:
    bare = strip(annotation)
    label = label_of(bare)
    origin: Any = typing.get_origin(bare) or bare
    arguments = typing.get_args(bare)
    if bare is None:
        return Json(types.NoneType)
    if origin is typing.Union or origin is types.UnionType:
        return _union(label, arguments)
    if origin is typing.Literal:
        return Choice(label, arguments)
    if not is_a(origin, type):
        return Shape(label)
    if origin in (types.NoneType, bool, int, float, str):
        return Json(origin)
    if extends(origin, enum.Enum):
        return Member(origin)
    if origin in SCALARS or extends(origin, pathlib.PurePath):
        return Text(origin)
    if typing.is_typeddict(origin):
        return _typed_dict(label, bare, origin)
    if is_model(origin):
        return Pydantic(label, bare, shape_of)
    if is_record(origin) and not is_agent_result(origin):
        hints = hints_of(bare)
        fields = {name: _later(hints.get(name, Any)) for name in field_names(origin)}
        return Fields(label, origin, fields)
    if knows_pydantic(origin):
        return Pydantic(label, bare, shape_of)
    return _collection(label, origin, arguments)


_KINDS: dict[Any, tuple[Any, ...]] = {
    abc.Sequence: (list, tuple),
    abc.MutableSequence: (list,),
    abc.Collection: (list, tuple, set, frozenset),
    abc.Iterable: (list, tuple, set, frozenset),
    abc.Set: (set, frozenset),
    abc.MutableSet: (set,),
}


def _collection(label: str, origin: Any, arguments: tuple[Any, ...]) -> Shape:
    item = arguments[0] if arguments else Any
    if origin in (list, set, frozenset):
        return Items(label, origin, _later(item))
    if origin is tuple:
        if arguments[1:] == (...,) or label == "tuple":
            return Items(label, tuple, _later(item))
        return Fixed(label, [_later(argument) for argument in arguments])
    if origin in (dict, abc.Mapping, abc.MutableMapping):
        return Table(label, _later(item), _later(arguments[1] if arguments else Any))
    if origin in _KINDS:
        kinds = {kind.__name__: kind for kind in _KINDS[origin]}
        # The first of them is what JSON has: a list as it is, any other under its name.
        first, *others = kinds
        forms = {
            name: _later(tuple[item, ...] if k is tuple else k[item]) for name, k in kinds.items()
        }
        return Union(label, {"": forms[first]} | {name: forms[name] for name in others})
    return Shape(label)


def _union(label: str, arguments: tuple[Any, ...]) -> Shape:
    members = [a for a in map(strip, arguments) if a is not msgspec.UnsetType]
    others = [a for a in members if a is not None and a is not types.NoneType]
    optional = len(others) < len(members)
    if len(others) == 1:
        # One type, or nothing: JSON null tells them apart, so there is nothing to tag.
        names = {"": _later(others[0])}
    else:
        names = {_unique(a, others): _later(a) for a in others}
    if optional:
        names = {"None": _later(None), **names}
    return Union(label, names)


def _unique(annotation: Any, others: list[Any]) -> str:
    label = label_of(annotation)
    if sum(label_of(other) == label for other in others) == 1:
        return label
    return f"{getattr(annotation, '__module__', '')}.{getattr(annotation, '__qualname__', label)}"


def _typed_dict(label: str, bare: Any, origin: Any) -> Shape:
    hints = hints_of(bare)
    required = {
        name
        for name, hint in hints.items()
        if typing.get_origin(hint) is typing.Required
        or (name in origin.__required_keys__ and typing.get_origin(hint) is not typing.NotRequired)
    }
    return Keys(label, {name: _later(hint) for name, hint in hints.items()}, required)
