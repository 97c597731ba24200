"""A tour with the agent from hell: it ruins a run's files; a rewind and an undo bring all back.

    python tour.py [DIR]

Every command is shown before it runs. The tour compares what is on disk, byte for byte, with what
was there before, and ends with status 1 where anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
READ_ONLY = {"GIT_OPTIONAL_LOCKS": "0"}  # `git status` would write the index that is compared
NESTED = (
    ("log", "--oneline", "--all", "--graph"),
    ("status", "--short", "--branch"),
    ("stash", "list"),
    ("fsck", "--strict", "--no-progress"),
)

Inventory = dict[str, tuple[str, int, bytes]]


class Tour:
    """A tour through one workspace.

    Args:
        directory: Where the workspace is made; it must not exist, or be empty.

    Attributes:
        wrong: What was not as it should be, a sentence each.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._canary = directory / "canary"
        self.wrong: list[str] = []

    def go(self) -> None:
        """Takes the tour."""
        self._chapter("A workspace, and an agent that builds an app with a repository of its own")
        shutil.copytree(HERE / "agents", self._directory / "agents")
        shutil.copy(HERE / "kitaru.toml", self._directory)
        self._run("run", "agents/hell.py:hell", status=3)
        state = json.loads(self._quietly("status", "last", "--json"))
        files = Path(state["path"]) / "files"
        built, nested = inventory(files), self._ask_nested(files)
        print(f"\nOn disk: {count(built)}. In files/app plain git says:")
        show(nested)

        self._chapter(
            "A human lets it tidy up: clean -fdx, rebase, rm -rf app/.git, planted programs"
        )
        self._run("answer", "last", "yes", "--resume")
        self._run("status", "last")
        self._run("doctor", "last")
        ruined = inventory(files)
        print(f"\n{len(differing(built, ruined))} paths are not what they were.")

        self._chapter("Rewind: first only say what would happen, then do it")
        target = f"last@{state['step']}"
        planned = self._run("rewind", target, "--dry-run")
        self._check("the dry run changed nothing", inventory(files), ruined)
        done = self._run("rewind", target)
        for said in ("stays: .env", "stays: fifo", "cannot undo: mails all customers"):
            for which, text in (("dry run", planned), ("rewind", done)):
                if said not in text:
                    self._fail(f"the {which} does not say {said!r}")
        # What no commit holds is left as it is, though it is newer.
        self._check(
            "files/ are what was built", inventory(files), {**built, ".env": ruined[".env"]}
        )
        print("In files/app plain git says:")
        now = self._ask_nested(files)
        show(now)
        if now != nested:
            self._fail("the nested repository does not say what it said when it was built")

        self._chapter("Take the rewind back")
        self._run("undo", "last")
        self._check("files/ are as the agent left them", inventory(files), ruined)
        self._run("redo", "last")
        self._check("and as it built them", inventory(files), {**built, ".env": ruined[".env"]})

        self._chapter("The run's own repository never noticed")
        self._run("log", "last", "--all")
        self._run("git", "last", "--", "fsck", "--strict", "--no-progress")
        self._run("doctor", "last")
        if self._canary.exists():
            self._fail("a program that the agent planted was run")
        else:
            print("\nOf the programs that the agent planted, none was run.")

    # Checking

    def _check(self, what: str, found: Inventory, wanted: Inventory) -> None:
        wrong = differing(wanted, found)
        for path in wrong:
            self._fail(f"{what}: not so, {path!r} differs")
        if not wrong:
            print(f"\nchecked: {what}, byte for byte ({count(found)})")

    def _fail(self, what: str) -> None:
        self.wrong.append(what)
        print(f"WRONG: {what}")

    # Running

    def _run(self, *arguments: str, status: int = 0) -> str:
        print(f"\n$ kitaru {shlex.join(arguments)}", flush=True)
        done = self._start(arguments)
        for line in (done.stdout + done.stderr).splitlines():
            if not line.startswith("begins "):
                print(f"  {line}")
        if done.returncode != status:
            self._fail(f"kitaru {arguments[0]} ended with status {done.returncode}, not {status}")
        return done.stdout

    def _quietly(self, *arguments: str) -> str:
        return self._start(arguments).stdout

    def _start(self, arguments: Iterable[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "kitaru_fs", *arguments],
            cwd=self._directory,
            env={**os.environ, "HELL_CANARY": str(self._canary)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            check=False,
        )

    def _ask_nested(self, files: Path) -> dict[str, str]:
        """What plain git says in the agent's own repository, as long as nothing is planted."""
        said: dict[str, str] = {}
        for arguments in NESTED:
            done = subprocess.run(
                ["git", *arguments],
                cwd=files / "app",
                env={**os.environ, **READ_ONLY},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            said[shlex.join(arguments)] = done.stdout + done.stderr
        return said

    def _chapter(self, title: str) -> None:
        print(f"\n== {title}", flush=True)


def inventory(root: Path) -> Inventory:
    """What is in a directory, nested repositories included: path -> kind, permissions, content."""
    found: Inventory = {}
    waiting = [os.fsencode(root)]
    while waiting:
        folder = waiting.pop()
        for entry in os.scandir(folder):
            status = entry.stat(follow_symlinks=False)
            content = b""
            if stat.S_ISLNK(status.st_mode):
                content = os.readlink(entry.path)
            elif stat.S_ISREG(status.st_mode):
                with open(entry.path, "rb") as file:
                    content = file.read()
            elif stat.S_ISDIR(status.st_mode):
                waiting.append(entry.path)
            kind = stat.filemode(status.st_mode)[0]
            path = os.fsdecode(os.path.relpath(entry.path, os.fsencode(root)))
            found[path] = (kind, stat.S_IMODE(status.st_mode), content)
    return found


def differing(wanted: Inventory, found: Inventory) -> list[str]:
    """The paths that are not the same in both."""
    return [path for path in sorted({*wanted, *found}) if wanted.get(path) != found.get(path)]


def count(found: Inventory) -> str:
    """How much there is."""
    size = sum(len(content) for _, _, content in found.values())
    return f"{len(found)} paths, {size:,} bytes"


def show(said: Mapping[str, str]) -> None:
    """Shows what git said."""
    for command, text in said.items():
        print(f"\n$ git -C files/app {command}")
        for line in text.splitlines():
            print(f"  {line}")


def main() -> int:
    """Takes the tour; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("directory", nargs="?", type=Path, help="a new one; by default, in /tmp")
    options = parser.parse_args()
    directory: Path = options.directory or Path(tempfile.mkdtemp(prefix="agent-from-hell-"))
    directory = directory.absolute()
    if directory.exists() and any(directory.iterdir()):
        parser.error(f"{directory} is not empty")
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    tour = Tour(directory)
    tour.go()
    if tour.wrong:
        print(f"\n{len(tour.wrong)} things are not as they should be:")
        for what in tour.wrong:
            print(f"  {what}")
        return 1
    print(f"\nAll is as it should be. The workspace stays in {directory}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
