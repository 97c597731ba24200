"""`kitaru up`: real supervisors over real runs, started, killed and stopped."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
import sys
import threading

import pytest
from cli_program import PATIENCE
from plain_git import git
from upbench import FLOWS, UpBench

from kitaru_fs import Run
from kitaru_fs.supervisor.lock import read_lock_holder
from kitaru_fs.supervisor.supervisor import Supervisor


@pytest.fixture
def bench(tmp_path, monkeypatch):
    made = UpBench(tmp_path)
    yield made
    for name in ("x", "a", "b", "c"):
        made.go(name)
    made.end()


def status(run: Run) -> str:
    return run.refresh().status


class TestQueuedRuns:
    def test_are_started_and_what_they_print_is_kept(self, bench):
        first, second = bench.detach("quick", "name=a"), bench.detach("quick", "name=b")

        said = bench.once()
        assert f"began {first.id} queued" in said
        assert f"ended {second.id} completed" in said
        assert [first.refresh().output, second.refresh().output] == ["a", "b"]
        assert [piece.text for piece in first.logs()] == ["hello from a\n"]
        assert sorted(bench.notes) == ["work a", "work b"]
        left = (bench.kitaru.workspace / ".kitaru" / "up").iterdir()
        assert [path.name for path in left] == ["roster"]

    def test_are_started_as_soon_as_they_are_there(self, bench):
        supervisor = bench.up()
        bench.says(supervisor, "supervising")
        bench.wait_until(lambda: read_lock_holder(bench.kitaru.workspace) is not None)

        done = bench.kitaru("run", "quick", "--detach")
        assert "queued; the supervisor starts it" in done.err
        bench.says(supervisor, "ended", "completed")

    def test_are_noticed_by_the_watch_also_where_runs_is_made_anew(self, bench, monkeypatch):
        # Only once is everything looked at.
        monkeypatch.setattr("kitaru_fs.supervisor.supervisor._CHECK", 3600.0)
        for name in ("TEST_PLACE", "PYTHONPATH"):
            monkeypatch.setenv(name, bench.kitaru.environment[name])
        told = queue.Queue()
        supervisor = Supervisor(bench.workspace, listener=told.put)
        thread = threading.Thread(target=supervisor.run)
        thread.start()
        try:
            for _ in range(3):
                run = bench.detach("quick")
                while (happened := told.get(timeout=PATIENCE)).kind != "ended":
                    pass
                assert happened.run == run.id
                shutil.rmtree(bench.kitaru.workspace / "runs")
        finally:
            supervisor.stop()
            thread.join()

    def test_are_driven_so_many_at_a_time_and_the_flows_in_turn(self, bench):
        bench.settings(
            "[limits]\\nconcurrency = 2\\nflows = { holding = 1 }\\n".replace("\\n", "\n")
        )
        for name in ("a", "b"):
            bench.detach("holding", f"name={name}")
        for name in ("1", "2", "3"):
            bench.detach("other", f"name={name}")
        bench.detach("quick", "name=4")

        supervisor = bench.up()
        bench.wait_for("hold a", "work 1", "work 2", "work 3", "work 4")
        assert "work b" not in bench.notes
        others = [note for note in bench.notes if note[-1].isdigit()]
        assert others.index("work 4") < others.index("work 3")
        bench.go("a")
        bench.wait_for("hold b")
        supervisor.signal(signal.SIGTERM)
        bench.go("b")
        assert supervisor.end().status == 0

    def test_of_a_flow_that_cannot_be_loaded_are_tried_again_and_then_left(self, bench):
        bench.settings('[up]\nbackoff = "10ms"\ncrashes = 3\n')
        run = bench.detach("quick")
        agents = bench.kitaru.workspace / "agents" / "letters.py"
        agents.write_text("this is no python")

        supervisor = bench.up()
        line = bench.says(supervisor, "held", run.id)
        assert "letters.py" in line
        assert status(run) == "queued"
        assert "letters.py" in run.refresh().held
        agents.write_text(FLOWS)
        bench.kitaru.good("resume", run.id)
        assert run.refresh().held == ""


class TestRunsWhoseProcessDied:
    def test_are_taken_up(self, bench, tmp_path):
        assert bench.kitaru("run", "mortal").status == -signal.SIGKILL
        run = bench.workspace.run()
        (tmp_path / "fixed").touch()

        assert f"began {run.id} its process died" in bench.once()
        assert status(run) == "completed"
        assert bench.notes == ["work first", "dies", "dies"]

    def test_before_it_noted_anything_are_taken_up(self, bench):
        run = bench.detach("quick")
        code = (
            "import os, sys; from pathlib import Path; from kitaru_fs.holding.lock import RunLock; "
            "lock = RunLock.acquire(Path(sys.argv[1]), 'up'); os.kill(os.getpid(), 9)"
        )
        command = [sys.executable, "-c", code, str(run.path / ".git")]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
        assert status(run) == "interrupted"

        assert f"began {run.id} its process died" in bench.once()
        assert status(run) == "completed"

    def test_again_and_again_are_left_to_a_human_whose_resume_begins_anew(self, bench, tmp_path):
        bench.settings('[up]\nbackoff = "10ms"\ncrashes = 3\n')
        run = bench.detach("mortal")

        supervisor = bench.up()
        line = bench.says(supervisor, "held", run.id)
        assert "its process died (SIGKILL)" in line
        assert bench.notes == ["work first", "dies", "dies", "dies"]
        shown = bench.kitaru.good("status", run.id)
        assert "its process died (SIGKILL); kitaru resume goes on" in shown
        (tmp_path / "fixed").touch()
        assert bench.kitaru.good("resume", run.id) == "1\n"
        assert run.refresh().held == ""

    def test_stay_so_after_a_restart_of_the_supervisor(self, bench):
        bench.settings("[up]\ncrashes = 1\n")
        run = bench.detach("mortal")
        bench.once()
        said = bench.once()

        assert "held" in said
        assert bench.notes == ["work first", "dies"]
        assert run.refresh().held == "its process died (SIGKILL)"

    def test_in_a_humans_terminal_are_taken_up_while_it_supervises(self, bench):
        supervisor = bench.up()
        bench.says(supervisor, "supervising")
        bench.wait_until(lambda: read_lock_holder(bench.kitaru.workspace) is not None)
        by_hand = bench.kitaru.start("run", "holding", "name=a")
        bench.wait_for("hold a")
        by_hand.signal(signal.SIGKILL)

        bench.says(supervisor, "began", "its process died")
        bench.go("a")
        bench.says(supervisor, "ended", "completed")
        assert bench.notes == ["work a", "hold a", "hold a"]

    def test_but_those_that_a_human_stopped_are_not(self, bench):
        by_hand = bench.kitaru.start("run", "holding", "name=a")
        bench.wait_for("hold a")
        by_hand.signal(signal.SIGINT)
        assert by_hand.end().status == 130

        assert "began" not in bench.once()
        assert status(bench.workspace.run()) == "interrupted"


class TestRunsThatWait:
    def test_have_no_process_and_go_on_when_a_reply_is_dropped(self, bench):
        bench.settings('linger = "0"\n')
        run = bench.detach("asks")
        supervisor = bench.up()
        bench.says(supervisor, "ended", run.id, "waiting")
        assert run.refresh().holder is None

        (run.path / "inbox" / ".publish").write_text("true")
        os.rename(run.path / "inbox" / ".publish", run.path / "inbox" / "publish.json")
        bench.says(supervisor, "began", "something lies in its inbox")
        bench.says(supervisor, "ended", "completed")
        assert run.refresh().output == "after x"
        assert bench.notes == ["work before x", "work after x"]

    def test_go_on_when_a_command_answers(self, bench):
        bench.settings('linger = "0"\n')
        run = bench.detach("asks")
        supervisor = bench.up()
        bench.says(supervisor, "ended", run.id, "waiting")

        bench.kitaru.good("answer", run.id, "no")
        bench.says(supervisor, "began", "what it waited for has come")
        bench.says(supervisor, "ended", "completed")
        assert run.refresh().output == "no"

    def test_go_on_when_a_reply_came_while_nobody_supervised(self, bench):
        bench.settings('linger = "0"\n')
        run = bench.detach("asks")
        assert "ended" in bench.once()
        assert "began" not in bench.once()
        (run.path / "inbox" / "publish.json").write_text("true")

        assert "something lies in its inbox" in bench.once()
        assert status(run) == "completed"

    def test_go_on_with_a_reply_that_a_killed_process_had_in_its_hands(self, bench):
        bench.settings('linger = "0"\n')
        run = bench.detach("asks")
        bench.once()
        taken = run.path / ".git" / "kitaru" / "taken"
        taken.mkdir(mode=0o700, exist_ok=True)
        (run.path / "inbox" / "publish.json").write_text("true")
        (run.path / "inbox" / "publish.json").rename(taken / "abcd~publish.json")

        assert "something lies in its inbox" in bench.once()
        assert status(run) == "completed"
        assert list(taken.iterdir()) == []

    def test_go_on_at_their_time(self, bench):
        bench.settings('linger = "100ms"\n')
        run = bench.detach("sleeps", "seconds=2")
        supervisor = bench.up()
        bench.says(supervisor, "ended", run.id, "waiting")

        bench.says(supervisor, "began", "its time has come")
        bench.says(supervisor, "ended", "completed")
        assert bench.notes == ["work before", "work after"]
        [entry] = [line for line in run.log() if line.kind == "sleep" and line.status == "ok"]
        assert entry.duration >= 2

    def test_receive_messages_in_order_however_they_come(self, bench):
        bench.settings('linger = "0"\n')
        run = bench.detach("receives")
        bench.kitaru.good("send", run.id, "numbers", "1")
        supervisor = bench.up()
        bench.says(supervisor, "ended", run.id, "waiting")
        bench.kitaru.good("send", run.id, "numbers", "2")
        bench.says(supervisor, "ended", run.id, "waiting")
        (run.path / "inbox" / "numbers.json").write_text("3")

        bench.says(supervisor, "ended", "completed")
        assert run.refresh().output == [1, 2, 3]
        assert bench.notes == ["work got 1", "work got 2", "work got 3"]

    def test_for_a_child_go_on_when_that_is_answered(self, bench):
        bench.settings('linger = "0"\n')
        run = bench.detach("calls")
        supervisor = bench.up()
        bench.says(supervisor, "ended", run.id, "waiting")
        [child] = [one for one in bench.workspace.runs() if one.id != run.id]
        assert child.status == "waiting"
        (child.path / "inbox" / "publish.json").write_text("true")

        bench.says(supervisor, "began", run.id)
        bench.says(supervisor, "ended", run.id, "completed")
        assert run.refresh().output == "after child"
        assert bench.notes == ["work parent", "work before child", "work after child"]

    def test_for_a_child_go_on_when_a_command_answers_that(self, bench):
        bench.settings('linger = "0"\n')
        run = bench.detach("calls")
        supervisor = bench.up()
        bench.says(supervisor, "ended", run.id, "waiting")
        [child] = [one for one in bench.workspace.runs() if one.id != run.id]
        done = bench.kitaru("answer", child.id, "yes")
        assert f"the supervisor (pid {supervisor.process.pid}) goes on with it" in done.err

        bench.says(supervisor, "ended", run.id, "completed")
        assert run.refresh().output == "after child"

    def test_and_were_begun_in_a_terminal_go_on_too(self, bench):
        bench.settings('linger = "0"\n')
        assert bench.kitaru("run", "asks").status == 3
        run = bench.workspace.run()
        done = bench.kitaru("answer", run.id, "yes")
        assert "no supervisor runs in this workspace" in done.err
        assert "kitaru up" in done.err

        bench.once()
        assert status(run) == "completed"


class TestStopping:
    def test_hands_over_what_does_not_end_in_time(self, bench):
        bench.settings('[up]\ngrace = "0"\n')
        run = bench.detach("holding", "name=a")
        supervisor = bench.up()
        bench.wait_for("hold a")
        supervisor.signal(signal.SIGTERM)

        assert supervisor.end().status == 0
        assert status(run) == "interrupted"
        assert git(run.path, "status", "--porcelain") == ""
        bench.go("a")
        assert f"began {run.id} handed over" in bench.once()
        assert bench.notes == ["work a", "hold a", "hold a"]

    def test_lets_a_step_in_flight_finish(self, bench):
        run = bench.detach("holding", "name=a")
        supervisor = bench.up()
        bench.wait_for("hold a")
        supervisor.signal(signal.SIGTERM)
        bench.says(supervisor, "1 processes finish their steps")
        bench.go("a")

        assert supervisor.end().status == 0
        assert status(run) == "completed"
        assert bench.notes == ["work a", "hold a"]

    def test_by_a_kill_loses_nothing_and_the_next_one_waits_for_what_goes_on(self, bench):
        bench.settings("[limits]\nconcurrency = 1\n")
        run, second = bench.detach("holding", "name=a"), bench.detach("quick")
        supervisor = bench.up()
        bench.wait_for("hold a")
        pid = run.refresh().holder.pid
        supervisor.signal(signal.SIGKILL)
        supervisor.end()

        again = bench.up()
        bench.says(again, "supervising")
        bench.wait_until(lambda: read_lock_holder(bench.kitaru.workspace) is not None)
        assert os.kill(pid, 0) is None
        assert status(second) == "queued"
        bench.go("a")
        bench.says(again, "ended", second.id, "completed")
        assert run.refresh().output == pid
        assert bench.notes == ["work a", "hold a", "work x"]


class TestTwoSupervisors:
    def test_the_second_says_who_is_first(self, bench):
        first = bench.up()
        bench.wait_until(lambda: read_lock_holder(bench.kitaru.workspace) is not None)

        second = bench.kitaru("up")
        assert second.status == 4
        assert f"process {first.process.pid} on" in second.err
        once = bench.kitaru("up", "--once")
        assert once.status == 0
        assert f"process {first.process.pid} on" in once.err

    def test_deleting_the_caches_under_one_loses_nothing(self, bench):
        supervisor = bench.up()
        bench.wait_until(lambda: read_lock_holder(bench.kitaru.workspace) is not None)
        shutil.rmtree(bench.kitaru.workspace / ".kitaru")

        bench.detach("quick")
        bench.says(supervisor, "ended", "completed")


class TestRunsThatAHumanMoved:
    def test_by_git_are_left_alone_until_resumed(self, bench):
        bench.settings('[up]\ngrace = "0"\n')
        run = bench.detach("holding", "name=a")
        supervisor = bench.up()
        bench.wait_for("hold a")
        supervisor.signal(signal.SIGTERM)
        supervisor.end()
        git(run.path, "checkout", "-q", "-f", "HEAD~1")

        assert f"held {run.id} moved by hand" in bench.once()
        assert "moved by hand; kitaru resume goes on" in bench.kitaru.good("status", run.id)
        bench.go("a")
        bench.kitaru.good("resume", run.id)
        assert "held" not in bench.once()

    def test_by_editing_files_are_left_alone_until_resumed(self, bench):
        run = bench.detach("quick")
        (run.path / "files" / "mine.txt").write_text("mine")

        assert f"held {run.id} moved by hand" in bench.once()
        assert f"held {run.id} moved by hand" in bench.once()
        assert (run.path / "files" / "mine.txt").read_text() == "mine"
        assert status(run) == "queued"
        bench.kitaru.good("resume", run.id)
        assert [line.kind for line in run.log()][:2] == ["start", "edit"]

    def test_by_a_rewind_are_left_alone_until_resumed(self, bench):
        bench.settings('[up]\ngrace = "0"\n')
        run = bench.detach("holding", "name=a")
        supervisor = bench.up()
        bench.wait_for("hold a")
        supervisor.signal(signal.SIGTERM)
        supervisor.end()
        bench.kitaru.good("rewind", f"{run.id}@0")

        assert "began" not in bench.once()
        assert run.refresh().held == "moved by hand"


class TestSettings:
    def test_that_are_nonsense_leave_the_last_good_ones_in_force(self, bench):
        supervisor = bench.up()
        bench.wait_until(lambda: read_lock_holder(bench.kitaru.workspace) is not None)
        bench.detach("quick", "name=1")
        bench.says(supervisor, "ended", "completed")
        late = bench.detach("quick", "name=2") if False else None
        bench.settings("[limits]\nconcurrency = 'many'\n")

        line = bench.says(supervisor, "kitaru.toml:3")
        assert "the last good settings stay in force" in line
        assert late is None
        bench.settings("")
        bench.says(supervisor, "kitaru.toml was changed, and is in force")

    def test_that_are_nonsense_from_the_start_are_refused(self, bench):
        bench.settings("[limits]\nconcurrency = 'many'\n")

        done = bench.kitaru("up", "--once")
        assert done.status == 2
        assert "kitaru.toml:3" in done.err
