"""Wrong use and bad input: one sentence with a way out, exit status 2, nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from cli_program import OTHER, Program

ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


@pytest.fixture
def kitaru(tmp_path):
    return Program(tmp_path)


@pytest.fixture(scope="module")
def settled(tmp_path_factory):
    """A workspace with two runs, for commands that are refused and so change nothing."""
    program = Program(tmp_path_factory.mktemp("settled"))
    program.good("run", "letter", "times=2", "--key", "taken")
    program.good("run", "letter")
    agents = program.workspace / "agents"
    (agents / "other.py").write_text(OTHER)
    (agents / "same.py").write_text(OTHER)
    (agents / "broken.py").write_text("def outer():\n    raise OSError('no luck')\n\nouter()\n")
    (agents / "notes.txt").write_text("no Python")
    (program.workspace / "list.json").write_text("[1]")
    (program.workspace / "bytes.json").write_bytes(b"\xff\xfe")
    (program.workspace / "full").mkdir()
    (program.workspace / "full" / "mine.txt").write_text("mine")
    return program


def refused(done, *words, status=2):
    """Checks that a command was refused in a sentence that has these words."""
    assert done.status == status, done
    assert done.out == "", done
    assert "Traceback (most recent call last)" not in done.err or "broken.py" in done.err
    lines = [line for line in done.err.splitlines() if line.startswith("kitaru: ")]
    assert len(lines) == 1, done
    assert "bug" not in lines[0]
    for word in words:
        assert word in done.err, done
    return done


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("stat", "Did you mean status"),
        ("log --jsn", "--json"),
        ("log --workspace x", "before the command"),
        ("--workspace nowhere runs", "no kitaru.toml"),
        ("run", "TARGET"),
        ("run leter", "Did you mean letter"),
        ("run agents/nowhere.py:letter", "does not exist"),
        ("run agents/letters.py:leter", "Did you mean letter"),
        ("run agents/letters.py", "agents/letters.py:"),
        ("run agents/letters.py:a_number", "neither a flow"),
        ("run agents/notes.txt:x", "no Python source file"),
        ("run no.such:letter", "no module"),
        ("run twin", "agents/same.py:twin"),
        ("run agents/broken.py:x", "OSError: no luck"),
        ("run letter Ada", "name=value"),
        ("run letter colour=red", "'colour'"),
        ("run letter times=many", "times"),
        ("run letter times=1 times=2", "given twice"),
        ("run quotient", "divisor"),
        ("run letter --input {", "not valid JSON"),
        ("run letter --input NaN", "not valid JSON"),
        ("run letter --input [1]", "no JSON object"),
        ("run letter --input @list.json", "no JSON object"),
        ("run letter --input @bytes.json", "UTF-8"),
        ("run letter --input @nowhere.json", "nowhere.json"),
        ('run letter name=A --input {"name":"B"}', "given twice"),
        ('run letter --input {"colour":"red"}', "colour"),
        ('run letter --input {"times":"many"}', "times"),
        ("run letter --files nowhere", "nowhere"),
        ("run letter --files list.json", "list.json"),
        ("run letter --key=", "empty"),
        ("run quotient divisor=1 --key taken", "another key"),
        ("resume nowhere", "kitaru runs"),
        ("status ./nowhere", "does not exist"),
        ("status full/", "is no run"),
        ("log letter", "fits 2 runs"),
        ("show last@nowhere", "kitaru log"),
        ("show last@99", "its last is"),
        ("show RUN@write", "write#1 (step 1)"),
        ("show RUN@write#3", "2 steps named"),
        ("show RUN@", "names no step"),
        ("diff last@1 nowhere@1", "nowhere"),
        ("export last", "--into"),
        ("export last --patch --into new", "--into"),
        ("export last --into full", "full"),
        ("cancel", "last"),
        ("cancel last", "completed"),
        ("git last log", "git last -- log"),
        ("runs --status done", "completed"),
        ("runs --since yesterday", "2h"),
        ("runs --limit 0", "limit"),
        ("completion powershell", "zsh"),
    ],
)
def test_one_sentence_and_a_way_out(settled, command, words):
    before = [run.name for run in settled.runs]
    older = before[0]
    done = settled(*(word.replace("RUN", older) for word in command.split(" ")))

    refused(done, words)
    assert [run.name for run in settled.runs] == before
    assert not (settled.workspace / "new").exists()
    assert (settled.workspace / "full" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("stat --json", "UsageError"),
        ("log --json --bogus", "UsageError"),
        ("run leter --json", "NotFoundError"),
        ("status --json letter", "AmbiguousError"),
    ],
)
def test_for_a_program_the_error_is_an_object(settled, command, kind):
    done = settled(*command.split())

    assert (done.status, done.out) == (2, "")
    assert json.loads(done.err)["error"]["type"] == kind
    assert done.error["message"]
    assert set(done.error) == {"type", "message", "hint"}


def test_a_users_module_is_shown_with_their_frames_only(settled):
    done = settled("run", "agents/broken.py:x")

    assert 'broken.py", line 4, in <module>' in done.err
    assert "kitaru_fs/" not in done.err


def test_no_workspace(kitaru):
    refused(kitaru("runs", cwd=kitaru.root), "kitaru init")


def test_wrong_settings_name_file_line_and_key(kitaru):
    (kitaru.workspace / "kitaru.toml").write_text('\ndurabilty = "fsync"\n')
    refused(kitaru("runs"), "kitaru.toml:2", "durability")


def test_a_directory_that_is_gone(kitaru):
    kitaru.good("run", "letter")
    gone = kitaru.root / "gone"
    gone.mkdir()
    script = f'rmdir "$PWD"; exec {" ".join(kitaru.command("log"))}'
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        cwd=gone,
        env=kitaru.environment,
        check=False,
    )
    assert done.returncode == 2
    assert "does not exist any more" in done.stderr


def test_windows_is_refused(kitaru):
    program = "import sys; sys.platform = 'win32'; from kitaru_fs.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=kitaru.environment,
        check=False,
    )
    assert done.returncode == 2
    assert "Windows" in done.stderr
    assert "WSL" in done.stderr


class TestGitProgram:
    def test_missing(self, kitaru, tmp_path):
        (tmp_path / "empty").mkdir()
        refused(kitaru("run", "letter", PATH=str(tmp_path / "empty")), "git", "Install")
        assert kitaru.runs == []

    def test_too_old(self, kitaru, tmp_path):
        (tmp_path / "old").mkdir()
        git = tmp_path / "old" / "git"
        git.write_text("#!/bin/sh\necho git version 2.20.1\n")
        git.chmod(0o755)
        path = f"{tmp_path / 'old'}:/usr/bin:/bin"
        refused(kitaru("run", "letter", PATH=path), "2.20.1", "Install")
        assert kitaru.runs == []


class TestDamage:
    @pytest.fixture
    def run(self, kitaru):
        kitaru.good("run", "letter")
        return kitaru.runs[0]

    def damaged(self, kitaru, *words):
        for command in (["status"], ["log"], ["show"], ["resume"], ["git", "--", "log"]):
            first, *rest = command
            refused(kitaru(first, kitaru.runs[0].name, *rest), *words)

    def test_no_git_directory(self, kitaru, run):
        shutil.rmtree(run / ".git")
        self.damaged(kitaru, ".git")
        refused(kitaru("status", cwd=run / "files"), ".git")

    def test_garbage_for_head(self, kitaru, run):
        (run / ".git" / "HEAD").write_text("garbage")
        for command in ("status", "log", "resume"):
            refused(kitaru(command, run.name), "HEAD")

    def test_missing_objects(self, kitaru, run):
        shutil.rmtree(run / ".git" / "objects")
        (run / ".git" / "objects" / "pack").mkdir(parents=True)
        for command in ("status", "log", "resume"):
            refused(kitaru(command, run.name), run.name)


class TestDisk:
    def limits(self, kitaru, script, *words):
        done = subprocess.run(
            ["bash", "-c", f'{script}; exec "$@"', "-", *kitaru.command(*words)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=kitaru.workspace,
            env=kitaru.environment,
            check=False,
        )
        return done

    def test_full_at_the_first_step(self, kitaru):
        done = self.limits(kitaru, "trap '' XFSZ; ulimit -f 1", "run", "letter")

        assert (done.returncode, done.stdout) == (2, "")
        assert len([line for line in done.stderr.splitlines() if line.startswith("kitaru:")]) == 1
        assert "Traceback" not in done.stderr
        assert kitaru.runs == []

    def test_full_at_the_fortieth_step(self, kitaru):
        done = kitaru("run", "disk_full_at", "full=40", "--json")

        assert (done.status, done.error["type"]) == (1, "StorageError"), done
        assert "kitaru resume" in done.error["hint"]
        names = [line["name"] for line in kitaru("log", "--json").json]
        assert names.count("write") == 40
        assert kitaru("status", "--json").json["status"] == "interrupted"
        again = kitaru("resume", "--json", TEST_FIXED=str(kitaru.workspace))
        assert (again.status, again.json["output"]) == (0, 50), again
        assert len(list((kitaru.runs[0] / "files").iterdir())) == 50

    def test_read_only(self, kitaru):
        runs = kitaru.workspace / "runs"
        runs.mkdir(mode=0o555)
        # Root may write anywhere, unless that is taken from it.
        drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if ROOT else []
        done = subprocess.run(
            [*drop, *kitaru.command("run", "letter")],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=kitaru.workspace,
            env=kitaru.environment,
            check=False,
        )
        runs.chmod(0o755)
        assert done.returncode == 2, done
        assert "kitaru: " in done.stderr
        assert "Traceback" not in done.stderr
        assert kitaru.runs == []


def test_a_bug_of_ours_is_one_sentence(kitaru):
    program = (
        "import kitaru_fs.workspace as w\n"
        "def broken(*_, **__): raise TypeError('oh no')\n"
        "w.Workspace.runs = broken\n"
        "from kitaru_fs.cli import main\n"
        "main(['runs'])\n"
    )

    def started(**environment):
        return subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            cwd=kitaru.workspace,
            env=kitaru.environment | environment,
            check=False,
        )

    done = started()
    assert done.returncode == 1
    assert "this is a bug in kitaru-fs: TypeError: oh no" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Traceback" in started(KITARU_DEBUG="1").stderr
