"""A workspace whose runs are supervised by the real program."""

from __future__ import annotations

import time
from pathlib import Path

from cli_program import PATIENCE, Program, Started

from kitaru_fs import Run, Workspace

__all__ = ["FLOWS", "UpBench"]

FLOWS = """
import os
import time
from pathlib import Path

from kitaru_fs import files, flow, receive, sleep, step, wait

PLACE = Path(os.environ["TEST_PLACE"])


def note(line):
    with open(PLACE / "notes", "a") as notes:
        notes.write(line + "\\n")


def wait_for(name):
    while not (PLACE / name).exists():
        time.sleep(0.01)


@step
def work(name: str) -> str:
    note(f"work {name}")
    return name


@flow
def quick(name: str = "x") -> str:
    print("hello from", name)
    return work(name)


@flow
def other(name: str = "x") -> str:
    return work(name)


@step
def hold(name: str) -> int:
    (files() / "torn").write_text("half")
    note(f"hold {name}")
    wait_for(f"go-{name}")
    return os.getpid()


@flow
def holding(name: str = "x") -> int:
    work(name)
    return hold(name)


@step
def dies() -> int:
    note("dies")
    if not (PLACE / "fixed").exists():
        os.kill(os.getpid(), 9)
    return 1


@flow
def mortal() -> int:
    work("first")
    return dies()


@flow
async def asks(name: str = "x") -> str:
    work(f"before {name}")
    if not await wait("publish", f"Publish {name}?", schema=bool):
        return "no"
    return work(f"after {name}")


@flow
async def sleeps(seconds: float) -> str:
    work("before")
    await sleep(seconds)
    return work("after")


@flow
async def receives() -> list[int]:
    found = []
    for _ in range(3):
        found.append(await receive("numbers", schema=int))
        work(f"got {found[-1]}")
    return found


@flow
async def calls() -> str:
    work("parent")
    return await asks("child")
"""


class UpBench:
    """A workspace, and the supervisors of it that a test starts."""

    def __init__(self, root: Path) -> None:
        self.kitaru = Program(root)
        self.place = root
        self.kitaru.environment["TEST_PLACE"] = str(root)
        (self.kitaru.workspace / "agents" / "letters.py").write_text(FLOWS)
        self.settings("")
        self._started: list[Started] = []

    def settings(self, text: str) -> None:
        (self.kitaru.workspace / "kitaru.toml").write_text('durability = "process"\n' + text)

    def detach(self, *words: str) -> Run:
        """Queues a run."""
        name = self.kitaru.good("run", *words, "--detach").strip()
        return self.workspace.run(name)

    def once(self) -> str:
        """Supervises until nothing can go on; returns what the supervisor said."""
        done = self.kitaru("up", "--once")
        assert done.status == 0, done
        return done.err

    def up(self, *words: str) -> Started:
        """Starts a supervisor."""
        started = self.kitaru.start("up", *words)
        self._started.append(started)
        return started

    def says(self, started: Started, *words: str) -> str:
        """Waits until a supervisor says a line with all these words; returns it."""
        assert started.process.stderr is not None
        heard = ""
        for line in started.process.stderr:
            heard += line
            if all(word in line for word in words):
                return line
        raise AssertionError(f"it never said {words}: {heard}")

    def wait_for(self, *notes: str) -> None:
        """Waits until flows have noted something."""
        self.wait_until(lambda: all(note in self.notes for note in notes))

    def wait_until(self, condition) -> None:
        until = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < until, self.notes
            time.sleep(0.02)

    def go(self, name: str) -> None:
        (self.place / f"go-{name}").touch()

    @property
    def notes(self) -> list[str]:
        path = self.place / "notes"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.kitaru.workspace)

    def end(self) -> None:
        for started in self._started:
            if started.process.poll() is None:
                started.process.kill()
                started.process.wait()
