"""Stopping a run from outside, and who may drive it."""

from __future__ import annotations

import os
import signal

import pytest
from cli_program import Program
from plain_git import git

STOPS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture
def kitaru(tmp_path):
    return Program(tmp_path)


def holding(kitaru, *words):
    """Starts a command and waits until its flow is in the step that holds."""
    started = kitaru.start(*words)
    assert started.told() == "holding", started.end()
    return started


def stopped_in_order(kitaru, done):
    """Checks that a run came to rest with the torn step's files set aside, and goes on."""
    [run] = kitaru.runs
    assert done.status == 130, done
    assert "Traceback" not in done.err, done
    assert f"kitaru resume {run.name}" in done.err
    assert kitaru("status", "--json").json["status"] == "interrupted"
    assert git(run, "status", "--porcelain") == ""
    assert sorted(path.name for path in (run / "files").iterdir()) == ["first.md"]
    again = kitaru("resume", TEST_FIXED=str(kitaru.workspace))
    assert (again.status, again.out) == (0, "let go\n"), again
    assert "1 step replayed in" in again.err
    names = [line["name"] for line in kitaru("log", "--json").json]
    assert names.count("write") == 1


class TestOrderlyStop:
    @pytest.mark.parametrize("number", STOPS)
    def test_of_a_plain_flow(self, kitaru, number):
        started = holding(kitaru, "run", "held")
        started.signal(number)

        done = started.end()
        assert number.name in done.err
        stopped_in_order(kitaru, done)

    @pytest.mark.parametrize("how", ["await", "block"])
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_of_an_async_flow(self, kitaru, how, number):
        started = holding(kitaru, "run", "held_async", f"how={how}")
        started.signal(number)

        stopped_in_order(kitaru, started.end())

    @pytest.mark.parametrize("flow", ["deaf", "deaf_async"])
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_that_comes_just_before_a_long_call(self, kitaru, flow, number):
        started = holding(kitaru, "run", flow, f"number={int(number)}")
        started.signal(number)

        stopped_in_order(kitaru, started.end())

    def test_a_thread_that_goes_on_does_not_keep_the_process(self, kitaru):
        started = holding(kitaru, "run", "held_async", "how=thread")
        started.signal(signal.SIGTERM)

        done = started.end()
        assert done.status == 130, done
        assert git(kitaru.runs[0], "status", "--porcelain") == ""

    def test_shows_the_status_object_to_a_program(self, kitaru):
        started = holding(kitaru, "run", "held", "--json")
        started.signal(signal.SIGINT)

        done = started.end()
        assert done.status == 130
        assert done.json["status"] == "interrupted"
        assert done.error["type"] == "RunInterrupted"

    def test_a_child_of_the_step_ends_too(self, kitaru):
        started = kitaru.start("run", "with_child")
        child = int(started.told())
        started.signal(signal.SIGTERM)

        assert started.end().status == 130
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)

    def test_a_second_interrupt_ends_it_at_once_and_resume_recovers(self, kitaru):
        started = kitaru.start("run", "stubborn_to_stop")
        assert started.told() == "holding"
        started.signal(signal.SIGINT)
        assert started.told() == "stopping"
        started.signal(signal.SIGINT)

        assert started.end().status == -signal.SIGINT
        assert kitaru("status", "--json").json["status"] == "interrupted"

    def test_what_was_ignored_stays_ignored(self, kitaru):
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            started = holding(kitaru, "run", "held")
        finally:
            signal.signal(signal.SIGHUP, before)
        started.signal(signal.SIGHUP)
        started.signal(signal.SIGTERM)

        assert "SIGTERM" in started.end().err


class TestKilled:
    def test_reads_as_interrupted_and_what_it_tore_is_set_aside(self, kitaru):
        started = holding(kitaru, "run", "held")
        started.signal(signal.SIGKILL)
        assert started.end().status == -signal.SIGKILL

        state = kitaru("status", "--json").json
        assert (state["status"], state["holder"]) == ("interrupted", None)
        assert "interrupted" in kitaru.good("runs")
        done = kitaru("resume", TEST_FIXED=str(kitaru.workspace))
        assert (done.status, done.out) == (0, "let go\n")
        command = done.err.partition("set aside")[2].partition("(kitaru ")[2].partition(")")[0]
        assert "+half of it" in kitaru.good(*command.split())

    def test_with_keep_files_they_are_the_humans(self, kitaru):
        started = holding(kitaru, "run", "held")
        (kitaru.runs[0] / "files" / "mine.txt").write_text("mine")
        started.signal(signal.SIGKILL)
        started.end()

        assert kitaru("resume", "--keep-files", TEST_FIXED=str(kitaru.workspace)).status == 0
        assert (kitaru.runs[0] / "files" / "mine.txt").read_text() == "mine"
        edit = next(line for line in kitaru("log", "--json").json if line["kind"] == "edit")
        assert "mine.txt" in edit["files"]
        log = kitaru.good("git", "last", "--", "log", "--format=%an", edit["commit"], "-1")
        assert log == "Ada\n"


class TestHolder:
    def test_a_second_process_names_the_first(self, kitaru):
        started = holding(kitaru, "run", "held", "--key", "k")
        pid = started.process.pid
        run = kitaru.runs[0].name
        try:
            state = kitaru("status", "--json").json
            assert (state["status"], state["holder"]["pid"]) == ("running", pid)
            for words in (
                ["resume", run],
                ["rewind", f"{run}@0"],
                ["git", run, "--", "checkout", "x"],
            ):
                done = kitaru(*words)
                assert (done.status, done.out) == (4, ""), done
                assert str(pid) in done.err
            error = kitaru("resume", "--json").error
            assert (error["type"], str(pid) in error["message"]) == ("HeldError", True)
            assert kitaru("run", "held", "--key", "k").status == 4
            assert "first.md" in kitaru.good("log", "--json")
            assert kitaru.good("git", run, "--", "log", "-1", "--format=%s") == "step 1: write\n"
        finally:
            started.signal(signal.SIGTERM)
            started.end()

    def test_of_two_resumes_at_once_one_goes_on_and_the_other_exits_with_four(self, kitaru):
        killed = holding(kitaru, "run", "held")
        killed.signal(signal.SIGKILL)
        killed.end()
        both = [kitaru.start("resume", "last") for _ in range(2)]
        told = [one.told() for one in both]
        # Who is refused has ended without a word of its flow.
        assert sorted(told) == ["", "holding"]
        refused, going = both if told[0] == "" else reversed(both)
        done = refused.end()
        assert done.status == 4, done
        assert str(going.process.pid) in done.err
        going.signal(signal.SIGTERM)
        assert going.end().status == 130
        assert [line["kind"] for line in kitaru("log", "--json").json].count("resume") == 1

    def test_progress_that_nobody_reads_does_not_stop_the_run(self, kitaru):
        started = holding(kitaru, "run", "held")
        assert started.process.stderr is not None
        started.process.stderr.close()
        started.process.stderr = open(os.devnull)  # noqa: SIM115 (for communicate)
        started.signal(signal.SIGTERM)

        assert started.end().status == 130
        assert git(kitaru.runs[0], "status", "--porcelain") == ""
