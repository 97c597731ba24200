"""`files/` byte for byte: what a step made comes back, whatever it is and whatever became of it, by
rewind, undo, plain git and resume, and in a clone."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_program import Program
from flowbench import FlowBench, Listing, listing
from plain_git import git

from kitaru_fs import step

Inventory = dict[bytes, tuple[str, int, bytes]]
Act = Callable[[Path], None]


def inventory(root: Path) -> Inventory:
    """What a directory holds, byte for byte: path -> kind, permissions, content."""
    found: Inventory = {}
    for folder, names, others in os.walk(os.fsencode(root)):
        for name in names + others:
            place = os.path.join(folder, name)
            status = os.lstat(place)
            content = b""
            if stat.S_ISLNK(status.st_mode):
                content = os.readlink(place)
            elif stat.S_ISREG(status.st_mode):
                with open(place, "rb") as file:
                    content = file.read()
            kind = stat.filemode(status.st_mode)[0]
            path = os.path.relpath(place, os.fsencode(root))
            found[path] = (kind, stat.S_IMODE(status.st_mode), content)
    return found


def clear(root: Path) -> None:
    """Removes everything."""
    for path in root.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def put(root: Path, name: bytes, content: bytes = b"1\n") -> None:
    with open(os.fsencode(root) + b"/" + name, "wb") as file:
        file.write(content)


# Names

NAMES = [
    b"-rf",
    b"--",
    b"new\nline",
    b'"quoted\\',
    b" ",
    b"x" * 255,
    b"\xff\xfe.bin",
    "🔥é".encode(),
]
NAMES += [b".GIT", b"git~1", ".g\u200cit".encode(), b"%percent", b"=dir", b".gitmodules", b"HEAD"]


def odd_names(root: Path) -> None:
    for number, name in enumerate(NAMES):
        put(root, name, b"%d\n" % number)
    (root / "directory\n").mkdir()
    put(root / "directory\n", b"\xe9")
    (root / ".Git").mkdir()
    put(root / ".Git", b"config")


# What git's rules would hide or change


def hidden_from_git(root: Path) -> None:
    (root / ".gitignore").write_text("*\n")
    (root / ".gitattributes").write_text("* text=auto eol=lf ident export-ignore filter=x\n")
    (root / "crlf.txt").write_bytes(b"$Id$\r\none\r\ntwo\n")
    (root / "ignored").mkdir()
    (root / "ignored" / "deep.log").write_bytes(b"\0\r\n")


# Links, modes, directories


def links(root: Path) -> None:
    (root / "target").mkdir()
    (root / "target" / "file").write_text("1")
    for name, to in {
        "gone": "no/where",
        "absolute": "/etc",
        "dir": "target",
        "self": "self",
    }.items():
        (root / name).symlink_to(to)
    os.symlink(b"\xff\n", os.fsencode(root) + b"/odd")
    os.link(root / "target" / "file", root / "twin")


def swap_links(root: Path) -> None:
    (root / "dir").unlink()
    (root / "dir").mkdir()
    (root / "dir" / "file").write_text("no link")
    shutil.rmtree(root / "target")
    (root / "target").symlink_to("dir")
    (root / "gone").unlink()
    (root / "gone").write_text("a file")
    (root / "twin").write_text("alone")


MODES = (0o600, 0o400, 0o444, 0o755, 0o700, 0o777, 0o4755, 0o111)


def modes(root: Path) -> None:
    for mode in MODES:
        (root / f"{mode:o}").write_text("1")
        (root / f"{mode:o}").chmod(mode)
    for mode in (0o700, 0o555, 0o1777, 0o2775):
        place = root / f"dir-{mode:o}"
        (place / "below").mkdir(parents=True)
        place.chmod(mode)


def other_modes(root: Path) -> None:
    for path in root.iterdir():
        path.chmod(0o755 if path.is_dir() else 0o644)


def file_here(root: Path) -> None:
    (root / "x").write_text("a file")
    (root / "y" / "z").mkdir(parents=True)
    (root / "y" / "z" / "deep").write_text("1")
    (root / "empty" / "deeper").mkdir(parents=True)


def directory_here(root: Path) -> None:
    clear(root)
    (root / "x" / "y").mkdir(parents=True)
    (root / "x" / "y" / "file").write_text("a directory")
    (root / "y").write_text("a file")


# Contents


def sparse(root: Path) -> None:
    with open(root / "sparse", "wb") as file:
        file.seek(3_000_000)
        file.write(b"end")
    os.truncate(root / "sparse", 5_000_000)


def grow(root: Path) -> None:
    os.truncate(root / "sparse", 100)


def same_size(root: Path) -> None:
    (root / "a").write_bytes(b"1234")


def same_size_and_time(root: Path) -> None:
    before = (root / "a").stat()
    (root / "a").write_bytes(b"5678")
    os.utime(root / "a", ns=(before.st_atime_ns, before.st_mtime_ns))


# Nested repositories


def repository(root: Path) -> None:
    app = root / "app"
    app.mkdir()
    git(app, "init", "-q", "-b", "main")
    for number in range(3):
        (app / "file").write_text(f"{number}\n")
        git(app, "add", ".")
        git(app, "commit", "-q", "-m", f"Version {number}")
    (app / "file").write_text("stashed\n")
    git(app, "stash", "-q")
    (app / "staged").write_text("staged\n")
    git(app, "add", "staged")
    git(app, "branch", "side", "HEAD~1")
    git(root, "init", "-q", "unborn")
    (root / "unborn" / "file").write_text("in no commit\n")
    git(app, "worktree", "add", "-q", "--detach", "../tree", "HEAD~2")
    git(app, "-c", "protocol.file.allow=always", "submodule", "add", "-q", "./", "sub")


def rewrite_repository(root: Path) -> None:
    app = root / "app"
    git(app, "reset", "-q", "--hard")
    git(app, "worktree", "remove", "--force", "../tree")
    git(app, "stash", "drop", "-q")
    git(app, "branch", "-q", "-D", "side")
    git(app, "checkout", "-q", "--detach", "HEAD~1")
    git(app, "reflog", "expire", "--expire=now", "--all")
    git(app, "gc", "-q", "--prune=now")
    git(app, "clean", "-q", "-ffdx")
    shutil.rmtree(root / "unborn" / ".git")


def without_repository(root: Path) -> None:
    shutil.rmtree(root / "app" / ".git")
    (root / "tree" / ".git").unlink()
    (root / "unborn" / ".git" / "HEAD").write_text("ref: refs/heads/other\n")


CASES: dict[str, tuple[Act, Act]] = {
    "odd names": (odd_names, clear),
    "hidden from git": (hidden_from_git, clear),
    "links": (links, swap_links),
    "modes": (modes, other_modes),
    "a file and a directory": (file_here, directory_here),
    "a directory and a file": (directory_here, lambda root: (clear(root), file_here(root))[0]),
    "sparse": (sparse, grow),
    "the same size and time": (same_size, same_size_and_time),
    "a rewritten repository": (repository, rewrite_repository),
    "a repository that is gone": (repository, without_repository),
}


@pytest.fixture(autouse=True)
def hostile_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user whose git hides, converts, signs and runs."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "hook").write_text("#!/bin/sh\nexit 1\n")
    (home / "hook").chmod(0o755)
    (home / "ignore").write_text("*\n")
    (home / ".gitconfig").write_text(
        f"[core]\n\tautocrlf = true\n\texcludesFile = {home}/ignore\n\thooksPath = {home}\n"
        f"[commit]\n\tgpgSign = true\n[gpg]\n\tprogram = false\n[init]\n\ttemplateDir = {home}\n"
    )
    monkeypatch.setenv("HOME", str(home))


@pytest.mark.parametrize("case", CASES)
def test_what_was_made_comes_back(bench: FlowBench, case: str) -> None:
    make, ruin = CASES[case]
    begun: list[Inventory] = []

    @step
    def first() -> None:
        make(bench.files)

    @step
    def second() -> None:
        begun.append(inventory(bench.files))
        ruin(bench.files)

    def main() -> None:
        first()
        second()

    bench.start(main)
    made, ruined = begun[0], inventory(bench.files)
    assert made != ruined

    def is_clean() -> None:
        # git shows names that it refuses, disguises of `.git`, as untracked: `state/` holds them.
        status = bench.git("status", "--porcelain").splitlines()
        assert [line for line in status if case != "odd names" or line[:2] != "??"] == []
        assert bench.git("fsck", "--strict") == ""

    bench.run.rewind("first")
    assert inventory(bench.files) == made
    is_clean()
    bench.run.undo()
    assert inventory(bench.files) == ruined
    is_clean()
    # By plain git: `state/` follows HEAD when the run is taken up.
    commit = bench.git("log", "--format=%H", "--grep=^step 1:", "main").strip()
    bench.git("checkout", "-q", commit)
    bench.resume(main)
    assert begun[-1] == made
    assert len(begun) == 2
    again = inventory(bench.files)
    assert {path for path in again if again[path] != ruined.get(path)} <= {
        b"app/.git/index"
    }  # times
    is_clean()
    bench.git("checkout", "-q", "main")
    bench.resume(main)
    assert inventory(bench.files) == ruined
    assert bench.git("symbolic-ref", "HEAD") == "refs/heads/main\n"
    # A clone has what git carries; a resume sets the rest.
    clone = bench.root / "runs" / "clone"
    git(bench.root, "clone", "-q", str(bench.run.path), str(clone))
    bench.workspace.run("clone").resume()
    assert inventory(clone / "files") == ruined


def test_what_no_commit_holds_is_listed_and_left_alone(bench: FlowBench) -> None:
    (bench.root / "kitaru.toml").write_text('[files]\nmax_file = "1KB"\nexclude = ["*.key"]\n')

    @step
    def first() -> None:
        os.mkfifo(bench.files / "fifo")
        with socket.socket(socket.AF_UNIX) as listening, contextlib.chdir(bench.files):
            listening.bind("socket")
        if os.geteuid() == 0:
            with contextlib.suppress(PermissionError):
                os.mknod(bench.files / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        (bench.files / "large").write_bytes(bytes(2000))
        (bench.files / "my.key").write_text("1")
        (bench.files / "d").mkdir()

    @step
    def second() -> None:
        (bench.files / "large").write_bytes(bytes(3000))
        (bench.files / "my.key").write_text("2")
        (bench.files / "d" / "late").write_bytes(bytes(4000))

    bench.start(lambda: [first(), second()])
    reasons = {"fifo": "FIFO", "socket": "socket", "large": "larger than max_file"}
    reasons |= {"my.key": "excluded"}
    if (bench.files / "device").exists():
        reasons["device"] = "device"
    listed = {one["path"]: one["reason"] for one in bench.entry(1).left_out or []}
    assert listed == reasons
    assert dict(bench.run.left_out()) == reasons | {"d/late": "larger than max_file"}
    before = inventory(bench.files)
    move = bench.run.rewind("first")
    assert set(move.stays) == {*reasons, "d/late"}
    assert inventory(bench.files) == before


def test_a_nested_repository_is_not_touched_while_steps_run(bench: FlowBench) -> None:
    seen: list[Listing] = []

    @step
    def make() -> None:
        repository(bench.files)

    @step
    def act(number: int) -> None:
        seen.append(listing(bench.files / "app"))
        (bench.files / "beside").write_text(f"{number}")

    bench.start(lambda: [make(), act(1), act(2)])
    seen.append(listing(bench.files / "app"))
    assert seen[0] == seen[1] == seen[2]


def test_what_settings_leave_out_since_comes_back_from_a_commit_that_holds_it(
    bench: FlowBench,
) -> None:
    @step
    def act(number: int) -> None:
        (bench.files / "cache").mkdir(exist_ok=True)
        for name in ("cache/file", "large"):
            (bench.files / name).write_text(f"{number}" * 2000)
        (bench.files / "shrunk").write_text(f"{number}" * (2000 if number == 1 else 20))

    bench.start(lambda: [act(1), act(2)])
    (bench.root / "kitaru.toml").write_text('[files]\nexclude = ["cache"]\nmax_file = "1KB"\n')
    bench.run.rewind("act#1")
    assert bench.text("large") == bench.text("cache/file") == "1" * 2000
    # What no commit is to hold from here on stays, whatever it is.
    assert bench.text("large.kept-1") == bench.text("cache.kept-1/file") == "2" * 2000
    assert bench.text("shrunk") == "1" * 2000
    assert not (bench.files / "shrunk.kept-1").exists()
    bench.run.undo()
    bench.resume(lambda: [act(1), act(2)])
    assert bench.git("fsck", "--strict") == ""


def test_what_a_rewind_does_not_change_keeps_its_time_and_its_inode(bench: FlowBench) -> None:
    @step
    def act(number: int) -> None:
        for name in ("kept", "d/kept"):
            (bench.files / name).parent.mkdir(exist_ok=True)
            if number == 1:
                (bench.files / name).write_text("kept")
                os.utime(bench.files / name, ns=(1, 1_000_000_000))
        (bench.files / "d" / "changed").write_text(str(number))

    bench.start(lambda: [act(1), act(2)])
    found = {name: (bench.files / name).stat() for name in ("kept", "d/kept")}
    bench.run.rewind("act#1")
    assert bench.text("d/changed") == "1"
    for name, before in found.items():
        after = (bench.files / name).stat()
        assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)


def test_a_file_that_is_written_meanwhile_is_some_state_that_it_had(bench: FlowBench) -> None:
    over = threading.Event()
    going = threading.Event()

    def write() -> None:
        number = 0
        with open(bench.files / "growing", "wb", buffering=0) as file:
            while not over.is_set():
                file.write(b"%09d\n" % number)
                number += 1
                for name in (f"short-{number % 7}", f"gone-{number % 3}"):
                    (bench.files / name).write_bytes(b"%09d\n" % number * 50)
                (bench.files / f"gone-{number % 3}").unlink()
                going.set()

    @step
    def act(number: int) -> int:
        return number

    def main() -> None:
        writer = threading.Thread(target=write)
        writer.start()
        going.wait()
        try:
            for number in range(25):
                act(number)
        finally:
            over.set()
            writer.join()

    bench.start(main)
    sizes: list[int] = []
    for commit in bench.git("log", "--reverse", "--format=%H", "--grep=^step ").split():
        names = bench.git("ls-tree", "--name-only", commit, "files/").split()
        if "files/growing" in names:
            lines = bench.git("show", f"{commit}:files/growing").split("\n")
            whole = [f"{number:09}" for number in range(len(lines) - 1)]
            assert lines[:-1] == whole
            sizes.append(len(whole))
    assert sizes == sorted(sizes)
    assert sizes
    assert bench.git("status", "--porcelain") == ""


LARGE = """
import os
import re
import resource
from pathlib import Path
from kitaru_fs import files, flow, step

@step
def write(size: int) -> int:
    piece = os.urandom(1 << 20)
    with open(files() / "large", "wb") as file:
        for number in range(size):
            file.write(number.to_bytes(8, "big") + piece[8:])
    return size

@step
def touch() -> int:
    (files() / "other").write_text("1")
    status = Path("/proc/self/status")
    if status.exists():
        # Of this program alone; what getrusage says begins with its parent's.
        return int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

@flow
def large(size: int) -> int:
    write(size)
    return touch()
"""


def test_a_large_file_streams(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    kitaru = Program(tmp_path / "place")
    (kitaru.workspace / "agents" / "large.py").write_text(LARGE)
    small, large = (
        kitaru("run", "large", f"size={size}", "--json", KITARU_FILES_MAX_FILE="1GB").json["output"]
        for size in (1, 160)
    )
    assert large - small < 40 << (0 if sys.platform == "darwin" else 10), (small, large)
    kitaru.good("rewind", "last@0")
    kitaru.good("undo", "last")
    assert (kitaru.runs[-1] / "files" / "large").stat().st_size == 160 << 20


# Beside a live run


def test_git_beside_a_live_run_fails_on_neither_side(bench: FlowBench) -> None:
    over = threading.Event()
    failed: list[str] = []
    asked = 0

    def look(run: Path) -> None:
        nonlocal asked
        while not over.is_set():
            for command in (["status", "--porcelain"], ["log", "-3"], ["diff", "--stat", "HEAD"]):
                done = subprocess.run(["git", *command], cwd=run, capture_output=True, text=True)
                if done.returncode != 0:
                    failed.append(done.stderr)
            asked += 1

    @step
    def act(number: int) -> int:
        (bench.files / f"{number % 10}").write_text(str(number))
        return number

    def main() -> int:
        looker = threading.Thread(target=look, args=[bench.run.path])
        looker.start()
        try:
            number = 0
            while asked < 4 or number < 50:
                act(number)
                number += 1
        finally:
            over.set()
            looker.join()
        return number

    bench.start(main)
    assert failed == []
    assert bench.git("status", "--porcelain") == ""
    assert bench.git("fsck", "--strict") == ""


def test_no_path_that_a_commit_holds_is_hidden_from_git(bench: FlowBench) -> None:
    (bench.root / "kitaru.toml").write_text('[files]\nexclude = ["cache"]\nmax_file = "1KB"\n')

    @step
    def first() -> None:
        (bench.files / "file").write_text("small, so a commit holds it")
        (bench.files / "cache").write_text("excluded")

    @step
    def second() -> None:
        (bench.files / "file").write_bytes(bytes(2000))

    bench.start(lambda: [first(), second()])
    held = {
        path
        for commit in bench.git("rev-list", "--all").split()
        for path in bench.git("ls-tree", "-r", "--name-only", commit).splitlines()
    }
    assert "files/file" in held
    hidden = bench.git("ls-files", "--others", "--ignored", "--exclude-from=.git/info/exclude")
    assert not held & set(hidden.splitlines())
    # So git refuses to overwrite what is on disk and in no commit.
    with pytest.raises(AssertionError, match="overwritten by checkout"):
        bench.git("checkout", "-q", bench.git("log", "--format=%H", "--grep=^step 1:").strip())
    assert (bench.files / "file").stat().st_size == 2000
