"""What a supervisor does with runs that humans, children and odd inboxes make hard."""

from __future__ import annotations

import os
import shutil

import pytest
from plain_git import git
from upbench import UpBench

FAMILY = """
import os
from pathlib import Path

from kitaru_fs import Workspace, files, flow, step, wait

PLACE = Path(os.environ["TEST_PLACE"])


@step
def write(name: str, text: str) -> str:
    (files() / name).write_text(text)
    return text


@step
def works(place: str) -> str:
    if not (PLACE / "fixed").exists():
        raise ValueError("the child is broken")
    return place


@flow
def broken() -> str:
    write("a", "before")
    return works("x")


@flow
def calls_broken() -> str:
    write("b", "before")
    return broken()


@flow
async def writes() -> str:
    write("notes", "first")
    write("notes", "second")
    await wait("child", "Go on?", schema=bool)
    return write("notes", "third")


@step
def read(at: str) -> str:
    [child] = Workspace.current().run(files().parent.name).children
    return child.read("notes", at=at).decode()


@flow
async def reads() -> list[str]:
    await writes()
    return [read(f"write#{number}") for number in (1, 2, 3)]


@flow
async def mixed() -> str:
    import asyncio

    from agents.letters import asks, holding

    return str(await asyncio.gather(asks("child"), asyncio.to_thread(holding, "x")))
"""


@pytest.fixture
def bench(tmp_path):
    made = UpBench(tmp_path)
    (made.kitaru.workspace / "agents" / "family.py").write_text(FAMILY)
    made.settings('linger = "0"\n')
    yield made
    made.go("x")
    made.end()


def clean(run):
    assert git(run.path, "status", "--porcelain") == ""
    assert git(run.path, "fsck", "--strict") == ""
    assert run.refresh().holder is None


def make_symlink(inbox, outside):
    inbox.rmdir()
    (outside / "publish.json").write_text("true")
    inbox.symlink_to(outside)


def make_fifo(inbox, outside):
    inbox.rmdir()
    os.mkfifo(inbox)


def make_file(inbox, outside):
    inbox.rmdir()
    inbox.write_text("true")


def fill(inbox, outside):
    for number in range(20_000):
        (inbox / f"other-{number}.txt").touch()


@pytest.mark.parametrize("make", [make_symlink, make_fifo, make_file, fill])
def test_an_inbox_that_is_none_keeps_nobody_from_going_on(bench, tmp_path, make):
    odd = bench.detach("asks")
    bench.once()
    (tmp_path / "outside").mkdir()
    make(odd.path / "inbox", tmp_path / "outside")
    other = bench.detach("quick")

    said = bench.once()
    assert f"ended {other.id} completed" in said
    assert f"began {odd.id}" not in said
    assert odd.refresh().status == "waiting"
    inbox = odd.path / "inbox"
    shutil.rmtree(inbox) if inbox.is_dir() and not inbox.is_symlink() else inbox.unlink()
    inbox.mkdir()
    (inbox / "publish.json").write_text("true")
    assert f"ended {odd.id} completed" in bench.once()
    assert bench.notes.count("work before x") == 1


def test_a_paused_run_is_left_alone_though_its_reply_has_come(bench):
    run = bench.detach("asks")
    bench.once()
    bench.kitaru.good("pause", run.id)
    (run.path / "inbox" / "publish.json").write_text("true")

    assert f"held {run.id} paused by Ada" in bench.once()
    assert bench.kitaru("status", run.id, "--json").json["held"] == "paused by Ada"
    queued = bench.detach("quick")
    bench.kitaru.good("pause", queued.id)
    assert f"held {queued.id} paused by Ada" in bench.once()
    assert bench.kitaru.good("resume", run.id) == "after x\n"
    assert bench.kitaru.good("resume", queued.id) == "x\n"


def test_a_held_run_can_be_answered(bench):
    run = bench.detach("asks")
    bench.once()
    (run.path / "files" / "mine.txt").write_text("mine")
    (run.path / "inbox" / "publish.json").write_text("true")
    assert f"held {run.id} moved by hand" in bench.once()
    assert bench.notes == ["work before x"]
    assert (run.path / "files" / "mine.txt").read_text() == "mine"

    # Whoever answers by a command sees to the files: the edit is theirs, and the run goes on.
    (run.path / "inbox" / "publish.json").unlink()
    bench.kitaru.good("answer", run.id, "yes")
    assert bench.kitaru.good("resume", run.id) == "after x\n"
    assert [line.kind for line in run.log() if line.kind in ("edit", "reply")] == ["edit", "reply"]
    assert git(run.path, "log", "--format=%an", "--grep=^edit") == "Ada\n"
    clean(run)


def test_a_childs_failure_shows_in_its_parent_and_is_tried_again_with_it(bench, tmp_path):
    parent = bench.detach("calls_broken")
    assert f"ended {parent.id} failed" in bench.once()
    [child] = [run for run in bench.workspace.runs() if run.id != parent.id]
    assert (parent.refresh().status, child.status) == ("failed", "failed")
    assert "the child is broken" in parent.refresh().error["message"]
    subjects = [line.subject for line in parent.log()]
    assert [one.split(":")[0] for one in subjects[-3:]] == ["child 3", "failed 4", "failed"]
    assert parent.children[0].id == child.id
    assert "began" not in bench.once()
    for run in (parent, child):
        clean(run)

    (tmp_path / "fixed").touch()
    assert bench.kitaru.good("resume", parent.id) == "x\n"
    assert {run.status for run in bench.workspace.runs()} == {"completed"}


def test_a_child_that_was_half_made_when_its_caller_was_killed_is_made_anew(bench):
    parent = bench.detach("calls")
    bench.once()
    [child] = parent.children
    child.path.rename(child.path.with_name(f".new-{child.id}"))

    assert f"began {parent.id} a run that it called can go on" in bench.once()
    [child] = parent.refresh().children
    assert [wait["run"] for wait in parent.refresh().waits] == [child.id]
    bench.kitaru.good("answer", parent.id, "yes")
    assert f"ended {parent.id} completed" in bench.once()
    assert parent.refresh().output == "after child"
    clean(parent)
    clean(child)
    assert [run.name for run in bench.kitaru.runs] == sorted([parent.id, child.id])


def test_a_parent_reads_its_childs_files_at_any_step(bench):
    parent = bench.detach("reads")
    bench.once()
    [child] = [run for run in bench.workspace.runs() if run.id != parent.id]
    assert [wait["run"] for wait in parent.refresh().waits] == [child.id]
    bench.kitaru.good("answer", parent.id, "yes")

    assert f"ended {parent.id} completed" in bench.once()
    assert parent.refresh().output == ["first", "second", "third"]


def test_a_cancelled_parent_takes_its_children_with_it_under_a_supervisor(bench):
    supervisor = bench.up()
    parent = bench.detach("mixed")
    bench.wait_for("hold x", "work before child")
    bench.kitaru.good("cancel", parent.id)
    bench.says(supervisor, "ended", parent.id, "cancelled")

    runs = bench.workspace.runs()
    assert {run.flow: run.status for run in runs} == {
        "mixed": "cancelled",
        "asks": "cancelled",
        "holding": "cancelled",
    }
    for run in runs:
        clean(run)
    assert bench.workspace.waits() == []
    assert "began" not in bench.once()
