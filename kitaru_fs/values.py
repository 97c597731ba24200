"""Typed Python values as JSON, and back, equal and of the same types.

Nothing is ever pickled. A value is written the short way where that is exact: by msgspec, or by
pydantic where the annotation mentions a pydantic type. What neither can carry (a NaN, a tuple in
an untyped place, a union of two dataclasses) is written field by field, with one-key objects as
tags: `{"$kitaru:tuple": [1, 2]}`. A text that has the tag's prefix in it is always read that way,
so a reader never has to guess. What was written is read back and compared before it is accepted.

Tags: `tuple set frozenset bytes bytearray date datetime time timedelta Decimal UUID Path
PurePosixPath PureWindowsPath` (an untyped value's type), `int float bool str` (a number or text
that its place does not allow for, or JSON cannot hold), `dict` (pairs: keys that are no strings,
or that look like a tag), `member` (an enum's member by name), `model` (a pydantic model's state),
`object` (one that holds more than its fields), `value` (a whole value written field by field),
and, in a union, the name of the member.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import datetime as dt
import decimal
import enum
import functools
import hashlib
import inspect
import math
import pathlib
import sys
import types
import typing
import uuid
from collections import abc
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

import msgspec

from kitaru_fs.errors import KitaruError, OutputError

__all__ = [
    "Codec",
    "NoJsonForm",
    "ValueSchemaError",
    "codec_for",
    "digest",
    "encode_arguments",
]

_TAG = "$kitaru:"
_MARK = b'"$kitaru:'
_LARGE = 64 * 1024
_MAX_DIGITS = 4000  # the interpreter refuses decimal text of more than 4300 digits

# Without the narrowing of a static checker: what is looked at here may be of any class.
_kind: Callable[[object], Any] = type
_extends: Callable[[Any, Any], bool] = issubclass
_is_a: Callable[[object, Any], bool] = isinstance
_encode = msgspec.json.Encoder().encode
_canonical = msgspec.json.Encoder(order="sorted").encode
_decode: Callable[[bytes], Any] = msgspec.json.Decoder().decode


class NoJsonForm(OutputError):
    """A value that cannot be recorded so that it comes back equal and of the same types.

    Args:
        path: Where in the value, as `$.hits[2].client`.
        type_name: The type of what is there.
        advice: What to return instead.
        problem: What is wrong with it, as in "`$.hits` PROBLEM: ADVICE".
    """

    def __init__(self, path: str, type_name: str, advice: str, problem: str = "") -> None:
        problem = problem or f"is of type `{type_name}`, which has no JSON form"
        super().__init__(f"`{path}` {problem}: {advice}")
        self.path = path
        self.type_name = type_name
        self.advice = advice


class ValueSchemaError(KitaruError):
    """A JSON value that does not fit the annotation it is read with."""


# --- naming things -----------------------------------------------------------------------------


def _type_name(cls: type) -> str:
    module = cls.__module__
    return cls.__qualname__ if module == "builtins" else f"{module}.{cls.__qualname__}"


def _label(annotation: Any) -> str:
    """A short, stable name of an annotation, for messages and for a union's tags."""
    if annotation is None or annotation is types.NoneType:
        return "None"
    origin = typing.get_origin(annotation)
    if origin is None:
        return getattr(annotation, "__name__", None) or str(annotation)
    arguments = typing.get_args(annotation)
    if origin is typing.Annotated:
        return _label(arguments[0])
    if origin is typing.Literal:
        return f"Literal[{', '.join(map(repr, arguments))}]"
    if origin is typing.Union or origin is types.UnionType:
        return " | ".join(map(_label, arguments))
    names = ", ".join("..." if a is ... else _label(a) for a in arguments)
    return f"{_label(origin)}[{names}]"


_ADVICE: tuple[tuple[Any, str], ...] = (
    (abc.Awaitable, "await it and return its result"),
    ((abc.Iterator, abc.AsyncIterator), "return what it yields, as a list"),
    (types.FunctionType, "return plain data and build it again where it is needed"),
    (BaseException, "raise it, or return its message"),
    (types.ModuleType, "return plain data"),
)


def _refuse(value: object, at: str, declared: str = "") -> NoJsonForm:
    cls = _kind(value)
    name = _type_name(cls)
    if hasattr(value, "fileno") or hasattr(value, "readline"):
        return NoJsonForm(at, name, "return its path, or what was read from it")
    if not (_is_record(cls) or _extends(cls, enum.Enum)):
        for kinds, advice in _ADVICE:
            if isinstance(value, kinds):
                return NoJsonForm(at, name, advice)
    if declared:
        problem = f"is of type `{name}` where the annotation says `{declared}`"
        advice = "return what is annotated, or annotate the step with what it returns"
        return NoJsonForm(at, name, advice, problem)
    if _is_record(cls) or _extends(cls, enum.Enum):
        advice = f"annotate the step's return type with `{cls.__name__}`"
        problem = f"is of type `{name}`, which cannot be read back without an annotation"
        return NoJsonForm(at, name, advice, problem)
    advice = "return JSON types, a dataclass or a model that holds its data"
    return NoJsonForm(at, name, advice)


def _misfit(data: object, at: str, declared: str) -> ValueSchemaError:
    return ValueSchemaError(f"`{at}` is a JSON `{_kind(data).__name__}`, expected `{declared}`")


# --- scalars that JSON has no type for ---------------------------------------------------------


def _dump_text(value: str) -> Any:
    """A string; one with lone surrogates, which UTF-8 cannot hold, as escaped ASCII."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return {f"{_TAG}str": value.encode("unicode_escape").decode("ascii")}
    return value


def _load_text(data: Any) -> str:
    if _kind(data) is dict and f"{_TAG}str" in data:
        return str(data[f"{_TAG}str"]).encode("ascii").decode("unicode_escape")
    if _kind(data) is not str:
        raise TypeError(f"expected `str`, got `{_kind(data).__name__}`")
    return data


def _dump_int(value: int) -> Any:
    if value.bit_length() * 0.30103 < _MAX_DIGITS:
        return value
    return {f"{_TAG}int": hex(value)}


def _dump_float(value: float) -> Any:
    return value if math.isfinite(value) else {f"{_TAG}float": repr(value)}


def _load_int(data: Any) -> int:
    return int(data, 16) if isinstance(data, str) else int(data)


def _is_fixed(zone: dt.tzinfo) -> bool:
    """Whether a zone is a plain offset; pydantic reads one into a class of its own."""
    cls = _kind(zone)
    if cls is dt.timezone:
        return zone.tzname(None) == dt.timezone(cast(Any, zone.utcoffset(None))).tzname(None)
    return cls.__name__ == "TzInfo" and cls.__module__.startswith("pydantic_core")


def _dump_moment(value: Any) -> Any:
    zone: dt.tzinfo | None = value.tzinfo
    if not value.fold and (zone is None or _is_fixed(zone)):
        return value.isoformat()
    naive = value.replace(tzinfo=None, fold=0).isoformat()
    if zone is None:
        return [naive, value.fold]
    if _is_fixed(zone) or _kind(zone) is dt.timezone:
        offset = cast(dt.timedelta, zone.utcoffset(None))
        name = None if _is_fixed(zone) else zone.tzname(None)
        return [naive, value.fold, offset // dt.timedelta(microseconds=1), name]
    key = getattr(zone, "key", None)
    if _kind(zone).__module__.split(".")[0] != "zoneinfo" or key is None:
        raise TypeError(f"cannot be kept, its time zone `{_type_name(_kind(zone))}`")
    return [naive, value.fold, key]


def _load_moment(cls: type[Any], data: Any) -> Any:
    if isinstance(data, str):
        return cls.fromisoformat(data)
    naive, fold, *rest = data
    zone: dt.tzinfo | None = None
    if len(rest) == 1:
        import zoneinfo

        zone = zoneinfo.ZoneInfo(rest[0])
    elif rest:
        offset = dt.timedelta(microseconds=rest[0])
        zone = dt.timezone(offset) if rest[1] is None else dt.timezone(offset, rest[1])
    return cls.fromisoformat(naive).replace(tzinfo=zone, fold=fold)


def _dump_bytes(value: bytes | bytearray) -> str:
    return base64.b64encode(value).decode("ascii")


def _load_bytes(data: Any) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise ValueError("expected base64") from error


def _load_bytearray(data: Any) -> bytearray:
    return bytearray(_load_bytes(data))


class _Scalar(typing.NamedTuple):
    tag: str
    dump: Callable[[Any], Any]
    load: Callable[[Any], Any]


def _moment(cls: type[Any]) -> _Scalar:
    return _Scalar(cls.__name__, _dump_moment, functools.partial(_load_moment, cls))


def _duration(data: Any) -> dt.timedelta:
    return msgspec.convert(data, dt.timedelta)


def _path(cls: type[pathlib.PurePath], tag: str) -> _Scalar:
    def dump(value: object) -> Any:
        return _dump_text(str(value))

    def load(data: Any) -> pathlib.PurePath:
        return cls(_load_text(data))

    return _Scalar(tag, dump, load)


_SCALARS: dict[type, _Scalar] = {
    bytes: _Scalar("bytes", _dump_bytes, _load_bytes),
    bytearray: _Scalar("bytearray", _dump_bytes, _load_bytearray),
    dt.datetime: _moment(dt.datetime),
    dt.time: _moment(dt.time),
    dt.date: _Scalar("date", dt.date.isoformat, dt.date.fromisoformat),
    dt.timedelta: _Scalar("timedelta", msgspec.to_builtins, _duration),
    decimal.Decimal: _Scalar("Decimal", str, decimal.Decimal),
    uuid.UUID: _Scalar("UUID", str, uuid.UUID),
    _kind(pathlib.Path()): _path(pathlib.Path, "Path"),
    pathlib.PurePosixPath: _path(pathlib.PurePosixPath, "PurePosixPath"),
    pathlib.PureWindowsPath: _path(pathlib.PureWindowsPath, "PureWindowsPath"),
}


def _dump_scalar(value: object, at: str) -> Any:
    try:
        return _SCALARS[_kind(value)].dump(value)
    except TypeError as error:
        advice = "use `datetime.timezone` or `zoneinfo.ZoneInfo`"
        raise NoJsonForm(at, _type_name(_kind(value)), advice, f"has a part that {error}") from None


# --- untyped values ----------------------------------------------------------------------------


def _pairs(keys: list[Any], values: list[Any]) -> dict[str, Any]:
    """A JSON object where every key is a plain string, else tagged pairs."""
    if all(_kind(key) is str and not key.startswith(_TAG) for key in keys):
        return dict(zip(keys, values, strict=True))
    return {f"{_TAG}dict": [list(pair) for pair in zip(keys, values, strict=True)]}


def _unpair(data: Any, at: str) -> Iterable[tuple[Any, Any]]:
    if _kind(data) is not dict:
        raise _misfit(data, at, "dict")
    table: dict[str, Any] = data
    pairs = table.get(f"{_TAG}dict")
    if pairs is not None and len(table) == 1:
        return [(key, value) for key, value in pairs]
    return table.items()


def _dump_any(value: Any, at: str) -> Any:
    cls = _kind(value)
    if value is None or cls is bool:
        return value
    if cls is str:
        return _dump_text(value)
    if cls is int:
        return _dump_int(value)
    if cls is float:
        return _dump_float(value)
    if cls is list:
        return [_dump_any(item, f"{at}[{i}]") for i, item in enumerate(value)]
    if cls is dict:
        keys = [_dump_any(key, f"{at}.keys()") for key in value]
        return _pairs(keys, [_dump_any(item, _at_key(at, key)) for key, item in value.items()])
    if cls is tuple:
        return {f"{_TAG}tuple": [_dump_any(item, f"{at}[{i}]") for i, item in enumerate(value)]}
    if cls is set or cls is frozenset:
        return {f"{_TAG}{cls.__name__}": _ordered(_dump_any(item, f"{at}[...]") for item in value)}
    if cls in _SCALARS:
        return {f"{_TAG}{_SCALARS[cls].tag}": _dump_scalar(value, at)}
    raise _refuse(value, at)


def _ordered(items: Iterable[Any]) -> list[Any]:
    """A set's items in an order that does not depend on the process."""
    return sorted(items, key=_canonical)


def _at_key(at: str, key: object) -> str:
    return f"{at}.{key}" if isinstance(key, str) and key.isidentifier() else f"{at}[{key!r}]"


def _load_any(data: Any, at: str) -> Any:
    if _kind(data) is list:
        items = data
        return [_load_any(item, f"{at}[{i}]") for i, item in enumerate(items)]
    if _kind(data) is not dict:
        return data
    table: dict[str, Any] = data
    if len(table) == 1:
        ((key, inner),) = table.items()
        if key.startswith(_TAG):
            return _load_tag(key[len(_TAG) :], inner, at)
    return {key: _load_any(item, _at_key(at, key)) for key, item in table.items()}


def _load_tag(tag: str, inner: Any, at: str) -> Any:
    load = _TAGS.get(tag)
    if load is None:
        raise ValueSchemaError(f"`{at}` has the unknown tag `{_TAG}{tag}`")
    try:
        return load(inner, at)
    except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise ValueSchemaError(f"`{at}` is no `{tag}`: {error}") from error


def _load_pairs(inner: Any, at: str) -> dict[Any, Any]:
    return {_load_any(key, at): _load_any(value, _at_key(at, key)) for key, value in inner}


def _tag_loader(load: Callable[[Any], Any]) -> Callable[[Any, str], Any]:
    return lambda inner, _at: load(inner)


_TAGS: dict[str, Callable[[Any, str], Any]] = {
    "tuple": lambda inner, at: tuple(_load_any(inner, at)),
    "set": lambda inner, at: set(_load_any(inner, at)),
    "frozenset": lambda inner, at: frozenset(_load_any(inner, at)),
    "dict": _load_pairs,
    "str": lambda inner, _at: _load_text({f"{_TAG}str": inner}),
    "int": lambda inner, _at: _load_int(inner),
    "float": lambda inner, _at: float(inner),
    "bool": lambda inner, _at: bool(inner),
    **{scalar.tag: _tag_loader(scalar.load) for scalar in _SCALARS.values()},
}


# --- reading annotations -----------------------------------------------------------------------

_WRAPPERS = (
    typing.Annotated,
    typing.Required,
    typing.NotRequired,
    typing.Final,
    typing.ClassVar,
)


def _is_alias(annotation: object) -> bool:
    return _kind(annotation).__name__ == "TypeAliasType"


def _strip(annotation: Any) -> Any:
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
    if not _is_a(annotation, type) or typing.get_origin(annotation) is not None:
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


def _hints(annotation: Any) -> dict[str, Any]:
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


def _is_model(cls: type) -> bool:
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and _extends(cls, pydantic.BaseModel)


def _is_record(cls: Any) -> bool:
    """Whether a class has declared fields: a dataclass, struct, model, attrs or named tuple."""
    return (
        dataclasses.is_dataclass(cls)
        or _extends(cls, msgspec.Struct)
        or hasattr(cls, "__attrs_attrs__")
        or (_extends(cls, tuple) and hasattr(cls, "_fields"))
        or _is_model(cls)
    )


def _field_names(cls: Any) -> list[str]:
    if _extends(cls, msgspec.Struct):
        return list(cls.__struct_fields__)
    if _extends(cls, tuple):
        return list(cls._fields)
    if _is_model(cls):
        return list(cls.model_fields)
    if hasattr(cls, "__attrs_attrs__"):
        return [field.name for field in cls.__attrs_attrs__]
    return [field.name for field in dataclasses.fields(cls)]


def _knows_pydantic(cls: object) -> bool:
    return hasattr(cls, "__get_pydantic_core_schema__") or hasattr(cls, "__pydantic_fields__")


def _mentions_pydantic(annotation: Any, seen: set[Any]) -> bool:
    """Whether only pydantic reads all of an annotation: models, its types, its metadata."""
    known = id(annotation) if _is_unhashable(annotation) else annotation
    if known in seen:
        return False
    seen.add(known)
    metadata = getattr(annotation, "__metadata__", ())
    if any(_kind(m).__module__.split(".")[0] == "pydantic" or _knows_pydantic(m) for m in metadata):
        return True
    bare = _strip(annotation)
    cls = typing.get_origin(bare) or bare
    if isinstance(cls, type):
        if _knows_pydantic(cls):
            return True
        if (_is_record(cls) or typing.is_typeddict(cls)) and any(
            _mentions_pydantic(hint, seen) for hint in _hints(bare).values()
        ):
            return True
    if bare is not annotation and _mentions_pydantic(bare, seen):
        return True
    if cls is typing.Literal:
        return False
    return any(_mentions_pydantic(argument, seen) for argument in typing.get_args(bare))


# --- shapes: a value field by field, by its annotation -----------------------------------------


class _Shape:
    """An untyped place; the other shapes are what an annotation says."""

    plain: tuple[type, ...] = ()  # the JSON types that a union need not tag

    def __init__(self, label: str = "Any") -> None:
        self.label = label

    def dump(self, value: Any, at: str) -> Any:
        return _dump_any(value, at)

    def load(self, data: Any, at: str) -> Any:
        return _load_any(data, at)


class _Json(_Shape):
    """`None`, `bool`, `int`, `float` or `str`.

    As type checkers do, an `int` is let pass for a `float`, and a `bool` for both.
    """

    def __init__(self, cls: type) -> None:
        super().__init__(_label(cls))
        self.cls = cls
        self.plain = (cls,)

    def dump(self, value: Any, at: str) -> Any:
        cls = _kind(value)
        if cls is self.cls:
            return _dump_any(value, at)
        if (cls is bool and self.cls in (int, float)) or (cls is int and self.cls is float):
            form = _dump_any(value, at)
            return form if _kind(form) is dict else {f"{_TAG}{cls.__name__}": form}
        raise _refuse(value, at, self.label)

    def load(self, data: Any, at: str) -> Any:
        if _kind(data) is self.cls:
            return data
        if _kind(data) is dict:
            value = _load_any(data, at)
            if _kind(value) in (self.cls, int, bool):
                return value
        if _kind(data) is int and self.cls is float:
            return float(data)
        raise _misfit(data, at, self.label)


class _Text(_Shape):
    """A scalar of the table above; paths also where the annotation is a base of theirs."""

    def __init__(self, cls: type) -> None:
        super().__init__(cls.__name__)
        self.cls = cls
        self.exact: Any = _kind(cls()) if _extends(cls, pathlib.PurePath) else cls

    def dump(self, value: Any, at: str) -> Any:
        if _kind(value) is self.exact:
            scalar = _SCALARS.get(self.exact)
            return _dump_text(str(value)) if scalar is None else _dump_scalar(value, at)
        if isinstance(value, self.cls) and _kind(value) in _SCALARS:
            return _dump_any(value, at)
        raise _refuse(value, at, self.label)

    def load(self, data: Any, at: str) -> Any:
        try:
            if _kind(data) is dict and f"{_TAG}str" not in data:
                value = _load_any(data, at)
                if isinstance(value, self.cls):
                    return value
                raise _misfit(data, at, self.label)
            scalar = _SCALARS.get(self.exact)
            return self.cls(_load_text(data)) if scalar is None else scalar.load(data)
        except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
            raise ValueSchemaError(f"`{at}` is no `{self.label}`: {error}") from error


class _Member(_Shape):
    """An enum: by its value where that is text or a number, else by its name."""

    def __init__(self, cls: type[enum.Enum]) -> None:
        super().__init__(cls.__name__)
        self.cls = cls

    def dump(self, value: Any, at: str) -> Any:
        if _kind(value) is not self.cls:
            raise _refuse(value, at, self.label)
        inner = value.value
        if _kind(inner) in (str, int) and self.cls(inner) is value:
            return _dump_any(inner, at)
        return {f"{_TAG}member": value.name}

    def load(self, data: Any, at: str) -> Any:
        try:
            if _kind(data) is dict and f"{_TAG}member" in data:
                return self.cls[data[f"{_TAG}member"]]
            return self.cls(_load_any(data, at))
        except (KeyError, ValueError, TypeError) as error:
            raise ValueSchemaError(f"`{at}` is no `{self.label}`: {data!r}") from error


class _Choice(_Shape):
    """A `Literal`."""

    def __init__(self, label: str, values: tuple[Any, ...]) -> None:
        super().__init__(label)
        self.forms = [(value, self._form(value)) for value in values]
        self.plain = tuple({_kind(form) for _, form in self.forms} - {dict})

    @staticmethod
    def _form(value: Any) -> Any:
        if isinstance(value, enum.Enum):
            return {f"{_TAG}member": f"{_kind(value).__name__}.{value.name}"}
        return _dump_any(value, "$")

    def dump(self, value: Any, at: str) -> Any:
        for choice, form in self.forms:
            if _kind(choice) is _kind(value) and choice == value:
                return form
        raise _refuse(value, at, self.label)

    def load(self, data: Any, at: str) -> Any:
        for choice, form in self.forms:
            if _kind(form) is _kind(data) and form == data:
                return choice
        raise _misfit(data, at, self.label)


class _Items(_Shape):
    """A `list`, `set`, `frozenset` or `tuple[T, ...]`."""

    def __init__(self, label: str, cls: type, item: Callable[[], _Shape]) -> None:
        super().__init__(label)
        self.cls = cls
        self.item = item

    def dump(self, value: Any, at: str) -> Any:
        if _kind(value) is not self.cls:
            raise _refuse(value, at, self.label)
        dump = self.item().dump
        if self.cls in (set, frozenset):
            return _ordered(dump(item, f"{at}[...]") for item in value)
        return [dump(item, f"{at}[{i}]") for i, item in enumerate(value)]

    def load(self, data: Any, at: str) -> Any:
        if _kind(data) is not list:
            raise _misfit(data, at, self.label)
        load = self.item().load
        return self.cls([load(x, f"{at}[{i}]") for i, x in enumerate(data)])


class _Fixed(_Shape):
    """A `tuple[A, B]`."""

    def __init__(self, label: str, items: list[Callable[[], _Shape]]) -> None:
        super().__init__(label)
        self.items = items

    def dump(self, value: Any, at: str) -> Any:
        if _kind(value) is not tuple or len(value) != len(self.items):
            raise _refuse(value, at, self.label)
        return [self.items[i]().dump(x, f"{at}[{i}]") for i, x in enumerate(value)]

    def load(self, data: Any, at: str) -> Any:
        if _kind(data) is not list or len(data) != len(self.items):
            raise _misfit(data, at, self.label)
        items = enumerate(data)
        return tuple(self.items[i]().load(x, f"{at}[{i}]") for i, x in items)


class _Table(_Shape):
    """A `dict`."""

    def __init__(self, label: str, key: Callable[[], _Shape], value: Callable[[], _Shape]) -> None:
        super().__init__(label)
        self.key = key
        self.value = value

    def dump(self, value: Any, at: str) -> Any:
        if _kind(value) is not dict:
            raise _refuse(value, at, self.label)
        table: dict[Any, Any] = value
        keys = [self.key().dump(key, f"{at}.keys()") for key in table]
        dump = self.value().dump
        return _pairs(keys, [dump(item, _at_key(at, key)) for key, item in table.items()])

    def load(self, data: Any, at: str) -> Any:
        key, value = self.key().load, self.value().load
        return {key(k, f"{at}.keys()"): value(v, _at_key(at, k)) for k, v in _unpair(data, at)}


class _Fields(_Shape):
    """A dataclass, struct, attrs class, named tuple or typed dict, by its fields.

    An object is restored as `copy` does it, without running its `__init__`; a struct is built.
    """

    def __init__(self, label: str, cls: Any, fields: dict[str, Callable[[], _Shape]]) -> None:
        super().__init__(label)
        self.cls = cls
        self.fields = fields
        # A struct's own names for its fields, as msgspec writes them.
        renamed = getattr(cls, "__struct_encode_fields__", ())
        self.keys = dict(zip(fields, renamed or fields, strict=True))

    def _read(self, value: Any, at: str) -> Iterator[tuple[str, Any]]:
        if _kind(value) is not self.cls:
            raise _refuse(value, at, self.label)
        for name in self.fields:
            item = getattr(value, name, msgspec.UNSET)
            if item is not msgspec.UNSET:
                yield name, item

    def dump(self, value: Any, at: str) -> Any:
        fields = {k: self.fields[k]().dump(v, f"{at}.{k}") for k, v in self._read(value, at)}
        form = _pairs([self.keys[name] for name in fields], list(fields.values()))
        others = {k: v for k, v in _state(value).items() if k not in self.fields}
        return {f"{_TAG}object": [form, _dump_any(others, at)]} if others else form

    def load(self, data: Any, at: str) -> Any:
        state: dict[str, Any] = {}
        if _kind(data) is dict and data.keys() == {f"{_TAG}object"}:
            data, others = data[f"{_TAG}object"]
            state = _load_any(others, at)
        given = dict(_unpair(data, at))
        for name, shape in self.fields.items():
            if self.keys[name] in given:
                state[name] = shape().load(given[self.keys[name]], f"{at}.{name}")
        for name in self.fields:
            if name not in state and not self._fill(name, state):
                raise ValueSchemaError(f"`{at}` has no `{name}`, expected `{self.label}`")
        return self._build(state)

    def _fill(self, name: str, state: dict[str, Any]) -> bool:
        """Give a field that was added since the value was recorded its default."""
        if _extends(self.cls, msgspec.Struct):
            return any(f.name == name and not f.required for f in msgspec.structs.fields(self.cls))
        if _extends(self.cls, tuple):
            state.update({k: v for k, v in self.cls._field_defaults.items() if k == name})
            return name in state
        field = getattr(self.cls, "__dataclass_fields__", {}).get(name)
        if field is None:
            return False
        if field.default is not dataclasses.MISSING:
            state[name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            state[name] = field.default_factory()
        # A field that its __init__ never set is left unset.
        return name in state or not field.init

    def _build(self, state: dict[str, Any]) -> Any:
        if _extends(self.cls, msgspec.Struct):
            return self.cls(**state)
        if _extends(self.cls, tuple):
            return self.cls._make(state[name] for name in self.fields)
        made = self.cls.__new__(self.cls)
        for name, item in state.items():
            object.__setattr__(made, name, item)
        return made


class _Keys(_Fields):
    """A typed dict."""

    def __init__(
        self, label: str, fields: dict[str, Callable[[], _Shape]], required: set[str]
    ) -> None:
        super().__init__(label, dict, fields)
        self.required = required

    def _read(self, value: Any, at: str) -> Iterator[tuple[str, Any]]:
        if _kind(value) is not dict:
            raise _refuse(value, at, self.label)
        table: dict[Any, Any] = value
        odd = (self.required - table.keys()) | (table.keys() - self.fields.keys())
        if odd:
            problem = f"has other keys than `{self.label}` ({', '.join(sorted(map(repr, odd)))})"
            raise NoJsonForm(at, "dict", "return the keys that are annotated", problem)
        return iter(table.items())

    def load(self, data: Any, at: str) -> Any:
        given = {k: v for k, v in _unpair(data, at) if k in self.fields}
        if not self.required <= given.keys():
            raise _misfit(data, at, self.label)
        return {key: self.fields[key]().load(v, _at_key(at, key)) for key, v in given.items()}


class _Pydantic(_Shape):
    """A class that pydantic can read: as it writes it, else (a model) its state."""

    def __init__(self, label: str, cls: Any, shape: Callable[[Any], _Shape]) -> None:
        super().__init__(label)
        self.cls = cls
        self._shape = shape

    @functools.cached_property
    def adapter(self) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
        return _adapter(self.cls)

    @functools.cached_property
    def fields(self) -> dict[str, _Shape]:
        fields = self.cls.model_fields.items()
        return {name: self._shape(field.annotation) for name, field in fields}

    def dump(self, value: Any, at: str) -> Any:
        if not isinstance(value, self.cls):
            raise _refuse(value, at, self.label)
        dump, load = self.adapter
        try:
            raw = dump(value)
            if _MARK not in raw and _difference(value, load(raw)) is None:
                return _decode(raw)
        except Exception as error:
            # Its own serializers and validators may raise anything; a model still has its state.
            if not _is_model(self.cls):
                raise _refuse(value, at, self.label) from error
        if _kind(value) is not self.cls or not _is_model(self.cls):
            raise _refuse(value, at, self.label)
        fields = {
            name: shape.dump(value.__dict__[name], f"{at}.{name}")
            for name, shape in self.fields.items()
            if name in value.__dict__
        }
        extra = _dump_any(value.__pydantic_extra__, at)
        private = _dump_any(value.__pydantic_private__, at)
        return {f"{_TAG}model": [fields, sorted(value.__pydantic_fields_set__), extra, private]}

    def load(self, data: Any, at: str) -> Any:
        if _kind(data) is not dict or f"{_TAG}model" not in data:
            try:
                return self.adapter[1](_encode(data))
            except ValueError as error:
                raise ValueSchemaError(f"`{at}` is no `{self.label}`: {_brief(error)}") from error
        fields, names, extra, private = data[f"{_TAG}model"]
        made = self.cls.__new__(self.cls)
        made.__setstate__(
            {
                "__dict__": {k: self.fields[k].load(v, f"{at}.{k}") for k, v in fields.items()},
                "__pydantic_fields_set__": set(names),
                "__pydantic_extra__": _load_any(extra, at),
                "__pydantic_private__": _load_any(private, at),
            }
        )
        return made


class _Union(_Shape):
    """A union: JSON scalars as they are, any other member under its name."""

    def __init__(self, label: str, members: dict[str, Callable[[], _Shape]]) -> None:
        super().__init__(label)
        self.members = members

    def dump(self, value: Any, at: str) -> Any:
        inner: NoJsonForm | None = None
        for name, member in self.members.items():
            try:
                shape = member()
                form = shape.dump(value, at)
            except NoJsonForm as error:
                if error.path != at:
                    inner = error  # the member fits; something in it does not
                continue
            if _kind(form) in shape.plain:
                return form
            return form if name == "" else {f"{_TAG}{name}": form}
        raise inner or _refuse(value, at, self.label)

    def load(self, data: Any, at: str) -> Any:
        if _kind(data) is dict and len(data) == 1:
            ((key, form),) = data.items()
            member = self.members.get(key[len(_TAG) :]) if key.startswith(_TAG) else None
            if member is not None and key != _TAG:
                return member().load(form, at)
        shapes = [member() for member in self.members.values()]
        # The member that has this very JSON type goes first: 1 is no float where int is allowed.
        for shape in sorted(shapes, key=lambda shape: _kind(data) not in shape.plain):
            try:
                return shape.load(data, at)
            except ValueSchemaError:
                continue
        raise _misfit(data, at, self.label)


def _adapter(annotation: Any) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
    """How pydantic writes and reads an annotation, by field names whatever the aliases are."""
    import pydantic

    adapter = pydantic.TypeAdapter[Any](annotation)

    def dump(value: Any) -> bytes:
        return adapter.dump_json(value, round_trip=True, warnings="none", by_alias=False)

    def load(raw: bytes) -> Any:
        return adapter.validate_json(raw, by_alias=False, by_name=True)

    return dump, load


def _brief(error: BaseException) -> str:
    """An error of msgspec or pydantic as one line."""
    errors = getattr(error, "errors", None)
    if not callable(errors):
        return str(error)
    first = cast(Any, errors)()[0]
    where = "".join(f"[{x}]" if isinstance(x, int) else f".{x}" for x in first["loc"])
    return f"{first['msg']} - at `${where}`"


def _is_unhashable(annotation: Any) -> bool:
    try:
        hash(annotation)
    except TypeError:
        return True
    return False


def _later(annotation: Any) -> Callable[[], _Shape]:
    """A shape made at first use, so that a type may mention itself."""
    return functools.partial(_shape, annotation)


def _shape(annotation: Any) -> _Shape:
    return _make_shape(annotation) if _is_unhashable(annotation) else _known_shape(annotation)


@functools.lru_cache(maxsize=4096)
def _known_shape(annotation: Any) -> _Shape:
    return _make_shape(annotation)


def _make_shape(annotation: Any) -> _Shape:
    bare = _strip(annotation)
    label = _label(bare)
    origin: Any = typing.get_origin(bare) or bare
    arguments = typing.get_args(bare)
    if bare is None:
        return _Json(types.NoneType)
    if origin is typing.Union or origin is types.UnionType:
        return _union(label, arguments)
    if origin is typing.Literal:
        return _Choice(label, arguments)
    if not _is_a(origin, type):
        return _Shape(label)
    if origin in (types.NoneType, bool, int, float, str):
        return _Json(origin)
    if _extends(origin, enum.Enum):
        return _Member(origin)
    if origin in _SCALARS or _extends(origin, pathlib.PurePath):
        return _Text(origin)
    if typing.is_typeddict(origin):
        return _typed_dict(label, bare, origin)
    if _is_model(origin):
        return _Pydantic(label, bare, _shape)
    if _is_record(origin):
        hints = _hints(bare)
        fields = {name: _later(hints.get(name, Any)) for name in _field_names(origin)}
        return _Fields(label, origin, fields)
    if _knows_pydantic(origin):
        return _Pydantic(label, bare, _shape)
    return _collection(label, origin, arguments)


_KINDS: dict[Any, tuple[Any, ...]] = {
    abc.Sequence: (list, tuple),
    abc.MutableSequence: (list,),
    abc.Collection: (list, tuple, set, frozenset),
    abc.Iterable: (list, tuple, set, frozenset),
    abc.Set: (set, frozenset),
    abc.MutableSet: (set,),
}


def _collection(label: str, origin: Any, arguments: tuple[Any, ...]) -> _Shape:
    item = arguments[0] if arguments else Any
    if origin in (list, set, frozenset):
        return _Items(label, origin, _later(item))
    if origin is tuple:
        if arguments[1:] == (...,) or label == "tuple":
            return _Items(label, tuple, _later(item))
        return _Fixed(label, [_later(argument) for argument in arguments])
    if origin in (dict, abc.Mapping, abc.MutableMapping):
        return _Table(label, _later(item), _later(arguments[1] if arguments else Any))
    if origin in _KINDS:
        kinds = {kind.__name__: kind for kind in _KINDS[origin]}
        # The first of them is what JSON has: a list as it is, any other under its name.
        first, *others = kinds
        forms = {
            name: _later(tuple[item, ...] if k is tuple else k[item]) for name, k in kinds.items()
        }
        return _Union(label, {"": forms[first]} | {name: forms[name] for name in others})
    return _Shape(label)


def _union(label: str, arguments: tuple[Any, ...]) -> _Shape:
    members = [a for a in map(_strip, arguments) if a is not msgspec.UnsetType]
    others = [a for a in members if a is not None and a is not types.NoneType]
    optional = len(others) < len(members)
    if len(others) == 1:
        # One type, or nothing: JSON null tells them apart, so there is nothing to tag.
        names = {"": _later(others[0])}
    else:
        names = {_unique(a, others): _later(a) for a in others}
    if optional:
        names = {"None": _later(None), **names}
    return _Union(label, names)


def _unique(annotation: Any, others: list[Any]) -> str:
    label = _label(annotation)
    if sum(_label(other) == label for other in others) == 1:
        return label
    return f"{getattr(annotation, '__module__', '')}.{getattr(annotation, '__qualname__', label)}"


def _typed_dict(label: str, bare: Any, origin: Any) -> _Shape:
    hints = _hints(bare)
    required = {
        name
        for name, hint in hints.items()
        if typing.get_origin(hint) is typing.Required
        or (name in origin.__required_keys__ and typing.get_origin(hint) is not typing.NotRequired)
    }
    return _Keys(label, {name: _later(hint) for name, hint in hints.items()}, required)


# --- comparing what was read back --------------------------------------------------------------

_ATOMS = frozenset(
    {str, int, bool, types.NoneType, bytes, bytearray, uuid.UUID, dt.date, dt.timedelta}
    | {_kind(pathlib.Path()), pathlib.PurePosixPath, pathlib.PureWindowsPath}
)
_QUICK = _ATOMS | {float}


def _difference(a: Any, b: Any) -> str | None:
    """Where two values first differ in value or type, as `.hits[2]`; `None` if nowhere."""
    cls = _kind(a)
    if cls is not _kind(b):
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
    if _is_fixed(a) and _is_fixed(b):
        return a.utcoffset(None) == b.utcoffset(None)
    return _kind(a) is _kind(b) and repr(a) == repr(b)


def _difference_in_items(a: Any, b: Any) -> str | None:
    kinds = list(map(type, a))
    if _QUICK.issuperset(kinds) and kinds == list(map(type, b)) and a == b:
        return None
    if len(a) != len(b):
        return ""
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        inner = _difference(x, y)
        if inner is not None:
            return f"[{i}]{inner}"
    return None


def _difference_in_dicts(a: dict[Any, Any], b: dict[Any, Any]) -> str | None:
    if _difference_in_items(list(a), list(b)) is not None:
        return ""
    if _difference_in_items(list(a.values()), list(b.values())) is None:
        return None
    for (key, x), y in zip(a.items(), b.values(), strict=True):
        inner = _difference(x, y)
        if inner is not None:
            return _at_key("", key) + inner
    return None


def _difference_in_sets(a: Any, b: Any) -> str | None:
    if len(a) != len(b):
        return ""
    found = {x: x for x in b}
    left = [x for x in a if x not in found or _difference(x, found[x]) is not None]
    rest = [x for x in b if not any(_difference(x, y) is None for y in left)] if left else []
    # Items that hashing cannot find (a NaN, objects without __eq__) are matched one by one.
    for x in left:
        if not any(_difference(x, y) is None for y in b):
            return "[...]"
    return "[...]" if len(rest) > len(a) - len(left) else None


def _difference_in_objects(a: Any, b: Any) -> str | None:
    if _is_a(a, tuple):
        inner = _difference_in_items(a, b)
        if inner is not None:
            return inner
    layout = _layout(_kind(a))
    ours, theirs = getattr(a, "__dict__", {}), getattr(b, "__dict__", {})
    if layout.slots or layout.hidden or ours.keys() != theirs.keys():
        ours, theirs = _state(a), _state(b)
        for name in ours.keys() ^ theirs.keys():
            return f".{name}"
    for name, x in ours.items():
        inner = _difference(x, theirs[name])
        if inner is not None:
            return f".{name}{inner}"
    if ours or layout.record or _is_a(a, tuple):
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
    if _extends(cls, msgspec.Struct):
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
        _is_record(cls),
    )


def _state(value: Any) -> dict[str, Any]:
    """What an object holds: its fields, slots and attributes."""
    layout = _layout(_kind(value))
    state = {**layout.defaults, **getattr(value, "__dict__", {})}
    for name in layout.slots:
        if hasattr(value, name):
            state[name] = getattr(value, name)
    # `typing` leaves `__orig_class__` on what `Box[int](...)` makes.
    for name in ("__orig_class__", *layout.hidden):
        state.pop(name, None)
    return state


# --- the codec ---------------------------------------------------------------------------------


def _to_json(value: object) -> Any:
    if isinstance(value, pathlib.PurePath):
        return str(value)
    raise TypeError(_type_name(_kind(value)))


def _from_json(cls: Any, data: Any) -> Any:
    if cls is object:
        return data
    if isinstance(cls, type) and _extends(cls, pathlib.PurePath) and _kind(data) is str:
        return cls(data)
    raise TypeError(f"`{_label(cls)}` cannot be read from JSON")


_encode_paths = msgspec.json.Encoder(enc_hook=_to_json).encode


class Codec:
    """Writes and reads the values of one annotation.

    Args:
        annotation: The type as Python has it, resolved; `Any` or a missing one means untyped:
            JSON types, and builtins that describe themselves.
    """

    def __init__(self, annotation: Any) -> None:
        if annotation is inspect.Parameter.empty or annotation is object:
            annotation = Any
        self._annotation = annotation

    def __repr__(self) -> str:
        return f"Codec({_label(self._annotation)})"

    @functools.cached_property
    def _quick(self) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]] | None:
        """The short way, where the annotation has one."""
        try:
            if "pydantic" in sys.modules and _mentions_pydantic(self._annotation, set()):
                return _adapter(self._annotation)
        except Exception:
            # Of what a union or a struct mixes in, pydantic may refuse anything, in any way.
            return None
        try:
            decoder = msgspec.json.Decoder(self._annotation, dec_hook=_from_json)
        except Exception:
            # The same of msgspec, and annotations that name what does not exist.
            return None
        return _encode_paths, decoder.decode

    @functools.cached_property
    def _exact(self) -> _Shape:
        return _shape(self._annotation)

    def encode(self, value: object) -> bytes:
        """Return compact UTF-8 JSON that decodes to an equal value of the same types.

        Raises:
            NoJsonForm: If there is none; it names the place and what to return instead.
        """
        quick = self._quick
        if quick is not None:
            dump, load = quick
            try:
                raw = dump(value)
                if _MARK not in raw and _difference(value, load(raw)) is None:
                    return raw
            except Exception:
                # Field by field it may yet work, and if not, that way knows the place.
                quick = self._quick
        try:
            return self._encode_exactly(value)
        except NoJsonForm:
            raise
        except RecursionError:
            advice = "return a flatter value that does not contain itself"
            problem = "is nested too deeply for JSON"
            raise NoJsonForm("$", _type_name(_kind(value)), advice, problem) from None
        except Exception as error:
            advice = "return JSON types, a dataclass or a model"
            problem = f"cannot be written ({_kind(error).__name__}: {error})"
            raise NoJsonForm("$", _type_name(_kind(value)), advice, problem) from error

    def _encode_exactly(self, value: object) -> bytes:
        form = self._exact.dump(value, "$")
        raw = _encode(form)
        if self._quick is not None and _MARK not in raw:
            raw = _encode({f"{_TAG}value": form})
        where = _difference(value, self.decode(raw))
        if where is None:
            return raw
        problem = f"would come back different, read as `{_label(self._annotation)}`"
        advice = "annotate the step with what it returns, and keep what matters in its fields"
        raise NoJsonForm(f"${where}", _type_name(_kind(value)), advice, problem)

    def decode(self, raw: bytes | msgspec.Raw) -> Any:
        """Return the value that `encode` wrote, or that a human wrote to fit the annotation.

        Raises:
            ValueSchemaError: If it does not fit.
        """
        text = bytes(raw)
        quick = self._quick
        try:
            if quick is not None and _MARK not in text:
                return quick[1](text)
            data = _decode(text)
            if _kind(data) is dict and data.keys() == {f"{_TAG}value"}:
                data = data[f"{_TAG}value"]
            return self._exact.load(data, "$")
        except ValueSchemaError:
            raise
        except Exception as error:
            # A class's own validation may raise anything.
            label = _label(self._annotation)
            raise ValueSchemaError(f"the value is no `{label}`: {_brief(error)}") from error


@functools.lru_cache(maxsize=1024)
def _known_codec(annotation: Any) -> Codec:
    return Codec(annotation)


def codec_for(annotation: Any) -> Codec:
    """Return the codec of an annotation, the same one each time where it can be remembered."""
    return Codec(annotation) if _is_unhashable(annotation) else _known_codec(annotation)


# --- arguments: for the key and for reading, never read back -----------------------------------


def _opaque(value: object) -> dict[str, str]:
    named: Any = _kind(value)
    if _extends(named, (type, types.FunctionType)):
        named = value
    return {"$opaque": f"{named.__module__}.{named.__qualname__}"}


def _describe(value: Any) -> Any:
    """A value as readable JSON, the same in every process."""
    cls = _kind(value)
    if value is None or cls is bool:
        return value
    if isinstance(value, enum.Enum):
        return _describe(value.value)
    if isinstance(value, str):
        return str.encode(value, "utf-8", "backslashreplace").decode()
    if isinstance(value, int):
        number = int(value)
        return number if number.bit_length() * 0.30103 < _MAX_DIGITS else hex(number)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else repr(float(value))
    if _is_record(cls):
        return {name: _describe(getattr(value, name, None)) for name in _field_names(cls)}
    if isinstance(value, Mapping):
        table = cast(Mapping[Any, Any], value)
        keys = [_describe(key) for key in table]
        values = [_describe(item) for item in table.values()]
        if all(_kind(key) is str for key in table):
            return dict(zip(keys, values, strict=True))
        return [list(pair) for pair in zip(keys, values, strict=True)]
    if isinstance(value, list | tuple):
        return [_describe(item) for item in cast(list[Any], value)]
    if isinstance(value, set | frozenset):
        return _ordered(_describe(item) for item in cast(set[Any], value))
    if isinstance(value, pathlib.PurePath):
        return _describe(str(value))
    if cls in _SCALARS:
        return _SCALARS[cls].dump(value)
    if _knows_pydantic(cls):
        form = _decode(_adapter(cls)[0](value))
        return form if isinstance(form, str | int | float | bool) else _opaque(value)
    return _opaque(value)


def encode_arguments(
    bound: Mapping[str, object], annotations: Mapping[str, Any] | None = None
) -> dict[str, msgspec.Raw]:
    """Return a call's arguments as JSON, for its key and for reading; never an error.

    What has no JSON form is `{"$opaque": "module.Qualname"}` at its place; an argument of more
    than 64 KiB is `{"$large": {"sha256": ..., "bytes": n}}`.

    Args:
        bound: The arguments by name.
        annotations: The parameters' types. They choose nothing: a call must keep its key when
            somebody annotates a parameter.
    """
    return {name: msgspec.Raw(_encode_argument(value)) for name, value in bound.items()}


def _encode_argument(value: object) -> bytes:
    try:
        form = _describe(value)
        raw = _encode(form)
        if len(raw) <= _LARGE:
            return raw
        sha256 = hashlib.sha256(_canonical(form)).hexdigest()
        return _encode({"$large": {"sha256": sha256, "bytes": len(raw)}})
    except Exception:
        # Whatever its properties raise, an argument must not stop the call.
        return _encode(_opaque(value))


def digest(raw: bytes | msgspec.Raw) -> str:
    """Return 20 hex digits that are the same for equal JSON, whatever its spaces and key order."""
    return hashlib.sha256(_canonical(_decode(bytes(raw)))).hexdigest()[:20]
