"""A rewind, an undo or a fork that is killed, or that the disk refuses: it happened, or it did not.

`python -m tests.campaigns.kill_sweep rewind undo redo fork` and `...faults` try every storage call;
these are the ones where something once went wrong, or where most is half done.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Worker, build_shim
from harness.points import Point, try_fault, try_kill
from harness.scenarios import Prepared, scenario

pytestmark = pytest.mark.skipif(build_shim() is None, reason="the shim needs a C compiler")


@pytest.fixture(scope="module")
def shim() -> Iterator[Worker]:
    with Worker(shim=True) as running:
        yield running


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory on a RAM disk, if there is one."""
    base = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=base, prefix="kitaru-") as folder:
        yield Path(folder).resolve()


@pytest.fixture(scope="module")
def prepared(shim: Worker, place: Path) -> dict[str, Prepared]:
    names = ("rewind", "undo", "fork")
    return {name: scenario(name).make(shim, place / f"base-{name}") for name in names}


# Move, call, which of them, part of its path.
KILLED = [
    ("rewind", "rename", 1, "/files/"),
    ("rewind", "pwrite", 1, "/.git/kitaru/wal"),
    ("rewind", "rename", 1, "/.git/HEAD"),
    ("rewind", "open", 1, "/.git/index.lock"),
    ("undo", "rename", 1, "/files/"),
    ("undo", "write", 1, "/.git/kitaru/shown.new"),
    ("undo", "rename", 1, "/.git/HEAD"),
    ("fork", "rename", 1, "/runs/"),
]
REFUSED = [
    ("rewind", "write", 1, "/files/"),
    ("rewind", "fdatasync", 1, "/.git/kitaru/wal"),
    ("rewind", "rename", 1, "/.git/HEAD"),
    ("rewind", "open", 1, "/.git/index.lock"),
    ("fork", "write", 1, "/files/"),
    ("fork", "link", 1, "/objects/"),
]


@pytest.mark.parametrize(("name", "call", "number", "path"), KILLED)
def test_a_move_is_killed(
    shim: Worker,
    place: Path,
    prepared: dict[str, Prepared],
    name: str,
    call: str,
    number: int,
    path: str,
) -> None:
    point = Point(number, f"{call} {path}", "kill", only=(call, path))
    root = place / f"killed-{name}-{KILLED.index((name, call, number, path))}"
    assert try_kill(shim, scenario(name), prepared[name], root, point) == (True, [])


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
@pytest.mark.parametrize(("name", "call", "number", "path"), REFUSED)
def test_the_disk_refuses_a_move(
    shim: Worker,
    place: Path,
    prepared: dict[str, Prepared],
    name: str,
    call: str,
    number: int,
    path: str,
    error: int,
) -> None:
    action = "fail-once" if error == errno.EIO else "fail-on"
    point = Point(number, f"{call} {path}", action, error, only=(call, path))
    root = place / f"refused-{name}-{REFUSED.index((name, call, number, path))}-{error}"
    assert try_fault(shim, scenario(name), prepared[name], root, point) == (True, [])


def test_a_full_disk_leaves_a_rewind_where_it_was(
    shim: Worker, place: Path, prepared: dict[str, Prepared]
) -> None:
    base = prepared["rewind"]
    bench = base.bench.copy(place / "full")
    run = str(base.run)
    before = bench.files(run)
    once = {"at": 1, "action": "fail-once", "error": errno.ENOSPC, "only": ["write", "/files/"]}
    outcome = shim.run("rewind", bench.root, run=run, at="2", shim=once)
    assert outcome.error[0] == "StorageError"
    assert "No space left on device" in outcome.message
    # Not only as the next command finds it: the files are back already.
    assert bench.files(run) == before
    assert shim.run("where", bench.root, run=run).unwrap()["step"] == 5
