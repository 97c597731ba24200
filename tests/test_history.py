"""Looking back: `log --all`, `show`, `diff` across steps, branches and runs; what `status` adds."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from cli_program import Program
from flowbench import listing
from plain_git import git

AGENT = """
import os
import subprocess
from kitaru_fs import files, flow, step

@step
def first() -> int:
    (files() / "a.txt").write_text("one\\n")
    (files() / "secret").write_text("s\\n")
    (files() / "secret").chmod(0o600)
    subprocess.run(["git", "init", "-q", str(files() / "app")], check=True)
    return 1

@step
def second(number: int) -> int:
    (files() / "a.txt").write_text(f"two {number}\\n")
    (files() / "secret").chmod(0o640)
    (files() / "empty").mkdir(exist_ok=True)
    subprocess.run(["git", "-C", str(files() / "app"), "branch", "-m", "other"], check=True)
    os.mkfifo(files() / "pipe") if not (files() / "pipe").exists() else None
    return number

@flow
def work(number: int = 2) -> int:
    return first() + second(number)

@step
def third() -> None:
    (files() / "a.txt").write_text("torn\\n")
    if "DIE" in os.environ:
        os.kill(os.getpid(), 9)

@flow
def dies(number: int = 2) -> None:
    work.function(number)
    third()
"""


@pytest.fixture
def kitaru(tmp_path: Path) -> Program:
    made = Program(tmp_path)
    (made.workspace / "agents" / "work.py").write_text(AGENT)
    return made


@pytest.fixture
def branched(kitaru: Program) -> Path:
    """A run that was rewound to step 1 and went on."""
    kitaru.good("run", "work")
    kitaru.good("rewind", "last@1")
    kitaru.good("resume", "last")
    return kitaru.runs[0]


def test_log_all_shows_every_branch_and_where_it_left(kitaru, branched):
    kitaru.good("rewind", "last@2")
    out = kitaru("log", "last", "--all")
    rows = [line.split() for line in out.out.splitlines()[1:]]
    assert [(row[0], row[2]) for row in rows] == [
        *(("0", "branch-3"), ("1", "branch-3"), ("2", "branch-3")),
        *(("3", "branch-2"), ("4", "branch-2")),
        *(("2", "main"), ("3", "main")),
    ]
    assert "leaves branch-3 after step 2" in out.out
    assert "leaves branch-3 after step 1" in out.out


def test_log_all_names_a_branch_that_has_nothing_of_its_own(kitaru, branched):
    git(branched, "branch", "mine", "HEAD~3")
    assert "mine is at step 1 of branch-2" in kitaru("log", "last", "--all").err


def test_on_a_terminal_the_branches_are_lanes(kitaru, branched):
    script = f"{kitaru.command()[0]} -m kitaru_fs log last --all"
    env = kitaru.environment | {"COLUMNS": "120", "NO_COLOR": "1"}
    done = subprocess.run(
        ["script", "-qec", script, "/dev/null"],
        capture_output=True,
        text=True,
        cwd=kitaru.workspace,
        env=env,
        stdin=subprocess.DEVNULL,
    )
    lanes = [line[:2] for line in done.stdout.splitlines()[1:]]
    assert lanes == ["● ", "●╮", "●│", "●│", "●│", " ●", " ●"]


def test_log_all_json_has_every_commit_with_its_branch_and_parent(kitaru, branched):
    lines = json.loads(kitaru.good("log", "last", "--all", "--json"))
    assert {"step", "name", "kind", "status", "commit", "duration", "files", "usage"} <= set(
        lines[0]
    )
    commits = git(branched, "rev-list", "--all").split()
    assert {line["commit"] for line in lines} == set(commits)
    by_commit = {line["commit"]: line for line in lines}
    for line in lines:
        assert (line["parent"] or "") == git(branched, "log", "-1", "--format=%P", line["commit"])[
            :-1
        ]
        assert by_commit[line["commit"]] is line


def test_diff_between_branches_by_name_number_and_commit(kitaru, branched):
    (kitaru.workspace / "agents" / "work.py").write_text(AGENT.replace("two {number}", "too"))
    kitaru.good("rewind", "last@1")
    kitaru.good("resume", "last")
    main = git(branched, "rev-parse", "main").strip()
    for at in ("last@main", f"last@{main}", f"last@{main[:8]}"):
        out = kitaru.good("diff", at, "last@branch-3")
        assert "-two 2\n+too\n" in out
        assert kitaru.good("diff", "last@branch-3", at) != out
    assert kitaru.good("show", "last@branch-2").startswith("step      4: completed")
    assert kitaru.good("diff", "@main", "@branch-2", cwd=branched) == ""


def test_diff_says_what_git_has_no_words_for(kitaru, branched):
    out = kitaru.good("diff", "last@1", "last@main").splitlines()
    assert [line for line in out if line.startswith("# ")] == [
        "# app/.git: a repository's own state",
        "# empty/: a directory without files, added",
        "# secret: mode 0600 -> 0640",
    ]
    found = json.loads(kitaru.good("diff", "last@1", "last@main", "--json"))
    assert len(found["beside"]) == 3
    assert json.loads(kitaru.good("show", "last@second", "--json"))["beside"] == found["beside"]


def test_diff_between_runs(kitaru):
    kitaru.good("run", "work")
    kitaru.good("run", "work", "number=3")
    first, second = (run.name for run in kitaru.runs)
    assert "-two 2\n+two 3\n" in kitaru.good("diff", f"{first}@second", f"{second}@second")
    assert "-two 3\n+two 2\n" in kitaru.good("diff", f"{second}@second", first)


def test_a_crashed_run_is_shown_and_compared_as_far_as_its_log_goes(kitaru):
    kitaru.good("run", "work")
    assert kitaru("run", "dies", "number=5", DIE="1").status == -9
    dead, whole = kitaru.runs[-1], kitaru.runs[0].name
    before = listing(dead)
    assert "+two 5\n" in kitaru.good("show", "last@second")
    assert "-one\n+two 5\n" in kitaru.good("diff", "last@1", "last@2")
    assert "-two 2\n+two 5\n" in kitaru.good("diff", f"{whole}@second", "last")
    assert listing(dead) == before


def test_status_shows_what_is_left_out_and_what_was_set_aside(kitaru):
    assert kitaru("run", "dies", DIE="1").status == -9
    assert kitaru("resume", "last").status == 0
    [run] = kitaru.runs
    done = kitaru("status", "last")
    assert "left out  pipe (FIFO)" in done.out
    assert "kept      what a torn step left, " in done.out
    command = done.err.strip().splitlines()[0]
    assert command.startswith(f"kitaru git {run.name} -- show refs/kitaru/torn/")
    shown = kitaru.good(*command.split()[1:])
    assert "-two 2\n+torn\n" in shown
    # Nothing but how the files differ.
    assert shown.count("diff --git") == 1
    told = json.loads(kitaru.good("status", "last", "--json"))
    assert told["left_out"] == [{"path": "pipe", "reason": "FIFO"}]
    (kept,) = told["kept"]
    assert kept["commit"] == git(run, "rev-parse", kept["ref"]).strip()
    assert os.path.exists(run / "files" / "pipe")
