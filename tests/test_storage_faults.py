"""A disk that refuses: one clear error, nothing by half, and a resume completes exactly."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Bench, Plan, Worker, build_shim, check_completed, check_readable, expect
from harness.points import Point, try_fault
from harness.scenarios import scenario

pytestmark = pytest.mark.skipif(build_shim() is None, reason="the shim needs a C compiler")


@pytest.fixture(scope="module")
def shim() -> Iterator[Worker]:
    with Worker(shim=True) as running:
        yield running


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory on a RAM disk, if there is one."""
    base = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=base, prefix="kitaru-") as folder:
        yield Path(folder).resolve()


# Scenario, call, which of them, part of its path.
CALLS = [
    ("create", "mkdir", 1, "/runs/.new-"),
    ("create", "pwrite", 1, "/.git/kitaru/wal"),
    ("create", "rename", 1, "/runs/2"),
    ("step", "write", 1, "/files/notes.md"),
    ("step", "pwrite", 1, "/.git/kitaru/wal"),
    ("step", "fdatasync", 1, "/.git/kitaru/wal"),
    ("step", "open", 2, "/.git/objects/"),
    ("step", "rename", 1, "/.git/refs/heads/main"),
    ("step", "write", 1, "/journal/0000/000004-act.json"),
    ("step", "open", 1, "/.git/index.lock"),
    ("log reset", "write", 1, "/.git/objects/pack/tmp_pack"),
    ("log reset", "fsync", 1, "/.git/objects/pack/tmp_idx"),
    ("log reset", "pwrite", 2, "/.git/kitaru/wal"),
    ("log reset", "pwrite", 3, "/.git/kitaru/wal"),
    ("log reset", "unlink", 1, "/.git/objects/"),
    ("failed attempt", "rename", 1, "/files/"),
    ("recovery", "rename", 1, "/.git/kitaru/holder.json"),
    ("checkout", "rename", 1, "/.git/HEAD"),
    ("recovery", "write", 1, "/files/.kitaru-"),
    ("recovery of a commit", "open", 1, "/.git/objects/"),
    ("orderly stop", "write", 1, "/.git/kitaru/left.new"),
    ("orderly stop", "write", 1, "/.git/refs/kitaru/torn/"),
    ("checkout", "rename", 1, "/.git/refs/heads/branch-2"),
]


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
@pytest.mark.parametrize(("name", "call", "number", "path"), CALLS)
def test_the_disk_refuses_a_call(
    shim: Worker, place: Path, name: str, call: str, number: int, path: str, error: int
) -> None:
    what = scenario(name)
    prepared = what.make(shim, place / "base")
    action = "fail-once" if error == errno.EIO else "fail-on"
    point = Point(number, f"{call} {path}", action, error, only=(call, path))
    assert try_fault(shim, what, prepared, place / "copy", point) == (True, [])


@pytest.mark.parametrize("step", [0, 39])
def test_a_disk_that_is_full_from_a_step_on(shim: Worker, place: Path, step: int) -> None:
    plan: Plan = [{"do": [["write", f"f{number % 5}", f"{number}\n"]]} for number in range(42)]
    bench = Bench.make(place / "workspace", plan)
    run = str(shim.run("create", bench.root).unwrap())
    bench.trip(f"before-{step}", "fire")
    full = {"at": 1, "action": "fail-on", "error": errno.ENOSPC, "fire": False}
    outcome = shim.run("resume", bench.root, run=run, shim=full)
    assert outcome.error[0] == "StorageError"
    assert "No space left on device" in outcome.message
    assert "free some space" in outcome.message
    assert bench.acks() == set(range(step))
    assert check_readable(shim, bench, run, expect(plan)) == []
    before = bench.progress()
    result = shim.run("resume", bench.root, run=run).unwrap()
    assert check_completed(bench, run, expect(plan), result, before) == []
