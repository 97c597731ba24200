"""A flow that no longer makes the calls that its journal holds stops before anything is written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kitaru_fs import Workspace
from kitaru_fs.run import Run

HEAD = """
import asyncio
from pathlib import Path
from kitaru_fs import files, flow, patched, step

PLACE = Path(__file__).parents[1]

@step
async def load(name: str) -> str:
    (files() / name).write_text(name)
    return name

@step
async def save(name: str) -> str:
    return name

@step
async def fragile() -> int:
    if not (PLACE / "mended").exists():
        raise RuntimeError("not yet")
    return 1

"""
BODY = """
@flow
async def work() -> int:
    await load("a")
    await save("b")
    return await fragile()
"""
CHANGED = {
    "a renamed step": BODY.replace('save("b")', 'load("b")'),
    "another argument": BODY.replace('save("b")', 'save("c")'),
    "a step before": BODY.replace('await load("a")', 'await save("x")\n    await load("a")'),
    "another order": BODY.replace('load("a")', 'save("b")', 1).replace(
        'await save("b")\n    return', 'await load("a")\n    return'
    ),
    "an early end": BODY.replace('await save("b")', "return 0"),
    "an early error": BODY.replace('await save("b")', 'raise ValueError("early")'),
    "in a group": BODY.replace('await save("b")', 'await asyncio.gather(save("x"), save("y"))'),
    "in a task group": BODY.replace(
        'await save("b")',
        "async with asyncio.TaskGroup() as group:\n"
        '        group.create_task(save("x"))\n        group.create_task(save("y"))',
    ),
}
SAME = {
    "unchanged": BODY,
    "a new step behind a patch": BODY.replace(
        'await save("b")', 'await save("b")\n    if patched("more"):\n        await save("new")'
    ),
    "other work between": BODY.replace(
        'await save("b")', 'await asyncio.sleep(0.01)\n    await save("b")'
    ),
    "a new step after all": BODY.replace(
        "return await fragile()", 'await fragile()\n    await save("n")\n    return 1'
    ),
}


def write(place: Path, body: str) -> None:
    (place / "agents" / "work.py").write_text(HEAD + body)


def kitaru(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kitaru_fs", *arguments],
        cwd=place,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def git(run: Run, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(run.path), *arguments], capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture
def failed(tmp_path: Path) -> Run:
    """A run that failed at its third step, its cause mended since."""
    (tmp_path / "kitaru.toml").write_text('durability = "process"\n')
    (tmp_path / "agents").mkdir()
    write(tmp_path, BODY)
    assert kitaru(tmp_path, "run", "work").returncode == 1
    (tmp_path / "mended").touch()
    return Workspace(tmp_path).run()


@pytest.mark.parametrize("change", CHANGED)
def test_a_changed_flow_stops_and_nothing_is_written(failed: Run, change: str) -> None:
    place = failed.workspace.path
    (failed.path / "files" / "mine.txt").write_text("a human's, not committed yet")
    write(place, CHANGED[change])
    refs = git(failed, "for-each-ref")
    done = kitaru(place, "resume", failed.id)
    assert done.returncode == 5, done.stderr
    assert "Traceback" not in done.stderr
    assert "journal holds" in done.stderr
    heads = [line for line in git(failed, "for-each-ref").splitlines() if "/torn/" not in line]
    assert heads == [line for line in refs.splitlines() if "/torn/" not in line]
    assert (failed.path / "files" / "mine.txt").read_text() == "a human's, not committed yet"
    write(place, BODY)
    assert kitaru(place, "resume", failed.id).returncode == 0
    assert failed.refresh().status == "completed"


@pytest.mark.parametrize("change", SAME)
def test_a_change_that_leaves_the_journals_calls_is_no_divergence(failed: Run, change: str) -> None:
    write(failed.workspace.path, SAME[change])
    done = kitaru(failed.workspace.path, "resume", failed.id)
    assert done.returncode == 0, done.stderr
    assert failed.refresh().output == 1
