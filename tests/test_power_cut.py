"""A power cut loses nothing that was acknowledged, and what it took of files/ comes back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from flowbench import FlowBench
from harness import Worker, build_shim
from harness.disk import Disk, why_no_disk
from harness.powercut import CUTS, Cut, try_cut

from kitaru_fs import step


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if why_no_disk("ext4") is not None or build_shim() is None:
        pytest.skip(why_no_disk("ext4") or "the storage shim needs a C compiler")
    try:
        entered = Disk(tmp_path, "ext4").__enter__()
    except RuntimeError as error:
        pytest.skip(str(error))  # in a container, say
    try:
        yield entered
    finally:
        entered.__exit__()


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker(shim=True) as made:
        yield made


def cut(disk: Disk, worker: Worker, name: str, cut: Cut, broken: str | None = None) -> list[str]:
    (scenario,) = [one for one in CUTS if one.name == name]
    place = disk.root.parent
    (place / "outside").mkdir()
    prepared = scenario.make(worker, place / "base")
    return try_cut(worker, scenario, prepared, disk, place / "outside", cut, broken)


END = 1_000_000


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("create", Cut(END, "the end", True)),
        ("whole run", Cut(END, "the end", True)),
        ("orderly stop", Cut(3, "an object", True, ("open", "/.git/objects/"))),
        ("log reset", Cut(2, "the headers", True, ("pwrite", "/.git/kitaru/wal"))),
        ("log reset", Cut(5, "a loose copy", False, ("unlink", "/.git/objects/"))),
        ("rewind", Cut(END, "the end", False)),
        ("undo", Cut(1, "the index", True, ("rename", "/.git/index"))),
        ("fork", Cut(END, "the end", True)),
    ],
)
def test_nothing_acknowledged_is_lost(disk: Disk, worker: Worker, name: str, where: Cut) -> None:
    assert cut(disk, worker, name, where) == []


@pytest.mark.parametrize(
    ("broken", "name", "where"),
    [
        ("no-directory-sync", "create", Cut(END, "the end", False)),
        ("no-log-sync", "burst", Cut(9, "an object", False, ("open", "/.git/objects/"))),
    ],
)
def test_the_harness_notices_a_sync_that_is_taken_out(
    disk: Disk, tmp_path: Path, worker: Worker, broken: str, name: str, where: Cut
) -> None:
    found = cut(disk, worker, name, where, broken)
    for number in range(15):
        if found:
            break
        # The kernel had written by itself what nobody waited for.
        place = tmp_path / str(number)
        place.mkdir()
        with Disk(place, "ext4") as another:
            found = cut(another, worker, name, where, broken)
    assert found


@step
def act(place: str, number: int) -> int:
    for name in ("a.txt", "b.txt"):
        (Path(place) / name).write_text(f"{name} {number}\n")
    return number


def start_and_stop(bench: FlowBench, *, stop: bool = True) -> None:
    """Makes a run of two steps that stopped in order, or that is completed."""

    def main() -> int:
        total = act(str(bench.files), 1) + act(str(bench.files), 2)
        if (bench.root / "stop").exists():
            raise KeyboardInterrupt
        return total

    if stop:
        (bench.root / "stop").touch()
        with pytest.raises(KeyboardInterrupt):
            bench.start(main)
        (bench.root / "stop").unlink()
    else:
        bench.start(main)


def start_machine_anew(bench: FlowBench) -> None:
    """Lets the run's stop be one before the machine was started, and after what was done so far."""
    note = bench.run.path / ".git" / "kitaru" / "left.json"
    left = json.loads(note.read_text())
    left["boot"] = "an earlier one"
    left["at"] = max(path.lstat().st_ctime_ns for path in (bench.files, *bench.files.iterdir()))
    note.write_text(json.dumps(left))


@pytest.mark.parametrize("stop", [True, False])
def test_what_a_cut_took_of_files_after_an_orderly_stop_comes_back(
    bench: FlowBench, stop: bool
) -> None:
    start_and_stop(bench, stop=stop)
    (bench.files / "a.txt").write_bytes(b"")
    (bench.files / "b.txt").unlink()
    (bench.run.path / "journal" / "0000" / "000001-act.json").write_bytes(b"")
    start_machine_anew(bench)
    assert bench.resume() == 3
    assert bench.tree() == {"a.txt": "a.txt 2\n", "b.txt": "b.txt 2\n"}
    assert bench.git("status", "--porcelain") == ""
    assert not any(line.startswith("edit ") for line in bench.log())
    assert bench.run.kept()


def test_doctor_puts_back_what_a_cut_took_of_files(bench: FlowBench) -> None:
    start_and_stop(bench, stop=False)
    (bench.files / "a.txt").write_bytes(b"")
    start_machine_anew(bench)
    found = bench.run.checkup(repair=True)
    assert found.in_order
    assert any("the power was cut" in one.what for one in found.findings)
    assert bench.text("a.txt") == "a.txt 2\n"
    assert bench.run.checkup(repair=False).findings == []


def test_what_was_edited_since_the_machine_was_started_is_an_edit(bench: FlowBench) -> None:
    start_and_stop(bench)
    start_machine_anew(bench)
    (bench.files / "a.txt").write_text("mine\n")
    (bench.files / "b.txt").unlink()
    assert bench.resume() == 3
    assert bench.tree() == {"a.txt": "mine\n"}
    assert any(re.match(r"edit \d+: 2 files", line) for line in bench.log())


def test_a_branch_that_fell_back_behind_its_tip_follows_the_log(bench: FlowBench) -> None:
    def main() -> int:
        total = act(str(bench.files), 1) + act(str(bench.files), 2)
        bench.die()
        return total

    bench.crash(main)
    branch = bench.run.path / ".git" / "refs" / "heads" / "main"
    first = bench.git("rev-list", "--max-parents=0", "HEAD").strip()
    branch.write_text(f"{first}\n")
    assert bench.run.state()["step"] == 2
    bench.forget()
    assert bench.resume(main) == 3
    assert bench.git("branch", "--format=%(refname:short)").split() == ["main"]
