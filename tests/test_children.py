"""A flow called in a flow is a run of its own: killed with its parent, it goes on with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from kitaru_fs import Workspace

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
