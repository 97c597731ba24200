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

import enum
import functools
import hashlib
import inspect
import math
import pathlib
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any, cast

import msgspec

from kitaru_fs.values.annotations import (
    field_names,
    is_unhashable,
    knows_pydantic,
    mentions_pydantic,
)
from kitaru_fs.values.comparing import difference
from kitaru_fs.values.selfdescribed import (
    MARK,
    MAX_DIGITS,
    SCALARS,
    TAG,
    NoJsonForm,
    ValueSchemaError,
    canonical,
    decode_json,
    encode_json,
    extends,
    is_record,
    kind_of,
    label_of,
    ordered,
    type_name,
)
from kitaru_fs.values.shapes import Shape, adapter_of, brief
from kitaru_fs.values.typed import shape_of

__all__ = [
    "Codec",
    "NoJsonForm",
    "ValueSchemaError",
    "codec_for",
    "digest",
    "encode_arguments",
]

_LARGE = 64 * 1024


def _to_json(value: object) -> Any:
    if isinstance(value, pathlib.PurePath):
        return str(value)
    raise TypeError(type_name(kind_of(value)))


def _from_json(cls: Any, data: Any) -> Any:
    if cls is object:
        return data
    if isinstance(cls, type) and extends(cls, pathlib.PurePath) and kind_of(data) is str:
        return cls(data)
    raise TypeError(f"`{label_of(cls)}` cannot be read from JSON")


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
        return f"Codec({label_of(self._annotation)})"

    @functools.cached_property
    def _quick(self) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]] | None:
        """The short way, where the annotation has one."""
        try:
            if "pydantic" in sys.modules and mentions_pydantic(self._annotation, set()):
                return adapter_of(self._annotation)
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
    def _exact(self) -> Shape:
        return shape_of(self._annotation)

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
                if MARK not in raw and difference(value, load(raw)) is None:
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
            raise NoJsonForm("$", type_name(kind_of(value)), advice, problem) from None
        except Exception as error:
            advice = "return JSON types, a dataclass or a model"
            problem = f"cannot be written ({kind_of(error).__name__}: {error})"
            raise NoJsonForm("$", type_name(kind_of(value)), advice, problem) from error

    def _encode_exactly(self, value: object) -> bytes:
        form = self._exact.dump(value, "$")
        raw = encode_json(form)
        if self._quick is not None and MARK not in raw:
            raw = encode_json({f"{TAG}value": form})
        where = difference(value, self.decode(raw))
        if where is None:
            return raw
        problem = f"would come back different, read as `{label_of(self._annotation)}`"
        advice = "annotate the step with what it returns, and keep what matters in its fields"
        raise NoJsonForm(f"${where}", type_name(kind_of(value)), advice, problem)

    def decode(self, raw: bytes | msgspec.Raw) -> Any:
        """Return the value that `encode` wrote, or that a human wrote to fit the annotation.

        Raises:
            ValueSchemaError: If it does not fit.
        """
        text = bytes(raw)
        quick = self._quick
        try:
            if quick is not None and MARK not in text:
                return quick[1](text)
            data = decode_json(text)
            if kind_of(data) is dict and data.keys() == {f"{TAG}value"}:
                data = data[f"{TAG}value"]
            return self._exact.load(data, "$")
        except ValueSchemaError:
            raise
        except Exception as error:
            # A class's own validation may raise anything.
            label = label_of(self._annotation)
            raise ValueSchemaError(f"the value is no `{label}`: {brief(error)}") from error


@functools.lru_cache(maxsize=1024)
def _known_codec(annotation: Any) -> Codec:
    return Codec(annotation)


def codec_for(annotation: Any) -> Codec:
    """Return the codec of an annotation, the same one each time where it can be remembered."""
    return Codec(annotation) if is_unhashable(annotation) else _known_codec(annotation)


def _opaque(value: object) -> dict[str, str]:
    named: Any = kind_of(value)
    if extends(named, (type, types.FunctionType)):
        named = value
    return {"$opaque": f"{named.__module__}.{named.__qualname__}"}


def _describe(value: Any) -> Any:
    """A value as readable JSON, the same in every process."""
    cls = kind_of(value)
    if value is None or cls is bool:
        return value
    if isinstance(value, enum.Enum):
        return _describe(value.value)
    if isinstance(value, str):
        return str.encode(value, "utf-8", "backslashreplace").decode()
    if isinstance(value, int):
        number = int(value)
        return number if number.bit_length() * 0.30103 < MAX_DIGITS else hex(number)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else repr(float(value))
    if is_record(cls):
        return {name: _describe(getattr(value, name, None)) for name in field_names(cls)}
    if isinstance(value, Mapping):
        table = cast(Mapping[Any, Any], value)
        keys = [_describe(key) for key in table]
        values = [_describe(item) for item in table.values()]
        if all(kind_of(key) is str for key in table):
            return dict(zip(keys, values, strict=True))
        return [list(pair) for pair in zip(keys, values, strict=True)]
    if isinstance(value, list | tuple):
        return [_describe(item) for item in cast(list[Any], value)]
    if isinstance(value, set | frozenset):
        return ordered(_describe(item) for item in cast(set[Any], value))
    if isinstance(value, pathlib.PurePath):
        return _describe(str(value))
    if cls in SCALARS:
        return SCALARS[cls].dump(value)
    if knows_pydantic(cls):
        form = decode_json(adapter_of(cls)[0](value))
        return form if isinstance(form, str | int | float | bool) else _opaque(value)
    return _opaque(value)


def encode_arguments(
    bound: Mapping[str, object],
    annotations: Mapping[str, Any] | None = None,
    mask: Callable[[bytes], bytes] | None = None,
) -> dict[str, msgspec.Raw]:
    """Return a call's arguments as JSON, for its key and for reading; never an error.

    What has no JSON form is `{"$opaque": "module.Qualname"}` at its place; an argument of more
    than 64 KiB is `{"$large": {"sha256": ..., "bytes": n}}`.

    Args:
        bound: The arguments by name.
        annotations: The parameters' types. They choose nothing: a call must keep its key when
            somebody annotates a parameter.
        mask: Takes secrets out of an argument of which only a digest is recorded.
    """
    return {name: msgspec.Raw(_encode_argument(value, mask)) for name, value in bound.items()}


def _encode_argument(value: object, mask: Callable[[bytes], bytes] | None) -> bytes:
    try:
        form = _describe(value)
        raw = encode_json(form)
        if len(raw) <= _LARGE:
            return raw
        if mask is not None:
            raw = mask(raw)
            form = decode_json(raw)
        sha256 = hashlib.sha256(canonical(form)).hexdigest()
        return encode_json({"$large": {"sha256": sha256, "bytes": len(raw)}})
    except Exception:
        # Whatever its properties raise, an argument must not stop the call.
        return encode_json(_opaque(value))


def digest(raw: bytes | msgspec.Raw) -> str:
    """Return 20 hex digits that are the same for equal JSON, whatever its spaces and key order."""
    return hashlib.sha256(canonical(decode_json(bytes(raw)))).hexdigest()[:20]
