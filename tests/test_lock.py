"""At most one process drives a run, and who died driving it is known."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from kitaru_fs.errors import HeldError, RunDamagedError, StorageError
from kitaru_fs.holding.lock import Holder, RunLock, read_holder
from kitaru_fs.processtable import boot_id, start_time


@pytest.fixture
def git_dir(tmp_path: Path) -> Path:
    path = tmp_path / "run-1" / ".git"
    path.mkdir(parents=True)
    return path


HOLD = """
import sys
from pathlib import Path
from kitaru_fs.holding.lock import RunLock
lock = RunLock.acquire(Path(sys.argv[1]), "resume")
print(lock.previous.pid if lock.previous else "", flush=True)
sys.stdin.read()
lock.release()
"""


@contextlib.contextmanager
def holder_process(git_dir: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the run until its standard input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(git_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


def test_the_holder_is_named_and_gone_after_the_release(git_dir: Path) -> None:
    assert read_holder(git_dir) is None
    with RunLock.acquire(git_dir, "run") as lock:
        assert lock.is_held
        lock.verify()
        found = read_holder(git_dir)
        assert found is not None
        assert found == lock.holder
        assert found.pid == os.getpid()
        assert found.host == socket.gethostname()
        assert found.alive is True
        assert (found.boot, found.start) == (boot_id(), start_time(os.getpid()))
        assert found.since.endswith("Z")
        assert lock.previous is None
    assert not lock.is_held
    assert read_holder(git_dir) is None
    lock.release()
    with pytest.raises(HeldError):
        lock.verify()


def test_another_process_is_refused_and_told_who_holds(git_dir: Path) -> None:
    with holder_process(git_dir) as process:
        found = read_holder(git_dir)
        assert found is not None
        assert (found.pid, found.alive, found.purpose) == (process.pid, True, "resume")
        with pytest.raises(HeldError) as caught:
            RunLock.acquire(git_dir, "run")
        assert caught.value.exit_status == 4
        assert caught.value.run == "run-1"
        assert f"Process {process.pid} on {socket.gethostname()}" in caught.value.message
        assert found.since in caught.value.message
        assert f"kill {process.pid}" in caught.value.hint
        process.communicate("")
    RunLock.acquire(git_dir, "run").release()


def test_a_stopped_holder_still_holds(git_dir: Path) -> None:
    with holder_process(git_dir) as process:
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        with pytest.raises(HeldError):
            RunLock.acquire(git_dir, "run")
        found = read_holder(git_dir)
        assert found is not None
        assert found.alive is True


def test_a_killed_holder_is_known_until_it_is_recovered_from(git_dir: Path) -> None:
    with holder_process(git_dir) as process:
        held = read_holder(git_dir)
        assert held is not None
        kill(process)
    found = read_holder(git_dir)
    assert found is not None
    assert (found.pid, found.alive, found.nonce) == (process.pid, False, held.nonce)
    for _ in range(2):  # a recovery that fails begins anew
        with RunLock.acquire(git_dir, "resume") as lock:
            assert lock.previous == found
    lock = RunLock.acquire(git_dir, "resume")
    lock.forget_previous()
    lock.release()
    assert read_holder(git_dir) is None
    with RunLock.acquire(git_dir, "resume") as lock:
        assert lock.previous is None


def test_a_recovery_that_is_killed_passes_on_whom_it_found(git_dir: Path) -> None:
    pids: list[int] = []
    for _ in range(2):
        with holder_process(git_dir) as process:
            pids.append(process.pid)
            kill(process)
    with RunLock.acquire(git_dir, "resume") as lock:
        assert lock.previous is not None
        assert lock.previous.previous is not None
        assert [lock.previous.previous.pid, lock.previous.pid] == pids


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"lock": [1], "holder": {}}', b"\xff"])
def test_a_torn_record_does_not_matter(git_dir: Path, content: bytes) -> None:
    with holder_process(git_dir) as process:
        (git_dir / "kitaru" / "holder.json").write_bytes(content)
        found = read_holder(git_dir)
        assert found is not None
        assert (found.pid, found.alive) == (process.pid, True)
        with pytest.raises(HeldError, match=str(process.pid)):
            RunLock.acquire(git_dir, "run")
        kill(process)
    assert read_holder(git_dir) is None
    RunLock.acquire(git_dir, "run").release()


def test_a_copy_of_a_held_run_is_free_and_blames_nobody(git_dir: Path, tmp_path: Path) -> None:
    with RunLock.acquire(git_dir, "run") as lock:
        shutil.copytree(tmp_path / "run-1", tmp_path / "copy")
        copy = tmp_path / "copy" / ".git"
        assert read_holder(copy) is None
        with RunLock.acquire(copy, "run") as other:
            assert other.previous is None
        lock.verify()


def test_two_handles_in_one_process_exclude_each_other(git_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "run-1")
    with RunLock.acquire(git_dir, "run") as lock:
        for path in (git_dir, tmp_path / "link" / ".git", tmp_path / "link/../run-1/.git"):
            with pytest.raises(HeldError, match="This process"):
                RunLock.acquire(path, "run")
            found = read_holder(path)
            assert found == lock.holder
        assert try_from_another_process(git_dir) == "HeldError"
    assert try_from_another_process(git_dir) == "free"


def try_from_another_process(git_dir: Path) -> str:
    code = (
        "import sys; from pathlib import Path; from kitaru_fs.holding.lock import RunLock\n"
        "try: RunLock.acquire(Path(sys.argv[1]), 'x').release(); print('free')\n"
        "except Exception as error: print(type(error).__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(git_dir)], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_asking_in_many_threads_never_drops_the_lock(git_dir: Path) -> None:
    taken: list[RunLock] = []
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        for _ in range(50):
            read_holder(git_dir)
            with contextlib.suppress(HeldError):
                taken.append(RunLock.acquire(git_dir, "run"))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [lock] = taken
    assert try_from_another_process(git_dir) == "HeldError"
    lock.release()


def in_a_fork(check: object) -> bool:
    assert callable(check)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if check() else 1)
        finally:
            os._exit(2)
    return os.waitpid(pid, 0)[1] == 0


def test_a_forked_child_does_not_hold(git_dir: Path) -> None:
    with RunLock.acquire(git_dir, "run") as lock:
        parent = os.getpid()

        def child() -> bool:
            lock.release()
            found = read_holder(git_dir)
            with contextlib.suppress(HeldError):
                lock.verify()
                return False
            with contextlib.suppress(HeldError):
                RunLock.acquire(git_dir, "run")
                return False
            return not lock.is_held and found is not None and found.pid == parent

        assert in_a_fork(child)
        lock.verify()
        assert try_from_another_process(git_dir) == "HeldError"


def test_a_forked_child_does_not_keep_the_lock_of_a_dead_parent(git_dir: Path) -> None:
    fork = "import os\nif os.fork() == 0: sys.stdin.read(); os._exit(0)\n"
    code = HOLD.replace("print(", fork + "print(")
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, str(git_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        kill(process)
        with RunLock.acquire(git_dir, "resume") as lock:
            assert lock.previous is not None


def test_reading_works_where_nothing_can_be_written(git_dir: Path) -> None:
    with holder_process(git_dir) as process:
        kill(process)
    kitaru = git_dir / "kitaru"
    before = {path: path.stat().st_mtime_ns for path in [git_dir, kitaru, *kitaru.iterdir()]}
    for path in (*kitaru.iterdir(), kitaru):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        found = read_holder(git_dir)
        assert found is not None
        assert found.alive is False
        assert {path: path.stat().st_mtime_ns for path in before} == before
    finally:
        kitaru.chmod(0o755)


def test_a_lock_file_that_was_removed_is_noticed(git_dir: Path) -> None:
    with RunLock.acquire(git_dir, "run") as lock:
        shutil.rmtree(git_dir / "kitaru")
        with pytest.raises(RunDamagedError, match="removed or replaced"):
            lock.verify()


def test_a_holder_on_another_machine_is_not_known_to_be_dead(git_dir: Path) -> None:
    with holder_process(git_dir) as process:
        kill(process)
    path = git_dir / "kitaru" / "holder.json"
    record = json.loads(path.read_text())
    record["holder"] |= {"host": "elsewhere.example.org", "boot": "another"}
    path.write_text(json.dumps(record))
    found = read_holder(git_dir)
    assert found is not None
    assert (found.host, found.alive) == ("elsewhere.example.org", None)


@pytest.mark.parametrize("kind", ["no .git", "link", "directory", "linked folder"])
def test_what_is_no_run_is_refused(git_dir: Path, tmp_path: Path, kind: str) -> None:
    kitaru = git_dir / "kitaru"
    if kind == "no .git":
        git_dir.rmdir()
    elif kind == "linked folder":
        (tmp_path / "elsewhere").mkdir()
        kitaru.symlink_to(tmp_path / "elsewhere")
    else:
        kitaru.mkdir()
        if kind == "link":
            (kitaru / "lock").symlink_to(tmp_path / "elsewhere")
        else:
            (kitaru / "lock").mkdir()
    with pytest.raises(RunDamagedError) as caught:
        RunLock.acquire(git_dir, "run")
    assert caught.value.hint
    assert not (tmp_path / "elsewhere" / "lock").exists()
    assert read_holder(git_dir) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_full_and_a_read_only_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        git_dir = disk / "run" / ".git"
        (git_dir / "kitaru").mkdir(parents=True)
        (git_dir / "kitaru" / "lock").touch()
        with contextlib.suppress(OSError), (disk / "filler").open("wb") as filler:
            filler.write(bytes(1 << 20))
        with RunLock.acquire(git_dir, "gc") as lock:
            lock.verify()
            assert try_from_another_process(git_dir) == "HeldError"
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(StorageError) as caught:
            RunLock.acquire(git_dir, "run")
        assert caught.value.exit_status == 1
        assert read_holder(git_dir) is None
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_record_of_a_later_version_is_read(git_dir: Path) -> None:
    with holder_process(git_dir) as process:
        kill(process)
    path = git_dir / "kitaru" / "holder.json"
    record = json.loads(path.read_text())
    record["holder"]["colour"] = "blue"
    path.write_text(json.dumps(record))
    assert isinstance(read_holder(git_dir), Holder)
