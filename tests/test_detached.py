"""Runs that are made for a supervisor to start."""

from __future__ import annotations

import pytest
from cli_program import Program

from kitaru_fs import Workspace


@pytest.fixture
def kitaru(tmp_path):
    return Program(tmp_path)


def test_a_detached_run_is_queued_and_says_who_would_start_it(kitaru):
    done = kitaru("run", "letter", "times=2", "--detach")

    [run] = kitaru.runs
    assert (done.status, done.out) == (0, f"{run.name}\n")
    assert "no supervisor runs in this workspace\n  kitaru up starts it" in done.err
    assert list((run / "files").iterdir()) == []
    assert [state["status"] for state in kitaru("runs", "--status", "queued", "--json").json] == [
        "queued"
    ]
    assert kitaru("run", "letter", "--detach", "--json").json["status"] == "queued"


def test_a_key_makes_one_queued_run_and_shows_it_again(kitaru):
    first = kitaru.good("run", "letter", "--detach", "--key", "once")
    again = kitaru("run", "letter", "--detach", "--key", "once")

    assert len(kitaru.runs) == 1
    assert again.status == 0
    assert first.strip() in again.err


def test_a_queued_run_can_be_resumed_here_and_cancelled(kitaru):
    kitaru.good("run", "letter", "--detach")
    assert kitaru.good("resume", "last") == "letters for world: 1\n"

    kitaru.good("run", "letter", "--detach")
    kitaru.good("cancel", "last")
    workspace = Workspace(kitaru.workspace)
    assert [run.status for run in workspace.runs()] == ["cancelled", "completed"]


def test_a_copy_of_a_queued_run_is_not_queued(kitaru):
    import shutil

    kitaru.good("run", "letter", "--detach")
    [run] = kitaru.runs
    shutil.copytree(run, run.with_name("a-copy"))

    assert Workspace(kitaru.workspace).run("a-copy").status == "interrupted"
