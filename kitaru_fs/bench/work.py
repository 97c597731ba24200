"""The flows that are measured, and running them so that two take turns."""

from __future__ import annotations

import os
import random
import sqlite3
import statistics
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kitaru_fs.engine.context import files
from kitaru_fs.engine.runner import run_to_end
from kitaru_fs.flows import flow
from kitaru_fs.steps import step
from kitaru_fs.values.signatures import bind_input
from kitaru_fs.workspace import Workspace

__all__ = [
    "Inserts",
    "Steps",
    "again",
    "in_workspace",
    "large",
    "many",
    "profiled",
    "workspace",
    "write",
]

_hooks: dict[str, Callable[[], int]] = {}
_took: dict[str, list[float]] = {}


@step
def answer(number: int) -> str:
    return f"{number:0200d}"


@step
def speak(number: int) -> str:
    """A thousand bytes of text."""
    return "".join(f"{number * 7919 + word * 104729:x} " for word in range(130))[:1000]


def write(place: Path, number: int) -> None:
    """Writes a file of 10 KB."""
    (place / "d000" / "edited.txt").write_text(f"{number}\n" * 2000)


@step
def edit(number: int) -> str:
    write(files(), number)
    return f"{number:0200d}"


@step
def rewrite(number: int) -> str:
    """Every fifty steps another large file that does not compress."""
    if number % 50 == 0:
        (files() / "large.bin").write_bytes(random.Random(number).randbytes(large.size))
    return f"{number:0200d}"


class large:
    """The file that `rewrite` writes; `size` is in bytes."""

    size = 20_000_000


@step
def give_up() -> None:
    again.reached = time.perf_counter()
    raise Again


class Again(Exception):
    """Ends a run so that `resume` tries its last step again."""


class again:
    """When a resumed flow came to its first live step."""

    reached = 0.0


WORK: dict[str, Callable[[int], str]] = {
    "answer": answer,
    "edit": edit,
    "speak": speak,
    "rewrite": rewrite,
}


@flow
def measured(name: str, work: str) -> int:
    """Makes as many steps as its hook says, again and again, and notes what each took."""
    call, number = WORK[work], 0
    while steps := _hooks[name]():
        took = _took[name] = []
        for _ in range(steps):
            begun = time.perf_counter()
            call(number)
            took.append(time.perf_counter() - begun)
            number += 1
    return number


@flow
def profiled(work: str, steps: int) -> int:
    call = WORK[work]
    for number in range(steps):
        call(number)
    return steps


@flow
def resumed(steps: int) -> int:
    for number in range(steps):
        answer(number)
    give_up()
    return steps


@step
async def answer_soon(number: int) -> str:
    return f"{number:0200d}"


@flow
async def many(steps: int) -> int:
    for number in range(steps):
        await answer_soon(number)
    return steps


def workspace(place: Path, durability: str = "fsync") -> Workspace:
    """Returns the workspace of a durability, made where it is missing."""
    folder = place / durability
    if not folder.exists():
        folder.mkdir(parents=True)
        (folder / "kitaru.toml").write_text(f'durability = "{durability}"\n')
    return Workspace(folder)


@contextmanager
def in_workspace(home: Workspace) -> Generator[None]:
    """While it is entered, a flow that is called makes its runs in a workspace."""
    before = os.environ.get("KITARU_WORKSPACE")
    os.environ["KITARU_WORKSPACE"] = str(home.path)
    try:
        yield
    finally:
        del os.environ["KITARU_WORKSPACE"]
        if before is not None:
            os.environ["KITARU_WORKSPACE"] = before


def start(home: Workspace, flow: Any, *arguments: Any, files: Path | None = None) -> Path:
    """Makes a run."""
    bound = bind_input(flow.name, flow.function, arguments, {})
    return home.create(flow, bound, files=files)


class Steps:
    """One run that goes on for as long as it is asked to, in a thread of its own.

    Args:
        place: Where workspaces are made.
        work: What a step does.
        durability: The setting.
        files: What `files/` begin with.
    """

    def __init__(
        self, place: Path, work: str, durability: str = "fsync", files: Path | None = None
    ) -> None:
        home = workspace(place, durability)
        self._name = f"{work}-{time.perf_counter_ns()}"
        self._ask, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._steps = self._made = 0
        self._shown = WORK[work].__name__
        _hooks[self._name] = self._wait
        self.path = start(home, measured, self._name, work, files=files)
        options = home.options(purpose="run", code=())
        self._thread = threading.Thread(target=run_to_end, args=(self.path, measured, options))
        self._thread.start()

    def _wait(self) -> int:
        self._done.release()
        self._ask.acquire()
        return self._steps

    def take(self, steps: int) -> list[float]:
        """Makes so many steps; returns what each took, in seconds.

        It returns once all of them are published: that is not to disturb what is measured next.
        """
        self._done.acquire()
        self._steps = steps
        self._ask.release()
        self._done.acquire()
        self._done.release()
        self._made += steps
        last = f"{self._made // 100:04d}/{self._made:06d}-{self._shown}.json"
        while not (self.path / "journal" / last).exists():
            time.sleep(0.001)
        return _took[self._name]

    def median(self, steps: int) -> float:
        """Makes so many steps; returns the median, in milliseconds."""
        return statistics.median(self.take(steps)) * 1000

    def close(self) -> None:
        """Ends the run."""
        self._done.acquire()
        self._steps = 0
        self._ask.release()
        self._thread.join()


class Inserts:
    """Rows in a table of SQLite (WAL, FULL): what a step is measured against.

    Args:
        place: Where the database is made.
    """

    def __init__(self, place: Path) -> None:
        self._connection = sqlite3.connect(place / "baseline.db", isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("CREATE TABLE IF NOT EXISTS steps (number INTEGER, output TEXT)")
        self._number = 0

    def median(self, steps: int) -> float:
        """Inserts so many rows, each a transaction; returns the median, in milliseconds."""
        took: list[float] = []
        for _ in range(steps):
            begun = time.perf_counter()
            row = (self._number, f"{self._number:0200d}")
            self._connection.execute("INSERT INTO steps VALUES (?, ?)", row)
            took.append(time.perf_counter() - begun)
            self._number += 1
        return statistics.median(took) * 1000

    def close(self) -> None:
        """Closes the database."""
        self._connection.close()
