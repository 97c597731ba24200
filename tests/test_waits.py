"""A flow asks, its process leaves, and the reply that comes is used once, for that question."""

from __future__ import annotations

import asyncio
import datetime
import enum
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pydantic
import pytest
from plain_git import git

from kitaru_fs import RunWaiting, WaitRejected, WaitTimeout, files, receive, sleep, step, wait
from kitaru_fs import sync as kitaru_sync
from kitaru_fs.engine import publishing
from kitaru_fs.errors import AmbiguousError, ConflictError, NotFoundError, UsageError

ADA = ("Ada", "ada@example.org")


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Plan:
    steps: list[str]
    budget: int = 3


class Review(pydantic.BaseModel):
    ok: bool
    why: str | None = None


def waits(bench, body):
    """Runs or resumes until the flow waits."""
    with pytest.raises(RunWaiting) as caught:
        body()
    assert caught.value.exit_status == 3
    assert bench.run.status == "waiting"
    assert bench.git("status", "--porcelain") == ""
    assert bench.git("fsck", "--strict") == ""
    assert bench.run.holder is None


def asks_once(bench, **options):
    """A flow with a step before and after its only wait."""

    @step
    async def act(what: str) -> str:
        bench.did(what)
        return what

    async def body():
        await act("before")
        (files() / "draft.md").write_text("a draft")
        reply = await wait("publish", "Publish this?", **options)
        return [reply, await act("after")]

    return body


class TestAsking:
    def test_is_committed_with_what_the_flow_wrote_then_the_process_leaves(self, bench):
        body = asks_once(bench, schema=bool)
        waits(bench, lambda: bench.start(body))

        assert bench.log() == ["start: main", "step 1: act", "wait 2: publish"]
        assert bench.text("draft.md") == "a draft"
        assert bench.entry(2).files == ["draft.md"]
        [wanted] = bench.run.waits
        assert wanted["name"] == "publish"
        assert wanted["question"] == "Publish this?"
        assert wanted["schema"] == {"type": "boolean"}
        assert wanted["until"] is None
        trailers = bench.git("log", "-1", "--format=%(trailers:key=Kitaru-Status,valueonly)")
        assert trailers.strip() == "waiting"

    def test_the_reply_is_the_humans_commit_and_the_flow_goes_on_with_it(self, bench):
        body = asks_once(bench, schema=bool)
        waits(bench, lambda: bench.start(body))
        delivered = bench.run.answer(True, identity=ADA)

        assert (delivered.step, bench.run.status, bench.run.waits) == (3, "queued", [])
        assert bench.git("log", "-1", "--format=%s|%an|%ae") == (
            "reply 3: publish|Ada|ada@example.org\n"
        )
        assert bench.git("show", "--stat", "--format=", "HEAD", "--", "files") == ""
        assert bench.git("status", "--porcelain") == ""
        assert bench.resume(body) == [True, "after"]
        assert bench.counts == {"before": 1, "after": 1}
        assert bench.git("status", "--porcelain") == ""

    def test_a_resume_without_a_reply_waits_again(self, bench):
        body = asks_once(bench, schema=bool)
        waits(bench, lambda: bench.start(body))
        waits(bench, lambda: bench.resume(body))
        assert bench.log()[-1] == "resume 3: asked"
        assert len(bench.run.waits) == 1
        bench.run.answer(False)
        assert bench.resume(body) == [False, "after"]

    @pytest.mark.parametrize(
        ("schema", "value"),
        [
            (str, "text"),
            (int, 3),
            (float, 0.5),
            (list[int], [1, 2]),
            (dict[str, bool], {"a": True}),
            (tuple[int, str], (1, "a")),
            (Literal["a", "b"], "b"),
            (Colour, Colour.RED),
            (datetime.date, datetime.date(2026, 11, 22)),
            (Plan, Plan(["a"], 2)),
            (Review, Review(ok=True)),
            (Plan | Review, Review(ok=False, why="no")),
            (int | None, None),
            (Any, {"any": [1, None]}),
            (Path, Path("a/b")),
        ],
    )
    def test_any_type_that_a_step_may_return_is_a_schema(self, bench, schema, value):
        async def body():
            return repr(await wait("w", schema=schema))

        waits(bench, lambda: bench.start(body))
        bench.run.answer(value)
        assert bench.resume(body) == repr(value)
        bench.git("checkout", "-q", "HEAD~1")
        assert bench.resume(body) == repr(value)

    def test_plain_flows_wait_with_sync(self, bench):
        def body():
            bench.did("begun")
            return kitaru_sync.wait("w", "How many?", schema=int) + 1

        waits(bench, lambda: bench.start(body))
        bench.run.answer(2)
        assert bench.resume(body) == 3

    def test_several_are_open_at_once_and_a_step_beside_them_is_finished(self, bench):
        @step
        async def work() -> str:
            await asyncio.sleep(0.3)
            bench.did("work")
            return "worked"

        async def body():
            async with asyncio.TaskGroup() as group:
                first = group.create_task(wait("first", schema=int))
                middle = group.create_task(work())
                second = group.create_task(wait("second", schema=int))
            return [first.result(), middle.result(), second.result()]

        waits(bench, lambda: bench.start(body))
        assert [one["name"] for one in bench.run.waits] == ["first", "second"]
        with pytest.raises(AmbiguousError, match=r"first \(step 1\), second \(step"):
            bench.run.answer(1)
        bench.run.answer(2, wait="second")
        waits(bench, lambda: bench.resume(body))
        bench.run.answer(1, wait="first")
        assert bench.resume(body) == [1, "worked", 2]
        assert bench.counts == {"work": 1}

    def test_equal_waits_are_told_apart_by_their_steps(self, bench):
        async def body():
            return await asyncio.gather(wait("w", schema=int), wait("w", schema=int))

        waits(bench, lambda: bench.start(body))
        with pytest.raises(AmbiguousError):
            bench.run.answer(1, wait="w")
        bench.run.answer(2, wait="2")
        bench.run.answer(1, wait="1")
        assert bench.resume(body) == [1, 2]

    def test_a_wait_that_the_flow_gives_up_is_open_no_more(self, bench):
        @step
        async def act() -> int:
            return 1

        async def body():
            asked = asyncio.ensure_future(wait("w", schema=int))
            await sleep(0)
            asked.cancel()
            await asyncio.wait([asked])
            await act()
            return await wait("other", schema=int)

        waits(bench, lambda: bench.start(body))
        assert [one["name"] for one in bench.run.waits] == ["other"]
        with pytest.raises(NotFoundError):
            bench.run.answer(1, wait="w")
        bench.run.answer(5)
        assert bench.resume(body) == 5

    def test_a_timer_of_the_flows_own_is_waited_for(self, bench):
        async def body():
            try:
                return await asyncio.wait_for(wait("w", schema=int), 0.4)
            except TimeoutError:
                return "timed out"

        assert bench.start(body) == "timed out"

    def test_is_refused_in_a_step_and_outside_a_flow(self, bench):
        @step
        async def asks() -> bool:
            return await wait("w", schema=bool)

        async def body():
            return await asks()

        with pytest.raises(UsageError, match="in a step"):
            bench.start(body)
        with pytest.raises(UsageError, match="outside a flow"):
            _ = wait("w")

    def test_the_wrong_module_for_the_flow_is_named(self, bench):
        def plain():
            return wait("w", schema=bool)

        async def coroutine():
            return kitaru_sync.wait("w", schema=bool)

        with pytest.raises(UsageError, match=r"plain `def` flow"):
            bench.start(plain)
        with pytest.raises(UsageError, match="event loop"):
            bench.start(coroutine)


class TestReplies:
    def test_of_the_wrong_type_change_nothing(self, bench):
        body = asks_once(bench, schema=bool)
        waits(bench, lambda: bench.start(body))
        before = bench.refs()
        with pytest.raises(UsageError, match=r"3 is not of type 'boolean'"):
            bench.run.answer(3)
        assert bench.refs() == before
        assert bench.run.status == "waiting"

    def test_to_no_wait_to_an_answered_one_and_to_an_ended_run_are_refused(self, bench):
        body = asks_once(bench, schema=bool)
        waits(bench, lambda: bench.start(body))
        with pytest.raises(NotFoundError, match="named 'other'") as caught:
            bench.run.answer(True, wait="other")
        assert "publish" in caught.value.hint
        bench.run.answer(True)
        with pytest.raises(NotFoundError, match=r"publish of run .* was answered at step 3"):
            bench.run.answer(True)
        bench.resume(body)
        with pytest.raises(NotFoundError, match="is completed"):
            bench.run.answer(True)

    def test_undo_takes_an_unused_one_back_and_offers_it(self, bench):
        body = asks_once(bench, schema=bool)
        waits(bench, lambda: bench.start(body))
        bench.run.answer(True, identity=ADA)
        bench.run.undo()

        assert bench.run.status == "waiting"
        [wanted] = bench.run.waits
        [offer] = wanted["offered"]
        assert (offer["value"], offer["by"], offer["branch"]) == (True, "Ada", "main")
        bench.run.answer(False)
        assert bench.resume(body) == [False, "after"]

    def test_a_used_one_cannot_be_taken_back(self, bench):
        body = asks_once(bench, schema=bool)
        waits(bench, lambda: bench.start(body))
        bench.run.answer(True)
        bench.resume(body)
        with pytest.raises(ConflictError, match="nothing to undo"):
            bench.run.undo()

    def test_do_not_leak_into_a_question_that_is_asked_anew(self, bench):
        body = asks_once(bench, schema=bool)
        waits(bench, lambda: bench.start(body))
        bench.run.answer(True)
        bench.resume(body)
        bench.run.rewind("1")

        waits(bench, lambda: bench.resume(body))
        [wanted] = bench.run.waits
        assert [offer["value"] for offer in wanted["offered"]] == [True]
        assert bench.counts == {"before": 1, "after": 1}
        bench.run.answer(False)
        assert bench.resume(body) == [False, "after"]

    def test_are_offered_where_the_question_is_in_the_log_of_a_killed_process(
        self, bench, monkeypatch
    ):
        body = asks_once(bench, schema=bool)
        waits(bench, lambda: bench.start(body))
        bench.run.answer(True)
        bench.resume(body)
        bench.run.rewind("1")

        # Before git sees what the process committed.
        monkeypatch.setattr(publishing, "PAUSE", 600.0)
        monkeypatch.setattr(publishing, "LONGEST", 600.0)

        def listen(event):
            if event.name == "publish":
                bench.die()

        bench.in_child(lambda: bench.resume(body, listener=listen))
        [wanted] = bench.run.waits
        assert [offer["value"] for offer in wanted["offered"]] == [True]

    def test_count_for_the_question_that_was_asked(self, bench):
        async def first():
            return await wait("w", "Publish?", schema=bool)

        async def second():
            return await wait("w", "Delete everything?", schema=bool)

        waits(bench, lambda: bench.start(first))
        bench.run.answer(True)
        waits(bench, lambda: bench.resume(second))
        [wanted] = bench.run.waits
        assert wanted["question"] == "Delete everything?"
        bench.run.answer(False)
        assert bench.resume(second) is False

    def test_that_only_the_flow_finds_unfit_are_asked_for_again(self, bench):
        class Even(pydantic.BaseModel):
            number: int

            @pydantic.field_validator("number")
            @classmethod
            def is_even(cls, value: int) -> int:
                assert value % 2 == 0
                return value

        async def body():
            return (await wait("w", schema=Even)).number

        waits(bench, lambda: bench.start(body))
        bench.run.answer({"number": 3})
        waits(bench, lambda: bench.resume(body))
        bench.run.answer({"number": 4})
        assert bench.resume(body) == 4

    def test_of_a_killed_run_are_taken_and_it_goes_on(self, bench):
        async def body():
            task = asyncio.ensure_future(wait("w", schema=int))
            await sleep(0)
            bench.die()
            return await task

        bench.crash(body)
        assert bench.run.status == "interrupted"
        bench.run.answer(7)
        assert bench.run.status == "queued"
        assert bench.resume(body) == 7


class TestNoReply:
    def test_in_time_is_an_error_replayed_alike(self, bench):
        caught = []

        async def body():
            try:
                return await wait("w", schema=int, timeout=0)
            except WaitTimeout as error:
                caught.append(repr(error))
            return await wait("then", schema=int)

        waits(bench, lambda: bench.start(body))
        assert "failed 2: w" in bench.log()
        bench.run.answer(1)
        assert bench.resume(body) == 1
        assert caught[0] == caught[1]

    def test_that_ended_the_run_is_asked_for_again_by_a_resume(self, bench):
        limits = [0, 100]

        async def body():
            return await wait("w", schema=int, timeout=limits[0])

        with pytest.raises(WaitTimeout):
            bench.start(body)
        assert bench.run.status == "failed"
        limits.pop(0)
        waits(bench, lambda: bench.resume(body))
        bench.run.answer(1)
        assert bench.resume(body) == 1

    def test_gives_the_default(self, bench):
        async def body():
            return await wait("w", schema=str, timeout=0, default="nobody")

        assert bench.start(body) == "nobody"
        assert bench.log()[1:3] == ["wait 1: w", "wait 2: w"]

    def test_but_a_refusal_is_an_error_replayed_alike(self, bench):
        caught = []

        async def body():
            try:
                return await wait("w", schema=int)
            except WaitRejected as error:
                caught.append((str(error), error.reason))
            return await wait("then", schema=int)

        waits(bench, lambda: bench.start(body))
        bench.run.answer(reject=True, reason="not my job", identity=ADA)
        assert bench.git("log", "-1", "--format=%s|%an") == "reply 2: w|Ada\n"
        waits(bench, lambda: bench.resume(body))
        bench.run.answer(1)
        assert bench.resume(body) == 1
        assert caught[0] == caught[1]
        assert caught[0][1] == "not my job"

    def test_but_a_refusal_gives_the_default(self, bench):
        async def body():
            return await wait("w", schema=int, default=4)

        waits(bench, lambda: bench.start(body))
        bench.run.answer(reject=True)
        assert bench.resume(body) == 4

    def test_late_ones_are_refused(self, bench):
        async def body():
            return await wait("w", schema=int, timeout=0.3)

        waits(bench, lambda: bench.start(body))
        [wanted] = bench.run.waits
        over = datetime.datetime.fromisoformat(wanted["until"])
        while datetime.datetime.now(datetime.UTC) < over:
            pass
        with pytest.raises(ConflictError, match="was over at"):
            bench.run.answer(1)
        with pytest.raises(WaitTimeout):
            bench.resume(body)

    def test_a_default_that_does_not_fit_is_refused(self, bench):
        async def body():
            return await wait("w", schema=int, default="x")

        with pytest.raises(UsageError, match="default 'x' does not fit"):
            bench.start(body)


class TestHeldRuns:
    async def held(self, bench, body):
        """Starts a run that lingers for long; returns its handle once it waits."""
        (bench.root / "kitaru.toml").write_text('durability = "process"\nlinger = "1h"\n')
        handle = bench.handle(body)
        while not bench.run.refresh().waits and not bench.run.refresh().wake.topics:
            await asyncio.sleep(0.005)
        return handle

    def test_get_a_reply_while_they_linger(self, bench):
        async def main():
            handle = await self.held(bench, asks_once(bench, schema=bool))
            delivered = await asyncio.to_thread(bench.run.answer, True, identity=ADA)
            assert delivered.step == 3
            return await handle.result()

        assert asyncio.run(main()) == [True, "after"]
        assert "reply 3: publish" in bench.log()
        assert bench.git("log", "--format=%an", "--grep=^reply", "-1") == "Ada\n"
        assert list((bench.run.path / "inbox").iterdir()) == []

    def test_get_a_reply_as_a_file(self, bench):
        async def main():
            handle = await self.held(bench, asks_once(bench, schema=bool))
            inbox = bench.run.path / "inbox"
            (inbox / ".publish").write_text("true")
            (inbox / ".publish").rename(inbox / "publish.json")
            return await handle.result()

        assert asyncio.run(main()) == [True, "after"]
        assert list((bench.run.path / "inbox").iterdir()) == []

    def test_get_messages(self, bench):
        async def body():
            return [await receive("t", schema=int) for _ in range(3)]

        async def main():
            handle = await self.held(bench, body)
            for number in range(3):
                await asyncio.to_thread(bench.run.send, "t", number)
            return await handle.result()

        assert asyncio.run(main()) == [0, 1, 2]


def test_a_copy_and_a_clone_of_a_waiting_run_wait_too(bench):
    body = asks_once(bench, schema=bool)
    waits(bench, lambda: bench.start(body))
    first = bench.run.path
    clone = first.with_name("20260101-000000-000-clone-aaaa")
    git(first.parent, "clone", "-q", str(first), str(clone))
    run = bench.workspace.run(clone.name)
    assert [one["name"] for one in run.waits] == ["publish"]
    run.answer(True)
    assert run.refresh().resume() == [True, "after"]
    assert bench.workspace.run(first.name).status == "waiting"


class TestLeaving:
    """When nothing else can go on: not before, and not later for what goes on for its own sake."""

    def test_a_reader_that_nobody_waits_for_keeps_no_process(self, bench):
        async def body():
            server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            background = [asyncio.ensure_future(reader.read()), asyncio.ensure_future(_ticks())]
            try:
                return await wait("w", schema=int)
            finally:
                for task in background:
                    task.cancel()
                writer.close()
                server.close()

        waits(bench, lambda: bench.start(body))
        bench.run.answer(1)
        assert bench.resume(body) == 1

    def test_what_the_flow_waits_for_besides_is_waited_for(self, bench):
        @step
        async def act() -> int:
            bench.did("act")
            return 1

        async def later():
            await asyncio.sleep(0.3)
            return await act()

        async def body():
            async with asyncio.TaskGroup() as group:
                group.create_task(wait("w", schema=int))
                group.create_task(later())
            return "done"

        waits(bench, lambda: bench.start(body))
        assert bench.done == ["act"]

    def test_what_comes_through_a_queue_is_waited_for(self, bench):
        @step
        async def act() -> int:
            bench.did("act")
            return 1

        async def body():
            queue = asyncio.Queue()

            async def produce():
                await asyncio.sleep(0.3)
                await queue.put(await act())
                await queue.put(await wait("w", schema=int))

            producing = asyncio.ensure_future(produce())
            got = [await queue.get(), await queue.get()]
            await producing
            return got

        waits(bench, lambda: bench.start(body))
        assert bench.done == ["act"]
        bench.run.answer(2)
        assert bench.resume(body) == [1, 2]

    def test_a_thread_of_the_flow_is_waited_for(self, bench):
        def slow():
            time.sleep(0.3)
            bench.did("slow")

        async def body():
            await asyncio.gather(asyncio.to_thread(slow), wait("w", schema=int))

        waits(bench, lambda: bench.start(body))
        assert bench.done == ["slow"]

    def test_a_plain_flow_that_waits_in_a_thread(self, bench):
        async def body():
            return await asyncio.to_thread(kitaru_sync.wait, "w", schema=int)

        waits(bench, lambda: bench.start(body))
        bench.run.answer(1)
        assert bench.resume(body) == 1

    def test_nothing_is_left_open(self, bench):
        async def body():
            return await wait("w", schema=int)

        waits(bench, lambda: bench.start(body))
        deadline = time.monotonic() + 60
        while any(thread.name == "kitaru-poller" for thread in threading.enumerate()):
            assert time.monotonic() < deadline
        here = f"/proc/{os.getpid()}/fd"
        if not os.path.isdir(here):
            pytest.skip("needs /proc")
        links = [f"{here}/{name}" for name in os.listdir(here)]
        open_files = [os.readlink(link) for link in links if os.path.islink(link)]
        assert [one for one in open_files if str(bench.root) in one] == []

    def test_what_an_except_of_the_flows_makes_of_it_does_not_matter(self, bench):
        def plain():
            try:
                return kitaru_sync.wait("w", schema=int)
            except Exception:
                bench.did("caught")
                return 0

        async def coroutine():
            try:
                return await wait("w", schema=int)
            except BaseException:
                return 0

        for body in (plain, coroutine):
            waits(bench, lambda body=body: bench.start(body))
            bench.run.answer(3)
            assert bench.resume(body) == 3
        assert bench.done == []


async def _ticks():
    while True:
        await asyncio.sleep(0.01)


class TestClock:
    """Times are times of day: a clock that is set fires nothing twice, and nothing never."""

    def test_set_forward_a_sleep_is_over(self, bench, monkeypatch):
        async def body():
            await sleep(datetime.timedelta(days=30))
            return await wait("w", schema=int)

        waits(bench, lambda: bench.start(body))
        set_clock(monkeypatch, datetime.timedelta(days=31))
        waits(bench, lambda: bench.resume(body))
        assert sum(line.endswith(": sleep") for line in bench.log()) == 2
        # And back again: it is not slept twice.
        set_clock(monkeypatch, datetime.timedelta(days=-31))
        waits(bench, lambda: bench.resume(body))
        assert sum(line.endswith(": sleep") for line in bench.log()) == 2
        bench.run.answer(1)
        assert bench.resume(body) == 1

    def test_set_back_it_is_slept_until_then(self, bench, monkeypatch):
        async def body():
            await sleep(datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=0.2))
            return "woke"

        (bench.root / "kitaru.toml").write_text('durability = "process"\nlinger = "0"\n')
        waits(bench, lambda: bench.start(body))
        set_clock(monkeypatch, datetime.timedelta(hours=-1))
        waits(bench, lambda: bench.resume(body))
        set_clock(monkeypatch, datetime.timedelta(hours=1))
        assert bench.resume(body) == "woke"


def set_clock(monkeypatch, by):
    """Sets the clock by which times are over."""
    monkeypatch.setattr(
        "kitaru_fs.engine.mailbox.utc_now", lambda: datetime.datetime.now(datetime.UTC) + by
    )
