"""What a step costs, in calls and objects: figures that do not depend on the machine."""

from __future__ import annotations

import asyncio
import re
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flowbench import FlowBench
from harness import Bench, Plan, Worker, build_shim, git

from kitaru_fs import Workspace, flow, step
from kitaru_fs.rundir import writer as writing
from kitaru_fs.storage.store import Store
from kitaru_fs.storage.wal import WriteAheadLog

pytestmark = pytest.mark.skipif(build_shim() is None, reason="the shim needs a C compiler")


@pytest.fixture(scope="module")
def shim() -> Iterator[Worker]:
    with Worker(shim=True) as running:
        yield running


def calls_of(shim: Worker, root: Path, plan: Plan) -> Counter[str]:
    """Counts the storage calls below `runs/` of driving a run to its end, by name and place."""
    bench = Bench.make(root, plan)
    run = str(shim.run("create", bench.root).unwrap())
    trace = root / "trace"
    plain = {"at": 0, "action": "count", "trace": str(trace), "fire": True}
    shim.run("quick", bench.root, run=run, shim=plain).unwrap()
    counted: Counter[str] = Counter()
    for line in trace.read_text(errors="surrogateescape").splitlines():
        name, path = line.split("\t")[1:3]
        place = re.search(r"/(\.git/(?:kitaru/wal|objects|refs|[^/]*)|journal|files)", path)
        counted[f"{name} {place[1] if place else ''}"] += 1
    return counted


def per_step(shim: Worker, root: Path, few: Plan, many: Plan) -> dict[str, int]:
    """Returns how often a further step makes each call, what is rare apart."""
    before, after = calls_of(shim, root / "few", few), calls_of(shim, root / "many", many)
    more = len(many) - len(few)
    differences = {name: round((after[name] - before[name]) / more) for name in after | before}
    return {name: count for name, count in differences.items() if count}


def test_a_step_is_one_write_and_one_sync(shim: Worker, tmp_path: Path) -> None:
    # And one file of journal/ that shows it, a moment later.
    assert per_step(shim, tmp_path, [{"do": []}] * 5, [{"do": []}] * 25) == {
        "pwrite .git/kitaru/wal": 1,
        "fdatasync .git/kitaru/wal": 1,
        "open journal": 1,
        "write journal": 1,
    }


def test_a_step_that_edits_a_file_syncs_no_more(shim: Worker, tmp_path: Path) -> None:
    def plan(steps: int) -> Plan:
        return [{"do": [["write", "file", f"{number}\n" * 2000]]} for number in range(steps)]

    found = per_step(shim, tmp_path, plan(5), plan(25))
    assert found == {
        "pwrite .git/kitaru/wal": 1,
        "fdatasync .git/kitaru/wal": 1,
        "open journal": 1,
        "write journal": 1,
        # The step's own.
        "mkdir files": 1,
        "open files": 1,
        "write files": 1,
    }


def test_a_step_is_five_objects(shim: Worker, tmp_path: Path) -> None:
    bench = Bench.make(tmp_path / "bench", [{"do": []}] * 30)
    shim.run("start", bench.root).unwrap()
    path = bench.run_path(bench.only_run())
    # The entry, its folder, the journal, the root, the commit; and for the resume and the end too.
    # What the first commit has more: run.json, and code/ with the flow's module.
    count = len(git(path, "cat-file", "--batch-all-objects", "--batch-check").splitlines())
    assert count <= 5 * (30 + 3) + 12


def test_steps_that_end_together_share_a_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = FlowBench(tmp_path / "workspace")
    (bench.root / "kitaru.toml").write_text("")
    monkeypatch.chdir(bench.root)
    ended = syncs = 0
    all_ended = threading.Event()
    sync = WriteAheadLog.sync

    def counting(log: WriteAheadLog) -> None:
        nonlocal syncs
        if ended:
            syncs += 1
            assert all_ended.wait(30)
        sync(log)

    monkeypatch.setattr(WriteAheadLog, "sync", counting)

    @step
    async def one(number: int) -> int:
        nonlocal ended
        await asyncio.sleep(0)
        ended += 1
        if ended == 100:
            all_ended.set()
        return number

    async def main() -> int:
        return sum(await asyncio.gather(*(one(number) for number in range(100))))

    assert bench.start(main) == 4950
    # One of the first, one for all that ended while it went on, and those of the run's end.
    assert syncs < 10
    assert len(bench.run.log()) >= 102


def test_a_resume_reads_each_entry_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = FlowBench(tmp_path / "workspace")
    monkeypatch.chdir(bench.root)

    @step
    def one(number: int) -> int:
        return number

    def main() -> None:
        for number in range(300):
            one(number)
        raise ValueError("again")

    with pytest.raises(ValueError, match="again"):
        bench.start(main)
    reads: Counter[bytes] = Counter()
    read = Store._read_here  # pyright: ignore[reportPrivateUsage]

    def counting(store: Store, sha: bytes) -> Any:
        reads[sha] += 1
        return read(store, sha)

    monkeypatch.setattr(Store, "_read_here", counting)
    with pytest.raises(ValueError, match="again"):
        bench.resume(main)
    # Each entry once; and the folders, the commits at the tip, and what the last commits need.
    assert sum(reads.values()) <= 302 + 60


def test_a_flow_goes_on_while_its_steps_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = FlowBench(tmp_path / "workspace")
    monkeypatch.chdir(bench.root)
    shown, went_on = threading.Event(), threading.Event()
    show = writing.show

    def slowly(path: Path, files: list[tuple[str, bytes]]) -> None:
        if threading.current_thread() is not threading.main_thread():
            shown.set()
            assert went_on.wait(30)
        show(path, files)

    monkeypatch.setattr(writing, "show", slowly)

    @step
    def quick(number: int) -> int:
        return number

    def main() -> int:
        quick(0)
        assert shown.wait(30)
        quick(1)
        went_on.set()
        return quick(2)

    assert bench.start(main) == 2
    entries = [path.name for path in sorted((bench.run.path / "journal" / "0000").iterdir())]
    assert [name.split("-")[1] for name in entries[1:4]] == ["quick.json"] * 3


def test_a_new_run_is_one_pack(tmp_path: Path) -> None:
    bench = FlowBench(tmp_path / "workspace")

    @flow
    def main() -> int:
        return 1

    path = Workspace(bench.root).create(main, {})
    objects = path / ".git" / "objects"
    assert len(list(objects.glob("pack/*.pack"))) == 1
    assert not list(objects.glob("??/*"))
    assert git(path, "log", "--format=%s").strip() == "start: main"
    assert git(path, "fsck", "--strict") == ""
    assert [file.name for file in (path / "journal" / "0000").iterdir()] == ["000000-main.json"]
