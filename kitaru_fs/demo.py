"""The guided tour behind `kitaru demo`: real commands on a real run, each shown before it runs."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from kitaru_fs.errors import ConflictError, KitaruError
from kitaru_fs.git.safe import user_identity
from kitaru_fs.run import Run
from kitaru_fs.rundir.history import LogLine
from kitaru_fs.scaffold import example_dir
from kitaru_fs.workspace import Workspace

__all__ = ["Tour"]

_TARGET = "agents/coder.py:fix"
_PACE = "1.5"
_KILLED_EDIT = 3
_PATIENCE_SECONDS = 60.0
_RESULT = re.compile(r"^\w+ \(([\w.]+)\) \.\.\. (ok|FAIL|ERROR)", re.MULTILINE)

Say = Callable[[str], None]


class _Break(NamedTuple):
    """A test that an edit broke: it passed at one run of the tests and failed at the next."""

    test: str
    passed_at: LogLine
    failed_at: LogLine


class Tour:
    """A tour through one workspace.

    Args:
        directory: Where the workspace is made; it must not exist, or be empty.
        say: Shows a line of the guide's.
        show: Shows a line of a command's output.
    """

    def __init__(self, directory: Path, say: Say, show: Say) -> None:
        self._directory = directory
        self._say = say
        self._show = show
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith("KITARU_")
        }
        self._environment["PYTHONDONTWRITEBYTECODE"] = "1"

    def go(self) -> None:
        """Takes the tour.

        Raises:
            ConflictError: The directory holds something.
            KitaruError: A command did not do what the tour needs.
        """
        begun = time.monotonic()
        self._make_workspace()
        run = self._kill_in_an_edit()
        self._resume(run)
        self._read(run)
        broken = self._bisect(run.refresh())
        self._rewind(run.refresh(), broken)
        self._say(f"That was {time.monotonic() - begun:.0f} seconds. The workspace stays in")
        self._say(f"  {self._directory}    (rm -rf it when you are done)")

    def _make_workspace(self) -> None:
        self._chapter("A workspace, with a coding agent and a project whose tests fail")
        target = self._directory
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise ConflictError(
                f"{target} exists and is not empty", hint="name another directory: kitaru demo DIR"
            )
        source = example_dir("coding_agent")
        shutil.copytree(
            source,
            target,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("runs", ".kitaru", "__pycache__"),
        )
        (target / "kitaru.toml").touch()
        self._say(f"It is in {target}: agents/coder.py is the agent, project/ the project.")
        self._say("The agent's model here needs no key: it decides from what the tests print.")

    def _kill_in_an_edit(self) -> Run:
        self._chapter("The agent works, and is killed in the middle of an edit")
        command = ["run", _TARGET, "--files", "project"]
        self._say(f"$ kitaru {shlex.join(command)}")
        process = self._start(command, {"KITARU_DEMO_PACE": _PACE})
        run: Run | None = None
        edits = 0
        for line in self._lines(process):
            edits += line.startswith("begins replace_in_file")
            if edits < _KILLED_EDIT:
                self._show_step(line)
                continue
            run = Workspace(self._directory).run("last")
            half = self._half_written(run)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            size = half.stat().st_size
            name = half.relative_to(run.path / "files")
            self._say(f"kill -9: {name} is half written, it ends after {size} bytes.")
            break
        if run is None:
            raise KitaruError("the demo's run ended before it could be killed")
        self._command("status", run.id)
        return run

    def _half_written(self, run: Run) -> Path:
        """Waits for a file that is shorter than its committed content."""
        sources = run.path / "files" / "ledger"
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            for file in sources.glob("*.py"):
                committed = run.read(str(file.relative_to(run.path / "files")))
                if 0 < file.stat().st_size < 0.75 * len(committed):
                    return file
        raise KitaruError("the demo's agent did not begin its edit in time")

    def _resume(self, run: Run) -> None:
        self._chapter("Resume: the journal is replayed, the torn edit is set aside")
        asked = sum(line.kind == "model" for line in run.refresh().log())
        self._say("$ kitaru resume")
        process = self._start(["resume", run.id], {})
        replayed = ""
        for line in self._lines(process):
            if "steps replayed" in line:
                replayed = line
            self._show_step(line)
        if process.wait() != 0:
            raise KitaruError(f"kitaru resume ended with status {process.returncode}")
        log = run.refresh().log()
        requests = [line for line in log if line.kind == "model"]
        now = sum(line.step is not None and line.step > self._resumed_at(log) for line in requests)
        self._say(
            f"{replayed}: {asked} model requests answered from the journal, none asked again;"
            f" {now} new ones after that."
        )
        self._say("The half-written file is in no commit of the branch; it is kept here:")
        self._git(run, "log", "--oneline", "--no-decorate", "-1", "--glob=refs/kitaru/torn/*")

    def _resumed_at(self, log: Iterable[LogLine]) -> int:
        return max((line.step or 0 for line in log if line.kind == "resume"), default=0)

    def _read(self, run: Run) -> None:
        self._chapter("Every step is a commit: its output and what it did to the files")
        self._git(run, "log", "--oneline", "--no-decorate", "-12")
        edit = next(line for line in run.refresh().log() if line.name == "replace_in_file")
        self._git(run, "show", "--no-color", "--format=%B", edit.commit, "--", "files")

    def _bisect(self, run: Run) -> _Break:
        self._chapter("Which step broke a test? git bisect knows")
        broken = self._find_break(run)
        self._say(f"{broken.test} passed at step {broken.passed_at.step} and failed at")
        self._say(f"step {broken.failed_at.step}. The project's own test is the judge:")
        self._git(run, "bisect", "start", broken.failed_at.commit, run.resolve("0").commit.hex())
        judge = f"cd files && exec {shlex.quote(sys.executable)} -m unittest -q {broken.test}"
        self._git(run, "bisect", "run", "sh", "-c", judge, shorten=True)
        first = self._output(run, "rev-parse", "refs/bisect/bad").strip()
        self._git(run, "bisect", "reset", quiet=True)
        self._say("The step that broke it, with what the agent was after:")
        self._git(run, "show", "--no-color", "--format=%h %s%n%n%b", first, "--", "files")
        line = next(line for line in run.refresh().log() if line.commit == first)
        asked = [
            entry
            for entry in run.refresh().log()
            if entry.kind == "model" and (entry.step or 0) < (line.step or 0)
        ]
        self._say(f"The request before it was step {asked[-1].step}: kitaru show @{asked[-1].step}")
        return _Break(broken.test, asked[-1], line)

    def _find_break(self, run: Run) -> _Break:
        previous: tuple[LogLine, dict[str, str]] | None = None
        for line in run.log():
            if line.name != "run_tests" or line.kind != "tool":
                continue
            results = dict(_RESULT.findall(str(run.show(str(line.step)).output["result"])))
            if previous is not None:
                for test, result in results.items():
                    if result != "ok" and previous[1].get(test) == "ok":
                        return _Break(test, previous[0], line)
            previous = (line, results)
        raise KitaruError("no edit of the demo's agent broke a test", hint="run the demo again")

    def _rewind(self, run: Run, broken: _Break) -> None:
        self._chapter("Rewind with plain git, and go on from there on a new branch")
        self._say(f"Step {broken.passed_at.step} is before the edit that broke the test.")
        self._git(run, "checkout", "--quiet", broken.passed_at.commit)
        self._say("$ kitaru resume")
        process = self._start(["resume", run.id], {})
        for line in self._lines(process):
            self._show_step(line)
        if process.wait() != 0:
            raise KitaruError(f"kitaru resume ended with status {process.returncode}")
        self._say("Both branches are there, whole:")
        self._git(run, "log", "--graph", "--oneline", "--all", "--decorate-refs=refs/heads/*")
        self._git(run, "status", "--short", "--branch")

    # Showing

    def _chapter(self, title: str) -> None:
        self._say("")
        self._say(f"== {title}")

    def _show_step(self, line: str) -> None:
        if line.startswith(("step ", "set aside", "run ")) or "replayed" in line:
            self._show(line)

    def _command(self, *arguments: str) -> None:
        self._say(f"$ kitaru {shlex.join(arguments)}")
        process = self._start(list(arguments), {})
        for line in self._lines(process):
            self._show(line)
        process.wait()

    def _start(self, arguments: list[str], more: dict[str, str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "kitaru_fs", *arguments],
            cwd=self._directory,
            env={**self._environment, **more},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def _lines(self, process: subprocess.Popen[str]) -> Iterator[str]:
        assert process.stdout is not None
        for line in process.stdout:
            yield line.rstrip("\n")

    def _git(self, run: Run, *arguments: str, quiet: bool = False, shorten: bool = False) -> None:
        shown = [part if len(part) < 60 or " " in part else part[:12] for part in arguments]
        if not quiet:
            self._say(f"$ git {shlex.join(shown)}")
        lines = self._output(run, *arguments).splitlines()
        if shorten:
            lines = [line for line in lines if "is the first" in line or "roughly" in line]
        if not quiet:
            for line in lines:
                self._show(line)

    def _output(self, run: Run, *arguments: str) -> str:
        name, email = user_identity(os.environ) or ("you", "you@localhost")
        identity = {
            f"GIT_{role}_{what}": value
            for role in ("AUTHOR", "COMMITTER")
            for what, value in (("NAME", name), ("EMAIL", email))
        }
        done = subprocess.run(
            ["git", "--no-pager", *arguments],
            cwd=run.path,
            env={**self._environment, **identity},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise KitaruError(
                f"git {arguments[0]} failed: {done.stderr.strip() or done.stdout.strip()}"
            )
        return done.stdout
