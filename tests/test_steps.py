"""Steps: how they are called, tried again, timed out, mapped; what they leave when they fail."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
from flowbench import FlowBench

from kitaru_fs import (
    OutputError,
    StepFailed,
    StepTimeout,
    UsageError,
    files,
    flow,
    note,
    step,
    this_step,
)


class OddError(Exception):
    """An exception that JSON arguments do not build again."""

    def __init__(self, thing: object) -> None:
        super().__init__(thing)
        self.thing = thing


class PlainError(Exception):
    """An exception that they do."""


class TestCalling:
    def test_a_plain_flow_of_plain_steps(self, bench: FlowBench) -> None:
        @step
        def double(number: int) -> int:
            (files() / f"{number}").write_text("x")
            return number * 2

        def body() -> list[int]:
            return [double(1), double(number=2)]

        assert bench.start(body) == [2, 4]
        assert bench.log() == ["start: main", "step 1: double", "step 2: double", "completed: main"]
        assert [line.files for line in bench.run.log()] == [[], ["1"], ["2"], []]

    def test_an_async_flow_of_both(self, bench: FlowBench) -> None:
        @step
        def plain(number: int) -> int:
            return number + 1

        @step
        async def coroutine(number: int) -> int:
            await asyncio.sleep(0)
            return number + 10

        async def body() -> list[int]:
            return [plain(1), await coroutine(1), await asyncio.to_thread(plain, 2)]

        assert bench.start(body) == [2, 11, 3]
        assert bench.log()[1:-1] == ["step 1: plain", "step 2: coroutine", "step 3: plain"]

    def test_outside_a_flow_a_step_is_its_function(self, bench: FlowBench) -> None:
        @step(retries=3)
        def plain() -> object:
            return bench

        @step
        async def coroutine(value: int) -> int:
            return value

        assert plain() is bench
        assert asyncio.run(coroutine(3)) == 3
        assert plain.__name__ == "plain"
        assert plain.map([], limit=2) == []
        with pytest.raises(UsageError, match="outside a flow"):
            this_step()
        assert bench.workspace.runs() == []

    def test_in_a_step_another_runs_inline(self, bench: FlowBench) -> None:
        @step(retries=2)
        def inner() -> object:
            bench.did("inner")
            return object()

        @step
        async def coroutine() -> str:
            return "awaited"

        @step
        def plain_outer() -> str:
            assert inner() is not None
            return this_step().name

        @step
        async def outer() -> list[str]:
            inner()
            return list(await asyncio.gather(coroutine(), coroutine()))

        async def body() -> Any:
            return [plain_outer(), await outer()]

        assert bench.start(body) == ["plain_outer", ["awaited", "awaited"]]
        assert bench.log()[1:-1] == ["step 1: plain_outer", "step 2: outer"]
        assert bench.done == ["inner", "inner"]

    def test_a_flow_in_a_step_is_its_function(self, bench: FlowBench) -> None:
        @flow
        def other(number: int) -> int:
            return number

        @step
        def outer() -> int:
            return other(7)

        assert bench.start(lambda: outer()) == 7
        assert len(bench.workspace.runs()) == 1

    def test_methods(self, bench: FlowBench) -> None:
        class Agent:
            def __init__(self, name: str) -> None:
                self.name = name

            @step
            def ask(self, question: str) -> str:
                bench.did(question)
                return f"{self.name}: {question}"

            @step
            async def wonder(self, question: str) -> str:
                return f"{self.name}, {question}"

            @staticmethod
            @step
            def idle() -> str:
                return "idle"

        agent = Agent("Ada")

        async def body() -> Any:
            return [
                agent.ask("why?"),
                await agent.wonder("how?"),
                Agent.ask(agent, "who?"),
                Agent.idle(),
                agent.ask.map(["a", "b"], limit=1),
                await agent.wonder.map(["c"]),
            ]

        wanted = ["Ada: why?", "Ada, how?", "Ada: who?", "idle", ["Ada: a", "Ada: b"], ["Ada, c"]]
        assert bench.start(body) == wanted
        assert agent.ask("outside") == "Ada: outside"
        assert bench.entry(1).input["question"] == "why?"

    def test_wrong_arguments_are_a_type_error_that_names_the_step(self, bench: FlowBench) -> None:
        @step
        def one(number: int) -> int:
            return number

        def body() -> None:
            with pytest.raises(TypeError, match=r"one\(\).*'number'"):
                one()  # pyright: ignore[reportCallIssue]

        bench.start(body)
        assert bench.log() == ["start: main", "completed: main"]

    def test_keeps_context_variables(self, bench: FlowBench) -> None:
        asker: ContextVar[str] = ContextVar("asker", default="")

        @step
        def who(number: int) -> str:
            return asker.get()

        def body() -> list[str]:
            asker.set("Ada")
            return [who(0), *who.map([1, 2])]

        assert bench.start(body) == ["Ada"] * 3

    @pytest.mark.parametrize(
        "options",
        [{"retries": -1}, {"timeout": 0}, {"backoff": -1}, {"max_backoff": -0.5}],
        ids=str,
    )
    def test_options_that_make_no_sense(self, options: dict[str, Any]) -> None:
        with pytest.raises(UsageError, match="@step"):
            step(**options)

    def test_generators_are_refused_at_once(self) -> None:
        def plain() -> Iterator[int]:
            yield 1

        async def asynchronous() -> Any:
            yield 1

        for function in (plain, asynchronous):
            with pytest.raises(UsageError, match="generator"):
                step(function)
            with pytest.raises(UsageError, match="generator"):
                flow(function)

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="marks are new in 3.12")
    def test_an_async_step_looks_async_to_frameworks(self) -> None:
        import inspect

        @step
        async def asynchronous() -> None: ...

        @step
        def plain() -> None: ...

        assert inspect.iscoroutinefunction(asynchronous)
        assert not inspect.iscoroutinefunction(plain)


class TestMapping:
    def test_async_in_the_order_of_the_items_within_the_limit(self, bench: FlowBench) -> None:
        running = most = 0

        @step
        async def one(number: int, word: str) -> str:
            nonlocal running, most
            running += 1
            most = max(most, running)
            for _ in range(3):
                await asyncio.sleep(0)
            running -= 1
            return f"{word}{number}"

        async def body() -> list[str]:
            return await one.map(range(5), "abcde", limit=2)

        assert bench.start(body) == ["a0", "b1", "c2", "d3", "e4"]
        assert most == 2

    def test_plain_in_threads_within_the_limit(self, bench: FlowBench) -> None:
        together = threading.Barrier(2, timeout=30)
        lock = threading.Lock()
        running = most = 0

        @step
        def one(number: int) -> int:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            together.wait()
            with lock:
                running -= 1
            return number * number

        assert bench.start(lambda: one.map(range(4), limit=2)) == [0, 1, 4, 9]
        assert most == 2
        assert sorted(bench.log()[1:-1]) == [f"step {n}: one" for n in (1, 2, 3, 4)]

    def test_the_first_failure_cancels_the_async_rest(self, bench: FlowBench) -> None:
        @step
        async def one(number: int) -> int:
            bench.did(number)
            if number == 1:
                raise ValueError("one")
            await asyncio.Event().wait()
            return number

        async def body() -> None:
            with pytest.raises(ValueError, match="one"):
                await one.map(range(9), limit=3)

        bench.start(body)
        assert set(bench.done) <= {"0", "1", "2"}
        bench.forget()
        assert bench.run.status == "completed"

    def test_the_first_failure_keeps_plain_items_from_beginning(self, bench: FlowBench) -> None:
        failed = threading.Event()

        @step
        def one(number: int) -> int:
            bench.did(number)
            if number == 1:
                failed.set()
                raise ValueError("one")
            assert failed.wait(30)
            return number

        def body() -> str:
            try:
                one.map(range(50), limit=2)
            except ValueError as error:
                return str(error)
            return "?"

        assert bench.start(body) == "one"
        assert bench.run.status == "completed"
        # Those that had begun by then: a thread takes its next item before it sees the failure.
        assert len(bench.done) < 50

    def test_which_failure_is_raised_is_the_same_on_replay(self, bench: FlowBench) -> None:
        second = threading.Event()

        @step
        def one(number: int) -> int:
            if number == 0:
                assert second.wait(30)
            else:
                second.set()
            raise ValueError(number)

        @step
        def last() -> None:
            bench.die()

        def body() -> str:
            try:
                one.map([0, 1], limit=2)
            except ValueError as error:
                seen = str(error)
            last()
            return seen

        bench.crash(body)
        first = bench.run.show("1").entry.input["number"]
        bench.forget()
        assert bench.resume(body) == str(first)
        assert bench.done == []

    def test_limits_below_one(self) -> None:
        @step
        def one(number: int) -> int:
            return number

        with pytest.raises(UsageError, match="at least 1"):
            one.map([1], limit=0)


class TestRetries:
    def test_each_failed_attempt_is_a_commit_without_its_files(self, bench: FlowBench) -> None:
        @step(retries=2, backoff=0)
        def flaky() -> str:
            (files() / "out").write_text(f"attempt {this_step().attempt}")
            (files() / "base").unlink()
            if this_step().attempt < 3:
                raise ValueError(f"attempt {this_step().attempt}")
            return (files() / "out").read_text()

        @step
        def base() -> None:
            (files() / "base").write_text("base")

        def body() -> str:
            base()
            return flaky()

        assert bench.start(body) == "attempt 3"
        assert bench.log()[2:5] == ["failed 2: flaky", "failed 3: flaky", "step 4: flaky"]
        for number in (2, 3):
            entry = bench.entry(number)
            assert (entry.status, entry.attempt, entry.files) == ("failed", number - 1, [])
            assert entry.error is not None
            assert entry.error["type"] == "builtins:ValueError"
            assert entry.retry is True
            assert entry.kept is not None
            kept = bench.git("ls-tree", "-r", "--name-only", f"{entry.kept}:files")
            assert kept.split() == ["out"]
            assert bench.git("show", f"{entry.kept}:files/out") == f"attempt {number - 1}"
            assert (
                bench.git(
                    "diff",
                    "--stat",
                    f"{bench.run.show('1').commit}",
                    f"HEAD~{5 - number}",
                    "--",
                    "files",
                )
                == ""
            )
        assert bench.tree() == {"out": "attempt 3"}
        assert bench.git("status", "--porcelain") == ""

    def test_what_the_flow_wrote_before_survives_a_failed_attempt(self, bench: FlowBench) -> None:
        @step(retries=1, backoff=0)
        def flaky() -> str:
            text = (files() / "mine").read_text()
            (files() / "mine").write_text("torn")
            if this_step().attempt == 1:
                raise ValueError
            (files() / "mine").write_text(text + ", kept")
            return text

        def body() -> str:
            (files() / "mine").write_text("the flow's")
            return flaky()

        assert bench.start(body) == "the flow's"
        assert bench.text("mine") == "the flow's, kept"
        # It is committed with the step: the flow writes it again when it is replayed.
        assert [line.files for line in bench.run.log()] == [[], [], ["mine"], []]

    def test_what_the_flow_wrote_is_not_written_twice_after_a_crash(self, bench: FlowBench) -> None:
        @step(retries=2, backoff=0)
        def flaky() -> str:
            if this_step().attempt == 1:
                raise ValueError
            bench.die()
            return (files() / "log").read_text()

        def body() -> str:
            log = files() / "log"
            log.write_text((log.read_text() if log.exists() else "") + "line\n")
            return flaky()

        bench.crash(body)
        assert bench.resume(body) == "line\n"
        assert bench.text("log") == "line\n"

    def test_only_what_retry_on_names(self, bench: FlowBench) -> None:
        @step(retries=5, backoff=0, retry_on=(ConnectionError, KeyError))
        async def flaky() -> None:
            bench.did(this_step().attempt)
            raise [ConnectionResetError("again"), KeyError("again"), ValueError("enough")][
                this_step().attempt - 1
            ]

        async def body() -> None:
            with pytest.raises(ValueError, match="enough"):
                await flaky()

        bench.start(body)
        assert bench.done == ["1", "2", "3"]

    def test_attempts_count_across_a_crash(self, bench: FlowBench) -> None:
        @step(retries=3, backoff=0)
        def flaky() -> int:
            bench.did(this_step().attempt)
            (files() / "torn").write_text("torn")
            if this_step().attempt == 3:
                bench.die()
            if this_step().attempt < 4:
                raise ValueError
            return this_step().attempt

        bench.crash(lambda: flaky())
        assert bench.resume(lambda: flaky()) == 4
        assert bench.done == ["1", "2", "3", "3", "4"]
        assert bench.log()[-4:] == [
            "resume 3: after a crash",
            "failed 4: flaky",
            "step 5: flaky",
            "completed: main",
        ]

    def test_the_wait_grows_up_to_its_limit(self, bench: FlowBench) -> None:
        waits: list[float] = []

        @step(retries=4, backoff=0.002, max_backoff=0.01)
        async def flaky() -> None:
            raise ValueError

        async def body() -> None:
            with pytest.raises(ValueError):  # noqa: PT011
                await flaky()

        async def nothing() -> None:
            return None

        bench.start(nothing)
        options = {
            "listener": lambda event: (
                waits.append(event.duration) if event.kind == "retry" else None
            )
        }
        first = bench.run
        bench.git("checkout", "-q", first.show("0").commit)
        bench.resume(body, **options)
        assert len(waits) == 4
        for wait, least in zip(waits, [0.002, 0.004, 0.008, 0.01], strict=True):
            assert least <= wait <= min(0.01, least + 0.001)

    def test_a_huge_number_of_retries_is_no_overflow(self, bench: FlowBench) -> None:
        from kitaru_fs.engine.protocol import Policy, _delay  # pyright: ignore[reportPrivateUsage]

        assert _delay(Policy(retries=10_000, backoff=1.0, max_backoff=60.0), 5_000) == 60.0


class TestTimeouts:
    def test_async(self, bench: FlowBench) -> None:
        @step(timeout=0.05)
        async def slow() -> None:
            (files() / "torn").write_text("torn")
            await asyncio.Event().wait()

        async def body() -> str:
            with pytest.raises(StepTimeout, match=r"slow.*0\.05 s"):
                await slow()
            return "went on"

        assert bench.start(body) == "went on"
        assert bench.log()[1] == "failed 1: slow"
        assert bench.tree() == {}

    def test_the_steps_own_timeout_error_is_its_own(self, bench: FlowBench) -> None:
        @step(timeout=60)
        async def impatient() -> None:
            async with asyncio.timeout(0.001):
                await asyncio.Event().wait()

        async def body() -> None:
            with pytest.raises(TimeoutError) as raised:
                await impatient()
            assert not isinstance(raised.value, StepTimeout)

        bench.start(body)

    @pytest.mark.parametrize("blocks", ["pipe", "subprocess", "loop"])
    def test_plain_in_the_main_thread_interrupts_what_blocks(
        self, bench: FlowBench, blocks: str
    ) -> None:
        reading, writing = os.pipe()

        @step(timeout=0.1, retries=1, backoff=0)
        def slow() -> str:
            if this_step().attempt == 2:
                return "second"
            try:
                if blocks == "pipe":
                    os.read(reading, 1)
                elif blocks == "subprocess":
                    subprocess.run([sys.executable, "-c", "input()"], stdin=reading, check=True)
                while True:
                    pass
            except Exception:
                return "the step's own handler took it"

        try:
            assert bench.start(lambda: slow()) == "second"
        finally:
            os.close(reading)
            os.close(writing)
        entry = bench.entry(1)
        assert entry.error is not None
        assert entry.error["type"] == "kitaru_fs.errors:StepTimeout"
        assert "in slow" in entry.error["traceback"]

    def test_plain_in_another_thread(self, bench: FlowBench) -> None:
        @step(timeout=0.1, retries=1, backoff=0)
        def slow() -> int:
            while this_step().attempt == 1:
                pass
            return this_step().attempt

        async def body() -> int:
            return await asyncio.to_thread(slow)

        assert bench.start(body) == 2

    def test_one_that_is_met_leaves_no_trace(self, bench: FlowBench) -> None:
        import signal

        before = signal.getsignal(signal.SIGALRM)

        @step(timeout=3600)
        def quick(number: int) -> int:
            return number

        def body() -> list[int]:
            return [quick(1), *quick.map([2, 3])]

        assert bench.start(body) == [1, 2, 3]
        assert signal.getsignal(signal.SIGALRM) is before
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


class TestFailures:
    def test_one_that_the_flow_handled_is_replayed_as_the_same(self, bench: FlowBench) -> None:
        @step
        def fails(number: int) -> None:
            bench.did(f"fails {number}")
            raise [
                PlainError("why", 3),
                FileNotFoundError(2, "No such file", "there"),
                json.JSONDecodeError("bad", "text", 2),
                KeyError("k"),
            ][number]

        @step
        def last() -> None:
            bench.did("last")
            bench.die()

        def body() -> list[Any]:
            seen: list[Any] = []
            for number in range(4):
                try:
                    fails(number)
                except Exception as error:
                    seen.append([type(error).__name__, str(error), repr(error.args)])
            last()
            return seen

        bench.crash(body)
        bench.forget()
        replayed = bench.resume(body)
        assert bench.done == ["last"]
        assert replayed[0] == ["PlainError", "('why', 3)", "('why', 3)"]
        assert replayed[1] == [
            "FileNotFoundError",
            "[Errno 2] No such file: 'there'",
            "(2, 'No such file')",
        ]
        assert [one[0] for one in replayed[2:]] == ["JSONDecodeError", "KeyError"]

    def test_what_cannot_be_rebuilt_is_step_failed_live_as_on_replay(
        self, bench: FlowBench
    ) -> None:
        @step
        def fails() -> None:
            raise OddError(object())

        @step
        def last(seen: list[str]) -> list[str]:
            bench.die()
            return seen

        def body() -> list[str]:
            try:
                fails()
            except StepFailed as error:
                # In the next step's arguments: a difference would be divergence.
                return last(
                    [error.error_type, error.error_message.partition(" at ")[0], str(error.step)]
                )
            return []

        bench.crash(body)
        assert bench.resume(body) == [f"{__name__}.OddError", "<object object", "1"]

    @pytest.mark.parametrize("how", ["bare", "wrapped", "from", "group", "context"])
    def test_the_one_that_ended_the_run_is_tried_again(self, bench: FlowBench, how: str) -> None:
        @step(retries=1, backoff=0)
        def fails() -> str:
            bench.did(f"attempt {this_step().attempt}")
            if not (bench.root / "fixed").exists():
                raise PlainError("broken")
            return "fixed"

        @step
        def before() -> None:
            bench.did("before")

        def body() -> str:
            before()
            try:
                return fails()
            except PlainError as error:
                match how:
                    case "bare":
                        raise
                    case "wrapped":
                        raise ExceptionGroup(
                            "outer", [ValueError(1), ExceptionGroup("in", [error])]
                        ) from None
                    case "from":
                        raise ValueError("from") from error
                    case "group":
                        raise ExceptionGroup("several", [error]) from None
                    case _:
                        raise ValueError("while it was handled")  # noqa: B904

        with pytest.raises(Exception):  # noqa: B017, PT011
            bench.start(body)
        assert bench.run.status == "failed"
        assert bench.entry(4).cause == 3
        with pytest.raises(Exception):  # noqa: B017, PT011
            bench.resume(body)
        (bench.root / "fixed").touch()
        assert bench.resume(body) == "fixed"
        assert bench.counts == {"before": 1, "attempt 1": 3, "attempt 2": 2}
        assert bench.run.status == "completed"
        assert bench.log()[4:6] == ["failed: main", "resume 5: after failed"]

    def test_one_of_a_task_group_that_ended_the_run_is_tried_again(self, bench: FlowBench) -> None:
        @step
        async def one(number: int) -> int:
            bench.did(number)
            if number == 1 and not (bench.root / "fixed").exists():
                raise PlainError("broken")
            return number

        async def body() -> list[int]:
            first = await one(0)
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(number)) for number in (1, 2)]
            return [first, *(task.result() for task in tasks)]

        with pytest.raises(ExceptionGroup):
            bench.start(body)
        (bench.root / "fixed").touch()
        assert bench.resume(body) == [0, 1, 2]
        assert bench.counts["0"] == 1

    @pytest.mark.parametrize("mode", ["plain", "async"])
    def test_what_followed_it_is_made_anew(self, bench: FlowBench, mode: str) -> None:
        """A `finally` that calls steps must not keep a failed run from being resumed."""

        @step
        def work(number: int) -> int:
            bench.did(f"work {number}")
            if number == 1 and not (bench.root / "fixed").exists():
                raise PlainError("broken")
            return number

        @step
        def clean(what: str) -> str:
            bench.did(f"clean {what}")
            return what

        def plain() -> Any:
            work(0)
            what = "failed"
            try:
                work(1)
                what = "worked"
            finally:
                clean("always")
                seen = clean(what)
            return seen

        async def coroutine() -> Any:
            return await asyncio.to_thread(plain)

        body = plain if mode == "plain" else coroutine
        with pytest.raises(PlainError):
            bench.start(body)
        with pytest.raises(PlainError):
            bench.resume(body)
        (bench.root / "fixed").touch()
        assert bench.resume(body) == "worked"
        assert bench.counts == {
            "work 0": 1,
            "work 1": 3,
            "clean always": 3,
            "clean failed": 2,
            "clean worked": 1,
        }
        # A rewind to the middle of that replays what was live then.
        bench.forget()
        bench.git("checkout", "-q", bench.run.show("clean#5").commit)
        assert bench.resume(body) == "worked"
        assert bench.done == ["clean worked"]

    def test_what_went_on_beside_it_is_not_executed_again(self, bench: FlowBench) -> None:
        @step
        async def work(name: str) -> str:
            bench.did(name)
            if name == "bad" and not (bench.root / "fixed").exists():
                raise PlainError("broken")
            return name

        async def other() -> list[str]:
            return [await work(f"good {number}") for number in range(3)]

        async def body() -> Any:
            first, second = await asyncio.gather(work("bad"), other(), return_exceptions=True)
            if isinstance(first, BaseException):
                raise first
            return [first, second]

        with pytest.raises(PlainError):
            bench.start(body)
        (bench.root / "fixed").touch()
        assert bench.resume(body) == ["bad", ["good 0", "good 1", "good 2"]]
        assert bench.counts == {"bad": 2, "good 0": 1, "good 1": 1, "good 2": 1}

    def test_what_a_failed_flow_had_not_committed_is_kept_aside(self, bench: FlowBench) -> None:
        @step
        def first() -> None:
            (files() / "log").write_text("first\n")

        def body() -> str:
            first()
            with open(files() / "log", "a") as log:
                log.write("the flow's\n")
            if not (bench.root / "fixed").exists():
                raise PlainError("broken")
            return (files() / "log").read_text()

        with pytest.raises(PlainError):
            bench.start(body)
        assert bench.git("status", "--porcelain") == ""
        kept = bench.entry(2).kept
        assert kept is not None
        assert bench.git("show", f"{kept}:files/log") == "first\nthe flow's\n"
        (bench.root / "fixed").touch()
        assert bench.resume(body) == "first\nthe flow's\n"
        assert bench.text("log") == "first\nthe flow's\n"

    def test_stop_iteration_is_an_error_like_any_other(self, bench: FlowBench) -> None:
        @step
        def empty() -> int:
            return next(iter([]))

        @step
        def last() -> None:
            bench.die()

        def body() -> str:
            try:
                empty()
            except RuntimeError as error:
                seen = str(error)
            last()
            return seen

        bench.crash(body)
        assert "StopIteration" in bench.resume(body)


class TestOutputs:
    def test_one_without_a_json_form_names_the_step(self, bench: FlowBench) -> None:
        @step
        def bad() -> Any:
            (files() / "torn").write_text("torn")
            return {"client": threading.Lock()}

        def body() -> None:
            bad()

        with pytest.raises(OutputError, match=r"step 'bad'.*client.*lock") as raised:
            bench.start(body)
        assert raised.value.hint
        assert bench.tree() == {}
        assert bench.log() == ["start: main", "failed 1: bad", "failed: main"]
        assert bytes(bench.entry(1).output) == b"null"

    def test_it_is_not_tried_again_though_there_are_retries(self, bench: FlowBench) -> None:
        @step(retries=5, backoff=0)
        def bad() -> Any:
            bench.did("bad")
            return object()

        with pytest.raises(OutputError):
            bench.start(lambda: bad())
        assert bench.done == ["bad"]

    def test_a_coroutine_that_a_plain_step_returns(self, bench: FlowBench) -> None:
        async def inner() -> None: ...

        @step
        def forgot() -> Any:
            coroutine = inner()
            coroutine.close()
            return coroutine

        with pytest.raises(OutputError, match="forgot"):
            bench.start(lambda: forgot())

    def test_a_recorded_one_that_fits_no_more_stops_the_run_without_ending_it(
        self, bench: FlowBench
    ) -> None:
        from kitaru_fs import DivergenceError

        def one() -> Any:
            return "text"

        def two() -> int:
            return 2

        @step
        def last() -> None:
            bench.die()

        def with_text() -> Any:
            seen = step(name="read")(one)()
            last()
            return seen

        def with_number() -> Any:
            seen = step(name="read")(two)()
            last()
            return seen

        bench.crash(with_text)
        before = bench.refs()
        with pytest.raises(DivergenceError, match=r"step 1 \(read\).*return type"):
            bench.resume(with_number)
        assert bench.run.status == "interrupted"
        assert bench.resume(with_text) == "text"
        assert before.splitlines()[-1] in bench.refs()


class TestThisStep:
    def test_numbers_attempts_and_keys(self, bench: FlowBench) -> None:
        @step(retries=1, backoff=0)
        def told(number: int) -> list[Any]:
            info = this_step()
            bench.did(info.idempotency_key)
            if info.attempt == 1 and number == 2:
                raise ValueError
            return [info.number, info.attempt, info.name, info.run]

        def body() -> list[Any]:
            return [told(1), told(2), told(2)]

        run = bench.start(body)
        identity = bench.run.id
        assert run == [
            [1, 1, "told", identity],
            [3, 2, "told", identity],
            [5, 2, "told", identity],
        ]
        keys = bench.done
        assert keys[1] == keys[2]
        assert keys[3] == keys[4]
        assert len(set(keys)) == 3

    def test_keys_are_stable_over_a_crash_and_new_after_a_rewind(self, bench: FlowBench) -> None:
        @step
        def told() -> str:
            bench.did(this_step().idempotency_key)
            bench.die()
            return this_step().idempotency_key

        @step
        def before() -> None: ...

        def body() -> str:
            before()
            return told()

        bench.crash(body)
        first = bench.resume(body)
        assert bench.done == [first, first]
        bench.git("checkout", "-q", bench.run.show("before").commit)
        assert bench.resume(body) != first
        assert bench.run.state()["branch"] == "branch-2"

    def test_notes_stand_in_the_entry(self, bench: FlowBench) -> None:
        @step
        def noted() -> None:
            note(model="small", sizes=(1, 2), place=Path("a"))
            note(model="large")

        def body() -> None:
            note(phase="one", observed="a word of ours", run="too")
            noted()
            note(phase="two")
            noted()
            note(phase="end")

        bench.start(body)
        assert bench.entry(1).metadata == {
            "phase": "one",
            "observed": "a word of ours",
            "run": "too",
            "model": "large",
            "sizes": [1, 2],
            "place": "a",
        }
        assert (bench.entry(2).metadata or {})["phase"] == "two"
        assert bench.entry(3).metadata == {"phase": "end"}

    def test_notes_are_not_noted_again_after_a_crash(self, bench: FlowBench) -> None:
        @step
        def one(number: int) -> None:
            if number == 2:
                bench.die()

        def body() -> None:
            note(phase="first")
            one(1)
            note(count=2)
            one(2)

        bench.crash(body)
        bench.resume(body)
        assert bench.entry(1).metadata == {"phase": "first"}
        assert bench.entry("one#2").metadata == {"count": 2}

    def test_a_note_without_a_json_form_is_refused(self, bench: FlowBench) -> None:
        @step
        def noted() -> None:
            with pytest.raises(UsageError, match="note"):
                note(lock=threading.Lock())

        bench.start(lambda: noted())
        with pytest.raises(UsageError, match="outside a flow"):
            note(a=1)
