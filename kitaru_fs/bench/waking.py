"""How soon a run goes on under `kitaru up`, against starting Python with the same imports."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from kitaru_fs.bench.report import Figure
from kitaru_fs.run import Run
from kitaru_fs.supervisor.starter import needed_modules
from kitaru_fs.workspace import Workspace

__all__ = ["waking_rows"]

_FLOWS = """
import time

from kitaru_fs import flow, step, wait


@step
def mark() -> int:
    return time.monotonic_ns()


@flow
async def asks() -> int:
    await wait("go", schema=bool)
    return mark()


@flow
def begins() -> int:
    return mark()
"""
_PATIENCE = 60.0
_AGAINST = "the bare start"


def waking_rows(place: Path, rounds: int) -> Iterator[Figure]:
    """From what wakes a run, or starts one, to its next step, while a supervisor is there.

    Args:
        place: An empty directory.
        rounds: Paired rounds.
    """
    root = place / "ws"
    (root / "agents").mkdir(parents=True)
    (root / "agents" / "waking.py").write_text(_FLOWS)
    (root / "kitaru.toml").write_text('linger = "0"\n')
    workspace = Workspace(root)
    flow, target = workspace.load("begins")
    bare: list[float] = []
    took: dict[str, list[float]] = {"reply": [], "start": [], "detach": []}
    with _supervised(root):
        for number in range(rounds + 1):
            found = _bare_start(root), _reply(workspace)
            begun = time.monotonic_ns()
            path = workspace.create(flow, {}, target=target, detached=True)
            started = _marked(Run(path, workspace), begun)
            begun = time.monotonic_ns()
            detached = _marked(workspace.run(_command(root, "run", "begins", "--detach")), begun)
            # The first round finds what later ones do not: files that nobody has read.
            if number:
                bare.append(found[0])
                for name, value in zip(took, (found[1], started, detached), strict=True):
                    took[name].append(value)
    yield Figure("a bare `python -c` with what a run imports", bare)
    names = {
        "reply": "from a reply in the inbox to the next step",
        "start": "from `Workspace.create` to the first step",
        "detach": "from `kitaru run --detach`, its own start included",
    }
    for name, text in names.items():
        yield Figure(text, took[name], "ms", bare, _AGAINST)


def _bare_start(root: Path) -> float:
    """Milliseconds from starting Python to where a run of the workspace has its imports."""
    lines = [f"import {name}" for name in needed_modules(root)]
    code = "; ".join([*lines, "import agents.waking", "import time", "print(time.monotonic_ns())"])
    begun = time.monotonic_ns()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, check=True, text=True
    )
    return (int(done.stdout) - begun) / 1e6


def _reply(workspace: Workspace) -> float:
    run = workspace.run(_command(workspace.path, "run", "asks", "--detach"))
    _until(lambda: run.refresh().status == "waiting" and run.holder is None)
    new = run.path / "inbox" / ".go"
    new.write_text("true")
    begun = time.monotonic_ns()
    os.rename(new, run.path / "inbox" / "go.json")
    return _marked(run, begun)


def _marked(run: Run, begun: int) -> float:
    """Milliseconds to where a run came to its step."""
    _until(lambda: run.refresh().status == "completed")
    return (run.refresh().output - begun) / 1e6


def _command(root: Path, *words: str) -> str:
    command = [sys.executable, "-m", "kitaru_fs", *words]
    done = subprocess.run(command, cwd=root, capture_output=True, check=True, text=True)
    return done.stdout.strip()


@contextmanager
def _supervised(root: Path) -> Generator[None]:
    command = [sys.executable, "-m", "kitaru_fs", "up"]
    process = subprocess.Popen(command, cwd=root, stderr=subprocess.DEVNULL)
    try:
        _until(lambda: Workspace(root).supervisor is not None)
        yield
    finally:
        process.terminate()
        process.wait()


def _until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError("the supervisor does not go on")
        time.sleep(0.01)
