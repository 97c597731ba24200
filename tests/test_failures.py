"""An exception is raised as itself where its JSON arguments build it again, else as StepFailed."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitaru_fs.errors import FormatError, KitaruError, StepFailed, StepTimeout, UsageError
from kitaru_fs.values.failures import Failure, as_raised, capture, rebuild, to_failure


class Plain(Exception):
    pass


class Outer:
    class Inner(Exception):
        pass


class Keyword(Exception):
    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code


class Formatted(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class Forgetful(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Falsy(Exception):
    def __bool__(self) -> bool:
        return False


class Slotted(Exception):
    __slots__ = ("place",)
    place: int


class Vengeful(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError("no reduction")


class Picky(Exception):
    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.identity = object()


def caught(function: Callable[[], object]) -> BaseException:
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("it raised nothing")


def replayed(error: BaseException) -> BaseException:
    record = json.loads(json.dumps(capture(error).record()))
    return rebuild(to_failure(record), step_name="search", run="r1", number=3)


def live(error: BaseException) -> BaseException:
    return as_raised(error, capture(error), step_name="search", run="r1", number=3)


AS_ITSELF: list[Callable[[], BaseException]] = [
    ValueError,
    lambda: ValueError("x"),
    lambda: ValueError("x", 1, None, True, 1.5, [1, {"a": None}]),
    lambda: KeyError("k"),
    lambda: KeyError(5),
    lambda: Plain("x"),
    lambda: Outer.Inner("x"),
    lambda: Keyword("x", code=3),
    lambda: Formatted(5, "x"),
    lambda: Falsy("x"),
    lambda: StepTimeout("too long", hint="wait", run="r", step=3),
    lambda: StepFailed("x", error_type="a.B", error_message="y"),
    lambda: SystemExit(3),
    KeyboardInterrupt,
    asyncio.CancelledError,
    lambda: StopIteration(4),
    lambda: caught(lambda: Path("/nonexistent/x").read_text()),
    lambda: caught(lambda: 1 // 0),
    lambda: caught(lambda: getattr(None, "x")),  # noqa: B009
    lambda: caught(lambda: eval("undefined_name")),
    lambda: caught(lambda: __import__("no_such_module.x")),
    lambda: caught(lambda: json.loads("{")),
    lambda: caught(lambda: "é".encode("ascii")),
    lambda: caught(lambda: subprocess.run(["false"], check=True)),
    lambda: caught(lambda: subprocess.run(["false"], check=True, capture_output=True, text=True)),
]

AS_STEP_FAILED: list[Callable[[], BaseException]] = [
    lambda: ValueError((1, 2)),
    lambda: ValueError(float("nan")),
    lambda: ValueError({"$kitaru:tuple": [1]}),
    lambda: ValueError(b"x"),
    lambda: ValueError("\ud800"),
    lambda: ValueError(object()),
    lambda: ValueError("x" * 2_000_000),
    lambda: KeyError(("a", 1)),
    lambda: Forgetful(3),
    lambda: Speechless("x"),
    lambda: Vengeful("x"),
    lambda: Picky("x"),
    lambda: ExceptionGroup("several", [ValueError("a"), KeyError("b")]),
    lambda: caught(lambda: b"\xff".decode()),
    lambda: caught(lambda: subprocess.run(["false"], check=True, capture_output=True)),
]


@pytest.mark.parametrize("make", AS_ITSELF)
def test_rebuilt_as_itself(make: Callable[[], BaseException]) -> None:
    error = make()
    again = replayed(error)
    assert type(again) is type(error)
    assert again.args == error.args
    assert str(again) == str(error)
    assert vars(again) == vars(error)
    assert live(error) is error


@pytest.mark.parametrize("make", AS_STEP_FAILED)
def test_named_by_step_failed_live_and_replayed(make: Callable[[], BaseException]) -> None:
    error = make()
    again, raised = replayed(error), live(error)
    for failed in (again, raised):
        assert isinstance(failed, StepFailed)
        assert type(error).__name__ in failed.message
        assert "step 3 (search) of run r1" in failed.message
        assert (failed.run, failed.step) == ("r1", 3)
    assert str(again) == str(raised)
    assert vars(again) == vars(raised)
    assert raised.__cause__ is error


def test_os_error_keeps_its_file_name() -> None:
    again = replayed(caught(lambda: Path("/nonexistent/x").read_text()))
    assert isinstance(again, FileNotFoundError)
    assert (again.errno, again.filename) == (2, "/nonexistent/x")


def test_import_error_keeps_its_name() -> None:
    again = replayed(caught(lambda: __import__("no_such_module.x")))
    assert isinstance(again, ModuleNotFoundError)
    assert again.name == "no_such_module"


def test_output_of_a_failed_command_is_kept() -> None:
    command = [sys.executable, "-c", "print('out'); raise SystemExit(3)"]
    error = caught(lambda: subprocess.run(command, check=True, capture_output=True, text=True))
    again = replayed(error)
    assert isinstance(again, subprocess.CalledProcessError)
    assert (again.returncode, again.stdout) == (3, "out\n")


def test_an_attribute_that_no_argument_sets_is_not_lost_silently() -> None:
    error = ValueError("x")
    error.code = 5  # type: ignore[attr-defined]
    assert isinstance(replayed(error), StepFailed)
    slotted = Slotted("x")
    slotted.place = 4
    assert isinstance(replayed(slotted), StepFailed)
    assert type(replayed(Slotted("x"))) is Slotted


def test_a_local_type_is_named() -> None:
    class Local(Exception):
        pass

    failed = replayed(Local("x"))
    assert isinstance(failed, StepFailed)
    assert "<locals>.Local" in failed.error_type
    assert failed.error_message == "x"


def test_a_type_hidden_behind_another_is_named() -> None:
    impostor = type("Plain", (Exception,), {"__module__": __name__, "__qualname__": "Plain"})
    assert isinstance(replayed(impostor("x")), StepFailed)


@pytest.mark.parametrize(
    "name", ["no_such_module:X", f"{__name__}:Gone", f"{__name__}:caught", "json:loads", "x", ""]
)
def test_a_type_that_is_gone_is_named(name: str) -> None:
    failed = rebuild(Failure(type=name, message="m", args=[]), step_name="s", run=None, number=1)
    assert isinstance(failed, StepFailed)
    assert failed.error_message == "m"


def test_a_module_that_breaks_on_import_is_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "breaks_on_import.py").write_text("raise RuntimeError('no')")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    failure = Failure(type="breaks_on_import:X", args=[])
    assert isinstance(rebuild(failure, step_name="s", run=None, number=1), StepFailed)


def test_a_module_that_is_not_imported_yet_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "has_an_error.py").write_text("class Mine(Exception): pass")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    error = rebuild(
        Failure(type="has_an_error:Mine", args=["x"]), step_name="s", run=None, number=1
    )
    assert type(error).__name__ == "Mine"
    assert error.args == ("x",)


def test_a_constructor_that_changed_is_survived() -> None:
    failure = Failure(type=f"{__name__}:Keyword", message="m", args=["m"])
    assert isinstance(rebuild(failure, step_name="s", run="r", number=1), StepFailed)


def test_notes_are_kept() -> None:
    error = ValueError("x")
    error.add_note("first")
    error.add_note("second \ud800")
    assert replayed(error).__notes__ == ["first", "second \\ud800"]
    failed = replayed(_noted(Forgetful(3), "why"))
    assert failed.__notes__ == ["why"]


def _noted(error: BaseException, note: str) -> BaseException:
    error.add_note(note)
    return error


def test_message_is_capped_and_valid() -> None:
    failure = capture(ValueError("é\ud800" * 20_000))
    assert len(failure.message.encode()) <= 16 * 1024
    assert failure.message.endswith("bytes)")


def test_a_group_says_what_is_in_it() -> None:
    failure = capture(ExceptionGroup("several", [ValueError("a"), KeyError("b")]))
    assert "ValueError: a; KeyError: 'b'" in failure.message
    assert failure.args is None


def test_unreadable_record() -> None:
    with pytest.raises(FormatError):
        to_failure({"type": "x:Y", "args": 3})
    assert to_failure({"type": "x:Y", "new": 1}).type == "x:Y"
    assert to_failure({}).args is None


def test_traceback_has_the_users_frames_only() -> None:
    from kitaru_fs.values import encode_arguments

    def user() -> None:
        raise ValueError("here")

    class Trap(dict[str, object]):
        def items(self) -> Any:
            user()

    text = capture(caught(lambda: encode_arguments(Trap()))).traceback
    assert text.startswith("Traceback (most recent call last):\n")
    assert "in user\n" in text
    assert "encode_arguments\n    return" not in text
    assert "kitaru_fs/values.py" not in text
    assert text.endswith("ValueError: here\n")


def test_traceback_drops_the_loops_frames_and_keeps_what_the_user_called() -> None:
    async def user() -> None:
        await asyncio.wait_for(asyncio.sleep(3600), 0.001)

    text = capture(caught(lambda: asyncio.run(user()))).traceback
    assert "in user\n" in text
    assert "in wait_for\n" in text

    async def outer() -> BaseException:
        (error,) = await asyncio.gather(user(), return_exceptions=True)
        assert isinstance(error, BaseException)
        return error

    first = capture(asyncio.run(outer())).traceback.split("\n\nThe above")[-1]
    frames = [line for line in first.splitlines() if line.startswith('  File "')]
    assert "in user" in frames[0]


def test_traceback_of_a_cause_and_of_a_group() -> None:
    def fails() -> None:
        try:
            raise KeyError("root")
        except KeyError as error:
            raise ExceptionGroup("g", [ValueError("a")]) from error

    text = capture(caught(fails)).traceback
    assert "KeyError: 'root'" in text
    assert "direct cause" in text
    assert "ValueError: a" in text


def test_calls_within_libraries_are_one_line() -> None:
    from pydantic import validate_call
    from pydantic_ai import Agent
    from pydantic_ai.models.function import FunctionModel

    def user(messages: Any, info: Any) -> Any:
        raise ValueError("here")

    agent = Agent(FunctionModel(user))
    text = capture(caught(lambda: asyncio.run(agent.run("go")))).traceback
    shown = [line for line in text.splitlines() if line.startswith("  ... ")]
    assert len(shown) == 1
    assert re.fullmatch(r"  \.\.\. \d\d calls in pydantic_ai, pydantic_graph(, \w+)*", shown[0])
    assert "in user\n" in text
    assert "/site-packages/" not in text

    # Few of them, and who raised, are shown as they are.
    @validate_call
    def strict(number: int) -> int:
        return number

    text = capture(caught(lambda: strict("x"))).traceback  # pyright: ignore[reportArgumentType]
    assert "_validate_call.py" in text
    assert "  ... " not in text
    text = capture(caught(lambda: asyncio.run(Agent().run("go")))).traceback
    assert "  ... " in text
    assert text.splitlines()[-2].lstrip().startswith(("raise ", ")"))


def test_an_error_of_ours_says_itself_what_it_came_of() -> None:
    def fails() -> None:
        try:
            raise KeyError("root")
        except KeyError as error:
            raise UsageError("no root", hint="plant one") from error

    text = capture(caught(fails)).traceback
    assert "KeyError" not in text
    assert "in fails\n" in text


def test_an_endless_traceback_is_capped() -> None:
    def deep(n: int) -> None:
        if n == 0:
            raise ValueError("bottom")
        deep(n - 1) if n % 2 else other(n)

    def other(n: int) -> None:
        deep(n - 1)

    text = capture(caught(lambda: deep(600))).traceback
    assert len(text) < 70_000
    assert text.endswith("ValueError: bottom\n")


def test_pydantic_errors() -> None:
    import pydantic

    error = caught(lambda: pydantic.TypeAdapter(int).validate_python("x"))
    failed = replayed(error)
    assert isinstance(failed, StepFailed)
    assert "ValidationError" in failed.error_type
    assert isinstance(failed, KitaruError)


_json: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=6,
)


@given(st.lists(_json, max_size=3))
def test_any_arguments_come_back_alike_or_as_step_failed(arguments: list[Any]) -> None:
    error = Plain(*arguments)
    again = replayed(error)
    if isinstance(again, StepFailed):
        assert isinstance(live(error), StepFailed)
    else:
        assert repr(again) == repr(error)
        assert live(error) is error
