"""A flow called in a flow is a run of its own: killed with its parent, it goes on with it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import subprocess
import sys
from pathlib import Path

import pytest

from kitaru_fs import RunWaiting, Workspace, sleep, step, wait
from kitaru_fs.errors import RunCancelled, UsageError

AGENT = """
import asyncio
import os
import signal
from pathlib import Path
from kitaru_fs import files, flow, now, patched, random, step, uuid4

PLACE = Path(__file__).parents[1]

@step
async def one(number: int) -> int:
    with open(PLACE / "effects", "a") as effects:
        print(number, file=effects)
    return number

@flow
async def child(number: int) -> int:
    first = await one(number)
    (files() / "number.txt").write_text(str(number))
    if number == 2 and not (PLACE / "died").exists():
        (PLACE / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return first * 10 + await one(number + 100)

@flow
async def parent() -> list[str]:
    drawn = [str(uuid4()), now().isoformat(), str(random())]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(child(number)) for number in (1, 2, 3)]
    drawn += [str(task.result()) for task in tasks]
    (PLACE / "drawn").write_text(repr(drawn))
    new = patched("change")
    await one(7)
    return [*drawn, str(new)]
"""


def kitaru(workspace: Path, *arguments: str) -> int:
    return subprocess.run(
        [sys.executable, "-m", "kitaru_fs", *arguments],
        cwd=workspace,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    ).returncode


def git(run: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(run), *arguments], capture_output=True, text=True, check=True
    ).stdout


def test_children_of_a_killed_parent_go_on_and_none_runs_twice(tmp_path: Path) -> None:
    (tmp_path / "kitaru.toml").touch()
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "family.py").write_text(AGENT)
    assert kitaru(tmp_path, "run", "parent") == -9
    workspace = Workspace(tmp_path)
    [parent] = workspace.runs(flow="parent")
    assert parent.status == "interrupted"
    assert kitaru(tmp_path, "resume", parent.id) == 0

    parent = parent.refresh()
    assert parent.output[3:] == ["111", "122", "133", "True"]
    effects = (tmp_path / "effects").read_text().split()
    assert sorted(effects) == sorted(set(effects))
    children = workspace.runs(flow="child")
    assert len(children) == 3
    assert {run.output for run in children} == {111, 122, 133}
    for run in (parent, *children):
        assert run.status == "completed"
        assert git(run.path, "status", "--porcelain") == ""
        assert git(run.path, "fsck", "--strict") == ""

    # Once more from the start: what was drawn and what the children gave is the same.
    before = parent.output
    step = next(line for line in parent.log() if line.name == "one")
    git(parent.path, "checkout", "-q", f"{step.commit}~1")
    assert kitaru(tmp_path, "resume", parent.id) == 0
    assert parent.refresh().output == before
    assert len(workspace.runs(flow="child")) == 3


@step
async def act(what: str) -> str:
    return what


@step
def told(what: list[str]) -> int:
    return len(what)


class TestStarted:
    """`FLOW.start()` in a flow: a child run that goes on beside it."""

    def test_are_the_same_children_when_their_parent_was_killed(self, bench):
        async def child(number):
            bench.did(await act(f"child {number}"))
            if number == 2:
                bench.die()
            return number * 10

        async def body():
            handles = [
                bench.handle(functools.partial(child, number), f"child-{number}")
                for number in (1, 2, 3)
            ]
            # Their ids are arguments: others on a resume would be divergence.
            await act(" ".join(handle.id for handle in handles))
            results = await asyncio.gather(*handles)
            assert [await handle.result() for handle in handles] == results
            return results

        bench.crash(body)
        run = bench.workspace.runs()[-1]
        assert bench.resume(body, run) == [10, 20, 30]
        assert set(bench.counts) == {"child 1", "child 2", "child 3"}
        children = [one for one in bench.workspace.runs() if one.id != run.id]
        assert sorted(one.output for one in children) == [10, 20, 30]
        recorded = [line.name for line in run.log() if line.kind == "child"]
        assert recorded == ["main"] * 6  # each began, and ended
        [named] = [run.show(line.commit) for line in run.log() if line.name == "act"]
        assert sorted(named.output.split()) == sorted(one.id for one in children)

    def test_have_an_id_before_anything_is_journaled_of_them(self, bench):
        async def child():
            return await act("child")

        async def body():
            handle = bench.handle(child, "child")
            told([handle.id])  # no task goes on meanwhile
            bench.die()
            return [handle.id, await handle]

        bench.crash(body)
        assert len(bench.workspace.runs()) == 1
        ident, result = bench.resume(body)
        assert result == "child"
        assert ident in [run.id for run in bench.workspace.runs()]

    def test_end_before_the_flow_that_did_not_await_them(self, bench):
        async def child():
            await asyncio.sleep(0.01)
            bench.did(await act("child"))

        async def body():
            bench.handle(child, "child")
            return 1

        assert bench.start(body) == 1
        assert bench.done == ["child"]
        assert [run.status for run in bench.workspace.runs()] == ["completed"] * 2

    def test_that_fail_unseen_fail_the_flow_that_did_not_await_them(self, bench):
        broken = [True]

        async def child(number):
            await act(f"child {number}")
            if broken:
                raise LookupError(f"nothing there for {number}")
            return number

        async def body():
            seen, _ = [bench.handle(functools.partial(child, n), f"c{n}") for n in (1, 2)]
            with contextlib.suppress(LookupError):
                await seen
            return 1

        with pytest.raises(LookupError, match="nothing there for 2"):
            bench.start(body)
        run = bench.workspace.runs()[-1]
        assert run.status == "failed"
        broken.clear()
        assert bench.resume(body, run) == 1

    def test_wait_and_are_cancelled_with_the_flow_that_started_them(self, bench):
        async def child(number):
            return await wait("go on", f"{number}?", schema=int)

        async def body():
            first, second = [
                bench.handle(functools.partial(child, number), f"c{number}") for number in (1, 2)
            ]
            await sleep(3600)
            return [await first, await second]

        with pytest.raises(RunWaiting):
            bench.start(body)
        run = bench.workspace.runs()[-1]
        children = [one for one in bench.workspace.runs() if one.id != run.id]
        assert sorted(asked["question"] for asked in run.waits) == ["1?", "2?"]
        assert [one.status for one in children] == ["waiting"] * 2
        run.cancel()
        assert [one.refresh().status for one in (run, *children)] == ["cancelled"] * 3
        with pytest.raises(RunCancelled):
            bench.resume(body, run)

    def test_start_others_and_all_of_them_wait(self, bench):
        async def grandchild(number):
            return await wait("go on", f"{number}?", schema=int)

        async def child():
            handles = [
                bench.handle(functools.partial(grandchild, number), f"g{number}")
                for number in range(3)
            ]
            await act("between")
            return await asyncio.gather(*handles)

        async def body():
            handle = bench.handle(child, "child")
            await act("beside")
            return await handle

        with pytest.raises(RunWaiting):
            bench.start(body)
        run = bench.workspace.runs()[-1]
        assert len(run.waits) == 3
        for asked in run.waits:
            bench.workspace.run(asked["run"]).answer(int(asked["question"][0]))
        assert bench.resume(body, run) == [0, 1, 2]
        assert {one.status for one in bench.workspace.runs()} == {"completed"}

    def test_of_plain_flows_run_beside_an_async_one(self, bench):
        def child():
            return told(["child"])

        async def body():
            handles = [bench.handle(child, name) for name in ("c1", "c2")]
            return [await handle for handle in handles]

        assert bench.start(body) == [1, 1]

    def test_are_refused_in_plain_code_and_in_a_step(self, bench):
        async def child():
            return 1

        with pytest.raises(UsageError, match="plain code of a flow"):
            bench.start(lambda: bench.handle(child, "child"))

        @step
        async def inner() -> int:
            return await bench.handle(child, "child")

        async def body():
            return await inner()

        with pytest.raises(UsageError, match="was called in a step"):
            bench.start(body)
