"""Refs that an agent plants: what is no ref is kept aside, a branch of kitaru's is where it was,
and nothing is written outside of the run."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flowbench import FlowBench, listing
from plain_git import git

from kitaru_fs import step
from kitaru_fs.errors import KitaruError

Plant = Callable[[Path, str, str], None]
GONE = "1" * 40
NOWHERE = "0" * 40


@pytest.fixture
def stopped(bench: FlowBench) -> FlowBench:
    """A run of two steps that was rewound, and can be resumed."""

    @step
    def act(number: int) -> int:
        bench.did(number)
        (bench.files / f"{number}.txt").write_text(f"{number}\n")
        return number

    def main() -> int:
        total = act(1) + act(2)
        if (bench.root / "stop").exists():
            raise RuntimeError("not yet")
        return total

    (bench.root / "stop").touch()
    with pytest.raises(RuntimeError, match="not yet"):
        bench.start(main)
    (bench.root / "stop").unlink()
    bench.run.rewind("1")
    bench.run.undo()
    return bench


def ref(name: str | bytes, value: str = "HEAD") -> Plant:
    """A loose ref to HEAD, to the blob of a file, or with a text."""

    def plant(git_dir: Path, head: str, blob: str) -> None:
        path = os.path.join(os.fsencode(git_dir), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        text = value.replace("HEAD", head).replace("BLOB", blob)
        with open(path, "w") as file:
            file.write(text + "\n")

    return plant


def packed(line: str, *, header: str = "") -> Plant:
    def plant(git_dir: Path, head: str, blob: str) -> None:
        text = line.replace("HEAD", head).encode("utf-8", "surrogateescape")
        with open(git_dir / "packed-refs", "ab") as file:
            file.write(header.encode() + text)

    return plant


def operation(content: str, name: str = "999999-rewind") -> Plant:
    def plant(git_dir: Path, head: str, blob: str) -> None:
        write = ["git", "hash-object", "-w", "--stdin"]
        done = subprocess.run(
            write, cwd=git_dir, input=content.replace("HEAD", head), capture_output=True, text=True
        )
        ref(f"refs/kitaru/ops/{name}", done.stdout.strip())(git_dir, head, blob)

    return plant


def both(*plants: Plant) -> Plant:
    def plant(git_dir: Path, head: str, blob: str) -> None:
        for one in plants:
            one(git_dir, head, blob)

    return plant


def packed_away(git_dir: Path, head: str, blob: str) -> None:
    git(git_dir.parent, "pack-refs", "--all")
    (git_dir / "refs/heads/main").mkdir(parents=True)


def instead(name: str, kind: str) -> Plant:
    def plant(git_dir: Path, head: str, blob: str) -> None:
        place = git_dir / name
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
        if kind == "file":
            place.write_text("x")
        elif kind == "directory":
            place.mkdir()
        else:
            place.symlink_to(git_dir.parents[3] / "outside")

    return plant


_PLACE = '{"branch":"main","commit":"%s"}'
_TO_NOWHERE = f'{{"kind":"rewind","why":"","before":{_PLACE % GONE},"after":{_PLACE % "HEAD"}}}'

PLANTED: dict[str, Plant] = {
    # Names
    "two dots": ref("refs/heads/a..b"),
    "a line's end": ref("refs/heads/new\nline"),
    "a space": ref("refs/heads/sp ace"),
    "a reflog": ref("refs/heads/a@{1}"),
    "hidden": ref("refs/heads/.hidden"),
    "long": ref(f"refs/heads/{'x' * 255}"),
    "HEAD": ref("refs/heads/HEAD"),
    "an option": ref("refs/heads/-rf"),
    "in a lock": ref("refs/heads/main.lock/x"),
    # Values
    "a branch of nothing": ref("refs/heads/other", GONE),
    "a tip of nothing": ref("refs/kitaru/tips/other", GONE),
    "a tag of nothing": ref("refs/tags/main", GONE),
    "the tip is nothing": ref("refs/kitaru/tips/main", GONE),
    "main is nothing": ref("refs/heads/main", GONE),
    "main and its tip are nothing": both(
        ref("refs/heads/main", GONE), ref("refs/kitaru/tips/main", GONE)
    ),
    "a branch is a blob": ref("refs/heads/other", "BLOB"),
    "main is a blob": ref("refs/heads/main", "BLOB"),
    "a torn blob": ref("refs/kitaru/torn/000001-x", "BLOB"),
    "a branch of garbage": ref("refs/heads/other", "garbage"),
    "a loop": ref("refs/heads/loop", "ref: refs/heads/loop"),
    "main is another": both(ref("refs/heads/main", "ref: refs/heads/b"), ref("refs/heads/b")),
    "out of the refs": ref("refs/heads/out", "ref: refs/../../evil"),
    # The log of operations
    "an operation of nothing": ref("refs/kitaru/ops/999999-rewind", GONE),
    "an operation that is a commit": ref("refs/kitaru/ops/999999-rewind"),
    "an operation of garbage": operation("garbage"),
    "an operation from nowhere": operation(_TO_NOWHERE),
    # packed-refs
    "packed garbage": packed("garbage\n\0\udcff\n"),
    "packed dots": packed("HEAD refs/kitaru/tips/../../../evil\n"),
    "packed absolute": packed("HEAD /tmp/evil\n"),
    "packed nothing": packed(f"{GONE} refs/heads/gone\n"),
    "packed long": packed(f"HEAD refs/kitaru/tips/{'x' * 5000}\n"),
    "packed number": packed(f"HEAD refs/heads/branch-{'9' * 900}/branch-{'9' * 5000}\n"),
    "packed unterminated": packed("HEAD refs/heads/ok"),
    "packed out of order": packed(
        "HEAD refs/heads/z\nHEAD refs/heads/a\n", header="# pack-refs with: sorted \n"
    ),
    "packed below main": packed("HEAD refs/heads/main/sub\n"),
    "packed is a directory": instead("packed-refs", "directory"),
    "packed is a link": instead("packed-refs", "link"),
    # In the way
    "below main": both(packed_away, ref("refs/heads/main/evil")),
    "a file for a directory": instead("refs/kitaru", "file"),
    "a link for a directory": instead("refs/kitaru/tips", "link"),
    "a link for a ref": instead("refs/heads/main", "link"),
    # HEAD
    "HEAD leads out": ref("HEAD", "ref: refs/heads/../../../evil"),
    "HEAD on a tip": ref("HEAD", "ref: refs/kitaru/tips/main"),
    "HEAD on no name": both(ref("HEAD", "ref: refs/heads/a..b"), ref("refs/heads/a..b")),
    "HEAD on nothing": ref("HEAD", GONE),
    "HEAD on a blob": ref("HEAD", "BLOB"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_no_ref_is_kept_aside_and_the_run_goes_on(
    stopped: FlowBench, tmp_path: Path, name: str
) -> None:
    run = stopped.run.path
    head, blob = (stopped.git("rev-parse", of).strip() for of in ("HEAD", "HEAD:files/1.txt"))
    (tmp_path / "outside").mkdir()
    PLANTED[name](run / ".git", head, blob)
    outside = listing(tmp_path / "outside")
    found = stopped.workspace.run().checkup()
    assert not found.in_order
    # Whatever is tried meanwhile ends in a sentence of ours, and reaches nothing else.
    stash = tmp_path / "stash"
    shutil.copytree(run, stash, symlinks=True)
    for act in (lambda r: r.state(), lambda r: r.undo(), lambda r: r.rewind("1")):
        with contextlib.suppress(KitaruError):
            act(stopped.workspace.run())
    with contextlib.suppress(KitaruError):
        stopped.resume()
    shutil.rmtree(run)
    shutil.move(stash, run)
    stopped.forget()

    done = stopped.workspace.run().checkup(repair=True)
    assert done.in_order, done.findings
    assert {one.check for one in done.findings} <= {"refs", "head", "layout"}
    for one in done.findings:
        assert not one.kept_as or os.path.lexists(run / one.kept_as)
    assert stopped.workspace.run().checkup(repair=True).findings == []
    assert stopped.git("rev-parse", "main").strip() == head
    assert stopped.git("symbolic-ref", "HEAD") == "refs/heads/main\n"
    assert stopped.git("fsck", "--strict", "--full", "--no-dangling") == ""
    assert stopped.resume() == 3
    assert stopped.done == []
    stopped.run.rewind("1")
    stopped.run.undo()
    assert stopped.git("status", "--porcelain") == ""
    assert listing(tmp_path / "outside") == outside
    assert not list(tmp_path.rglob("evil"))


def deleted(git_dir: Path, head: str, blob: str) -> None:
    (git_dir / "refs/heads/main").unlink(missing_ok=True)


def packed_and_hidden(git_dir: Path, head: str, blob: str) -> None:
    """A branch that `packed-refs` holds, and a file where its directory must be."""
    git(git_dir.parent, "branch", "main2/sub", head)
    git(git_dir.parent, "pack-refs", "--all")
    ref("refs/heads/main2")(git_dir, head, blob)


MOVED: dict[str, tuple[Plant, str, str]] = {
    "of nothing": (PLANTED["main is nothing"], "put-back", "main"),
    "of nothing, and its tip": (PLANTED["main and its tip are nothing"], "put-back", "main"),
    "of a blob": (PLANTED["main is a blob"], "put-back", "main"),
    "a link": (PLANTED["a link for a ref"], "put-back", "main"),
    "garbage": (ref("refs/heads/main", "garbage"), "put-back", "main"),
    "deleted": (deleted, "put-back", "main"),
    "below main": (PLANTED["packed below main"], "set-aside", "main/sub"),
    "a file above it": (packed_and_hidden, "set-aside", "main2/sub"),
}


@pytest.mark.parametrize("how", MOVED)
def test_a_branch_that_doctor_moves_is_in_the_log_of_operations(
    stopped: FlowBench, how: str
) -> None:
    plant, kind, branch = MOVED[how]
    head, blob = (stopped.git("rev-parse", of).strip() for of in ("HEAD", "HEAD:files/1.txt"))
    before = operations(stopped)
    plant(stopped.run.path / ".git", head, blob)
    assert stopped.run.checkup().findings
    assert stopped.run.checkup(repair=True).in_order
    (logged,) = operations(stopped)[len(before) :]
    was, now = (NOWHERE, head) if kind == "put-back" else (head, NOWHERE)
    assert logged["kind"] == kind
    assert logged["before"] == {"branch": branch, "commit": was}
    assert logged["after"] == {"branch": branch, "commit": now}
    assert {"why", "who", "when", "id"} <= logged.keys()
    assert head in stopped.git("rev-list", "--all").split()
    # What doctor did is no move of the run: an undo takes the run's own last one back.
    stopped.run.redo()
    stopped.run.undo()
    assert stopped.git("rev-parse", "HEAD").strip() == head


def operations(stopped: FlowBench) -> list[dict[str, Any]]:
    names = stopped.git("for-each-ref", "--format=%(refname)", "refs/kitaru/ops/").split()
    return [json.loads(stopped.git("cat-file", "blob", name)) for name in names]


def test_a_commit_under_a_name_that_is_none_stays_reachable(stopped: FlowBench) -> None:
    tree = stopped.git("rev-parse", "HEAD^{tree}").strip()
    commit = stopped.git("commit-tree", "-m", "Mine", tree).strip()
    (stopped.run.path / ".git" / "refs" / "heads" / "a..b").write_text(commit + "\n")
    assert stopped.run.checkup(repair=True).in_order
    assert commit in stopped.git("rev-list", "--all").split()


def test_a_head_that_leads_to_a_ref_of_another_repository_moves_nothing_there(
    stopped: FlowBench, tmp_path: Path
) -> None:
    run = stopped.run.path
    other = tmp_path / "other"
    git(tmp_path, "clone", "-q", str(run), str(other))
    before = listing(other)
    up = "../" * len((run / ".git" / "refs" / "heads").parts)
    (run / ".git" / "HEAD").write_text(f"ref: refs/heads/{up}{other}/.git/refs/heads/main\n")
    with pytest.raises(KitaruError, match="HEAD names neither a branch nor a commit"):
        stopped.resume()
    assert listing(other) == before


# The lock


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_what_is_no_file_in_place_of_the_lock_is_set_aside(
    stopped: FlowBench, tmp_path: Path, kind: str
) -> None:
    lock = stopped.run.path / ".git" / "kitaru" / "lock"
    lock.unlink()
    if kind == "link":
        (tmp_path / "outside").write_text("mine")
        lock.symlink_to(tmp_path / "outside")
    elif kind == "fifo":
        os.mkfifo(lock)
    else:
        (lock / "deep").mkdir(parents=True)
    with pytest.raises(KitaruError, match="is not a plain file") as caught:
        stopped.resume()
    assert "kitaru doctor" in caught.value.hint
    found = stopped.workspace.run().checkup()
    assert [(one.check, one.state) for one in found.findings] == [("locks", "found")]
    done = stopped.workspace.run().checkup(repair=True)
    assert done.in_order
    assert os.path.lexists(stopped.run.path / done.findings[0].kept_as)
    assert stopped.resume() == 3
    if kind == "link":
        assert (tmp_path / "outside").read_text() == "mine"


@pytest.mark.parametrize("record", [True, False])
def test_a_lock_that_a_living_process_may_hold_is_left(bench: FlowBench, record: bool) -> None:
    said: list[str] = []

    @step
    def plant() -> None:
        if said:
            return
        private = bench.run.path / ".git" / "kitaru"
        (private / "lock").unlink()
        (private / "lock").symlink_to("elsewhere")
        if not record:
            (private / "holder.json").unlink()
        command = [sys.executable, "-m", "kitaru_fs", "doctor", bench.run.path.name]
        done = subprocess.run(command, capture_output=True, text=True, cwd=bench.root)
        said.append(done.stdout)
        assert done.returncode == 1, done
        assert (private / "lock").is_symlink()

    with pytest.raises(KitaruError, match="removed or replaced while the run was driven"):
        bench.start(plant)
    assert f"process {os.getpid()} " in said[0]
    assert "may still drive the run" in said[0]
    assert bench.workspace.run().checkup(repair=True).in_order
    bench.resume(plant)
    assert bench.run.status == "completed"
