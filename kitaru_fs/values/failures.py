"""Exceptions as JSON, and back.

An exception that can be built again from JSON arguments is raised as itself on replay; any other
is `StepFailed`, which names it. What can be built again is tried when it is captured, so that the
flow sees the same live as on replay. Its arguments are what it was raised with, and those of its
`__init__` parameters that it keeps as attributes of the same name.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import itertools
import re
import sys
import traceback
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import msgspec

from kitaru_fs.errors import FormatError, KitaruError, StepFailed
from kitaru_fs.values import codec_for

__all__ = ["Failure", "as_raised", "capture", "rebuild", "to_failure"]

_MESSAGE_LIMIT = 16 * 1024
_TRACEBACK_LIMIT = 64 * 1024
_ARGUMENTS_LIMIT = 1024 * 1024

_PACKAGE = str(Path(__file__).parents[1]) + "/"
_STDLIB = str(Path(traceback.__file__).parent) + "/"
_PLUMBING = tuple(_STDLIB + name for name in ("asyncio/", "concurrent/", "threading.py"))
_INSTALLED = re.compile(r"/(?:site|dist)-packages/([^/.]+)")
# So many frames of libraries in a row are all shown.
_FEW = 3

# Where an exception of the interpreter's keeps what is neither an argument nor an attribute.
_INTERPRETER_KEYWORDS: dict[type[BaseException], tuple[str, ...]] = {
    ImportError: ("name", "path"),
    NameError: ("name",),
    AttributeError: ("name",),
}
# What no exception is told apart by: an AttributeError's object, for suggestions only.
_UNCOMPARED = frozenset({"obj", "name_from", "with_traceback", "add_note", "args"})

Cut = Callable[[str, int], int]
"""Says where a text that is too long may be cut, given the limit."""


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """An exception as the journal has it.

    Attributes:
        type: `module:Qualname` of the exception's type.
        message: What it said; 16 KiB at most, valid UTF-8.
        args: The arguments that build it again; None if nothing does.
        kwargs: The keyword arguments that go with them.
        notes: What `add_note` added.
        traceback: As Python prints it, without the frames of kitaru-fs, and with one line for many
            frames of libraries.
    """

    type: str
    message: str = ""
    args: list[Any] | None = None
    kwargs: dict[str, Any] = {}
    notes: list[str] = []
    traceback: str = ""

    @property
    def name(self) -> str:
        """The type's name as a traceback shows it."""
        return self.type.replace("builtins:", "").replace(":", ".")

    def record(self) -> dict[str, Any]:
        """Return it as the JSON object that `to_failure` reads."""
        return {"args": None, **msgspec.to_builtins(self)}


def to_failure(record: Mapping[str, Any]) -> Failure:
    """Return the failure that an entry's `error` holds; keys that are not known are ignored.

    Raises:
        FormatError: It holds none.
    """
    try:
        return msgspec.convert({"type": "builtins:Exception", **record}, Failure)
    except msgspec.ValidationError as error:
        raise FormatError(f"a journal entry's `error` cannot be read: {error}") from error


def capture(error: BaseException, cut: Cut = lambda _, limit: limit) -> Failure:
    """Return an exception as JSON. It never raises, whatever the exception's own methods do.

    Args:
        error: The exception.
        cut: Says where a text that is too long may be cut, given the limit.
    """
    cls = type(error)
    arguments = _arguments(error)
    args, kwargs = arguments if arguments is not None else (None, {})
    return Failure(
        type=_clean(f"{cls.__module__}:{cls.__qualname__}"),
        message=_message(error, cut),
        args=args,
        kwargs=kwargs,
        notes=_notes(error),
        traceback=_traceback(error, cut),
    )


def rebuild(failure: Failure, *, step_name: str, run: str | None, number: int) -> BaseException:
    """Return the exception to raise on replay.

    Args:
        failure: What was captured.
        step_name: The name of the step that failed.
        run: The run's id.
        number: The number of the step's entry.

    Returns:
        The exception itself where its type can be found and built, else `StepFailed`.
    """
    found = _find(failure.type) if failure.args is not None else None
    error = _build(found, failure.args or [], failure.kwargs) if found is not None else None
    if error is None:
        return _step_failed(failure, step_name=step_name, run=run, number=number)
    for note in failure.notes:
        error.add_note(note)
    return error


def as_raised(
    error: BaseException, failure: Failure, *, step_name: str, run: str | None, number: int
) -> BaseException:
    """Return what the flow gets live: the exception itself where replay can raise it as well.

    Args:
        error: The exception that the step raised.
        failure: What `capture` made of it.
        step_name: The name of the step that failed.
        run: The run's id.
        number: The number of the step's entry.

    Returns:
        `error`, or a `StepFailed` whose cause it is.
    """
    if failure.args is not None:
        return error
    failed = _step_failed(failure, step_name=step_name, run=run, number=number)
    failed.__cause__ = error
    return failed


def _step_failed(failure: Failure, *, step_name: str, run: str | None, number: int) -> StepFailed:
    where = f"step {number} ({step_name}) of run {run}" if run else f"step {number} ({step_name})"
    said = f": {failure.message}" if failure.message else ""
    error = StepFailed(
        f"{where} failed with {failure.name}{said}",
        error_type=failure.name,
        error_message=failure.message,
        run=run,
        step=number,
    )
    for note in failure.notes:
        error.add_note(note)
    return error


# --- building an exception again ---------------------------------------------------------------


def _find(name: str) -> type[BaseException] | None:
    module, _, qualname = name.partition(":")
    try:
        found: Any = sys.modules.get(module) or importlib.import_module(module)
        for part in qualname.split("."):
            found = getattr(found, part)
    except Exception:
        # A module of the user's may raise anything as it is imported; then the type is not found.
        return None
    return found if isinstance(found, type) and issubclass(found, BaseException) else None


def _build(
    cls: type[BaseException], args: Iterable[Any], kwargs: Mapping[str, Any]
) -> BaseException | None:
    try:
        error = cls(*args, **kwargs)
    except Exception:
        # The constructor is the user's.
        return None
    return error if type(error) is cls else None


def _arguments(error: BaseException) -> tuple[list[Any], dict[str, Any]] | None:
    """The JSON arguments that build an equal exception; None if there are none."""
    cls = type(error)
    try:
        if _find(f"{cls.__module__}:{cls.__qualname__}") is not cls:
            return None
        for args, kwargs in _candidates(error):
            form = _as_json([args, kwargs])
            if form is None:
                continue
            again = _build(cls, *form)
            if again is not None and _is_equal(error, again):
                return form[0], form[1]
    except Exception:
        # A property or a __reduce__ of the user's; what it hides cannot be compared.
        return None
    return None


def _candidates(error: BaseException) -> Iterator[tuple[list[Any], dict[str, Any]]]:
    cls = type(error)
    reduced: Any = error.__reduce__()
    tries = [list(error.args)]
    if isinstance(reduced, tuple) and reduced[0] is cls and reduced[1] != error.args:  # pyright: ignore[reportUnknownMemberType]
        # An OSError's file name is in neither its arguments nor its attributes.
        tries.insert(0, list(cast(Any, reduced)[1]))
    for args in tries:
        yield args, {}
    positional, keyword = _parameters(cls)
    kept = {name: getattr(error, name) for name in (*positional, *keyword) if hasattr(error, name)}
    for args in tries:
        taken = positional[: len(args)]
        yield args, {name: value for name, value in kept.items() if name not in taken}
    yield [], kept


def _parameters(cls: type[BaseException]) -> tuple[list[str], list[str]]:
    """The names that a type can be built with: those that may go by position, and the others."""
    init: Callable[..., Any] = cls.__init__
    if isinstance(init, types.WrapperDescriptorType):
        known = [n for base, n in _INTERPRETER_KEYWORDS.items() if issubclass(cls, base)]
        return [], [name for names in known for name in names]
    parameters = list(inspect.signature(init).parameters.values())[1:]
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    return positional, [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


def _as_json(arguments: Any) -> Any:
    """The arguments as plain JSON gives them back, the same; None if it does not."""
    codec = codec_for(Any)
    try:
        raw = codec.encode(arguments)
    except Exception:
        return None
    if b'"$kitaru:' in raw or len(raw) > _ARGUMENTS_LIMIT:
        return None
    return codec.decode(raw)


def _is_equal(error: BaseException, again: BaseException) -> bool:
    return str(error) == str(again) and _contents(error) == _contents(again)


def _contents(error: BaseException) -> bytes:
    """All that an exception holds, in a form that tells 1 from 1.0 and from True."""
    held = {name: value for name, value in vars(error).items() if name != "__notes__"}
    for name in _slots(type(error)):
        held[name] = getattr(error, name, None)
    return codec_for(Any).encode([list(error.args), held])


@functools.lru_cache(maxsize=256)
def _slots(cls: type[BaseException]) -> tuple[str, ...]:
    kinds = (types.MemberDescriptorType, types.GetSetDescriptorType)
    return tuple(
        name
        for base in cls.__mro__
        for name, item in vars(base).items()
        if isinstance(item, kinds) and not name.startswith("__") and name not in _UNCOMPARED
    )


# --- what it said ------------------------------------------------------------------------------


def _clean(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _message(error: BaseException, cut: Cut) -> str:
    try:
        text = _clean(str(error))
        if isinstance(error, BaseExceptionGroup):
            group = cast(BaseExceptionGroup[BaseException], error)
            parts = [f"{type(e).__name__}: {_clean(str(e))}" for e in group.exceptions]
            text = f"{text}: {'; '.join(parts)}"
    except Exception as broken:
        return f"(its message cannot be shown: {type(broken).__name__})"
    raw = text.encode()
    if len(raw) <= _MESSAGE_LIMIT:
        return text
    kept = raw[: _MESSAGE_LIMIT - 64].decode(errors="ignore")
    return f"{text[: cut(text, len(kept))]} ... ({len(raw)} bytes)"


def _notes(error: BaseException) -> list[str]:
    notes = getattr(error, "__notes__", None)
    if not isinstance(notes, list):
        return []
    return [_clean(note) for note in cast(list[Any], notes) if isinstance(note, str)]


def _traceback(error: BaseException, cut: Cut) -> str:
    try:
        report = traceback.TracebackException.from_exception(error)
        is_ours = isinstance(error, KitaruError) and not isinstance(error, StepFailed)
        if is_ours:
            # Its message says what it came of.
            report.__cause__ = report.__context__ = None
        _drop_our_frames(report, set())
        if is_ours:
            while report.stack and _is_of_library(report.stack[-1]):
                # No library raised it: what called us says nothing.
                report.stack.pop()
        text = _clean("".join(report.format()))
    except Exception as broken:
        return f"(its traceback cannot be shown: {type(broken).__name__})"
    if len(text) <= _TRACEBACK_LIMIT:
        return text
    half = _TRACEBACK_LIMIT // 2
    begin = cut(text, half)
    end = cut(text, len(text) - half)
    return f"{text[:begin]}\n... ({len(text)} characters)\n{text[end:]}"


def _drop_our_frames(report: traceback.TracebackException, seen: set[int]) -> None:
    """Leave the frames of the user's code, here and in what it was caused by or groups."""
    if id(report) in seen:
        return
    seen.add(id(report))
    frames = [frame for frame in report.stack if not frame.filename.startswith(_PACKAGE)]
    while frames and frames[0].filename.startswith(_PLUMBING):
        frames.pop(0)
    report.stack = _Stack(_folded(frames))
    for other in (report.__cause__, report.__context__, *(report.exceptions or ())):
        if other is not None:
            _drop_our_frames(other, seen)


class _Folded(traceback.FrameSummary):
    """Stands for the frames of libraries that are between two that are shown."""


class _Stack(traceback.StackSummary):
    def format_frame_summary(self, frame_summary: traceback.FrameSummary, **options: Any) -> str:
        if isinstance(frame_summary, _Folded):
            return f"  ... {frame_summary.name}\n"
        return super().format_frame_summary(frame_summary, **options)


def _folded(frames: list[traceback.FrameSummary]) -> Iterator[traceback.FrameSummary]:
    """The frames with one for many of libraries; who raised is always shown."""
    for is_library, group in itertools.groupby(frames, _is_of_library):
        run = list(group)
        if is_library and len(run) > _FEW:
            raised = [run.pop()] if run[-1] is frames[-1] else []
            matches = (_INSTALLED.search(frame.filename) for frame in run)
            named = ", ".join(dict.fromkeys(match[1] for match in matches if match is not None))
            run = [
                _Folded("", 0, f"{len(run)} calls in {named or 'the standard library'}"),
                *raised,
            ]
        yield from run


def _is_of_library(frame: traceback.FrameSummary) -> bool:
    if isinstance(frame, _Folded):
        return True
    return frame.filename.startswith(_STDLIB) or _INSTALLED.search(frame.filename) is not None
