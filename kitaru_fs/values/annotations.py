"""What an annotation stands for: aliases, new types, generics and the fields of classes."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Mapping
from typing import Any

import msgspec

from kitaru_fs.values.selfdescribed import extends, is_a, is_model, is_record, kind_of

__all__ = [
    "field_names",
    "hints_of",
    "is_unhashable",
    "knows_pydantic",
    "mentions_pydantic",
    "strip",
]

_WRAPPERS = (
    typing.Annotated,
    typing.Required,
    typing.NotRequired,
    typing.Final,
    typing.ClassVar,
)


def _is_alias(annotation: object) -> bool:
    return kind_of(annotation).__name__ == "TypeAliasType"


def strip(annotation: Any) -> Any:
    """The type that wrappers, new types, aliases and type variables stand for."""
    while True:
        origin = typing.get_origin(annotation)
        if origin in _WRAPPERS or str(origin).endswith("ReadOnly"):
            annotation = typing.get_args(annotation)[0]
        elif _is_alias(origin):
            bound = dict(zip(origin.__type_params__, typing.get_args(annotation), strict=False))
            annotation = _substitute(origin.__value__, bound)
        elif _is_alias(annotation):
            annotation = annotation.__value__
        elif hasattr(annotation, "__supertype__"):
            annotation = annotation.__supertype__
        elif isinstance(annotation, typing.TypeVar):
            constraints = annotation.__constraints__
            annotation = typing.Union[constraints] if constraints else annotation.__bound__ or Any  # noqa: UP007
        else:
            return annotation


def _substitute(annotation: Any, bound: Mapping[Any, Any]) -> Any:
    if isinstance(annotation, typing.TypeVar):
        return bound.get(annotation, annotation)
    parameters: tuple[Any, ...] = ()
    if not is_a(annotation, type) or typing.get_origin(annotation) is not None:
        parameters = getattr(annotation, "__parameters__", ())
    if not bound or not parameters:
        return annotation
    return annotation[tuple(bound.get(p, p) for p in parameters)]


def _bindings(annotation: Any, found: dict[type, dict[Any, Any]]) -> None:
    """What the type variables of a class and of its generic bases stand for."""
    origin = typing.get_origin(annotation) or annotation
    if not isinstance(origin, type):
        return
    parameters = getattr(origin, "__parameters__", ())
    bound = dict(zip(parameters, typing.get_args(annotation), strict=False))
    found[origin] = bound
    for base in origin.__dict__.get("__orig_bases__", origin.__bases__):
        if typing.get_origin(base) not in (typing.Generic, typing.Protocol):
            _bindings(_substitute(base, bound), found)


def hints_of(annotation: Any) -> dict[str, Any]:
    """A class's annotations with its generic arguments filled in; `Any` where unresolvable."""
    cls = typing.get_origin(annotation) or annotation
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except (NameError, TypeError, AttributeError, SyntaxError):
        raw = {name: hint for base in cls.__mro__[::-1] for name, hint in _own(base).items()}
        hints = {name: Any if isinstance(hint, str) else hint for name, hint in raw.items()}
    found: dict[type, dict[Any, Any]] = {}
    _bindings(annotation, found)
    merged = {key: value for bound in found.values() for key, value in bound.items()}
    owners = {name: base for base in cls.__mro__[::-1] for name in _own(base)}
    return {
        name: _substitute(hint, found.get(owners.get(name, cls)) or merged)
        for name, hint in hints.items()
    }


def _own(cls: type) -> dict[str, Any]:
    try:
        return inspect.get_annotations(cls)
    except NameError:
        return {}


def field_names(cls: Any) -> list[str]:
    if extends(cls, msgspec.Struct):
        return list(cls.__struct_fields__)
    if extends(cls, tuple):
        return list(cls._fields)
    if is_model(cls):
        return list(cls.model_fields)
    if hasattr(cls, "__attrs_attrs__"):
        return [field.name for field in cls.__attrs_attrs__]
    return [field.name for field in dataclasses.fields(cls)]


def knows_pydantic(cls: object) -> bool:
    return hasattr(cls, "__get_pydantic_core_schema__") or hasattr(cls, "__pydantic_fields__")


def mentions_pydantic(annotation: Any, seen: set[Any]) -> bool:
    """Whether only pydantic reads all of an annotation: models, its types, its metadata."""
    known = id(annotation) if is_unhashable(annotation) else annotation
    if known in seen:
        return False
    seen.add(known)
    metadata = getattr(annotation, "__metadata__", ())
    if any(
        kind_of(m).__module__.split(".")[0] == "pydantic" or knows_pydantic(m) for m in metadata
    ):
        return True
    bare = strip(annotation)
    cls = typing.get_origin(bare) or bare
    if isinstance(cls, type):
        if knows_pydantic(cls):
            return True
        if (is_record(cls) or typing.is_typeddict(cls)) and any(
            mentions_pydantic(hint, seen) for hint in hints_of(bare).values()
        ):
            return True
    if bare is not annotation and mentions_pydantic(bare, seen):
        return True
    if cls is typing.Literal:
        return False
    return any(mentions_pydantic(argument, seen) for argument in typing.get_args(bare))


def is_unhashable(annotation: Any) -> bool:
    try:
        hash(annotation)
    except TypeError:
        return True
    return False
