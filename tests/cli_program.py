"""The real program in a process of its own, and what its flows tell a test while they run."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any, NamedTuple

import kitaru_fs

PACKAGE_PARENT = Path(kitaru_fs.__file__).parents[1]
PATIENCE = 120

AGENTS = '''
"""Flows that the tests of the command line run."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

from kitaru_fs import files, flow, step


def tell(word):
    """Tells the test that started this program how far it is."""
    if "TEST_GATE" in os.environ:
        os.write(int(os.environ["TEST_GATE"]), word.encode() + b"\\n")


@step
def write(name: str, text: str) -> str:
    (files() / name).write_text(text)
    return text


@flow
def letter(name: str = "world", times: int = 1) -> str:
    """Writes a letter."""
    for number in range(times):
        write(f"letter-{number}.md", f"Hello, {name}\\n")
    return f"letters for {name}: {times}"


@step
def look() -> dict[str, str]:
    return {"cwd": os.getcwd(), "ceiling": os.environ["GIT_CEILING_DIRECTORIES"]}


@flow
def look_around() -> dict[str, str]:
    print("this is printed by the flow", flush=True)
    subprocess.run(["echo", "this is printed by a child"], check=True)
    return look()


@step(retries=2, backoff=0.01)
def shaky() -> int:
    count = Path(os.environ["TEST_COUNT"])
    tries = int(count.read_text()) + 1
    count.write_text(str(tries))
    (files() / "half.txt").write_text(f"attempt {tries}")
    if tries < 3:
        raise ValueError(f"attempt {tries} is no good")
    return tries


@flow
def stubborn() -> int:
    return shaky()


@step
def divide(dividend: int, divisor: int) -> float:
    return dividend / divisor


@flow
def quotient(divisor: int) -> float:
    write("before.md", "before the division")
    try:
        return divide(1, divisor)
    except ZeroDivisionError:
        if Path(os.environ.get("TEST_FIXED", "/nonexistent")).exists():
            return 0.0
        raise


@step
def hold() -> str:
    (files() / "torn.txt").write_text("half of it")
    tell("holding")
    if Path(os.environ.get("TEST_FIXED", "/nonexistent")).exists():
        return "let go"
    time.sleep(600)
    return "never"


@flow
def held() -> str:
    write("first.md", "first")
    return hold()


@step
async def hold_async(block: bool) -> str:
    (files() / "torn.txt").write_text("half of it")
    tell("holding")
    if Path(os.environ.get("TEST_FIXED", "/nonexistent")).exists():
        return "let go"
    if block:
        time.sleep(600)
    await asyncio.sleep(600)
    return "never"


@flow
def deaf(number: int) -> str:
    write("first.md", "first")
    # The signal arrives in another thread, as one does that comes just before the sleep begins.
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    return hold()


@flow
async def deaf_async(number: int) -> str:
    write("first.md", "first")
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    return await hold_async(False)


@step
async def hold_in_thread() -> str:
    tell("holding")
    await asyncio.to_thread(time.sleep, 600)
    return "never"


@flow
async def held_async(how: str) -> str:
    write("first.md", "first")
    if how == "thread":
        return await hold_in_thread()
    return await hold_async(how == "block")


@step
def start_child() -> int:
    child = subprocess.Popen(["sleep", "600"])
    tell(str(child.pid))
    child.wait()
    return child.pid


@flow
def with_child() -> int:
    return start_child()


@flow
async def stubborn_to_stop() -> str:
    write("first.md", "first")
    try:
        await asyncio.sleep(600 if tell("holding") is None else 0)
    except asyncio.CancelledError:
        tell("stopping")
        time.sleep(600)
    return "never"


@flow
def disk_full_at(full: int, times: int = 50) -> int:
    for number in range(times):
        if number == full and not Path(os.environ.get("TEST_FIXED", "/nonexistent")).exists():
            resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        write(f"{number}.txt", "x")
    return times


@flow
def escapes() -> str:
    write("plain.txt", "\\x1b[31mred\\x1b[0m")
    return "\\x1b[31mred\\x1b[0m"


@flow
def exits() -> int:
    write("first.md", "first")
    sys.exit(3)


a_number = 3
'''

CHANGED = """
from kitaru_fs import files, flow, step


@step
def another() -> int:
    return 1


@flow
def quotient(divisor: int) -> float:
    return another() / divisor
"""

OTHER = """
from kitaru_fs import flow


@flow
def twin() -> int:
    return 1


@flow(name="letter-two")
def second() -> int:
    return 2
"""


class Done(NamedTuple):
    """A command that ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its result."""
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, str]:
        """The error that it wrote with `--json`."""
        return json.loads(self.err.splitlines()[-1])["error"]


class Started:
    """A program that goes on, and its gate: what its flow tells."""

    def __init__(self, process: subprocess.Popen[str], gate: int) -> None:
        self.process = process
        self._gate = os.fdopen(gate)

    def told(self) -> str:
        """Waits until the flow tells something; empty when the program has ended."""
        return self._gate.readline().strip()

    def signal(self, number: signal.Signals) -> None:
        """Sends the program a signal."""
        self.process.send_signal(number)

    def end(self) -> Done:
        """Waits for its end."""
        out, err = self.process.communicate(timeout=PATIENCE)
        self._gate.close()
        return Done(self.process.returncode, out, err)


class Program:
    """`kitaru` on a workspace of its own, with nothing of the user's environment that matters.

    Args:
        root: An empty directory.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "home"
        self.home.mkdir()
        (self.home / ".gitconfig").write_text("[user]\nname = Ada\nemail = ada@example.org\n")
        self.workspace = root / "ws"
        (self.workspace / "agents").mkdir(parents=True)
        (self.workspace / "kitaru.toml").write_text("")
        (self.workspace / "agents" / "letters.py").write_text(AGENTS)
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("KITARU_", "GIT_", "PYTHON", "COLUMNS", "XDG_"))
        } | {
            "HOME": str(self.home),
            "PYTHONPATH": str(PACKAGE_PARENT),
            "PYTHONDONTWRITEBYTECODE": "",
        }

    @property
    def runs(self) -> list[Path]:
        """The runs' directories, oldest first; what is half made counts."""
        place = self.workspace / "runs"
        return sorted(place.iterdir()) if place.exists() else []

    def command(self, *args: str) -> list[str]:
        """The command line."""
        return [sys.executable, "-m", "kitaru_fs", *args]

    def __call__(
        self,
        *args: str | Path,
        input: str | None = None,
        cwd: Path | None = None,
        **environment: str,
    ) -> Done:
        done = subprocess.run(
            self.command(*map(str, args)),
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            cwd=cwd or self.workspace,
            env=self.environment | environment,
            timeout=PATIENCE,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def good(self, *args: str | Path, cwd: Path | None = None, **environment: str) -> str:
        """Runs a command that must succeed; returns what it wrote to stdout."""
        done = self(*args, cwd=cwd, **environment)
        assert done.status == 0, done
        return done.out

    def start(self, *args: str, **environment: str) -> Started:
        """Starts a command that goes on."""
        reading, writing = os.pipe()
        process = subprocess.Popen(
            self.command(*args),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.workspace,
            env=self.environment | {"TEST_GATE": str(writing)} | environment,
            pass_fds=(writing,),
        )
        os.close(writing)
        return Started(process, reading)


class Terminal:
    """A program at a terminal of its own."""

    def __init__(self, kitaru: Program, *words: str) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            kitaru.command(*words),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=kitaru.workspace,
            env=kitaru.environment | {"TERM": "xterm"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(slave, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self.seen = ""

    def until(self, pattern: str) -> None:
        """Reads until something is shown."""
        deadline = time.monotonic() + PATIENCE
        while not re.search(pattern, self.seen):
            assert time.monotonic() < deadline, self.seen
            self._read()
        self.seen = re.split(pattern, self.seen, maxsplit=1)[-1]

    def type(self, text: str) -> None:
        """Types something."""
        os.write(self._master, text.encode())

    def end(self) -> int:
        """Reads to the end; returns the program's exit status."""
        while self._read():
            pass
        return self.process.wait(PATIENCE)

    def _read(self) -> bool:
        if not select.select([self._master], [], [], PATIENCE)[0]:
            return False
        try:
            data = os.read(self._master, 4096)
        except OSError:
            return False
        self.seen += data.decode("utf-8", "replace")
        return bool(data)
