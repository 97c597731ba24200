"""Rewind, undo and redo: by command, by Python, beside plain git; nothing is lost on the way."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from itertools import cycle
from pathlib import Path

import pytest
from flowbench import FlowBench

from kitaru_fs import Workspace, step
from kitaru_fs.errors import ConflictError, HeldError, NotFoundError, RunDamagedError
from kitaru_fs.holding.lock import RunLock
from kitaru_fs.processtable import start_time
from kitaru_fs.run import Run

AGENT = """
import os
import subprocess
import sys
from kitaru_fs import files, flow, step

def leave_a_writer(place):
    code = "import sys, time\\nprint(flush=True)\\nwhile True:\\n"
    code += " open(sys.argv[1], 'a').write('x')\\n time.sleep(0.001)"
    command = [sys.executable, "-c", code, str(place)]
    quiet = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    left = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.PIPE, **quiet
    )
    left.stdout.readline()

@step
def first() -> int:
    secret = files() / "secret"
    secret.write_text("s")
    os.chmod(secret, 0o600)
    (files() / "empty" / "deep").mkdir(parents=True)
    (files() / "kept.txt").write_text("one")
    subprocess.run(["git", "init", "-q", str(files() / "app")], check=True)
    (files() / "app" / "x").write_text("1")
    return 1

@step
def second() -> int:
    (files() / "kept.txt").write_text("two")
    (files() / "secret").unlink()
    os.rmdir(files() / "empty" / "deep")
    return 2

@step
def third() -> int:
    (files() / ".env").write_text("TOKEN=x")
    if "LEAVE" in os.environ:
        leave_a_writer(files() / "kept.txt")
    (files() / "late").write_text("3")
    return 3

@flow
def work() -> int:
    return first() + second() + third()
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A completed run of three steps."""
    (tmp_path / "kitaru.toml").write_text('durability = "process"\n')
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "work.py").write_text(AGENT)
    kitaru(tmp_path, "run", "work")
    return Workspace(tmp_path).run()


def kitaru(workspace: Path, *arguments: str, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "kitaru_fs", "--workspace", str(workspace), *arguments],
        capture_output=True,
        text=True,
        cwd=workspace,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def git(run: Run, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(run.path), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout


def is_clean(run: Run) -> bool:
    changed = [
        line for line in git(run, "status", "--porcelain").splitlines() if ".env" not in line
    ]
    return not changed and git(run, "fsck", "--strict") == ""


def test_rewind_puts_files_modes_and_directories_back_on_a_new_branch(run: Run) -> None:
    main = git(run, "rev-parse", "main")
    untouched = (run.path / "files" / "app" / "x").stat().st_mtime_ns
    move = run.rewind("first")
    files = run.path / "files"
    assert (files / "secret").stat().st_mode & 0o777 == 0o600
    assert (files / "kept.txt").read_text() == "one"
    assert (files / "empty" / "deep").is_dir()
    assert not (files / "late").exists()
    assert (files / "app" / "x").stat().st_mtime_ns == untouched
    assert (files / ".env").read_text() == "TOKEN=x"
    assert move.stays == [".env"]
    assert sorted(move.changed) == ["empty/deep/", "kept.txt", "late", "secret"]
    assert move.step == 1
    assert git(run, "branch", "--show-current").strip() == move.after.branch == "branch-2"
    assert git(run, "rev-parse", "main") == main
    assert [line.step for line in run.refresh().log()] == [0, 1]
    assert is_clean(run)


def test_a_rewound_run_goes_on_without_doing_again_what_it_has(run: Run) -> None:
    run.rewind("2")
    kitaru(run.workspace.path, "resume", run.id)
    log = run.refresh().log()
    assert [line.name for line in log if line.kind == "step"] == ["first", "second", "third"]
    assert [line.kind for line in log] == ["start", "step", "step", "resume", "step", "end"]
    assert run.refresh().output == 6
    assert is_clean(run)


def test_a_dry_run_says_the_same_and_changes_nothing(run: Run) -> None:
    def snapshot() -> dict[str, tuple[int, int]]:
        return {
            os.path.join(folder, name): (status.st_mtime_ns, status.st_size)
            for folder, _, names in os.walk(run.path)
            for name in names
            if (status := os.lstat(os.path.join(folder, name)))
        }

    before = snapshot()
    planned = run.rewind("first", dry_run=True)
    assert snapshot() == before
    done = run.rewind("first")
    assert planned.changed == done.changed
    assert planned.stays == done.stays
    assert planned.after == done.after


def test_edits_are_committed_as_the_humans_before_a_rewind_and_come_back(run: Run) -> None:
    edited = run.path / "files" / "kept.txt"
    edited.write_text("mine")
    move = run.rewind("first", identity=("Ada", "ada@example.org"))
    assert move.edited == ["kept.txt"]
    assert git(run, "log", "-1", "--format=%an %s", "main").strip() == "Ada edit 5: 1 file"
    assert edited.read_text() == "one"
    run.undo()
    assert edited.read_text() == "mine"
    assert git(run, "branch", "--show-current").strip() == "main"
    run.redo()
    assert edited.read_text() == "one"
    assert is_clean(run)


def test_undo_takes_an_edit_back_and_redo_brings_it_again(run: Run) -> None:
    edited = run.path / "files" / "kept.txt"
    edited.write_text("mine")
    run.undo()
    assert edited.read_text() == "two"
    run.redo()
    assert edited.read_text() == "mine"


def test_undo_takes_a_cancel_back(run: Run) -> None:
    run.rewind("2")
    run.refresh().cancel()
    assert run.refresh().status == "cancelled"
    run.undo()
    assert run.refresh().status == "interrupted"
    kitaru(run.workspace.path, "resume", run.id)
    assert run.refresh().status == "completed"


def test_undo_twice_goes_back_two_rewinds(run: Run) -> None:
    end = git(run, "rev-parse", "HEAD")
    run.rewind("2")
    run.rewind("1")
    run.undo()
    assert run.refresh().state()["step"] == 2
    run.undo()
    assert git(run, "rev-parse", "HEAD") == end
    with pytest.raises(ConflictError, match="nothing to undo"):
        run.undo()


def test_nothing_to_redo_after_the_run_went_on(run: Run) -> None:
    run.rewind("1")
    run.undo()
    run.rewind("2")
    with pytest.raises(ConflictError, match="nothing to redo"):
        run.redo()


def test_a_rewind_to_a_branchs_tip_takes_that_branch_up_again(run: Run) -> None:
    tip = git(run, "rev-parse", "HEAD").strip()
    run.rewind("1")
    move = run.rewind(tip[:10])
    assert not move.new_branch
    assert move.after.branch == "main"
    assert git(run, "branch", "--show-current").strip() == "main"


def test_what_a_human_did_with_git_is_in_the_log_and_can_be_undone(run: Run) -> None:
    end = git(run, "rev-parse", "HEAD")
    git(run, "checkout", "-q", run.resolve("1").commit.hex())
    (run.path / "files" / "kept.txt").write_text("on top")
    run.undo()  # the edit
    assert (run.path / "files" / "kept.txt").read_text() == "one"
    assert git(run, "rev-parse", "main") == end


@pytest.mark.parametrize(
    ("step", "error"),
    [("99", NotFoundError), ("nosuch", NotFoundError), ("4", ConflictError)],
)
def test_a_rewind_to_nowhere_changes_nothing(run: Run, step: str, error: type[Exception]) -> None:
    (run.path / "files" / "kept.txt").write_text("uncommitted")
    before = git(run, "for-each-ref")
    with pytest.raises(error):
        run.rewind(step)
    assert git(run, "for-each-ref") == before
    assert (run.path / "files" / "kept.txt").read_text() == "uncommitted"


def test_a_held_run_is_not_moved(run: Run) -> None:
    with RunLock.acquire(run.path / ".git", "test"):
        for move in (lambda: run.rewind("1"), run.undo, run.redo):
            with pytest.raises(HeldError):
                move()


def test_a_process_that_a_step_left_running_is_ended(run: Run, monkeypatch) -> None:
    monkeypatch.setenv("LEAVE", "1")
    kitaru(run.workspace.path, "run", "work")
    last = Workspace(run.workspace.path).run()
    said = kitaru(run.workspace.path, "rewind", f"{last.id}@first")
    (pid,) = re.findall(r"ended process (\d+) that a step had left running", said)
    assert start_time(int(pid)) is None
    assert (last.path / "files" / "kept.txt").read_text() == "one"
    assert is_clean(last)


def test_the_commands_say_what_stays_and_how_to_undo(run: Run) -> None:
    root = run.workspace.path
    said = kitaru(root, "rewind", f"{run.id}@second")
    assert "stays: .env" in said
    assert f"kitaru undo {run.id}" in said
    assert "stands at step 4 on main" in kitaru(root, "undo", run.id)
    assert "stands at step 2 on branch-2" in kitaru(root, "redo", run.id)
    assert "nothing was changed" in kitaru(root, "rewind", f"{run.id}@1", "--dry-run")
    kitaru(root, "rewind", run.id, status=2)


# What a human did with git


def operations(run: Run) -> list[dict[str, object]]:
    """The log of operations, oldest first, as plain git reads it."""
    refs = git(run, "for-each-ref", "--format=%(refname)", "refs/kitaru/ops/").split()
    return [json.loads(git(run, "cat-file", "blob", ref)) for ref in refs]


MOVES = {
    "checkout": ["checkout", "-q", "AT"],
    "reset": ["reset", "-q", "--hard", "AT"],
    "switch -c": ["switch", "-q", "-c", "mine", "AT"],
    "switch": ["switch", "-q", "branch-2"],
}


@pytest.mark.parametrize("edited", [False, True])
@pytest.mark.parametrize("how", MOVES)
def test_where_git_moved_the_run_is_logged_and_can_be_undone(
    run: Run, how: str, edited: bool
) -> None:
    at = run.resolve("2").commit.hex()
    run.rewind("2")
    run.undo()
    end = git(run, "rev-parse", "main").strip()
    git(run, *[at if word == "AT" else word for word in MOVES[how]])
    if edited:
        (run.path / "files" / "kept.txt").write_text("on top")
    kitaru(run.workspace.path, "undo", run.id)
    if edited:
        # First the edit, then the move.
        assert git(run, "rev-parse", "HEAD").strip() == at
        assert (run.path / "files" / "kept.txt").read_text() == "two"
        kept = git(run, "rev-list", "--all", "--grep=^edit ").split()
        assert len(kept) == 1
        return
    moved, undone = operations(run)[-2:]
    assert (moved["kind"], undone["kind"]) == ("checkout", "undo")
    assert moved["why"] == "step 2, by git"
    assert moved["before"] == {"branch": "main", "commit": end}
    branch = {"checkout": "branch-2", "reset": "branch-3"} | {"switch -c": "mine"}
    assert moved["after"] == {"branch": branch.get(how, "branch-2"), "commit": at}
    assert {"who", "when", "id"} <= moved.keys()
    assert git(run, "rev-parse", "HEAD", "main").split() == [end, end]
    assert (run.path / "files" / "late").exists()
    assert git(run, "symbolic-ref", "HEAD") == "refs/heads/main\n"
    run.redo()
    assert git(run, "rev-parse", "HEAD").strip() == at
    assert is_clean(run)


@pytest.mark.parametrize("how", ["moved", "deleted"])
def test_another_branch_that_git_took_is_put_back_and_logged(run: Run, how: str) -> None:
    run.rewind("2")
    run.undo()
    at = git(run, "rev-parse", "branch-2").strip()
    if how == "moved":
        git(run, "branch", "-q", "-f", "branch-2", "HEAD~3")
    else:
        git(run, "branch", "-q", "-D", "branch-2")
    run.rewind("1")
    assert git(run, "rev-parse", "branch-2").strip() == at
    logged = operations(run)
    assert [one["kind"] for one in logged[-2:]] == ["put-back", "rewind"]
    assert logged[-2]["why"] == f"branch-2 was {how} by git"
    run.undo()
    assert run.refresh().state()["step"] == 4
    assert run.checkup(repair=True).findings == []


@pytest.mark.parametrize("logged", [True, False])
def test_a_commit_that_git_put_another_branch_on_stays_reachable(run: Run, logged: bool) -> None:
    run.rewind("2")
    run.undo()
    at = git(run, "rev-parse", "branch-2").strip()
    who = ("-c", "user.name=Ada", "-c", "user.email=a@b")
    mine = git(run, *who, "commit-tree", "-m", "Mine", "-p", "HEAD~3", "HEAD~3^{tree}").strip()
    git(run, "branch", "-q", "-f", "branch-2", mine)
    said: list[str] = []
    if not logged:
        # Nothing says that a human did it.
        shutil.rmtree(run.path / ".git" / "logs")
    run.rewind("1", listener=lambda event: said.append(event.name + event.text))
    assert git(run, "rev-parse", "branch-2").strip() == at
    assert mine in git(run, "rev-list", "--all").split()
    (kept,) = git(run, "for-each-ref", "--format=%(refname)", "refs/kitaru/aside/").split()
    assert git(run, "rev-parse", kept).strip() == mine
    assert any(kept in line for line in said)


def test_a_commit_that_is_made_beside_a_living_process_stays_reachable(bench: FlowBench) -> None:
    @step
    def act(number: int) -> int:
        return number

    @step
    def interfere() -> str:
        shown = bench.run.path / "journal" / "0000" / "000001-act.json"
        while not shown.exists():
            time.sleep(0.001)
        who = ("-c", "user.name=Ada", "-c", "user.email=a@b")
        bench.git(*who, "commit", "-q", "--allow-empty", "-m", "Mine")
        return bench.git("rev-parse", "HEAD").strip()

    def main() -> str:
        act(1)
        mine = interfere()
        act(2)
        return mine

    mine = bench.start(main)
    run = bench.run
    assert mine in git(run, "rev-list", "--all").split()
    assert mine not in git(run, "rev-list", "main").split()
    assert [line.step for line in run.log()] == [0, 1, 2, 3, 4]
    (logged,) = operations(run)
    assert (logged["kind"], logged["before"]) == ("put-back", {"branch": "main", "commit": mine})
    assert run.checkup(repair=True).findings == []


def test_what_is_no_commit_in_a_living_runs_branch_is_not_kept(bench: FlowBench) -> None:
    @step
    def act(number: int) -> int:
        return number

    @step
    def plant() -> None:
        shown = bench.run.path / "journal" / "0000" / "000001-act.json"
        while not shown.exists():
            time.sleep(0.001)
        (bench.run.path / ".git" / "refs" / "heads" / "main").write_text("1" * 40 + "\n")

    def main() -> None:
        act(1)
        plant()
        act(2)

    bench.start(main)
    run = bench.run
    assert len(git(run, "rev-list", "--all").split()) == 5
    assert operations(run) == []
    assert run.checkup(repair=True).findings == []


def test_what_a_human_committed_stays_and_its_files_are_adopted(run: Run) -> None:
    (run.path / "files" / "kept.txt").write_text("mine")
    (run.path / "beside.txt").write_text("not of the run")
    git(run, "add", "-A")
    git(run, "-c", "user.name=Ada", "-c", "user.email=a@b", "commit", "-q", "-m", "By hand")
    mine = git(run, "rev-parse", "HEAD").strip()
    run.rewind("1", identity=("Ada", "ada@example.org"))
    assert mine in git(run, "rev-list", "--all").split()
    (edit,) = git(run, "log", "--format=%H %an %s", "main", "--grep=^edit ").splitlines()
    assert edit.split(" ", 1)[1] == "Ada edit 5: 1 file"
    assert git(run, "show", f"{edit.split()[0]}:files/kept.txt") == "mine"
    run.undo()
    assert (run.path / "files" / "kept.txt").read_text() == "mine"
    assert (run.path / "beside.txt").read_text() == "not of the run"
    assert git(run, "status", "--porcelain").split() == ["??", "beside.txt", "??", "files/.env"]


def test_what_keeps_writing_is_named_and_the_run_stays_where_it_is(run: Run) -> None:
    """A process that is not the run's: it is nobody's to end."""
    code = "import sys\nprint(flush=True)\nnumber = 0\nwhile True:\n number += 1\n"
    code += " open(sys.argv[1], 'w').write(str(number))"
    place = run.path / "files"
    texts = {run.resolve("1").commit.hex(): "one", run.resolve("2").commit.hex(): "two"}
    with subprocess.Popen(
        [sys.executable, "-c", code, "kept.txt"], cwd=place, stdout=subprocess.PIPE
    ) as writer:
        try:
            assert writer.stdout is not None
            writer.stdout.readline()
            # Where the writer was not scheduled just then, the move is done.
            for target in cycle(texts):
                branch = git(run, "symbolic-ref", "HEAD")
                try:
                    run.refresh().rewind(target)
                except RunDamagedError as error:
                    said = error
                    break
            assert writer.poll() is None
        finally:
            writer.kill()
    assert "something keeps writing there" in said.message
    assert f"{writer.pid} (" in said.hint
    assert git(run, "symbolic-ref", "HEAD") == branch
    run.refresh().rewind(target)
    assert (place / "kept.txt").read_text() == texts[target]
    assert is_clean(run)
