"""Pausing and cancelling runs: at rest, driven by a process, and called by others."""

from __future__ import annotations

import json
import signal

import pytest
from cli_program import Program
from plain_git import git

from kitaru_fs import Workspace

FLOWS = """
import asyncio
import os
import time
from pathlib import Path
from kitaru_fs import files, flow, step, wait


def tell(word):
    if "TEST_GATE" in os.environ:
        os.write(int(os.environ["TEST_GATE"]), word.encode() + b"\\n")


def let_go():
    return Path(os.environ.get("TEST_FIXED", "/nonexistent")).exists()


@step
async def work(number: int) -> int:
    (files() / f"{number}").write_text("half")
    if number == 2:
        tell("working")
        while not let_go():
            await asyncio.sleep(0.01)
    (files() / f"{number}").write_text("whole")
    return number


@flow
async def worker(last: int = 4) -> list[int]:
    return [await work(number) for number in range(1, last + 1)]


@step
def plain_work(number: int) -> int:
    if number == 2:
        tell("working")
        while not let_go():
            time.sleep(0.01)
    return number


@flow
def plain(last: int = 4) -> list[int]:
    return [plain_work(number) for number in range(1, last + 1)]


@flow
async def asks(number: int) -> int:
    await work(number + 10)
    tell("asking")
    return await wait("w", schema=int)


@flow
async def family() -> list[int]:
    return list(await asyncio.gather(asks(1), asks(2)))


@flow
async def mixed() -> list:
    return list(await asyncio.gather(asks(1), worker()))
"""


@pytest.fixture
def kitaru(tmp_path):
    program = Program(tmp_path)
    (program.workspace / "agents" / "flows.py").write_text(FLOWS)
    (program.workspace / "kitaru.toml").write_text('linger = "1h"\n')
    return program


def started(kitaru, *words, until="working", times=1):
    """Starts a flow and waits until it is so far."""
    process = kitaru.start("run", *words, TEST_FIXED=str(kitaru.root / "go"))
    for _ in range(times):
        assert process.told() == until
    return process


def clean(path):
    assert git(path, "status", "--porcelain") == ""
    assert git(path, "fsck", "--strict") == ""
    assert (
        not (path / ".git" / "kitaru" / "asked").exists()
        or Workspace(path.parents[1]).run(path.name).paused
    )


class TestPause:
    @pytest.mark.parametrize("flow", ["worker", "plain"])
    def test_of_a_driven_run_lets_its_step_finish(self, kitaru, flow):
        process = started(kitaru, flow)
        [run] = kitaru.runs
        asking = kitaru.start("pause", run.name)
        paused = run / ".git" / "kitaru" / "asked" / "pause"
        while not paused.exists():
            pass
        (kitaru.root / "go").touch()
        done = asking.end()
        assert (done.status, done.out) == (0, f"run {run.name}: paused\n"), done
        ended = process.end()
        assert (ended.status, ended.out, "paused; kitaru resume" in ended.err) == (130, "", True)
        clean(run)
        kinds = [line["kind"] for line in kitaru("log", "--json").json]
        assert kinds == ["start", "step", "step"]
        state = kitaru("status", "--json").json
        assert (state["status"], state["paused"]["by"]) == ("interrupted", "Ada")
        assert "by Ada" in kitaru.good("status")

        again = kitaru("resume", TEST_FIXED=str(kitaru.root / "go"))
        assert (again.status, json.loads(again.out)) == (0, [1, 2, 3, 4])
        assert "paused" not in kitaru("status", "--json").json

    def test_of_a_run_that_waits_ends_its_process(self, kitaru):
        process = started(kitaru, "asks", "number=1", until="asking")
        while not kitaru("waits", "--json").json:
            pass
        assert kitaru("pause").status == 0
        assert process.end().status == 130
        state = kitaru("status", "--json").json
        assert (state["status"], "paused" in state) == ("waiting", True)
        # It can be answered, and goes on when a human says so.
        assert kitaru("answer", "5").status == 0
        with pytest.raises(Exception, match="is paused"):
            Workspace(kitaru.workspace).run().resume(supervised=True)
        assert kitaru("resume").out == "5\n"

    def test_of_a_run_at_rest_and_of_one_that_has_ended(self, kitaru):
        (kitaru.root / "go").touch()
        process = started(kitaru, "worker")
        process.end()
        done = kitaru("pause")
        assert (done.status, "is completed, so it cannot be paused" in done.err) == (2, True)
        assert "paused" not in kitaru("status", "--json").json


class TestCancel:
    @pytest.mark.parametrize("flow", ["worker", "plain"])
    def test_of_a_driven_run_ends_it_in_the_middle_of_a_step(self, kitaru, flow):
        process = started(kitaru, flow)
        [run] = kitaru.runs
        done = kitaru("cancel", run.name)
        assert (done.status, done.out) == (0, f"run {run.name}: cancelled\n"), done
        assert process.end().status == 1
        clean(run)
        assert git(run, "log", "-1", "--format=%s") == f"cancelled: {flow}\n"
        assert sorted(path.name for path in (run / "files").iterdir()) == (
            ["1"] if flow == "worker" else []
        )
        assert kitaru("resume").status == 1
        assert kitaru("cancel", run.name).status == 2

        assert kitaru("undo").status == 0
        again = kitaru("resume", TEST_FIXED=str(kitaru.workspace))
        assert (again.status, json.loads(again.out)) == (0, [1, 2, 3, 4])

    def test_of_a_run_that_waits(self, kitaru):
        process = started(kitaru, "asks", "number=1", until="asking")
        while not kitaru("waits", "--json").json:
            pass
        assert kitaru("cancel", "last").status == 0
        assert process.end().status == 1
        assert kitaru("waits", "--json").json == []
        done = kitaru("answer", "1")
        assert (done.status, "is cancelled: it waits for no reply" in done.err) == (2, True)

    def test_cancels_the_runs_that_it_called(self, kitaru):
        (kitaru.workspace / "kitaru.toml").write_text('linger = "0"\n')
        assert started(kitaru, "family", until="asking", times=2).end().status == 3
        [parent] = [path for path in kitaru.runs if "-family-" in path.name]
        assert kitaru("cancel", parent.name).status == 0
        workspace = Workspace(kitaru.workspace)
        assert [run.status for run in workspace.runs()] == ["cancelled"] * 3
        for run in kitaru.runs:
            clean(run)
        assert kitaru("waits", "--json").json == []

    def test_of_a_driven_family_leaves_every_directory_in_order(self, kitaru):
        process = started(kitaru, "mixed", until="asking")
        assert process.told() == "working"
        [parent] = [path for path in kitaru.runs if "-mixed-" in path.name]
        assert kitaru("cancel", parent.name).status == 0
        assert process.end().status == 1
        workspace = Workspace(kitaru.workspace)
        assert {run.flow: run.status for run in workspace.runs()} == {
            "mixed": "cancelled",
            "asks": "cancelled",
            "worker": "cancelled",
        }
        for run in kitaru.runs:
            clean(run)

    def test_of_a_child_alone_fails_its_call(self, kitaru):
        process = started(kitaru, "mixed", until="asking")
        assert process.told() == "working"
        [child] = [path for path in kitaru.runs if "-asks-" in path.name]
        assert kitaru("cancel", child.name).status == 0
        done = process.end()
        assert (done.status, "RunCancelled" in done.err) == (1, True), done
        workspace = Workspace(kitaru.workspace)
        assert workspace.run("-mixed-").status == "failed"
        assert workspace.run("-asks-").status == "cancelled"

    def test_that_nobody_heeded_in_time_is_heeded_by_the_next_process(self, kitaru):
        process = started(kitaru, "worker")
        process.signal(signal.SIGSTOP)
        [run] = kitaru.runs
        asking = kitaru.start("cancel", run.name)
        while not (run / ".git" / "kitaru" / "asked" / "cancel").exists():
            pass
        asking.signal(signal.SIGKILL)
        asking.end()
        process.signal(signal.SIGKILL)
        process.end()
        assert kitaru("resume").status == 1
        assert kitaru("status", "--json").json["status"] == "cancelled"
