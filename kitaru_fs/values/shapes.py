"""How a value is written field by field, by its annotation."""

from __future__ import annotations

import dataclasses
import enum
import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, cast

import msgspec

from kitaru_fs.values.comparing import difference, state_of
from kitaru_fs.values.selfdescribed import (
    MARK,
    SCALARS,
    TAG,
    NoJsonForm,
    ValueSchemaError,
    at_key,
    decode_json,
    dump_any,
    dump_scalar,
    dump_text,
    encode_json,
    extends,
    is_model,
    kind_of,
    label_of,
    load_any,
    load_text,
    misfit,
    ordered,
    pairs,
    refusal,
    unpair,
)

__all__ = [
    "Choice",
    "Fields",
    "Fixed",
    "Items",
    "Json",
    "Keys",
    "Member",
    "Pydantic",
    "Shape",
    "Table",
    "Text",
    "Union",
    "adapter_of",
    "brief",
]


class Shape:
    """An untyped place; the other shapes are what an annotation says."""

    plain: tuple[type, ...] = ()  # the JSON types that a union need not tag

    def __init__(self, label: str = "Any") -> None:
        self.label = label

    def dump(self, value: Any, at: str) -> Any:
        return dump_any(value, at)

    def load(self, data: Any, at: str) -> Any:
        return load_any(data, at)


class Json(Shape):
    """`None`, `bool`, `int`, `float` or `str`.

    As type checkers do, an `int` is let pass for a `float`, and a `bool` for both.
    """

    def __init__(self, cls: type) -> None:
        super().__init__(label_of(cls))
        self.cls = cls
        self.plain = (cls,)

    def dump(self, value: Any, at: str) -> Any:
        cls = kind_of(value)
        if cls is self.cls:
            return dump_any(value, at)
        if (cls is bool and self.cls in (int, float)) or (cls is int and self.cls is float):
            form = dump_any(value, at)
            return form if kind_of(form) is dict else {f"{TAG}{cls.__name__}": form}
        raise refusal(value, at, self.label)

    def load(self, data: Any, at: str) -> Any:
        if kind_of(data) is self.cls:
            return data
        if kind_of(data) is dict:
            value = load_any(data, at)
            if kind_of(value) in (self.cls, int, bool):
                return value
        if kind_of(data) is int and self.cls is float:
            return float(data)
        raise misfit(data, at, self.label)


class Text(Shape):
    """A scalar of the table above; paths also where the annotation is a base of theirs."""

    def __init__(self, cls: type) -> None:
        super().__init__(cls.__name__)
        self.cls = cls
        self.exact: Any = kind_of(cls()) if extends(cls, pathlib.PurePath) else cls

    def dump(self, value: Any, at: str) -> Any:
        if kind_of(value) is self.exact:
            scalar = SCALARS.get(self.exact)
            return dump_text(str(value)) if scalar is None else dump_scalar(value, at)
        if isinstance(value, self.cls) and kind_of(value) in SCALARS:
            return dump_any(value, at)
        raise refusal(value, at, self.label)

    def load(self, data: Any, at: str) -> Any:
        try:
            if kind_of(data) is dict and f"{TAG}str" not in data:
                value = load_any(data, at)
                if isinstance(value, self.cls):
                    return value
                raise misfit(data, at, self.label)
            scalar = SCALARS.get(self.exact)
            return self.cls(load_text(data)) if scalar is None else scalar.load(data)
        except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
            raise ValueSchemaError(f"`{at}` is no `{self.label}`: {error}") from error


class Member(Shape):
    """An enum: by its value where that is text or a number, else by its name."""

    def __init__(self, cls: type[enum.Enum]) -> None:
        super().__init__(cls.__name__)
        self.cls = cls

    def dump(self, value: Any, at: str) -> Any:
        if kind_of(value) is not self.cls:
            raise refusal(value, at, self.label)
        inner = value.value
        if kind_of(inner) in (str, int) and self.cls(inner) is value:
            return dump_any(inner, at)
        return {f"{TAG}member": value.name}

    def load(self, data: Any, at: str) -> Any:
        try:
            if kind_of(data) is dict and f"{TAG}member" in data:
                return self.cls[data[f"{TAG}member"]]
            return self.cls(load_any(data, at))
        except (KeyError, ValueError, TypeError) as error:
            raise ValueSchemaError(f"`{at}` is no `{self.label}`: {data!r}") from error


class Choice(Shape):
    """A `Literal`."""

    def __init__(self, label: str, values: tuple[Any, ...]) -> None:
        super().__init__(label)
        self.forms = [(value, self._form(value)) for value in values]
        self.plain = tuple({kind_of(form) for _, form in self.forms} - {dict})

    @staticmethod
    def _form(value: Any) -> Any:
        if isinstance(value, enum.Enum):
            return {f"{TAG}member": f"{kind_of(value).__name__}.{value.name}"}
        return dump_any(value, "$")

    def dump(self, value: Any, at: str) -> Any:
        for choice, form in self.forms:
            if kind_of(choice) is kind_of(value) and choice == value:
                return form
        raise refusal(value, at, self.label)

    def load(self, data: Any, at: str) -> Any:
        for choice, form in self.forms:
            if kind_of(form) is kind_of(data) and form == data:
                return choice
        raise misfit(data, at, self.label)


class Items(Shape):
    """A `list`, `set`, `frozenset` or `tuple[T, ...]`."""

    def __init__(self, label: str, cls: type, item: Callable[[], Shape]) -> None:
        super().__init__(label)
        self.cls = cls
        self.item = item

    def dump(self, value: Any, at: str) -> Any:
        if kind_of(value) is not self.cls:
            raise refusal(value, at, self.label)
        dump = self.item().dump
        if self.cls in (set, frozenset):
            return ordered(dump(item, f"{at}[...]") for item in value)
        return [dump(item, f"{at}[{i}]") for i, item in enumerate(value)]

    def load(self, data: Any, at: str) -> Any:
        if kind_of(data) is not list:
            raise misfit(data, at, self.label)
        load = self.item().load
        return self.cls([load(x, f"{at}[{i}]") for i, x in enumerate(data)])


class Fixed(Shape):
    """A `tuple[A, B]`."""

    def __init__(self, label: str, items: list[Callable[[], Shape]]) -> None:
        super().__init__(label)
        self.items = items

    def dump(self, value: Any, at: str) -> Any:
        if kind_of(value) is not tuple or len(value) != len(self.items):
            raise refusal(value, at, self.label)
        return [self.items[i]().dump(x, f"{at}[{i}]") for i, x in enumerate(value)]

    def load(self, data: Any, at: str) -> Any:
        if kind_of(data) is not list or len(data) != len(self.items):
            raise misfit(data, at, self.label)
        items = enumerate(data)
        return tuple(self.items[i]().load(x, f"{at}[{i}]") for i, x in items)


class Table(Shape):
    """A `dict`."""

    def __init__(self, label: str, key: Callable[[], Shape], value: Callable[[], Shape]) -> None:
        super().__init__(label)
        self.key = key
        self.value = value

    def dump(self, value: Any, at: str) -> Any:
        if kind_of(value) is not dict:
            raise refusal(value, at, self.label)
        table: dict[Any, Any] = value
        keys = [self.key().dump(key, f"{at}.keys()") for key in table]
        dump = self.value().dump
        return pairs(keys, [dump(item, at_key(at, key)) for key, item in table.items()])

    def load(self, data: Any, at: str) -> Any:
        key, value = self.key().load, self.value().load
        return {key(k, f"{at}.keys()"): value(v, at_key(at, k)) for k, v in unpair(data, at)}


class Fields(Shape):
    """A dataclass, struct, attrs class, named tuple or typed dict, by its fields.

    An object is restored as `copy` does it, without running its `__init__`; a struct is built.
    """

    def __init__(self, label: str, cls: Any, fields: dict[str, Callable[[], Shape]]) -> None:
        super().__init__(label)
        self.cls = cls
        self.fields = fields
        # A struct's own names for its fields, as msgspec writes them.
        renamed = getattr(cls, "__struct_encode_fields__", ())
        self.keys = dict(zip(fields, renamed or fields, strict=True))

    def _read(self, value: Any, at: str) -> Iterator[tuple[str, Any]]:
        if kind_of(value) is not self.cls:
            raise refusal(value, at, self.label)
        for name in self.fields:
            item = getattr(value, name, msgspec.UNSET)
            if item is not msgspec.UNSET:
                yield name, item

    def dump(self, value: Any, at: str) -> Any:
        fields = {k: self.fields[k]().dump(v, f"{at}.{k}") for k, v in self._read(value, at)}
        form = pairs([self.keys[name] for name in fields], list(fields.values()))
        others = {k: v for k, v in state_of(value).items() if k not in self.fields}
        return {f"{TAG}object": [form, dump_any(others, at)]} if others else form

    def load(self, data: Any, at: str) -> Any:
        state: dict[str, Any] = {}
        if kind_of(data) is dict and data.keys() == {f"{TAG}object"}:
            data, others = data[f"{TAG}object"]
            state = load_any(others, at)
        given = dict(unpair(data, at))
        for name, shape in self.fields.items():
            if self.keys[name] in given:
                state[name] = shape().load(given[self.keys[name]], f"{at}.{name}")
        for name in self.fields:
            if name not in state and not self._fill(name, state):
                raise ValueSchemaError(f"`{at}` has no `{name}`, expected `{self.label}`")
        return self._build(state)

    def _fill(self, name: str, state: dict[str, Any]) -> bool:
        """Give a field that was added since the value was recorded its default."""
        if extends(self.cls, msgspec.Struct):
            return any(f.name == name and not f.required for f in msgspec.structs.fields(self.cls))
        if extends(self.cls, tuple):
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
        if extends(self.cls, msgspec.Struct):
            return self.cls(**state)
        if extends(self.cls, tuple):
            return self.cls._make(state[name] for name in self.fields)
        made = self.cls.__new__(self.cls)
        for name, item in state.items():
            object.__setattr__(made, name, item)
        return made


class Keys(Fields):
    """A typed dict."""

    def __init__(
        self, label: str, fields: dict[str, Callable[[], Shape]], required: set[str]
    ) -> None:
        super().__init__(label, dict, fields)
        self.required = required

    def _read(self, value: Any, at: str) -> Iterator[tuple[str, Any]]:
        if kind_of(value) is not dict:
            raise refusal(value, at, self.label)
        table: dict[Any, Any] = value
        odd = (self.required - table.keys()) | (table.keys() - self.fields.keys())
        if odd:
            problem = f"has other keys than `{self.label}` ({', '.join(sorted(map(repr, odd)))})"
            raise NoJsonForm(at, "dict", "return the keys that are annotated", problem)
        return iter(table.items())

    def load(self, data: Any, at: str) -> Any:
        given = {k: v for k, v in unpair(data, at) if k in self.fields}
        if not self.required <= given.keys():
            raise misfit(data, at, self.label)
        return {key: self.fields[key]().load(v, at_key(at, key)) for key, v in given.items()}


class Pydantic(Shape):
    """A class that pydantic can read: as it writes it, else (a model) its state."""

    def __init__(self, label: str, cls: Any, shape: Callable[[Any], Shape]) -> None:
        super().__init__(label)
        self.cls = cls
        self._shape = shape

    @functools.cached_property
    def adapter(self) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
        return adapter_of(self.cls)

    @functools.cached_property
    def fields(self) -> dict[str, Shape]:
        fields = self.cls.model_fields.items()
        return {name: self._shape(field.annotation) for name, field in fields}

    def dump(self, value: Any, at: str) -> Any:
        if not isinstance(value, self.cls):
            raise refusal(value, at, self.label)
        dump, load = self.adapter
        try:
            raw = dump(value)
            if MARK not in raw and difference(value, load(raw)) is None:
                return decode_json(raw)
        except Exception as error:
            # Its own serializers and validators may raise anything; a model still has its state.
            if not is_model(self.cls):
                raise refusal(value, at, self.label) from error
        if kind_of(value) is not self.cls or not is_model(self.cls):
            raise refusal(value, at, self.label)
        fields = {
            name: shape.dump(value.__dict__[name], f"{at}.{name}")
            for name, shape in self.fields.items()
            if name in value.__dict__
        }
        extra = dump_any(value.__pydantic_extra__, at)
        private = dump_any(value.__pydantic_private__, at)
        return {f"{TAG}model": [fields, sorted(value.__pydantic_fields_set__), extra, private]}

    def load(self, data: Any, at: str) -> Any:
        if kind_of(data) is not dict or f"{TAG}model" not in data:
            try:
                return self.adapter[1](encode_json(data))
            except ValueError as error:
                raise ValueSchemaError(f"`{at}` is no `{self.label}`: {brief(error)}") from error
        fields, names, extra, private = data[f"{TAG}model"]
        made = self.cls.__new__(self.cls)
        made.__setstate__(
            {
                "__dict__": {k: self.fields[k].load(v, f"{at}.{k}") for k, v in fields.items()},
                "__pydantic_fields_set__": set(names),
                "__pydantic_extra__": load_any(extra, at),
                "__pydantic_private__": load_any(private, at),
            }
        )
        return made


class Union(Shape):
    """A union: JSON scalars as they are, any other member under its name."""

    def __init__(self, label: str, members: dict[str, Callable[[], Shape]]) -> None:
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
            if kind_of(form) in shape.plain:
                return form
            return form if name == "" else {f"{TAG}{name}": form}
        raise inner or refusal(value, at, self.label)

    def load(self, data: Any, at: str) -> Any:
        if kind_of(data) is dict and len(data) == 1:
            ((key, form),) = data.items()
            member = self.members.get(key[len(TAG) :]) if key.startswith(TAG) else None
            if member is not None and key != TAG:
                return member().load(form, at)
        shapes = [member() for member in self.members.values()]
        # The member that has this very JSON type goes first: 1 is no float where int is allowed.
        for shape in sorted(shapes, key=lambda shape: kind_of(data) not in shape.plain):
            try:
                return shape.load(data, at)
            except ValueSchemaError:
                continue
        raise misfit(data, at, self.label)


def adapter_of(annotation: Any) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
    """How pydantic writes and reads an annotation, by field names whatever the aliases are."""
    import pydantic

    adapter = pydantic.TypeAdapter[Any](annotation)

    def dump(value: Any) -> bytes:
        return adapter.dump_json(value, round_trip=True, warnings="none", by_alias=False)

    def load(raw: bytes) -> Any:
        return adapter.validate_json(raw, by_alias=False, by_name=True)

    return dump, load


def brief(error: BaseException) -> str:
    """An error of msgspec or pydantic as one line."""
    errors = getattr(error, "errors", None)
    if not callable(errors):
        return str(error)
    first = cast(Any, errors)()[0]
    where = "".join(f"[{x}]" if isinstance(x, int) else f".{x}" for x in first["loc"])
    return f"{first['msg']} - at `${where}`"
