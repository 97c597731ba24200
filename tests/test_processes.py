"""What a dead writer's steps left running is found and ended, and nothing else is."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from plain_git import git, make_run

from kitaru_fs.errors import ConflictError, UsageError
from kitaru_fs.holding.lock import Holder, RunLock
from kitaru_fs.holding.processes import (
    descendants_marked,
    end,
    end_leftovers,
    enter_environment,
    processes_in,
    processes_of,
    run_environment,
    whereabouts,
)
from kitaru_fs.processtable import (
    Process,
    boot_id,
    pid_namespace,
    process_table,
    start_time,
)

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")

HOLDER = """
import os, subprocess, sys
from pathlib import Path
from kitaru_fs.holding.lock import RunLock
from kitaru_fs.holding.processes import enter_environment
run = Path(sys.argv[1])
lock = RunLock.acquire(run / ".git", "run")
enter_environment(os.environ, run, lock.holder.nonce)
os.chdir(run / "files")
{steps}
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    (path / ".git").mkdir(parents=True)
    (path / "files").mkdir()
    return path


@contextlib.contextmanager
def killed_holder(run: Path, steps: str, *, leader: bool = False) -> Iterator[RunLock]:
    """A process that took the run up, made `steps` and was killed; the run is then taken up."""
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", HOLDER.format(steps=steps), str(run)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        process_group=0 if leader else None,
    ) as process:
        assert process.stdout is not None
        while (line := process.stdout.readline()) != b"ready\n":
            assert line, "the holder ended early"
        process.kill()
        process.wait()
        with RunLock.acquire(run / ".git", "resume") as lock:
            yield lock


def spawn(code: str, options: str = "") -> str:
    """The statement that starts a child, which prints before it waits."""
    return (
        f"child = subprocess.Popen([sys.executable, '-c', {code!r}], stdout=subprocess.PIPE,"
        f" stdin=subprocess.DEVNULL, {options})\n"
        "Path(sys.argv[1], 'pids').open('a').write(f'{child.pid}\\n')\n"
        "child.stdout.readline()\n"
    )


# They end by themselves after a minute, should a test fail.
WAITS = "import time; print(flush=True); time.sleep(60)"
STUBBORN = f"import signal; signal.signal(15, signal.SIG_IGN); {WAITS}"


def left(run: Path) -> list[int]:
    return [int(pid) for pid in (run / "pids").read_text().split()]


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if start_time(pid) is not None]


def leftovers_of(lock: RunLock, run: Path, grace: float = 10.0) -> list[str]:
    assert lock.previous is not None
    return sorted(one.how for one in end_leftovers(lock.previous, run, grace))


def test_a_background_child_is_ended(run: Path) -> None:
    with killed_holder(run, spawn(WAITS)) as lock:
        assert alive(left(run))
        assert leftovers_of(lock, run) == ["terminated"]
        assert not alive(left(run))
        assert leftovers_of(lock, run) == []


def test_a_daemon_in_a_session_of_its_own_is_ended(run: Path) -> None:
    with killed_holder(run, spawn(WAITS, "start_new_session=True")) as lock:
        assert leftovers_of(lock, run) == ["terminated"]
        assert not alive(left(run))


def test_one_that_ignores_sigterm_is_killed(run: Path) -> None:
    with killed_holder(run, spawn(STUBBORN) + spawn(WAITS)) as lock:
        assert leftovers_of(lock, run, grace=0.2) == ["killed", "terminated"]
        assert not alive(left(run))


def test_a_stopped_one_is_ended(run: Path) -> None:
    with killed_holder(run, spawn(WAITS) + "os.kill(child.pid, 19)\n") as lock:
        assert leftovers_of(lock, run) == ["terminated"]
        assert not alive(left(run))


def test_one_without_the_marker_is_found_by_its_group(run: Path) -> None:
    # The holder leads its group, as under a shell; the child cleared its environment.
    steps = spawn(WAITS, "env={}, cwd='/'")
    with killed_holder(run, steps, leader=True) as lock:
        assert leftovers_of(lock, run) == ["terminated"]
        assert not alive(left(run))


def test_a_forked_child_is_found_by_its_group(run: Path) -> None:
    steps = (
        "pid = os.fork()\n"
        "if pid == 0:\n    import time; time.sleep(60); os._exit(0)\n"
        "Path(sys.argv[1], 'pids').write_text(str(pid))\n"
    )
    with killed_holder(run, steps, leader=True) as lock:
        assert leftovers_of(lock, run) == ["terminated"]
        assert not alive(left(run))


def test_a_group_that_the_holder_did_not_lead_needs_a_trace_of_the_run(run: Path) -> None:
    # The holder is in the group of these tests: of it, only what works in the run is a step's.
    steps = spawn(WAITS, "env={}, cwd='/'") + spawn(WAITS, "env={}")
    with killed_holder(run, steps) as lock:
        elsewhere, in_the_run = left(run)
        try:
            if process_table()[in_the_run].ppid != 1:
                pytest.skip("something here takes orphans in within our session")
            assert leftovers_of(lock, run) == ["terminated"]
            assert alive(left(run)) == [elsewhere]
        finally:
            os.kill(elsewhere, signal.SIGKILL)


def test_what_descends_from_a_leftover_goes_with_it(run: Path) -> None:
    code = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {WAITS!r}], env={{}}, cwd='/',"
        " start_new_session=True, stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); open('../pids', 'a').write(f'{child.pid}\\n')\n" + WAITS
    )
    with killed_holder(run, spawn(code)) as lock:
        assert len(alive(left(run))) == 2
        assert leftovers_of(lock, run) == ["terminated", "terminated"]
        assert not alive(left(run))


def test_one_that_forks_all_the_time_is_ended(run: Path) -> None:
    code = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: os.fork())\n"
        "print(flush=True)\n"
        "for _ in range(60):\n"
        "    if os.fork() == 0:\n"
        "        time.sleep(60); os._exit(0)\n"
        "    time.sleep(0.02)\n" + WAITS
    )
    with killed_holder(run, spawn(code, "start_new_session=True")) as lock:
        assert lock.previous is not None
        ended = end_leftovers(lock.previous, run, 0.1)
        assert {one.how for one in ended} == {"killed"}
        assert descendants_marked(lock.previous.nonce) == []


def test_others_are_left_alone(run: Path) -> None:
    """The user's own jobs: in the run's directory, in our group, with another run's marker."""
    own = [
        subprocess.Popen(
            [sys.executable, "-c", WAITS],
            stdout=subprocess.PIPE,
            cwd=run / "files",
            env=os.environ | {"KITARU_HOLDER": "another"},
            start_new_session=new_session,
        )
        for new_session in (False, True)
    ]
    starter = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {WAITS!r}], start_new_session=True,"
        " stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\nprint(child.pid)\n"
    )
    orphan = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", starter],
        cwd=run / "files",
        capture_output=True,
        text=True,
        check=True,
    )
    pids = [*(process.pid for process in own), int(orphan.stdout)]
    try:
        with killed_holder(run, spawn(WAITS)) as lock:
            assert leftovers_of(lock, run) == ["terminated"]
            assert alive(pids) == pids
    finally:
        os.kill(pids[-1], signal.SIGKILL)
        for process in own:
            process.kill()
            process.communicate()


def test_whoever_takes_over_from_within_is_spared(run: Path) -> None:
    """A leftover shell that resumes the run: neither it nor what it waits for is ended."""
    taker = (
        "import sys; from pathlib import Path\n"
        "from kitaru_fs.holding.lock import RunLock\n"
        "from kitaru_fs.holding.processes import end_leftovers\n"
        "run = Path(sys.argv[1])\n"
        "import subprocess\n"
        "mine = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)\n"
        "lock = RunLock.acquire(run / '.git', 'resume')\n"
        "print([one.pid for one in end_leftovers(lock.previous, run, 5)], mine.poll())\n"
        "mine.kill(); mine.wait()\n"
    )
    with killed_holder(run, spawn(WAITS)) as lock:
        assert lock.previous is not None
        environment = os.environ | run_environment(run, lock.previous.nonce)
        lock.release()
        shell = [sys.executable, "-c", "import subprocess, sys; subprocess.run(sys.argv[1:])"]
        done = subprocess.run(
            [*shell, sys.executable, "-c", taker, str(run)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout == f"{left(run)} None\n"


def a_holder(**changes: object) -> Holder:
    found = Holder(
        pid=os.getpid(),
        host=socket.gethostname(),
        since="2026-11-22T21:49:01.482Z",
        boot=boot_id(),
        start=(start_time(os.getpid()) or 0) - 1,
        namespace=pid_namespace(),
        nonce="0123456789abcdef",
        pgid=os.getpgrp(),
        sid=os.getsid(0),
        alive=False,
    )
    return replace(found, **changes)  # pyright: ignore[reportArgumentType]


def test_another_boot_left_nothing(run: Path) -> None:
    holder = a_holder(boot="an earlier one")
    assert whereabouts(holder) == "gone"
    assert end_leftovers(holder, run) == []


def test_another_machine_is_out_of_reach(run: Path) -> None:
    holder = a_holder(host="elsewhere", boot="another")
    assert whereabouts(holder) == "elsewhere"
    with pytest.raises(ConflictError, match="elsewhere") as caught:
        end_leftovers(holder, run)
    assert caught.value.hint


def test_a_recycled_pid_is_nobody(run: Path) -> None:
    assert end_leftovers(a_holder(), run) == []


def test_a_holder_that_lives_is_not_ended(run: Path) -> None:
    with pytest.raises(ConflictError, match="still there"):
        end_leftovers(a_holder(start=start_time(os.getpid())), run)


def test_what_an_attempt_left_is_found_and_ended(run: Path) -> None:
    nonce = "fedcba9876543210"
    with subprocess.Popen(
        [sys.executable, "-c", STUBBORN],
        env=os.environ | run_environment(run, nonce),
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        [found] = descendants_marked(nonce)
        assert found.pid == process.pid
        assert end([replace(found, start=found.start + 1)]) == []  # somebody else by now
        [ended] = end([found], grace=0.1)
        assert (ended.pid, ended.how) == (process.pid, "killed")
        assert descendants_marked(nonce) == []


def test_who_works_in_a_directory_is_named_and_whose_it_is_is_told_apart(run: Path) -> None:
    code = "import sys\nprint(flush=True)\nsys.stdin.read()"
    sleeper = [sys.executable, "-c", code]
    ours = {**os.environ, **run_environment(run, "a-nonce")}
    others = {**os.environ, **run_environment(run.parent / "another", "a-nonce")}
    with contextlib.ExitStack() as stack:

        def start(cwd: Path, environment: dict[str, str]) -> int:
            process = stack.enter_context(
                subprocess.Popen(
                    sleeper,
                    cwd=cwd,
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
            )
            assert process.stdout is not None
            process.stdout.readline()
            stack.callback(process.kill)
            return process.pid

        in_files = start(run / "files", dict(os.environ))
        of_run = start(run.parent, ours)
        start(run.parent, others)
        assert [process.pid for process in processes_in(run / "files")] == [in_files]
        assert [process.pid for process in processes_of(run)] == [of_run]


def test_the_environment_is_put_back(run: Path) -> None:
    environ = {
        "GIT_DIR": "/x",
        "GIT_INDEX_FILE": "/y",
        "GIT_CEILING_DIRECTORIES": "/home",
        "A": "b",
    }
    before = dict(environ)
    leave = enter_environment(environ, run, "nonce")
    assert environ == {
        "A": "b",
        "KITARU_HOLDER": "nonce",
        "KITARU_RUN": "run",
        "GIT_CEILING_DIRECTORIES": f"/home{os.pathsep}{run.resolve()}",
    }
    leave()
    assert environ == before


def test_a_path_that_git_cannot_be_kept_from_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has a `:`"):
        run_environment(tmp_path / "a:b", "nonce")


def test_git_in_files_never_finds_the_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    hostile = dict(os.environ) | {"GIT_DIR": str(run / ".git"), "GIT_WORK_TREE": str(run)}
    (tmp_path / "link").symlink_to(run)
    (run / "files" / "deep").mkdir()
    (run / "files" / "app").mkdir()

    def ask(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
        command = ["git", *args]
        return subprocess.run(
            command, cwd=folder, env=inside, capture_output=True, text=True, check=False
        )

    for path in (run, tmp_path / "link"):
        inside = dict(hostile)
        enter_environment(inside, path, "nonce")
        for folder in (path / "files", path / "files" / "deep"):
            done = ask(folder, "status")
            assert done.returncode == 128
            assert "not a git repository" in done.stderr
    app = run / "files" / "app"
    assert ask(app, "init", "-q").returncode == 0
    assert ask(app, "rev-parse", "--show-toplevel").stdout.strip() == str(app.resolve())
    assert git(run, "log", "--format=%s").strip() == "start: demo"


def test_the_process_table_knows_this_process() -> None:
    own = process_table()[os.getpid()]
    assert own == Process(
        pid=os.getpid(),
        ppid=os.getppid(),
        pgid=os.getpgrp(),
        sid=os.getsid(0),
        start=own.start,
        state=own.state,
        command=own.command,
    )
    assert start_time(os.getpid()) == own.start
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert start_time(process.pid) is None  # dead, though nobody waited for it yet
        assert process.pid not in process_table()
