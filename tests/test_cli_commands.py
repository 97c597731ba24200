"""Each command, as a user types it, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from cli_program import CHANGED, Program
from plain_git import git

STATUS_FIELDS = [
    *("run", "flow", "path", "status", "step", "head", "branch", "created", "updated", "holder"),
    *("waits", "output", "error", "usage"),
]


@pytest.fixture
def kitaru(tmp_path):
    return Program(tmp_path)


class TestInit:
    def test_makes_a_workspace_that_runs_at_once(self, kitaru):
        done = kitaru("init", "fresh", cwd=kitaru.root)

        assert done.status == 0
        assert done.out == f"{kitaru.root}/fresh\n"
        assert "agents/hello.py" in done.err
        assert "To undo it" in done.err
        fresh = kitaru.root / "fresh"
        assert kitaru.good("run", "hello", "name=Ada", cwd=fresh).endswith("words for Ada\n")

    def test_refuses_to_overwrite(self, kitaru):
        done = kitaru("init", ".", "--json")

        assert done.status == 2
        assert done.error["type"] == "ConflictError"
        assert "Nothing was changed" in done.error["hint"]

    def test_refuses_the_home_directory_without_force(self, kitaru):
        assert kitaru("init", kitaru.home).status == 2
        assert not (kitaru.home / "kitaru.toml").exists()
        assert kitaru("init", kitaru.home, "--force").status == 0


class TestRun:
    def test_the_result_alone_is_on_stdout(self, kitaru):
        done = kitaru("run", "letter", "name=Ada", "times=2")

        assert done.status == 0
        assert done.out == "letters for Ada: 2\n"
        [run] = kitaru.runs
        assert (run / "files" / "letter-1.md").read_text() == "Hello, Ada\n"
        assert str(run) in done.err
        assert f"kitaru log {run.name}" in done.err
        assert "step 2: write" in done.err
        assert "\x1b" not in done.err

    def test_the_process_belongs_to_the_run(self, kitaru):
        done = kitaru("run", "look_around", GIT_DIR="/elsewhere")

        [run] = kitaru.runs
        assert json.loads(done.out) == {"cwd": str(run / "files"), "ceiling": str(run)}
        assert "this is printed by the flow" in done.err
        assert "this is printed by a child" in done.err

    def test_json_is_the_status_object_and_no_progress(self, kitaru):
        done = kitaru("run", "letter", "--json")

        assert done.err == ""
        assert list(done.json) == STATUS_FIELDS
        assert done.json["status"] == "completed"
        assert done.json["output"] == "letters for world: 1"
        assert done.json["holder"] is None

    def test_takes_its_arguments_from_json_text_a_file_and_the_standard_input(self, kitaru):
        (kitaru.workspace / "input.json").write_text('{"name": "file", "times": 2}')

        given = '{"name": "text"}'
        assert kitaru.good("run", "letter", "--input", given) == "letters for text: 1\n"
        assert kitaru.good("run", "letter", "--input", "@input.json") == "letters for file: 2\n"
        done = kitaru("run", "letter", "times=3", "--input", "-", input='{"name": "stdin"}')
        assert done.out == "letters for stdin: 3\n"

    @pytest.mark.parametrize(
        "target", ["letter", "agents/letters.py:letter", "agents.letters:letter"]
    )
    def test_every_form_of_a_target(self, kitaru, target):
        assert kitaru.good("run", target) == "letters for world: 1\n"

    def test_works_from_anywhere_with_the_workspace_named(self, kitaru):
        named = ("--workspace", kitaru.workspace)
        assert kitaru.good(*named, "run", "letter", cwd=kitaru.root)
        assert kitaru("runs", cwd=kitaru.root).status == 2
        assert kitaru.good("runs", cwd=kitaru.root, KITARU_WORKSPACE=str(kitaru.workspace))

    def test_a_bare_agent_takes_a_prompt(self, kitaru):
        (kitaru.workspace / "agents" / "helper.py").write_text(
            "from pydantic_ai import Agent\n"
            "from pydantic_ai.models.test import TestModel\n"
            'agent = Agent(TestModel(custom_output_text="done"), name="helper")\n'
        )
        assert kitaru.good("run", "helper", "x=1 is an equation") == "done\n"
        [run] = kitaru.runs
        assert json.loads((run / "run.json").read_text())["input"] == {
            "prompt": "x=1 is an equation"
        }
        done = kitaru("run", "helper", "two", "words")
        assert (done.status, len(kitaru.runs)) == (2, 1)
        assert "quotes" in done.err

    def test_files_come_from_a_directory_and_go_back_as_a_patch(self, kitaru):
        project = kitaru.root / "project"
        project.mkdir()
        git(project, "init", "-q", "-b", "main")
        (project / "letter-0.md").write_text("old\n")
        git(project, "add", "-A")
        git(project, "commit", "-q", "-m", "one")
        kitaru.good("run", "letter", "name=Ada", "--files", project)

        patch = kitaru.good("export", "last", "--patch")
        subprocess.run(["git", "apply"], input=patch, text=True, cwd=project, check=True)
        assert (project / "letter-0.md").read_text() == "Hello, Ada\n"

    def test_a_failure_shows_the_users_frames_only_and_resume_tries_again(self, kitaru):
        done = kitaru("run", "quotient", "divisor=0")

        [run] = kitaru.runs
        assert done.status == 1
        assert done.out == ""
        assert "return dividend / divisor" in done.err
        assert "ZeroDivisionError: division by zero" in done.err
        assert f"kitaru resume {run.name}" in done.err
        shown = done.err.partition("Traceback")[2]
        assert shown
        assert "kitaru_fs/" not in shown
        again = kitaru("resume", "last", "--json")
        assert (again.status, again.error["type"]) == (1, "ZeroDivisionError")
        assert again.json["status"] == "failed"
        fixed = kitaru("resume", TEST_FIXED=str(kitaru.workspace))
        assert (fixed.status, fixed.out) == (0, "0.0\n"), fixed

    def test_attempts_are_shown_and_what_they_left_is_set_aside(self, kitaru):
        count = kitaru.root / "count"
        count.write_text("0")
        done = kitaru("run", "stubborn", TEST_COUNT=str(count))

        assert done.status == 0, done
        assert "attempt 1 is no good" in done.err
        assert "attempt 2 is no good" in done.err
        assert "again in" in done.err
        command = done.err.partition("set aside")[2].partition("(kitaru ")[2].partition(")")[0]
        assert "+attempt 1" in kitaru.good(*command.split())
        assert "set aside" in kitaru("log").err

    def test_a_flow_that_left_its_journal_diverges(self, kitaru):
        kitaru("run", "quotient", "divisor=0")
        (kitaru.workspace / "agents" / "letters.py").write_text(CHANGED)
        head = kitaru("status", "--json").json["head"]
        done = kitaru("resume", "--json")

        assert (done.status, done.error["type"]) == (5, "DivergenceError")
        assert "write" in done.error["message"]
        assert kitaru("status", "--json").json["head"] == head
        assert kitaru("resume", "--recorded-code").status == 1

    def test_a_flow_that_ends_the_process_can_be_resumed(self, kitaru):
        done = kitaru("run", "exits")

        assert done.status == 130
        assert "SystemExit" in done.err
        assert kitaru("status", "--json").json["status"] == "interrupted"

    def test_resuming_a_completed_run_returns_its_result(self, kitaru):
        kitaru.good("run", "letter")
        head = kitaru("status", "--json").json["head"]

        done = kitaru("resume", "--json")
        assert (done.status, done.json["output"]) == (0, "letters for world: 1")
        assert done.json["head"] == head


class TestKey:
    def test_starts_one_run_and_shows_it_after(self, kitaru):
        first = kitaru("run", "letter", "--key", "monday", "--json")
        again = kitaru("run", "letter", "name=Bob", "--key", "monday", "--json")

        assert again.json == first.json
        shown = kitaru("run", "letter", "--key", "monday")
        assert (shown.status, shown.out) == (0, "letters for world: 1\n")
        assert "none is started" in shown.err
        assert len(kitaru.runs) == 1
        other = kitaru("run", "quotient", "divisor=1", "--key", "monday")
        assert other.status == 2
        assert "another key" in other.err

    def test_shows_a_failed_run_with_its_exit_status(self, kitaru):
        for _ in range(2):
            assert kitaru("run", "quotient", "divisor=0", "--key", "k").status == 1
        assert len(kitaru.runs) == 1

    def test_ten_processes_start_one_run(self, kitaru):
        started = [kitaru.start("run", "letter", "--key", "once", "--json") for _ in range(10)]
        done = [one.end() for one in started]

        assert len(kitaru.runs) == 1
        # Who comes while it runs is told so (4), who comes after sees it completed.
        assert {one.status for one in done} <= {0, 4, 130}, done
        assert [one.status for one in done].count(0) >= 1
        assert {one.json["run"] for one in done} == {kitaru.runs[0].name}
        assert kitaru("status", "--json").json["status"] == "completed"


class TestReading:
    @pytest.fixture
    def two(self, kitaru):
        kitaru.good("run", "letter", "name=Ada", "times=2")
        kitaru.good("run", "letter", "name=Bob")
        return kitaru

    def test_runs_are_listed_newest_first_and_narrowed(self, two):
        names = [run.name for run in reversed(two.runs)]
        assert [one["run"] for one in two("runs", "--json").json] == names
        assert [line.split()[0] for line in two.good("runs").splitlines()[1:]] == names
        assert len(two("runs", "--limit", "1", "--json").json) == 1
        assert two("runs", "--status", "failed", "--json").json == []
        assert two("runs", "--flow", "quotient", "--json").json == []
        assert len(two("runs", "--since", "2h", "--flow", "letter", "--json").json) == 2
        assert two("runs", "--since", "2999-01-01", "--json").json == []

    def test_a_damaged_run_does_not_hide_the_others(self, two):
        (two.runs[1] / ".git" / "HEAD").write_text("garbage")
        done = two("runs", "--json")

        assert (done.status, len(done.json)) == (0, 1)
        assert two.runs[1].name in done.err

    def test_status_log_path(self, two):
        older, newer = two.runs
        status = two("status", older.name, "--json").json
        assert list(status) == [*STATUS_FIELDS, "left_out", "kept"]
        assert (status["run"], status["step"], status["branch"]) == (older.name, 3, "main")
        assert "completed" in two.good("status", older.name)
        log = two("log", older.name, "--json").json
        assert [line["name"] for line in log][1:3] == ["write", "write"]
        wanted = {"step", "name", "kind", "status", "commit", "duration", "files", "usage"}
        assert wanted <= set(log[0])
        assert log[-1]["commit"] == status["head"]
        shown = two.good("log", older.name).splitlines()
        assert "completed: letter" in shown[-1]
        assert two.good("path") == f"{newer}\n"
        assert two("path", "--json").json == {"run": newer.name, "path": str(newer)}

    def test_every_form_of_a_run(self, two):
        older, newer = two.runs
        inside = older / "files"

        def named(*words, cwd=None):
            return two("path", *words, "--json", cwd=cwd).json["run"]

        assert named(older.name) == older.name
        assert named(older.name[-4:]) == older.name
        assert named(str(older)) == named(f"runs/{older.name}") == named(str(inside)) == older.name
        assert named("last") == newer.name
        assert named(cwd=inside) == named(".", cwd=inside) == older.name
        assert named("last", cwd=inside) == newer.name
        assert named(str(older), cwd=two.root) == older.name
        done = two("log")
        assert f"run {newer.name}" in done.err

    def test_every_form_of_a_step(self, two):
        older = two.runs[0]

        def step(at, cwd=None):
            return two("show", at, "--json", cwd=cwd).json["step"]

        assert step(f"{older.name}@1") == step(f"{older.name}@write#1") == 1
        assert step("@write#2", cwd=older / "files") == 2
        assert step(older.name) == 3
        commit = two("log", older.name, "--json").json[2]["commit"]
        assert step(f"{older}@{commit[:10]}") == 2

    def test_show_has_the_entry_and_its_diff(self, two):
        older = two.runs[0]
        text = two.good("show", f"{older.name}@2")
        assert "letter-1.md" in text
        assert "+Hello, Ada" in text
        entry = two("show", f"{older.name}@2", "--json").json
        assert entry["input"] == {"name": "letter-1.md", "text": "Hello, Ada\n"}
        assert entry["output"] == "Hello, Ada\n"
        assert "+Hello, Ada" in entry["diff"]

    def test_diff_within_a_run_and_between_two(self, two):
        older, newer = two.runs
        within = two.good("diff", f"{older.name}@1")
        assert "letter-1.md" in within
        assert "letter-0.md" not in within
        assert two.good("diff", f"{older.name}@0", f"{older.name}@0") == ""
        between = two.good("diff", f"{older.name}@1", newer.name)
        assert "-Hello, Ada\n+Hello, Bob" in between
        shown = two("diff", f"{older.name}@1", newer.name, "--json").json
        assert shown["diff"] == between
        assert [shown["from"]["run"], shown["to"]["run"]] == [older.name, newer.name]

    def test_export_into_a_directory_overwrites_nothing(self, two):
        out = two.root / "out"
        done = two("export", f"{two.runs[0].name}@1", "--into", out)
        assert (done.status, done.out) == (0, f"{out}\n")
        assert [path.name for path in out.iterdir()] == ["letter-0.md"]
        assert two("export", "last", "--into", out).status == 2
        assert [path.name for path in out.iterdir()] == ["letter-0.md"]

    def test_a_reader_that_has_seen_enough_is_no_error(self, two):
        command = " ".join(two.command("log", "--json"))
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", f"{command} | head -n 1"],
            capture_output=True,
            text=True,
            cwd=two.workspace,
            env=two.environment,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, "[\n")
        assert "Error" not in done.stderr
        assert "Traceback" not in done.stderr

    def test_an_output_that_cannot_be_written_is_one_sentence(self, two):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                two.command("log"),
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                cwd=two.workspace,
                env=two.environment,
                check=False,
            )
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith("kitaru: the output could not be written")

    def test_reading_writes_nothing_into_a_run(self, two):
        def seen():
            return {
                str(path): (path.lstat().st_mtime_ns, path.lstat().st_size)
                for path in two.runs[0].rglob("*")
            }

        before = seen()
        for words in (["status"], ["log", "--all"], ["show"], ["diff"], ["export", "--patch"]):
            first, *rest = words
            at = "@1" if first in ("show", "diff", "export") else ""
            two.good(first, two.runs[0].name + at, *rest)
        assert seen() == before


class TestCancel:
    def test_ends_a_run_and_says_how_to_undo_it(self, kitaru):
        kitaru("run", "quotient", "divisor=0")
        run = kitaru.runs[0].name
        assert kitaru("cancel").status == 2
        done = kitaru("cancel", "last")

        assert done.status == 0
        assert kitaru("status", "--json").json["status"] == "cancelled"
        assert kitaru("cancel", run).status == 2
        assert kitaru("resume", run).status == 1
        undo = done.err.strip().splitlines()[-1].replace("kitaru ", f"{_shell(kitaru)} ")
        again = subprocess.run(
            ["bash", "-c", undo],
            cwd=kitaru.workspace,
            env=kitaru.environment | {"TEST_FIXED": str(kitaru.workspace)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert again.returncode == 0, again.stderr
        assert kitaru("status", "--json").json["status"] == "completed"


class TestGit:
    def test_is_git_with_its_exit_status(self, kitaru):
        kitaru.good("run", "letter")

        log = kitaru.good("git", "last", "--", "log", "--format=%s")
        assert log.splitlines() == ["completed: letter", "step 1: write", "start: letter"]
        assert kitaru.good("git", "--", "rev-parse", "HEAD", cwd=kitaru.runs[0] / "files")
        assert kitaru("git", "last", "--", "diff", "--exit-code", "HEAD~1", "HEAD").status == 1
        assert kitaru("git", "last", "--", "no-such").status == 1

    def test_rewinds_by_checkout(self, kitaru):
        kitaru.good("run", "letter", "times=3")
        kitaru.good("git", "last", "--", "checkout", "-q", "HEAD~2")
        assert not (kitaru.runs[0] / "files" / "letter-2.md").exists()
        done = kitaru("resume", "--json")

        assert (done.status, done.json["branch"]) == (0, "branch-2"), done
        assert (kitaru.runs[0] / "files" / "letter-2.md").exists()
        assert "branch-2" in kitaru.good("log", "--all")
        assert git(kitaru.runs[0], "status", "--porcelain") == ""

    def test_nothing_that_was_planted_is_executed(self, kitaru):
        kitaru.good("run", "letter")
        [run] = kitaru.runs
        trap = kitaru.root / "sprung"
        config = run / ".git" / "config"
        config.write_text(
            config.read_text()
            + f'[alias]\n\tlg = "!touch {trap}"\n[core]\n\tfsmonitor = touch {trap}\n'
            + f"\tpager = touch {trap}\n"
        )
        done = kitaru("git", "last", "--", "status", "--porcelain")
        assert (done.status, done.out) == (0, "")
        assert "config" in done.err
        assert kitaru("git", "last", "--", "lg").status == 1
        assert not trap.exists()

    def test_a_users_commit_is_theirs(self, kitaru):
        kitaru.good("run", "letter")
        (kitaru.runs[0] / "files" / "mine.txt").write_text("mine")
        kitaru.good("git", "last", "--", "add", "files/mine.txt")
        kitaru.good("git", "last", "--", "commit", "-q", "-m", "mine")
        assert "Ada <ada@example.org>" in kitaru.good("git", "last", "--", "log", "-1")


class TestCompletion:
    def complete(self, kitaru, *words):
        done = kitaru(
            *(),
            _KITARU_COMPLETE="bash_complete",
            COMP_WORDS=" ".join(("kitaru", *words)),
            COMP_CWORD=str(len(words)),
        )
        assert done.status == 0, done
        assert done.err == ""
        return [line.partition(",")[2] for line in done.out.splitlines() if line]

    def test_completes_commands_options_flows_runs_and_steps(self, kitaru):
        kitaru.good("run", "letter")
        run = kitaru.runs[0].name

        assert self.complete(kitaru, "sta") == ["status"]
        assert "--files" in self.complete(kitaru, "run", "--f")
        assert self.complete(kitaru, "run", "quo") == ["quotient"]
        assert self.complete(kitaru, "status", run[:6]) == [run]
        assert self.complete(kitaru, "show", f"{run}@w") == [f"{run}@write"]

    def test_no_user_code_runs_and_no_error_shows(self, kitaru):
        (kitaru.workspace / "agents" / "broken.py").write_text("raise SystemExit(9)\n")
        assert self.complete(kitaru, "run", "quo") == ["quotient"]
        (kitaru.workspace / "kitaru.toml").write_text("= wrong")
        assert self.complete(kitaru, "run", "quo") == []
        assert self.complete(kitaru, "status", "x") == []

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_prints_a_script(self, kitaru, shell):
        assert "_KITARU_COMPLETE" in kitaru.good("completion", shell)


class TestText:
    def test_escapes_are_bytes_in_a_pipe_and_printable_on_a_terminal(self, kitaru):
        assert kitaru.good("run", "escapes") == "\x1b[31mred\x1b[0m\n"
        for words in (["status"], ["show", "last@1"], ["log"]):
            shown = _on_terminal(kitaru, *words)
            assert "\x1b[31mred" not in shown, shown

    def test_progress_on_a_terminal(self, kitaru):
        shown = _on_terminal(kitaru, "run", "letter", "name=Ada")
        assert "step 1: write" in shown
        assert "letters for Ada: 1" in shown

    def test_no_color_is_obeyed(self, kitaru):
        kitaru.good("run", "letter")
        assert "\x1b[" not in _on_terminal(kitaru, "diff", "last@0", NO_COLOR="1")
        assert "\x1b[" in _on_terminal(kitaru, "diff", "last@0")


def _on_terminal(kitaru, *words, **environment):
    """Runs a command on a terminal of its own; returns all that it wrote there."""
    main, terminal = os.openpty()
    process = subprocess.Popen(
        kitaru.command(*words),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        cwd=kitaru.workspace,
        env=kitaru.environment | {"TERM": "xterm", "COLUMNS": "200"} | environment,
    )
    os.close(terminal)
    shown = b""
    while True:
        try:
            data = os.read(main, 65536)
        except OSError:
            break
        if not data:
            break
        shown += data
    os.close(main)
    process.wait()
    return shown.decode()


def _shell(kitaru):
    return " ".join(kitaru.command())


def test_version_and_help(kitaru):
    from kitaru_fs import __version__

    assert kitaru.good("--version") == f"kitaru-fs {__version__}\n"
    text = kitaru.good("--help")
    assert text == kitaru.good("-h")
    for command in ("init", "demo", "run", "resume", "git"):
        assert f"\n  {command} " in text
    assert "--keep-files" in kitaru.good("resume", "--help")
    assert kitaru().status == 2


def test_closed_streams_are_no_error(kitaru):
    script = " ".join(kitaru.command("run", "letter")) + " <&- >&- 2>&-"
    done = subprocess.run(
        ["bash", "-c", script], cwd=kitaru.workspace, env=kitaru.environment, check=False
    )
    assert done.returncode == 0
    assert kitaru("status", "--json").json["status"] == "completed"
    assert git(kitaru.runs[0], "status", "--porcelain") == ""


def test_where_the_program_is_started_does_not_matter_to_a_run(kitaru):
    kitaru.good("run", "letter")
    before = Path.cwd()
    assert kitaru.good("log", cwd=kitaru.runs[0] / "journal")
    assert Path.cwd() == before
