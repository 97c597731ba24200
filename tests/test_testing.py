"""The helpers for tests of users' own flows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kitaru_fs import UsageError, files, flow, random, step
from kitaru_fs.testing import (
    assert_replays,
    assert_same,
    crash,
    die,
    differences,
    resume,
    run_flow,
    temporary_workspace,
)

_extra: list[str] = []


@step
async def write(number: int) -> str:
    (files() / f"{number}.txt").write_text(f"number {number}\n")
    if number == 2:
        die()
    return f"written {number}"


@step
def read(number: int) -> str:
    return (files() / f"{number}.txt").read_text()


@flow
async def book(pages: int = 3) -> list[str]:
    told = [await write(number) for number in range(pages)]
    return [*told, read(pages - 1), *_extra]


@flow
def broken() -> None:
    raise ValueError("out of ink")


def test_a_flow_runs_in_a_workspace_that_is_gone_afterwards() -> None:
    before = os.environ.get("KITARU_WORKSPACE")
    with temporary_workspace() as workspace:
        run = run_flow(workspace, book, 2)
        assert (run.status, run.output) == ("completed", ["written 0", "written 1", "number 1\n"])
        assert run.read("1.txt") == b"number 1\n"
    assert not Path(workspace.path).exists()
    assert os.environ.get("KITARU_WORKSPACE") == before


def test_what_a_flow_raises_is_the_run_s() -> None:
    with temporary_workspace() as workspace:
        run = run_flow(workspace, broken)
        assert run.status == "failed"
        assert run.error is not None
        assert run.error["message"] == "out of ink"
        with pytest.raises(UsageError):
            run_flow(workspace, book, "many", nonsense=1)


@pytest.mark.parametrize("at", [1, 3, "read", "die"])
def test_a_flow_that_is_killed_ends_as_one_that_was_not(at: int | str) -> None:
    with temporary_workspace() as workspace:
        whole = run_flow(workspace, book)
        killed = crash(workspace, book, at=at)
        assert killed.status == "interrupted"
        again = resume(killed, book)
        assert again.status == "completed"
        assert_same(whole, again)


def test_a_flow_that_ends_before_it_is_killed_is_said() -> None:
    with temporary_workspace() as workspace, pytest.raises(AssertionError, match="ended before"):
        crash(workspace, book, 1, at=30)


def test_a_replay_executes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with temporary_workspace() as workspace:
        run = run_flow(workspace, book)
        assert_replays(run, book)
        monkeypatch.setattr(f"{__name__}._extra", ["more"])
        with pytest.raises(AssertionError, match=r"returned .*'more'\]"):
            assert_replays(run, book)
        with pytest.raises(AssertionError, match="is failed"):
            assert_replays(run_flow(workspace, broken), broken)


@step
def draw(number: float) -> float:
    return number


@flow
def lottery(seen: bool = True) -> float:
    return draw(random()) if seen else draw(__import__("random").random())


def test_what_two_runs_do_not_share_is_listed() -> None:
    with temporary_workspace() as workspace:
        one, other = run_flow(workspace, book, 2), run_flow(workspace, book, 3)
        found = differences(one, other)
        assert any(line.startswith("files/2.txt: None and number 2") for line in found)
        assert "write: 2 times and 3 times" in found
        drawn = [run_flow(workspace, lottery) for _ in range(2)]
        assert [line.split(":")[0] for line in differences(*drawn)] == ["output", "draw#1"]
        with pytest.raises(AssertionError, match="differ"):
            assert_same(*drawn)
        assert_replays(drawn[0], lottery)


def test_a_flow_that_is_not_deterministic_is_found() -> None:
    from kitaru_fs import DivergenceError

    with temporary_workspace() as workspace:
        run = run_flow(workspace, lottery, seen=False)
        with pytest.raises(DivergenceError):
            assert_replays(run, lottery)
