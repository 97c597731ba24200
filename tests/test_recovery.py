"""SIGKILL anywhere, then resume: nothing acknowledged is lost or done twice, and files are
exact."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import (
    Bench,
    Plan,
    Worker,
    build_shim,
    check_clean,
    check_completed,
    check_readable,
    check_recovery,
    describe,
    expect,
    git,
    snapshot,
)
from harness.points import Point, try_kill
from harness.scenarios import SMALL, scenario

from kitaru_fs.git.locks import LOCK_MODE
from kitaru_fs.processtable import sees_all_processes, start_time

needs_compiler = pytest.mark.skipif(build_shim() is None, reason="the shim needs a C compiler")

MakeBench = Callable[[Plan], Bench]


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as running:
        yield running


@pytest.fixture(scope="module")
def shim() -> Iterator[Worker]:
    with Worker(shim=True) as running:
        yield running


@pytest.fixture
def make(fast_path: Path) -> MakeBench:
    return lambda plan: Bench.make(fast_path / "workspace", plan)


@pytest.fixture
def fast_path() -> Iterator[Path]:
    """A directory on a RAM disk, if there is one: a killed process does not care what was
    synced."""
    base = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=base, prefix="kitaru-") as folder:
        yield Path(folder).resolve()


def start(worker: Worker, bench: Bench, trip: str, what: str = "kill") -> str:
    """Starts a run that ends where the flow comes by a trip; returns its id."""
    bench.trip(trip, what)
    outcome = worker.run("start", bench.root)
    assert outcome.killed == (what == "kill"), outcome
    return bench.only_run()


def finish(worker: Worker, bench: Bench, run: str, plan: Plan, **how: Any) -> None:
    """Resumes a run to its end, and checks that it is as if it had never been interrupted."""
    before = bench.progress()
    result = worker.run("resume", bench.root, run=run, **how).unwrap()
    assert check_completed(bench, run, expect(plan), result, before) == []


def log(worker: Worker, bench: Bench, run: str) -> list[dict[str, Any]]:
    return worker.run("read", bench.root, run=run).unwrap()["log"]


def status(worker: Worker, bench: Bench, run: str) -> str:
    return worker.run("read", bench.root, run=run).unwrap()["state"]["status"]


def subjects(bench: Bench, run: str, *refs: str) -> list[str]:
    return git(bench.run_path(run), "log", "--reverse", "--format=%s", *refs).splitlines()


def torn(bench: Bench, run: str) -> list[str]:
    return git(
        bench.run_path(run), "for-each-ref", "--format=%(refname)", "refs/kitaru/torn"
    ).split()


# A killed process


@pytest.mark.parametrize("trip", ["half-way", "before-0", "before-3", "end"])
def test_a_killed_run_reads_interrupted_and_resumes(
    worker: Worker, make: MakeBench, trip: str
) -> None:
    bench = make(SMALL)
    run = start(worker, bench, trip)
    assert status(worker, bench, run) == "interrupted"
    assert check_readable(worker, bench, run, expect(SMALL)) == []
    assert check_recovery(worker, bench, run) == []
    finish(worker, bench, run, SMALL)
    assert bench.effects() == {0: 1, 1: 1, 2: 2 if trip == "half-way" else 1, 3: 1}


def test_what_a_torn_step_left_is_kept_and_git_shows_it(worker: Worker, make: MakeBench) -> None:
    bench = make(SMALL)
    run = start(worker, bench, "half-way")
    found = bench.files(run)
    finish(worker, bench, run, SMALL)
    (ref,) = torn(bench, run)
    path = bench.run_path(run)
    assert git(path, "show", f"{ref}:files/src/b.py") == "b = 2\n"
    assert git(path, "show", f"{ref}:files/notes.md") == "one\ntwo\nthree\n"
    listed = set(git(path, "ls-tree", "-r", "--name-only", f"{ref}:files").split())
    assert listed == {name for name, (kind, _, _) in found.items() if kind == "file"}
    assert git(path, "log", "-1", "--format=%s", ref).startswith("torn: ")


def test_killed_again_and_again(worker: Worker, make: MakeBench) -> None:
    bench = make(SMALL)
    run = start(worker, bench, "half-way")
    for trip in ("half-way", "before-3", "end"):
        bench.trip(trip)
        assert worker.run("resume", bench.root, run=run).killed
        assert check_readable(worker, bench, run, expect(SMALL)) == []
    finish(worker, bench, run, SMALL)
    resumes = [line for line in subjects(bench, run) if line.startswith("resume ")]
    assert len(resumes) == 4
    assert bench.effects() == {0: 1, 1: 1, 2: 3, 3: 1}


# Calls after which a crash leaves something of its own kind behind: scenario, call, part of its
# path.
CALLS = [
    ("create", "rename", 1, "/runs/2"),
    ("step", "pwrite", 1, "/.git/kitaru/wal"),
    ("step", "open", 3, "/.git/objects/"),
    ("step", "rename", 1, "/.git/refs/heads/main"),
    ("step", "write", 1, "/journal/0000/000004-act.json"),
    ("step", "rename", 1, "/.git/index"),
    ("log reset", "rename", 1, ".idx"),
    ("log reset", "pwrite", 2, "/.git/kitaru/wal"),
    ("log reset", "pwrite", 3, "/.git/kitaru/wal"),
    ("log reset", "unlink", 9, "/.git/objects/"),
    ("failed attempt", "unlink", 1, "/files/dir/left"),
    ("checkout", "write", 1, "/.git/HEAD.lock"),
    ("recovery", "rename", 1, "/.git/kitaru/holder.json"),
    ("recovery", "write", 1, "/files/.kitaru-"),
    ("recovery of a commit", "write", 4, "/.git/objects/"),
    ("recovery of a commit", "rename", 1, "/.git/refs/heads/main"),
    ("orderly stop", "rename", 1, "/.git/kitaru/left.json"),
    ("checkout", "rename", 1, "/.git/HEAD"),
]


@needs_compiler
@pytest.mark.parametrize(("name", "call", "number", "path"), CALLS)
def test_killed_in_the_middle_of_a_storage_call(
    shim: Worker, fast_path: Path, name: str, call: str, number: int, path: str
) -> None:
    what = scenario(name)
    prepared = what.make(shim, fast_path / "base")
    action = "tear" if "write" in call else "kill"
    point = Point(number, call, action, only=(call, path))
    assert try_kill(shim, what, prepared, fast_path / "copy", point) == (True, [])


# Where a crash shows that a protection is missing.
BREAKS_SHOWN = {
    "ref-before-log": ("orderly stop", "pwrite", 1, "/.git/kitaru/wal"),
    "reset-before-pack": ("log reset", "rename", 2, ".idx"),
    "acknowledge-first": ("step", "write", 1, "/files/notes.md"),
}


@needs_compiler
@pytest.mark.parametrize("broken", sorted(BREAKS_SHOWN))
def test_the_harness_notices_a_protection_that_is_taken_out(
    shim: Worker, fast_path: Path, broken: str
) -> None:
    name, call, number, path = BREAKS_SHOWN[broken]
    what = scenario(name)
    prepared = what.make(shim, fast_path / "base")
    point = Point(number, call, "kill", only=(call, path))
    reached, problems = try_kill(shim, what, prepared, fast_path / "copy", point, broken)
    assert reached
    assert problems


def test_a_flow_of_80_steps_killed_at_10_random_moments(
    shim: Worker, make: MakeBench, request: pytest.FixtureRequest
) -> None:
    if build_shim() is None:
        pytest.skip("the shim needs a C compiler")
    plan = [
        {"do": [["write", f"part-{number % 7}", f"{number}\n"], ["append", "all", f"{number}\n"]]}
        for number in range(80)
    ]
    plan[0]["do"].insert(0, ["write", "all", ""])
    bench = make(plan)
    run = shim.run("create", bench.root).unwrap()
    dice = random.Random(80)
    kills = 0
    for _ in range(10):
        acks = bench.acks()
        at = dice.randrange(1, 250)
        kills += shim.run("resume", bench.root, run=run, shim={"at": at, "action": "kill"}).killed
        assert bench.acks() >= acks
    assert kills == 10
    finish(shim, bench, run, plan)
    assert sum(bench.effects().values()) <= 80 + kills
    assert git(bench.run_path(run), "show", "HEAD:files/all").split() == [
        str(number) for number in range(80)
    ]


# What a dead process leaves behind


def test_processes_that_a_step_left_running_are_ended(make: MakeBench) -> None:
    plan = [{"do": [["spawn", "log"], ["trip", "spawned"]]}, {"do": [["write", "a", "a\n"]]}]
    bench = make(plan)
    bench.trip("spawned")
    assert bench.kitaru("run", "agents/scripted.py:scripted").returncode == -9
    left = int((bench.root / "spawned").read_text())
    assert start_time(left) is not None
    run = bench.only_run()
    resumed = bench.kitaru("resume", run, "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["status"] == "completed"
    assert start_time(left) is None


@pytest.mark.skipif(not sees_all_processes(), reason="whose a lock is cannot be seen here")
def test_stale_locks_of_a_killed_git_need_no_human(worker: Worker, make: MakeBench) -> None:
    bench = make(SMALL)
    run = start(worker, bench, "half-way")
    git_dir = bench.run_path(run) / ".git"
    for name in ("index.lock", "HEAD.lock", "refs/heads/main.lock"):
        (git_dir / name).touch(0o644)
    finish(worker, bench, run, SMALL)


def test_our_own_locks_are_known_as_ours(worker: Worker, make: MakeBench) -> None:
    bench = make(SMALL)
    run = start(worker, bench, "half-way")
    git_dir = bench.run_path(run) / ".git"
    lock = git_dir / "refs/heads/main.lock"
    os.close(os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL, LOCK_MODE))
    finish(worker, bench, run, SMALL)


def test_what_people_read_is_put_right_after_a_crash(worker: Worker, make: MakeBench) -> None:
    bench = make(SMALL)
    run = start(worker, bench, "before-3")
    path = bench.run_path(run)
    first, second, third = sorted((path / "journal" / "0000").iterdir())[:3]
    first.unlink()
    second.write_bytes(second.read_bytes()[:40])
    third.write_bytes(bytes(100))
    (path / "run.json").write_bytes(b"")
    shutil.rmtree(path / "code")
    stranger = path / "journal" / "0000" / "notes.txt"
    stranger.write_text("a human's\n")
    before = bench.progress()
    result = worker.run("resume", bench.root, run=run).unwrap()
    assert stranger.read_text() == "a human's\n"
    stranger.unlink()
    assert check_completed(bench, run, expect(SMALL), result, before) == []


# A power cut


def cut_power(path: Path, dice: random.Random) -> None:
    """Leaves of a run what was synced: the log, and not what was written beside it."""
    git_dir = path / ".git"
    loose = sorted((git_dir / "objects").glob("[0-9a-f][0-9a-f]/*"))
    assert loose
    for file in loose:
        what = dice.choice(["gone", "empty", "short", "zeros", "there"])
        content = file.read_bytes()
        file.unlink()
        if what == "empty":
            file.write_bytes(b"")
        elif what == "short":
            file.write_bytes(content[: len(content) // 2])
        elif what == "zeros":
            file.write_bytes(bytes(len(content)))
        elif what == "there":
            file.write_bytes(content)
    for ref in [*(git_dir / "refs").rglob("main"), *(git_dir / "refs/kitaru").rglob("0*")]:
        if dice.random() < 0.3:
            ref.unlink()
        elif dice.random() < 0.4:
            ref.chmod(0o644)
            ref.write_bytes(b"")
    for name in ("kitaru/holder.json", "kitaru/driven", "kitaru/left.json"):
        if dice.random() < 0.5:
            (git_dir / name).unlink(missing_ok=True)
    for file in [*(path / "journal").rglob("*.json"), *(path / "files").rglob("*")]:
        if file.is_file() and not file.is_symlink() and dice.random() < 0.4:
            file.write_bytes(b"")


@pytest.mark.parametrize("seed", range(6))
def test_a_power_cut_loses_nothing_acknowledged(worker: Worker, make: MakeBench, seed: int) -> None:
    bench = make(SMALL)
    run = start(worker, bench, "before-3")
    if seed % 2:
        bench.trip("before-3")
        worker.run("resume", bench.root, run=run)
    cut_power(bench.run_path(run), random.Random(seed))
    assert check_readable(worker, bench, run, expect(SMALL)) == []
    assert check_recovery(worker, bench, run) == []
    assert check_readable(worker, bench, run, expect(SMALL)) == []
    finish(worker, bench, run, SMALL)
    assert bench.effects() == {0: 1, 1: 1, 2: 1, 3: 1}


def test_refs_rolled_back_to_an_older_commit_follow_the_log(
    worker: Worker, make: MakeBench
) -> None:
    bench = make(SMALL)
    run = start(worker, bench, "before-3")
    git_dir = bench.run_path(run) / ".git"
    older = git(bench.run_path(run), "rev-parse", "HEAD~2").strip()
    for name in ("refs/heads/main", "refs/kitaru/tips/main"):
        (git_dir / name).unlink()
        (git_dir / name).write_text(f"{older}\n")
    finish(worker, bench, run, SMALL)
    assert bench.effects() == {0: 1, 1: 1, 2: 1, 3: 1}


# Copies


@pytest.mark.parametrize("how", ["cp", "tar"])
def test_a_copy_of_a_killed_run_resumes(worker: Worker, make: MakeBench, how: str) -> None:
    bench = make(SMALL)
    run = start(worker, bench, "half-way")
    runs = bench.root / "runs"
    if how == "cp":
        subprocess.run(["cp", "-a", run, "copy"], cwd=runs, check=True)
    else:
        subprocess.run(["tar", "-cf", bench.root / "run.tar", run], cwd=runs, check=True)
        (runs / "copy").mkdir()
        extract = ["tar", "-xf", bench.root / "run.tar", "--strip-components=1", "-C", "copy"]
        subprocess.run(extract, cwd=runs, check=True)
    before = bench.progress()
    result = worker.run("resume", bench.root, run="copy").unwrap()
    assert check_completed(bench, "copy", expect(SMALL), result, before) == []
    assert len(torn(bench, "copy")) == 1
    assert not [line for line in subjects(bench, "copy") if line.startswith("edit ")]
    bench.forget()
    finish(worker, bench, run, SMALL)


@pytest.mark.parametrize("what", ["kill", "interrupt"])
def test_a_clone_of_a_run_resumes(worker: Worker, make: MakeBench, what: str) -> None:
    bench = make(SMALL)
    run = start(worker, bench, "before-3", what)
    git(bench.root / "runs", "clone", "-q", run, "clone")
    finish(worker, bench, "clone", SMALL)
    assert "resume 4: cloned" in subjects(bench, "clone")
    assert check_clean(bench.run_path("clone")) == []
    bench.forget()
    finish(worker, bench, run, SMALL)


# A human


IDENTITY = ["Ada Lovelace", "ada@example.org"]


def test_a_humans_edits_while_stopped_are_one_commit_of_theirs(
    worker: Worker, make: MakeBench
) -> None:
    bench = make(SMALL)
    run = start(worker, bench, "before-3", "interrupt")
    path = bench.run_path(run)
    assert check_clean(path) == []
    (path / "files" / "notes.md").write_text("mine\n")
    (path / "files" / "new").mkdir()
    (path / "files" / "new" / "file").write_text("new\n")
    (path / "files" / "link").unlink()
    mine = bench.files(run)
    worker.run("resume", bench.root, run=run, identity=IDENTITY).unwrap()
    edits = [line for line in subjects(bench, run) if line.startswith("edit ")]
    assert edits == ["edit 4: 3 files"]
    author = git(path, "log", "--format=%an <%ae>", "--grep=^edit 4", "main").strip()
    assert author == "Ada Lovelace <ada@example.org>"
    edit = git(path, "log", "--format=%H", "--grep=^edit 4", "main").strip()
    changed = git(path, "diff", "--name-only", f"{edit}~", edit, "--", "files").split()
    assert changed == ["files/link", "files/new/file", "files/notes.md"]
    assert git(path, "show", f"{edit}:files/notes.md") == "mine\n"
    found = bench.files(run)
    assert found["new/file"] == mine["new/file"]
    assert found["notes.md"][2] == b"four\n"
    assert check_clean(path) == []


@pytest.mark.parametrize("keep", [False, True])
def test_edits_after_a_crash_are_kept_aside_unless_asked_for(
    worker: Worker, make: MakeBench, keep: bool
) -> None:
    bench = make(SMALL)
    run = start(worker, bench, "half-way")
    path = bench.run_path(run)
    (path / "files" / "mine").write_text("mine\n")
    worker.run("resume", bench.root, run=run, keep_files=keep, identity=IDENTITY).unwrap()
    edits = [line for line in subjects(bench, run) if line.startswith("edit ")]
    if keep:
        assert edits == ["edit 3: 4 files"]
        assert git(path, "show", "HEAD:files/mine") == "mine\n"
    else:
        assert edits == []
        assert "mine" not in bench.files(run)
        assert git(path, "show", f"{torn(bench, run)[0]}:files/mine") == "mine\n"
        assert describe(expect(SMALL).trees[-1], bench.files(run)) == ""
    assert check_clean(path) == []


MOVES = [
    (["checkout", "-q", "AT"], "branch-2"),
    (["reset", "-q", "--hard", "AT"], "branch-2"),
    (["switch", "-q", "-c", "mine", "AT"], "mine"),
]


@pytest.mark.parametrize("what", ["kill", "interrupt"])
@pytest.mark.parametrize(("command", "branch"), MOVES, ids=["checkout", "reset", "switch"])
def test_a_humans_git_moves_the_run_after_a_crash_and_after_a_stop(
    worker: Worker, make: MakeBench, what: str, command: list[str], branch: str
) -> None:
    bench = make(SMALL)
    run = start(worker, bench, "before-3", what)
    path = bench.run_path(run)
    tip = git(path, "rev-parse", "main").strip()
    at = git(path, "rev-parse", "main~1").strip()
    if what == "kill":
        # The index is as old as the last orderly stop, so git needs to be told to overwrite.
        git(path, "reset", "-q", "--hard", "main")
    git(path, *[at if word == "AT" else word for word in command])
    bench.forget()
    result = worker.run("resume", bench.root, run=run).unwrap()
    assert result == expect(SMALL).result
    assert bench.effects() == {2: 1, 3: 1}
    assert describe(expect(SMALL).trees[-1], bench.files(run)) == ""
    assert git(path, "symbolic-ref", "--short", "HEAD").strip() == branch
    assert git(path, "rev-parse", "main").strip() == tip
    assert git(path, "merge-base", "main", branch).strip() == at
    assert check_clean(path) == []


# Failed attempts


def test_every_attempt_starts_from_clean_files_and_is_in_the_log(
    worker: Worker, make: MakeBench
) -> None:
    plan = [
        {"do": [["write", "notes", "one\n"]]},
        {"do": [["append", "notes", "two\n"], ["write", "left", "x"], ["fail", 2]]},
        {"do": [["append", "notes", "three\n"], ["fail", 9]], "handled": True},
        {"do": [["append", "notes", "four\n"]]},
    ]
    bench = make(plan)
    result = worker.run("start", bench.root).unwrap()
    run = bench.only_run()
    assert check_completed(bench, run, expect(plan), result, bench.progress()) == []
    assert (bench.run_path(run) / "files" / "notes").read_text() == "one\ntwo\nfour\n"
    lines = [(line["kind"], line["status"], line["attempt"]) for line in log(worker, bench, run)]
    failed = ("failed", "failed")
    assert lines[2:5] == [(*failed, 1), (*failed, 2), ("step", "ok", 3)]
    assert lines[5:8] == [(*failed, 1), (*failed, 2), (*failed, 3)]
    refs = torn(bench, run)
    assert len(refs) == 5
    path = bench.run_path(run)
    assert git(path, "show", f"{refs[0]}:files/notes") == "one\ntwo\n"
    assert git(path, "diff", "--stat", "main~8", "main~7", "--", "files") == ""


def test_attempts_are_counted_over_a_kill(worker: Worker, make: MakeBench) -> None:
    plan = [{"do": [["write", "left", "x"], ["trip", "second"], ["fail", 2]]}]
    bench = make(plan)
    bench.trip("second", "fire-nothing")
    run = worker.run("create", bench.root).unwrap()
    bench.trip("before-0")
    assert worker.run("resume", bench.root, run=run).killed
    finish(worker, bench, run, plan)
    assert [line["attempt"] for line in log(worker, bench, run) if line["name"] == "act"] == [
        1,
        2,
        3,
    ]


# Reading


def test_reading_writes_nothing_and_needs_no_writable_disk(shim: Worker, make: MakeBench) -> None:
    if build_shim() is None:
        pytest.skip("the shim needs a C compiler")
    bench = make(SMALL)
    run = start(shim, bench, "half-way")
    before = snapshot(bench.run_path(run))
    full = {"at": 1, "action": "fail-on", "error": 28}
    outcome = shim.run("read", bench.root, run=run, shim=full)
    assert outcome.unwrap()["state"]["status"] == "interrupted"
    assert outcome.calls == 0
    assert snapshot(bench.run_path(run)) == before
