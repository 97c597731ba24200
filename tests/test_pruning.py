"""rm, prune and gc: they alone take anything away, say what, and how it comes back."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
from harness import Bench, Plan, Worker, git

PLAN: Plan = [{"do": [["write", "notes.md", "one\n"]]}, {"do": [["append", "notes.md", "two\n"]]}]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = Bench.make(tmp_path / "workspace", PLAN)
    with Worker() as worker:
        worker.run("start", made.root).unwrap()
    return made


def test_a_run_goes_to_the_trash_and_comes_back(bench: Bench) -> None:
    run = bench.only_run()
    assert "would go" in bench.kitaru("rm", run, "--dry-run").stdout
    assert bench.run_path(run).exists()
    done = bench.kitaru("rm", run)
    assert (done.returncode, done.stdout) == (0, f"run {run}: in the trash\n")
    assert json.loads(bench.kitaru("runs", "--json").stdout) == []
    undo = next(line for line in done.stderr.splitlines() if line.startswith("  mv "))
    assert os.system(undo) == 0
    assert [one["status"] for one in json.loads(bench.kitaru("runs", "--json").stdout)] == [
        "completed"
    ]
    assert bench.kitaru("status", run).returncode == 0


def test_gc_drops_the_trash_alone_and_says_so(bench: Bench) -> None:
    run = bench.only_run()
    bench.kitaru("rm", run)
    trash = bench.root / "runs" / ".trash"
    said = bench.kitaru("gc", "--dry-run").stdout
    assert f"{run} would go, for good" in said
    assert (trash / run).exists()
    assert f"{run} dropped, for good" in bench.kitaru("gc").stdout
    assert list(trash.iterdir()) == []


def test_prune_takes_what_is_over_and_old(bench: Bench) -> None:
    run = bench.only_run()
    assert "no run is that old" in bench.kitaru("prune", "--older-than", "1d").stderr
    dry = json.loads(bench.kitaru("prune", "--older-than", "0s", "--dry-run", "--json").stdout)
    assert dry == {"runs": [run], "dry_run": True}
    bench.trip("before-1", "interrupt")
    with Worker() as worker:
        worker.run("start", bench.root)
    bench.kitaru("prune", "--older-than", "0s")
    # The other one can still go on.
    assert bench.only_run() != run
    assert bench.kitaru("prune", "--older-than", "soon").returncode == 2
    assert bench.kitaru("prune").returncode == 2


def test_gc_packs_a_history_tightly_and_drops_nothing_of_it(tmp_path: Path) -> None:
    dice = random.Random(1)
    text = "".join(dice.choice("abcdef \n") for _ in range(40_000))
    plan: Plan = [
        {"do": [["write", "text", text[: 1000 * number] + "x" + text[1000 * number :]]]}
        for number in range(12)
    ]
    bench = Bench.make(tmp_path / "workspace", plan)
    with Worker() as worker:
        worker.run("start", bench.root).unwrap()
    run = bench.only_run()
    path = bench.run_path(run)
    blob = git(path, "hash-object", "-w", "--stdin", check=False).strip()
    commits = git(path, "log", "--format=%H %T")
    before = sum(file.stat().st_size for file in path.glob(".git/objects/pack/*"))
    said = bench.kitaru("gc", run).stdout
    assert " -> " in said
    after = sum(file.stat().st_size for file in path.glob(".git/objects/pack/*"))
    assert after < before / 2
    assert git(path, "log", "--format=%H %T") == commits
    assert git(path, "cat-file", "-e", blob) == ""
    assert git(path, "fsck", "--strict", "--full", "--no-dangling") == ""
    assert bench.kitaru("export", f"{run}@3", "--into", str(tmp_path / "out")).returncode == 0
