"""Values that describe themselves: JSON types, and builtins as tagged objects."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import datetime as dt
import decimal
import enum
import functools
import math
import pathlib
import sys
import types
import typing
import uuid
from collections import abc
from collections.abc import Callable, Iterable
from typing import Any, cast

import msgspec

from kitaru_fs.errors import KitaruError, OutputError

__all__ = [
    "MARK",
    "MAX_DIGITS",
    "SCALARS",
    "TAG",
    "NoJsonForm",
    "ValueSchemaError",
    "at_key",
    "canonical",
    "decode_json",
    "dump_any",
    "dump_scalar",
    "dump_text",
    "encode_json",
    "extends",
    "is_a",
    "is_agent_result",
    "is_fixed",
    "is_model",
    "is_record",
    "kind_of",
    "label_of",
    "load_any",
    "load_text",
    "misfit",
    "ordered",
    "pairs",
    "refusal",
    "type_name",
    "unpair",
]

TAG = "$kitaru:"

MARK = b'"$kitaru:'

MAX_DIGITS = 4000  # the interpreter refuses decimal text of more than 4300 digits

# Without the narrowing of a static checker: what is looked at here may be of any class.
kind_of: Callable[[object], Any] = type

extends: Callable[[Any, Any], bool] = issubclass

is_a: Callable[[object, Any], bool] = isinstance

encode_json = msgspec.json.Encoder().encode

canonical = msgspec.json.Encoder(order="sorted").encode

decode_json: Callable[[bytes], Any] = msgspec.json.Decoder().decode


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
        where = "it" if path == "$" else f"`{path}`"
        super().__init__(f"{where} {problem}: {advice}")
        self.finding = f"{where} {problem}"
        self.path = path
        self.type_name = type_name
        self.advice = advice


class ValueSchemaError(KitaruError):
    """A JSON value that does not fit the annotation it is read with."""


def type_name(cls: type) -> str:
    module = cls.__module__
    return cls.__qualname__ if module == "builtins" else f"{module}.{cls.__qualname__}"


def label_of(annotation: Any) -> str:
    """A short, stable name of an annotation, for messages and for a union's tags."""
    if annotation is None or annotation is types.NoneType:
        return "None"
    origin = typing.get_origin(annotation)
    if origin is None:
        return getattr(annotation, "__name__", None) or str(annotation)
    arguments = typing.get_args(annotation)
    if origin is typing.Annotated:
        return label_of(arguments[0])
    if origin is typing.Literal:
        return f"Literal[{', '.join(map(repr, arguments))}]"
    if origin is typing.Union or origin is types.UnionType:
        return " | ".join(map(label_of, arguments))
    names = ", ".join("..." if a is ... else label_of(a) for a in arguments)
    return f"{label_of(origin)}[{names}]"


_ADVICE: tuple[tuple[Any, str], ...] = (
    (abc.Awaitable, "await it and return its result"),
    ((abc.Iterator, abc.AsyncIterator), "return what it yields, as a list"),
    (types.FunctionType, "return plain data and build it again where it is needed"),
    (BaseException, "raise it, or return its message"),
    (types.ModuleType, "return plain data"),
)


def is_agent_result(cls: Any) -> bool:
    """Whether a class is Pydantic AI's result of a run: fields, but live objects in them."""
    return cls.__name__ == "AgentRunResult" and cls.__module__.startswith("pydantic_ai.")


def refusal(value: object, at: str, declared: str = "") -> NoJsonForm:
    cls = kind_of(value)
    name = type_name(cls)
    if hasattr(value, "fileno") or hasattr(value, "readline"):
        return NoJsonForm(at, name, "return its path, or what was read from it")
    if not (is_record(cls) or extends(cls, enum.Enum)):
        for kinds, advice in _ADVICE:
            if isinstance(value, kinds):
                return NoJsonForm(at, name, advice)
    if is_agent_result(cls):
        return NoJsonForm(at, name, "return its `output`, or what its `all_messages()` returns")
    if declared:
        problem = f"is of type `{name}` where the annotation says `{declared}`"
        advice = "return what is annotated, or annotate the step with what it returns"
        return NoJsonForm(at, name, advice, problem)
    if is_record(cls) or extends(cls, enum.Enum):
        advice = f"annotate the step's return type with `{cls.__name__}`"
        problem = f"is of type `{name}`, which cannot be read back without an annotation"
        return NoJsonForm(at, name, advice, problem)
    advice = "return JSON types, a dataclass or a model that holds its data"
    return NoJsonForm(at, name, advice)


def misfit(data: object, at: str, declared: str) -> ValueSchemaError:
    return ValueSchemaError(f"`{at}` is a JSON `{kind_of(data).__name__}`, expected `{declared}`")


def dump_text(value: str) -> Any:
    """A string; one with lone surrogates, which UTF-8 cannot hold, as escaped ASCII."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return {f"{TAG}str": value.encode("unicode_escape").decode("ascii")}
    return value


def load_text(data: Any) -> str:
    if kind_of(data) is dict and f"{TAG}str" in data:
        return str(data[f"{TAG}str"]).encode("ascii").decode("unicode_escape")
    if kind_of(data) is not str:
        raise TypeError(f"expected `str`, got `{kind_of(data).__name__}`")
    return data


def _dump_int(value: int) -> Any:
    if value.bit_length() * 0.30103 < MAX_DIGITS:
        return value
    return {f"{TAG}int": hex(value)}


def _dump_float(value: float) -> Any:
    return value if math.isfinite(value) else {f"{TAG}float": repr(value)}


def _load_int(data: Any) -> int:
    return int(data, 16) if isinstance(data, str) else int(data)


def is_fixed(zone: dt.tzinfo) -> bool:
    """Whether a zone is a plain offset; pydantic reads one into a class of its own."""
    cls = kind_of(zone)
    if cls is dt.timezone:
        return zone.tzname(None) == dt.timezone(cast(Any, zone.utcoffset(None))).tzname(None)
    return cls.__name__ == "TzInfo" and cls.__module__.startswith("pydantic_core")


def _dump_moment(value: Any) -> Any:
    zone: dt.tzinfo | None = value.tzinfo
    if not value.fold and (zone is None or is_fixed(zone)):
        return value.isoformat()
    naive = value.replace(tzinfo=None, fold=0).isoformat()
    if zone is None:
        return [naive, value.fold]
    if is_fixed(zone) or kind_of(zone) is dt.timezone:
        offset = cast(dt.timedelta, zone.utcoffset(None))
        name = None if is_fixed(zone) else zone.tzname(None)
        return [naive, value.fold, offset // dt.timedelta(microseconds=1), name]
    key = getattr(zone, "key", None)
    if kind_of(zone).__module__.split(".")[0] != "zoneinfo" or key is None:
        raise TypeError(f"cannot be kept, its time zone `{type_name(kind_of(zone))}`")
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
        return dump_text(str(value))

    def load(data: Any) -> pathlib.PurePath:
        return cls(load_text(data))

    return _Scalar(tag, dump, load)


SCALARS: dict[type, _Scalar] = {
    bytes: _Scalar("bytes", _dump_bytes, _load_bytes),
    bytearray: _Scalar("bytearray", _dump_bytes, _load_bytearray),
    dt.datetime: _moment(dt.datetime),
    dt.time: _moment(dt.time),
    dt.date: _Scalar("date", dt.date.isoformat, dt.date.fromisoformat),
    dt.timedelta: _Scalar("timedelta", msgspec.to_builtins, _duration),
    decimal.Decimal: _Scalar("Decimal", str, decimal.Decimal),
    uuid.UUID: _Scalar("UUID", str, uuid.UUID),
    kind_of(pathlib.Path()): _path(pathlib.Path, "Path"),
    pathlib.PurePosixPath: _path(pathlib.PurePosixPath, "PurePosixPath"),
    pathlib.PureWindowsPath: _path(pathlib.PureWindowsPath, "PureWindowsPath"),
}


def dump_scalar(value: object, at: str) -> Any:
    try:
        return SCALARS[kind_of(value)].dump(value)
    except TypeError as error:
        advice = "use `datetime.timezone` or `zoneinfo.ZoneInfo`"
        raise NoJsonForm(
            at, type_name(kind_of(value)), advice, f"has a part that {error}"
        ) from None


def pairs(keys: list[Any], values: list[Any]) -> dict[str, Any]:
    """A JSON object where every key is a plain string, else tagged pairs."""
    if all(kind_of(key) is str and not key.startswith(TAG) for key in keys):
        return dict(zip(keys, values, strict=True))
    return {f"{TAG}dict": [list(pair) for pair in zip(keys, values, strict=True)]}


def unpair(data: Any, at: str) -> Iterable[tuple[Any, Any]]:
    if kind_of(data) is not dict:
        raise misfit(data, at, "dict")
    table: dict[str, Any] = data
    pairs = table.get(f"{TAG}dict")
    if pairs is not None and len(table) == 1:
        return [(key, value) for key, value in pairs]
    return table.items()


def dump_any(value: Any, at: str) -> Any:
    cls = kind_of(value)
    if value is None or cls is bool:
        return value
    if cls is str:
        return dump_text(value)
    if cls is int:
        return _dump_int(value)
    if cls is float:
        return _dump_float(value)
    if cls is list:
        return [dump_any(item, f"{at}[{i}]") for i, item in enumerate(value)]
    if cls is dict:
        keys = [dump_any(key, f"{at}.keys()") for key in value]
        return pairs(keys, [dump_any(item, at_key(at, key)) for key, item in value.items()])
    if cls is tuple:
        return {f"{TAG}tuple": [dump_any(item, f"{at}[{i}]") for i, item in enumerate(value)]}
    if cls is set or cls is frozenset:
        return {f"{TAG}{cls.__name__}": ordered(dump_any(item, f"{at}[...]") for item in value)}
    if cls in SCALARS:
        return {f"{TAG}{SCALARS[cls].tag}": dump_scalar(value, at)}
    raise refusal(value, at)


def ordered(items: Iterable[Any]) -> list[Any]:
    """A set's items in an order that does not depend on the process."""
    return sorted(items, key=canonical)


def at_key(at: str, key: object) -> str:
    return f"{at}.{key}" if isinstance(key, str) and key.isidentifier() else f"{at}[{key!r}]"


def load_any(data: Any, at: str) -> Any:
    if kind_of(data) is list:
        items = data
        return [load_any(item, f"{at}[{i}]") for i, item in enumerate(items)]
    if kind_of(data) is not dict:
        return data
    table: dict[str, Any] = data
    if len(table) == 1:
        ((key, inner),) = table.items()
        if key.startswith(TAG):
            return _load_tag(key[len(TAG) :], inner, at)
    return {key: load_any(item, at_key(at, key)) for key, item in table.items()}


def _load_tag(tag: str, inner: Any, at: str) -> Any:
    load = _TAGS.get(tag)
    if load is None:
        raise ValueSchemaError(f"`{at}` has the unknown tag `{TAG}{tag}`")
    try:
        return load(inner, at)
    except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise ValueSchemaError(f"`{at}` is no `{tag}`: {error}") from error


def _load_pairs(inner: Any, at: str) -> dict[Any, Any]:
    return {load_any(key, at): load_any(value, at_key(at, key)) for key, value in inner}


def _tag_loader(load: Callable[[Any], Any]) -> Callable[[Any, str], Any]:
    return lambda inner, _at: load(inner)


_TAGS: dict[str, Callable[[Any, str], Any]] = {
    "tuple": lambda inner, at: tuple(load_any(inner, at)),
    "set": lambda inner, at: set(load_any(inner, at)),
    "frozenset": lambda inner, at: frozenset(load_any(inner, at)),
    "dict": _load_pairs,
    "str": lambda inner, _at: load_text({f"{TAG}str": inner}),
    "int": lambda inner, _at: _load_int(inner),
    "float": lambda inner, _at: float(inner),
    "bool": lambda inner, _at: bool(inner),
    **{scalar.tag: _tag_loader(scalar.load) for scalar in SCALARS.values()},
}


def is_model(cls: type) -> bool:
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and extends(cls, pydantic.BaseModel)


def is_record(cls: Any) -> bool:
    """Whether a class has declared fields: a dataclass, struct, model, attrs or named tuple."""
    return (
        dataclasses.is_dataclass(cls)
        or extends(cls, msgspec.Struct)
        or hasattr(cls, "__attrs_attrs__")
        or (extends(cls, tuple) and hasattr(cls, "_fields"))
        or is_model(cls)
    )
