"""What a step returns comes back equal and of the same types, or is refused by name."""

from __future__ import annotations

import asyncio
import collections.abc as abc
import dataclasses
import datetime as dt
import enum
import io
import json
import math
import os
import subprocess
import sys
import typing
import uuid
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    TypedDict,
    TypeVar,
)
from zoneinfo import ZoneInfo

import msgspec
import pydantic
import pydantic.dataclasses
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import TypeAliasType

from kitaru_fs.errors import KitaruError, OutputError
from kitaru_fs.values import (
    Codec,
    NoJsonForm,
    ValueSchemaError,
    codec_for,
    digest,
    encode_arguments,
)

T = TypeVar("T")
UTC = dt.UTC
PARIS = ZoneInfo("Europe/Paris")


class Colour(enum.Enum):
    RED = "red"
    PAIR = (1, 2)


class Level(enum.IntEnum):
    LOW = 1


class Word(enum.StrEnum):
    YES = "yes"


class Bits(enum.Flag):
    A = 1
    B = 2


@dataclasses.dataclass
class Point:
    x: int
    where: Path | None = None


@dataclasses.dataclass
class Other:
    x: int


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    x: int | Path
    tags: frozenset[tuple[int, str]] = frozenset()


@dataclasses.dataclass
class Computed:
    given: dataclasses.InitVar[int] = 0
    total: int = dataclasses.field(init=False, default=0)
    later: list[int] = dataclasses.field(init=False)

    def __post_init__(self, given: int) -> None:
        self.total = given * 2
        self.later = [given]


@dataclasses.dataclass(eq=False)
class NoEquality:
    x: list[int]


@dataclasses.dataclass
class Tree:
    name: str
    children: list[Tree] = dataclasses.field(default_factory=list["Tree"])
    mark: int | Path = 0


@dataclasses.dataclass
class Box(Generic[T]):
    content: T
    inner: Box[T] | None = None


@dataclasses.dataclass
class IntBox(Box[int]):
    extra: str = ""


class Struct(msgspec.Struct, tag=True, rename="camel"):
    some_field: int | Path
    anything: Any = None


class Plain(msgspec.Struct, frozen=True):
    path: Path
    price: Decimal


class Optional(msgspec.Struct):
    x: int | Path | msgspec.UnsetType = msgspec.UNSET


class StructBox(msgspec.Struct, Generic[T]):
    content: T


class Report(pydantic.BaseModel):
    title: str
    path: Path = Path("a")
    data: bytes = b""
    price: Decimal = Decimal("1.10")
    at: dt.datetime = dt.datetime(2026, 1, 2, tzinfo=UTC)
    _seen: int = pydantic.PrivateAttr(default=0)


class Alias(pydantic.BaseModel):
    value: int = pydantic.Field(validation_alias="in", serialization_alias="out")


class Open(pydantic.BaseModel, extra="allow"):
    x: int


class ModelBox(pydantic.BaseModel, Generic[T]):
    content: T


class Hides(pydantic.BaseModel):
    x: int
    hidden: int = pydantic.Field(default=0, exclude=True)


class Cat(pydantic.BaseModel):
    kind: Literal["cat"] = "cat"


class Dog(pydantic.BaseModel):
    kind: Literal["dog"] = "dog"


Pet = Annotated[Cat | Dog, pydantic.Field(discriminator="kind")]


@dataclasses.dataclass
class HoldsModel:
    report: Report
    paths: dict[str, tuple[Path, Decimal]]


@pydantic.dataclasses.dataclass
class Checked:
    x: int
    path: Path = Path("q")


class MixedStruct(msgspec.Struct):
    report: Report
    path: Path


class Row(NamedTuple):
    x: int
    path: Path = Path("r")


class Options(TypedDict):
    x: int
    path: NotRequired[Path]


Ident = NewType("Ident", list[Path])
Paths = TypeAliasType("Paths", list[Path])
Json = TypeAliasType("Json", "dict[str, Json] | list[Json] | int | str | None")


def secret_of(report: Report) -> Report:
    report._seen = 7  # pyright: ignore[reportPrivateUsage]
    return report


NAN = float("nan")

PLAIN: list[Any] = [None, True, 1, 1.5, "é", [], {}, [1, [2.0, None]], {"a": {}}]

ROUND_TRIPS: list[tuple[Any, Any]] = [
    *[(Any, value) for value in PLAIN],
    (Any, (1, ({2}, frozenset({"a"})))),
    (Any, {"$kitaru:tuple": [1]}),
    (Any, {"$kitaru:tuple": 1, "x": ()}),
    (Any, {"$kitaru:value": 1}),
    (Any, '"$kitaru:tuple": in a text'),
    (Any, {1: "a", None: 2, (1, 2): {True: 3}}),
    (Any, [b"\xff\x00", bytearray(b"x"), uuid.UUID(int=5), Decimal("1.10"), Decimal("sNaN12")]),
    (Any, [Path("a/b"), PurePosixPath("c"), PureWindowsPath("d\\e"), Path(os.fsdecode(b"\xff"))]),
    (Any, ["\ud800", {"\udfff": "\\ud83d\ude00"}]),
    (Any, [NAN, math.inf, -math.inf, -0.0, 5e-324]),
    (Any, {NAN}),
    (Any, [2**63, 2**64, -(2**70), 10**5000]),
    (Any, [dt.datetime(2026, 1, 2, 3, 4, 5, 6), dt.date(1, 1, 1), dt.time(1, 2)]),
    (Any, dt.datetime(2020, 10, 25, 2, 30, fold=1, tzinfo=PARIS)),
    (Any, dt.datetime(2020, 1, 1, tzinfo=dt.timezone(dt.timedelta(seconds=-3661), "odd"))),
    (Any, dt.time(1, tzinfo=UTC)),
    (Any, [dt.timedelta.min, dt.timedelta.max, dt.timedelta(microseconds=-1)]),
    (object, (1,)),
    (None, None),
    (int, True),
    (float, 1),
    (float, NAN),
    (list[float], [1, 2.0, math.inf, True]),
    (bytes, b"\xff"),
    (Path, Path("x")),
    (Path | None, None),
    (typing.Optional[Path], Path("x")),  # noqa: UP045
    (PurePath, Path("x")),
    (int | Path, Path("x")),
    (int | str | Path, "x"),
    (str | bytes | dt.datetime, b"x"),
    (str | bytes | dt.datetime, "2026-01-02T03:04:05"),
    (str | bytes | dt.datetime, dt.datetime(2026, 1, 2)),
    (str | int, "\ud800"),
    (int | float, 1),
    (int | float, 1.0),
    (bool | int, 1),
    (Decimal | float, Decimal("1.0")),
    (list[int] | list[str], ["a"]),
    (list[int] | tuple[int, ...] | set[int], (1, 2)),
    (dt.datetime, dt.datetime(2026, 1, 2, tzinfo=PARIS)),
    (dt.datetime, dt.datetime(2026, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=5, minutes=30)))),
    (dict[int, str], {1: "a"}),
    (dict[uuid.UUID, Path], {uuid.UUID(int=1): Path("x")}),
    (dict[Colour, int], {Colour.RED: 1, Colour.PAIR: 2}),
    (dict[tuple[int, str], list[Path]], {(1, "a"): [Path("x")]}),
    (dict[Path, int], {Path("a"): 1}),
    (dict[str, Any], {"a": 1, "b": (1, {2})}),
    (dict[str, tuple[Path, Decimal]], {"a": (Path("x"), Decimal("1.50"))}),
    (dict[str, int], {"$kitaru:dict": 1}),
    (set[tuple[int, Path]], {(1, Path("x"))}),
    (tuple[()], ()),
    (tuple[int, Path], (1, Path("x"))),
    (tuple[Any, ...], (1, (2,))),
    (Sequence[int], [1]),
    (Sequence[int], (1,)),
    (abc.Iterable[int], frozenset({1})),
    (abc.Mapping[str, Path], {"a": Path("x")}),
    (abc.Set[int], frozenset({1})),
    (list, [1, (2,)]),
    (Colour, Colour.RED),
    (Colour, Colour.PAIR),
    (list[Level | Word | Bits], [Level.LOW, Word.YES, Bits.A | Bits.B]),
    (Literal["a", 1, True, None], True),
    (Literal["a", 1], 1),
    (Literal[Colour.RED, b"x"], Colour.RED),
    (Literal[Colour.RED, b"x"], b"x"),
    (Annotated[int, "note"], 1),
    (Ident, [Path("x")]),
    (Paths, [Path("x")]),
    (Json, {"a": [1, "x", None, {"b": []}]}),
    (list[Point], [Point(1, Path("x")), Point(2)]),
    (Point | Other, Other(1)),
    (list[Point | Other | None], [Point(1), None, Other(1)]),
    (Frozen, Frozen(Path("x"), frozenset({(1, "a"), (2, "b")}))),
    (Computed, Computed(4)),
    (NoEquality, NoEquality([1])),
    (Tree, Tree("a", [Tree("b", [], Path("x")), Tree("c")])),
    (Box[Path], Box(Path("x"), Box(Path("y")))),
    (Box[int | Path], Box[int | Path](1, Box(Path("y")))),
    (IntBox, IntBox(1, None, "x")),
    (Box[Any], Box((1, 2))),
    (Box[Report], Box(Report(title="a"))),
    (Struct, Struct(Path("x"), (1,))),
    (Struct, Struct(1)),
    (Plain, Plain(Path("x"), Decimal("1.0"))),
    (Optional, Optional()),
    (Optional, Optional(Path("x"))),
    (StructBox[Path], StructBox(Path("x"))),
    (Row, Row(1)),
    (list[Row | Point], [Row(1), Point(1)]),
    (Options, {"x": 1}),
    (Options, {"x": 1, "path": Path("x")}),
    (Report, Report(title="a")),
    (Report, Report(title="a", data=b"\xff")),
    (Report, secret_of(Report(title="a"))),
    (list[Report], [Report(title="\ud800"), Report(title="b", at=dt.datetime(2026, 1, 1))]),
    (Report, Report(title="a", at=dt.datetime(2026, 1, 2, tzinfo=PARIS))),
    (dict[str, Report | None], {"a": Report(title="a"), "b": None}),
    (Report | Point, Point(1)),
    (Alias, Alias.model_validate({"in": 3})),
    (Open, Open.model_validate({"x": 1, "y": (1, 2)})),
    (Hides, Hides(x=1, hidden=5)),
    (ModelBox[list[Report]], ModelBox[list[Report]](content=[Report(title="a")])),
    (list[Pet], [Cat(), Dog()]),
    (HoldsModel, HoldsModel(Report(title="a"), {"a": (Path("x"), Decimal(1))})),
    (HoldsModel, HoldsModel(secret_of(Report(title="a", data=b"\xff")), {})),
    (MixedStruct, MixedStruct(Report(title="a"), Path("x"))),
    (list[MixedStruct | Point], [MixedStruct(secret_of(Report(title="a")), Path("x"))]),
    (Checked, Checked(1)),
    (Annotated[int, pydantic.Field(gt=0)], 1),
    (pydantic.HttpUrl, pydantic.HttpUrl("https://example.org/a")),
    (Iterator[int], [1, 2]),
]


def alike(a: Any, b: Any) -> bool:
    """Equal and of the same types, seen in another way than the codec does."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return alike(list(a.items()), list(b.items()))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(alike, a, b))  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(a, set | frozenset):
        return sorted(map(repr, a)) == sorted(map(repr, b))  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(a, int):
        return a == b
    if isinstance(a, float):
        return repr(a) == repr(b)
    if dataclasses.is_dataclass(a):
        return all(alike(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, msgspec.Struct):
        return alike(msgspec.structs.asdict(a), msgspec.structs.asdict(b))
    if isinstance(a, pydantic.BaseModel):
        return a == b
    if isinstance(a, dt.datetime):
        return a.replace(tzinfo=None) == b.replace(tzinfo=None) and a.utcoffset() == b.utcoffset()
    return repr(a) == repr(b)


def round_trip(annotation: Any, value: Any) -> Any:
    raw = Codec(annotation).encode(value)
    raw.decode("utf-8")
    # The journal is indented JSON: what lies between was laid out anew.
    pretty = msgspec.json.format(raw, indent=2)
    assert alike(value, Codec(annotation).decode(pretty))
    return Codec(annotation).decode(msgspec.Raw(raw))


@pytest.mark.parametrize(("annotation", "value"), ROUND_TRIPS)
def test_round_trip(annotation: Any, value: Any) -> None:
    assert alike(value, round_trip(annotation, value))


@pytest.mark.parametrize(
    ("annotation", "value", "raw"),
    [
        (Any, {"a": [1, None]}, b'{"a":[1,null]}'),
        (list[Point], [Point(1, Path("x"))], b'[{"x":1,"where":"x"}]'),
        (Report | None, None, b"null"),
        (Cat, Cat(), b'{"kind":"cat"}'),
        (list[Pet], [Dog()], b'[{"kind":"dog"}]'),
        (Any, (1,), b'{"$kitaru:tuple":[1]}'),
        (Any, Path("x"), b'{"$kitaru:Path":"x"}'),
        (int | Path, Path("x"), b'{"$kitaru:Path":"x"}'),
        (int | Path, 3, b"3"),
        (Point | Other, Other(1), b'{"$kitaru:Other":{"x":1}}'),
        (list[Point | None], [None], b"[null]"),
        (float, math.inf, b'{"$kitaru:float":"inf"}'),
        (dict[int, str], {1: "a"}, b'{"1":"a"}'),
        (Any, {2, 1}, b'{"$kitaru:set":[1,2]}'),
        (Computed, Computed(1), b'{"$kitaru:value":{"total":2,"later":[1]}}'),
    ],
)
def test_recorded_form(annotation: Any, value: Any, raw: bytes) -> None:
    if b"$kitaru:value" in raw:
        # Which of the two ways is taken depends on what msgspec can read.
        assert Codec(annotation).encode(value) in (raw, raw[len('{"$kitaru:value":') : -1])
    else:
        assert Codec(annotation).encode(value) == raw


def test_a_cached_property_is_no_part_of_a_value() -> None:
    import functools

    @dataclasses.dataclass
    class Cached:
        x: int

        @functools.cached_property
        def twice(self) -> int:
            return self.x * 2

    value = Cached(2)
    assert value.twice == 4
    assert round_trip(Cached, value) == value


def test_attributes_beyond_the_fields_are_kept() -> None:
    value = Other(1)
    value.note = (1, 2)  # type: ignore[attr-defined]
    assert vars(round_trip(Other, value)) == {"x": 1, "note": (1, 2)}
    value.note = object()  # type: ignore[attr-defined]
    with pytest.raises(NoJsonForm, match=r"\$\.note"):
        Codec(Other).encode(value)


def test_names_that_only_type_checkers_know_are_untyped() -> None:
    cls = dataclasses.make_dataclass("cls", [("x", "NoSuchName"), ("y", "int")])
    assert round_trip(cls, cls((1, 2), 3)).x == (1, 2)


# --- refusals ----------------------------------------------------------------------------------


def generator() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("annotation", "value", "path", "words"),
    [
        (int, "x", "$", ["str", "int"]),
        (list[int], (1,), "$", ["tuple", "list[int]"]),
        (list[int], [1, "x"], "$[1]", ["str", "int"]),
        (str, Word.YES, "$", ["Word", "str"]),
        (int, Level.LOW, "$", ["Level"]),
        (int, 1.0, "$", ["float"]),
        (Path, "x", "$", ["str", "Path"]),
        (Point, Other(1), "$", ["Other", "Point"]),
        (dict[str, list[Point]], {"k": [Point(1), Other(1)]}, "$.k[1]", ["Other", "Point"]),
        (Point | Other, 5, "$", ["int", "Point | Other"]),
        (Point | Other, Other("x"), "$.x", ["str", "int"]),  # type: ignore[arg-type]
        (Options, {"x": 1, "z": 2}, "$", ["'z'", "Options"]),
        (Literal["a"], "b", "$", ["Literal['a']"]),
        (Report, Point(1), "$", ["Point", "Report"]),
        (Cat, type("Cat2", (Cat,), {})(), "$", ["Cat2"]),
        (pydantic.SecretStr, pydantic.SecretStr("x"), "$", ["SecretStr"]),
        (Any, Point(1), "$", ["annotate the step's return type with `Point`"]),
        (Any, [{"r": Report(title="a")}], "$[0].r", ["`Report`"]),
        (Any, {"a b": Colour.RED}, "$['a b']", ["`Colour`"]),
        (dict[str, Any], {"a": Row(1)}, "$.a", ["`Row`"]),
        (Any, generator(), "$", ["generator", "list"]),
        (list[int], generator(), "$", ["generator", "list"]),
        (Any, io.StringIO(), "$", ["StringIO", "path"]),
        (Any, lambda: 1, "$", ["function"]),
        (Any, ValueError("x"), "$", ["ValueError", "raise"]),
        (Any, sys, "$", ["module"]),
        (Any, object(), "$", ["object", "return JSON types"]),
        (list[object], [object()], "$[0]", ["object"]),
        (io.StringIO, len, "$", ["builtin_function_or_method"]),
        (
            Any,
            dt.datetime(2026, 1, 1, tzinfo=type("Odd", (dt.tzinfo,), {})()),
            "$",
            ["time zone", "zoneinfo"],
        ),
    ],
)
def test_refused(annotation: Any, value: Any, path: str, words: list[str]) -> None:
    with pytest.raises(NoJsonForm) as info:
        Codec(annotation).encode(value)
    assert info.value.path == path
    text = str(info.value)
    assert ("it " if path == "$" else f"`{path}`") in text
    assert "\n" not in text
    for word in words:
        assert word in text, text
    assert info.value.advice in text


def test_a_value_in_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    for annotation in (Any, list[Any]):
        with pytest.raises(NoJsonForm, match="nested too deeply"):
            Codec(annotation).encode(value)


def test_a_coroutine_is_refused() -> None:
    async def work() -> int:
        return 1

    coroutine = work()
    with pytest.raises(NoJsonForm, match="await it"):
        Codec(Any).encode(coroutine)
    coroutine.close()


def test_a_class_that_fights_back_is_refused() -> None:
    @dataclasses.dataclass
    class Fights:
        x: int

        def __post_init__(self) -> None:
            raise RuntimeError("no")

        def __eq__(self, other: object) -> bool:
            raise RuntimeError("no")

        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError("not for you")

    with pytest.raises(NoJsonForm, match="not for you"):
        Codec(Fights).encode(Fights.__new__(Fights))


def test_annotations_that_name_nothing_are_no_error_before_a_value_comes() -> None:
    annotations: list[Any] = [io.TextIOWrapper, list[io.StringIO], abc.Awaitable[int], 5]
    for annotation in annotations:
        codec = codec_for(annotation)
        with pytest.raises(NoJsonForm):
            codec.encode(object())


def test_errors_are_ours() -> None:
    assert issubclass(NoJsonForm, OutputError)
    assert issubclass(ValueSchemaError, KitaruError)


# --- reading -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "raw", "value"),
    [
        (float, b"3", 3.0),
        (Point, b'{"x": 3}', Point(3)),
        (Point | Other, b'{"x": 3}', Point(3)),
        (int | Path, b'"x"', Path("x")),
        (Frozen, b'{"x": 3}', Frozen(3)),
        (Row | Point, b'{"$kitaru:Row": {"x": 3}}', Row(3)),
        (Struct, b'{"type": "Struct", "someField": 3}', Struct(3)),
        (Optional, b"{}", Optional()),
        (MixedStruct | Point, b'{"report": {"title": "a"}, "path": "x"}', None),
        (Cat | Path, b'{"$kitaru:Cat": {}}', Cat()),
        (Colour, b'"red"', Colour.RED),
    ],
)
def test_reads_what_a_human_wrote(annotation: Any, raw: bytes, value: Any) -> None:
    read = Codec(annotation).decode(raw)
    assert read == (MixedStruct(Report(title="a"), Path("x")) if value is None else value)


@pytest.mark.parametrize(
    ("annotation", "raw", "words"),
    [
        (list[int], b'["x"]', "Expected `int`, got `str` - at `$[0]`"),
        (Report, b'{"title": 1}', "valid string - at `$.title`"),
        (Point | Other, b"3", "expected `Point | Other`"),
        (list[Point | Other], b'[{"y": 3}]', "`$[0]`"),
        (Frozen, b'{"x": 1, "tags": 1}', "frozenset"),
        (tuple[int | Path, int], b"[1]", "tuple"),
        (dict[str, int | Path], b'{"a": []}', "$.a"),
        (int | Path, b'{"$kitaru:Path": 3}', "Path"),
        (Options | Path, b'{"path": 3}', "expected"),
        (Literal[b"x"], b'"y"', "Literal"),
        (Colour | int, b'{"$kitaru:Colour": "blue"}', "Colour"),
        (Any, b'{"$kitaru:unknown": 1}', "unknown tag"),
        (Any, b'{"$kitaru:bytes": "*"}', "bytes"),
        (Any, b'{"$kitaru:datetime": "soon"}', "datetime"),
        (Any, b'{"$kitaru:dict": 5}', "dict"),
        (Any, b'{"$kitaru:int": "z"}', "int"),
        (Report, b'{"$kitaru:model": [1]}', "Report"),
        (int, b"{", "int"),
        (Any, b"\xff", "Any"),
    ],
)
def test_what_does_not_fit(annotation: Any, raw: bytes, words: str) -> None:
    with pytest.raises(ValueSchemaError) as info:
        Codec(annotation).decode(raw)
    assert words in str(info.value)


def test_a_field_added_later_gets_its_default() -> None:
    old = dataclasses.make_dataclass("Old", [("x", int | Path)])
    fields: list[Any] = [
        ("x", int | Path),
        ("y", list[int], dataclasses.field(default_factory=list)),
    ]
    new = dataclasses.make_dataclass("New", fields)
    assert Codec(new).decode(Codec(old).encode(old(Path("p")))) == new(Path("p"), [])


# --- properties --------------------------------------------------------------------------------

_zones = (
    st.none()
    | st.just(UTC)
    | st.just(PARIS)
    | st.integers(-86399, 86399).map(lambda seconds: dt.timezone(dt.timedelta(seconds=seconds)))
)
_text = st.text(st.characters(), max_size=8) | st.sampled_from(["$kitaru:", "$kitaru:tuple"])
_odd_text = st.text(st.characters(categories=["Cs", "L"]), max_size=4)
_hashable: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | _text
    | _odd_text
    | st.binary(max_size=8)
    | st.uuids()
    | st.decimals(allow_nan=False)
    | st.datetimes(timezones=_zones)
    | st.dates()
    | st.times(timezones=st.none() | st.just(UTC))
    | st.timedeltas()
    | st.text("ab/.\\", max_size=6).map(Path)
)
_untyped: st.SearchStrategy[Any] = st.recursive(
    _hashable | st.just(Decimal("NaN")) | st.binary(max_size=4).map(bytearray),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(_text, inner, max_size=4)
        | st.dictionaries(_hashable, inner, max_size=3)
        | st.frozensets(_hashable, max_size=3)
        | st.sets(_hashable, max_size=3)
    ),
    max_leaves=12,
)
_keys = st.sampled_from(["$kitaru:" + x for x in ("tuple", "dict", "value", "str", "x", "")])


@given(_untyped)
def test_any_untyped_value_comes_back(value: Any) -> None:
    assert alike(value, round_trip(Any, value))


@given(st.recursive(st.integers() | _keys, lambda inner: st.dictionaries(_keys, inner, max_size=2)))
def test_dicts_that_look_like_tags_come_back(value: Any) -> None:
    assert alike(value, round_trip(Any, value))
    assert alike({"a": value}, round_trip(dict[str, Any], {"a": value}))


_POINTS = st.builds(Point, st.integers(), st.none() | st.text("ab/", max_size=4).map(Path))
_REPORTS = st.builds(
    Report,
    title=_text | _odd_text,
    data=st.binary(max_size=8),
    price=st.decimals(allow_nan=False, allow_infinity=False),
    at=st.datetimes(timezones=_zones),
)
_TYPED: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (list[float], st.lists(st.floats() | st.integers())),
    (dict[int, dt.datetime], st.dictionaries(st.integers(), st.datetimes(timezones=_zones))),
    (list[dt.timedelta], st.lists(st.timedeltas())),
    (list[dt.time], st.lists(st.times(timezones=_zones))),
    (list[Decimal], st.lists(st.decimals())),
    (dict[str, str], st.dictionaries(_text | _odd_text, _text | _odd_text)),
    (set[bytes | str | int], st.sets(st.binary() | st.text() | st.integers())),
    (
        list[Point | Other | int],
        st.lists(_POINTS | st.builds(Other, st.integers()) | st.integers()),
    ),
    (list[Report], st.lists(_REPORTS, max_size=3)),
    (dict[str, Report | Point], st.dictionaries(st.text(), _REPORTS | _POINTS, max_size=3)),
    (Box[list[Report]], st.builds(Box, st.lists(_REPORTS, max_size=2))),
    (dict[str, Any], st.dictionaries(_text, _untyped, max_size=3)),
]


@pytest.mark.parametrize(("annotation", "values"), _TYPED)
def test_any_typed_value_comes_back(annotation: Any, values: st.SearchStrategy[Any]) -> None:
    @given(values)
    def check(value: Any) -> None:
        assert alike(value, round_trip(annotation, value))

    check()


_ANNOTATIONS: list[Any] = [annotation for annotation, _ in ROUND_TRIPS]


@given(st.sampled_from(_ANNOTATIONS), st.sampled_from([value for _, value in ROUND_TRIPS]))
def test_any_value_in_any_place_comes_back_or_is_refused(annotation: Any, value: Any) -> None:
    try:
        raw = Codec(annotation).encode(value)
    except NoJsonForm:
        return
    assert alike(value, Codec(annotation).decode(raw))


# --- codecs and arguments ----------------------------------------------------------------------


def test_codecs_are_remembered() -> None:
    assert codec_for(list[str]) is codec_for(list[str])
    unhashable = Annotated[int, []]
    assert codec_for(unhashable).encode(1) == b"1"


def arguments(**bound: object) -> dict[str, Any]:
    return {name: json.loads(bytes(raw)) for name, raw in encode_arguments(bound, {}).items()}


def test_arguments_are_readable() -> None:
    assert arguments(
        path=Path("a"),
        point=Point(1, Path("b")),
        report=Cat(),
        row=Row(1),
        kinds=[Colour.RED, Level.LOW, Word.YES, Colour.PAIR],
        pair=(1, 2),
        table={1: "a"},
        at=dt.datetime(2026, 1, 2),
        data=b"x",
        url=pydantic.HttpUrl("https://example.org/"),
    ) == {
        "path": "a",
        "point": {"x": 1, "where": "b"},
        "report": {"kind": "cat"},
        "row": {"x": 1, "path": "r"},
        "kinds": ["red", 1, "yes", [1, 2]],
        "pair": [1, 2],
        "table": [[1, "a"]],
        "at": "2026-01-02T00:00:00",
        "data": "eA==",
        "url": "https://example.org/",
    }


def test_arguments_are_never_an_error() -> None:
    loop: list[Any] = []
    loop.append(loop)

    class Hostile(Point):
        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError("no")

    found = arguments(
        nested=[{"a": object()}],
        local=Hostile(1),
        cls=Point,
        function=generator,
        method=loop.append,
        secret=pydantic.SecretStr("hush"),
        text="\ud800",
        numbers=[NAN, 10**5000],
        loop=loop,
        zone=dt.datetime(2026, 1, 1, tzinfo=type("Odd", (dt.tzinfo,), {})()),
    )
    assert found["nested"] == [{"a": {"$opaque": "builtins.object"}}]
    assert found["cls"] == {"$opaque": f"{__name__}.Point"}
    assert found["function"] == {"$opaque": f"{__name__}.generator"}
    assert "Hostile" in found["local"]["$opaque"]
    assert "$opaque" in found["method"]
    assert "hush" not in str(found["secret"])
    assert found["loop"] == {"$opaque": "builtins.list"}
    assert found["text"] == "\\ud800"
    assert found["numbers"][0] == "nan"


def test_large_arguments_are_named_by_their_digest() -> None:
    found = arguments(small="x" * 65_000, large="x" * 70_000, other="y" * 70_000)
    assert found["small"] == "x" * 65_000
    assert found["large"]["$large"]["bytes"] == 70_002
    assert found["large"] != found["other"]


def test_arguments_are_the_same_in_every_process() -> None:
    code = (
        "import sys; from pathlib import Path; from kitaru_fs.values import *;"
        "names = {Path(str(i)) for i in range(9)} | {(1, str(i)) for i in range(9)};"
        "value = [names, frozenset({frozenset({'a', 'b'}), frozenset({'c'})}), object(), print];"
        "print(bytes(encode_arguments({'x': value}, {})['x']).decode())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in "1234"
    }
    assert len(outputs) == 1


def test_digest_is_of_the_value_not_of_its_layout() -> None:
    assert digest(b'{"a": 1, "b": [1.0, "x"]}') == digest(msgspec.Raw(b'{"b":[1.0,"x"],"a":1}'))
    assert digest(b"1") != digest(b"1.0")
    assert digest(b"{}") == "44136fa355b3678a1146"


def test_reading_plain_values_does_not_import_pydantic() -> None:
    code = (
        "import sys; from kitaru_fs.values import codec_for; from kitaru_fs.values import failures;"
        "codec_for(list[str]).encode(['a']); failures.capture(ValueError('x'));"
        "print('pydantic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


def test_a_result_of_an_agent_says_what_of_it_can_be_kept() -> None:
    from pydantic_ai import Agent
    from pydantic_ai.models.test import TestModel

    result = asyncio.run(Agent(TestModel()).run("go"))
    with pytest.raises(NoJsonForm) as caught:
        codec_for(Any).encode(result)
    assert caught.value.advice == "return its `output`, or what its `all_messages()` returns"
