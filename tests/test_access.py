"""What the permissions of files refuse: what a step closed is left out and listed, and what it
closed of the run itself is opened again."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest
from flowbench import FlowBench

from kitaru_fs import step
from kitaru_fs.errors import KitaruError

_VERSION = 0x20080522
_OVERRIDE = 0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


@pytest.fixture(autouse=True)
def obeying() -> Generator[None]:
    """Permissions count for this thread, and those that it starts, even if it is root's."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "capset"):
        pytest.skip("permissions mean nothing to root here")
    header = struct.pack("=Ii", _VERSION, 0)
    held = ctypes.create_string_buffer(24)
    assert libc.capget(header, held) == 0
    effective, *rest = struct.unpack("=6I", held.raw)
    assert libc.capset(header, struct.pack("=6I", effective & ~_OVERRIDE, *rest)) == 0
    try:
        yield
    finally:
        assert libc.capset(header, held.raw) == 0


def make(files: Path) -> None:
    for name in ("secret", "unread"):
        (files / name).write_text("one")
    for name in ("closed", "unlisted", "unsearchable"):
        (files / name).mkdir()
        (files / name / "x").write_text("one")
    subprocess.run(["git", "init", "-q", str(files / "app")], check=True)


CLOSED = {
    **{"secret": 0, "unread": 0o200, "closed": 0, "unlisted": 0o300, "unsearchable": 0o600},
    **{"empty": 0, "app/.git": 0},
}


def close(files: Path) -> None:
    (files / "empty").mkdir()
    for name, mode in CLOSED.items():
        place = files / name
        if place.is_file():
            place.write_text("two")
        elif (place / "x").exists():
            (place / "x").write_text("two")
        place.chmod(mode)
    # Its owner may not write there, and a rewind does.
    (files / "shut").mkdir()
    (files / "shut" / "x").write_text("two")
    (files / "shut" / "x").chmod(0o400)
    (files / "shut").chmod(0o500)


def test_what_cannot_be_read_is_listed_and_no_older_version_takes_its_place(
    bench: FlowBench,
) -> None:
    @step
    def first() -> None:
        make(bench.files)

    @step
    def second() -> None:
        close(bench.files)

    with pytest.raises(PermissionError):
        bench.start(lambda: [first(), second(), (bench.files / "secret").read_text()])
    unreadable = dict.fromkeys(CLOSED, "unreadable")
    assert {one["path"]: one["reason"] for one in bench.entry("second").left_out or []} == (
        unreadable
    )
    assert dict(bench.run.left_out()) == unreadable
    held = bench.git("ls-tree", "-r", "--name-only", "HEAD", "files/").split()
    assert held == ["files/shut/x"]

    # What is in no commit is moved out of the way, and neither read nor lost.
    move = bench.run.rewind("first")
    assert set(move.stays) == CLOSED.keys()
    assert bench.text("secret") == bench.text("closed/x") == "one"
    assert (bench.files / "app" / ".git" / "HEAD").exists()
    assert not (bench.files / "shut").exists()
    for name, mode in CLOSED.items():
        place = bench.files / (name if name == "empty" else f"{name}.kept-1")
        assert place.stat().st_mode & 0o777 == mode
    assert (bench.files / "secret.kept-1").stat().st_size == 3
    bench.run.undo()
    assert (bench.files / "shut").stat().st_mode & 0o777 == 0o500
    assert bench.text("shut/x") == "two"
    assert not (bench.files / "secret").exists()
    assert bench.git("fsck", "--strict") == ""


@pytest.mark.parametrize("mode", [0, 0o500])
def test_files_that_a_step_closed_are_open_again(bench: FlowBench, mode: int) -> None:
    @step
    def first() -> None:
        (bench.files / "a").write_text("1")
        bench.files.chmod(mode)

    @step
    def second() -> None:
        (bench.files / "b").write_text("2")

    @step(retries=1)
    def third() -> None:
        bench.files.chmod(mode)
        (bench.files / "c").write_text("3")

    with contextlib.suppress(PermissionError):
        bench.start(lambda: [first(), second()])
    bench.resume(lambda: [first(), second()])
    assert bench.tree() == {"a": "1", "b": "2"}
    with pytest.raises(PermissionError):
        bench.start(lambda: third())
    assert bench.files.stat().st_mode & 0o700 == 0o700


PARTS = (".", ".git", ".git/objects", ".git/kitaru", ".git/kitaru/wal", ".git/kitaru/lock")
PARTS += (".git/HEAD", ".git/refs/heads", "journal/0000", "run.json")


@pytest.mark.parametrize("part", PARTS)
def test_what_a_step_closed_of_the_run_is_opened_by_doctor(bench: FlowBench, part: str) -> None:
    @step
    def act(number: int) -> int:
        bench.did(number)
        (bench.files / f"{number}").write_text(f"{number}")
        if number == 2 and not (bench.root / "mended").exists():
            (bench.run.path / part).chmod(0o000)
        return number

    path: Path | None = None

    def main() -> int:
        nonlocal path
        path = bench.run.path
        return sum(act(number) for number in (1, 2, 3))

    with contextlib.suppress(KitaruError):
        bench.start(main)
    assert path is not None
    run = bench.workspace.run(path.name)
    with contextlib.suppress(KitaruError):
        run.state()
    with contextlib.suppress(KitaruError):
        run.resume()
    found = run.checkup()
    assert [(one.check, one.state) for one in found.findings] == [("permissions", "found")]
    done = run.checkup(repair=True)
    assert done.in_order
    assert done.findings[0].what.startswith("the owner had no access to ")
    (bench.root / "mended").touch()
    assert bench.resume(main) == 6
    assert bench.counts["1"] == bench.counts["3"] == 1
    assert run.checkup(repair=True).findings == []
    assert bench.git("fsck", "--strict") == ""
    assert bench.git("status", "--porcelain") == ""
