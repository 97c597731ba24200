"""The index that is written in process is the one that plain git would have."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from plain_git import git, make_run

from kitaru_fs.errors import ConflictError, StorageError
from kitaru_fs.git.config import ensure_canonical
from kitaru_fs.git.index import IndexEntry, clear_stale_locks, find_locks, write_index
from kitaru_fs.git.locks import LockFile


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = make_run(tmp_path / "run")
    ensure_canonical(path / ".git")
    return path


def head_entries(run: Path, *, stats: bool = True) -> list[IndexEntry]:
    entries: list[IndexEntry] = []
    for line in git(run, "ls-tree", "-r", "-z", "HEAD").split("\0"):
        if line:
            meta, _, name = line.partition("\t")
            mode, _, sha = meta.split()
            hidden = name.startswith("state/")
            stat = None if hidden or not stats else os.lstat(run / name)
            raw = bytes.fromhex(sha)
            entries.append(IndexEntry(os.fsencode(name), int(mode, 8), raw, stat, hidden))
    return entries


def test_git_finds_a_stopped_run_clean(run: Path) -> None:
    (run / "files" / "tool").write_text("#!/bin/sh\n")
    (run / "files" / "tool").chmod(0o755)
    (run / "files" / "link").symlink_to("nowhere")
    (run / "files" / ("n" * 200)).mkdir()
    deep = run / "files" / ("n" * 200) / "odd \t\u202e name"
    deep.write_text("x")
    git(run, "add", "-A")
    git(run, "commit", "-q", "-m", "more")
    (run / ".git" / "index").unlink()
    (run / "state" / "modes.json").unlink()
    (run / "state").rmdir()

    write_index(run / ".git", reversed(head_entries(run)))

    assert git(run, "status", "--porcelain", "--ignored") == ""
    assert git(run, "fsck", "--strict") == ""
    assert git(run, "write-tree").strip() == git(run, "rev-parse", "HEAD^{tree}").strip()
    tags = git(run, "ls-files", "-t", "-v").splitlines()
    assert [line for line in tags if line.startswith("S ")] == ["S state/modes.json"]
    assert git(run, "diff-files") == ""
    assert not list((run / ".git").glob("*.lock"))


def test_a_checkout_leaves_state_out_that_is_the_same(run: Path) -> None:
    (run / "files" / "notes.md").write_text("later\n")
    git(run, "add", "files")
    git(run, "commit", "-q", "-m", "later")
    (run / "state" / "modes.json").unlink()
    (run / "state").rmdir()
    write_index(run / ".git", head_entries(run))
    git(run, "checkout", "-q", "HEAD~1")
    assert (run / "files" / "notes.md").read_text() == "one\ntwo\n"
    assert not (run / "state").exists()
    assert git(run, "status", "--porcelain") == ""


def test_entries_without_a_stat_are_compared_by_content(run: Path) -> None:
    write_index(run / ".git", head_entries(run, stats=False), durable=True)
    (run / "files" / "notes.md").write_text("ONE\ntwo\n")
    assert git(run, "status", "--porcelain", "files").strip() == "M files/notes.md"


def test_a_change_between_the_scan_and_the_index_is_seen(run: Path) -> None:
    notes = run / "files" / "notes.md"
    notes.write_text("ONE\ntwo\n")  # the size that the commit has
    scanned = time.time_ns() - 60_000_000_000
    os.utime(notes, ns=(scanned, scanned))
    # An index entry with the old content and the new stat, as after a change in the same tick.
    entries = head_entries(run)
    write_index(run / ".git", entries)
    assert git(run, "status", "--porcelain", "files") == ""
    write_index(run / ".git", entries, as_of=scanned)
    assert git(run, "status", "--porcelain", "files").strip() == "M files/notes.md"


def test_a_large_index_is_read_by_git(run: Path) -> None:
    stat = os.lstat(run / "files" / "notes.md")
    names = (f"files/{i // 1000:03d}/a-file-of-{i}.txt".encode() for i in range(100_000))
    write_index(run / ".git", [IndexEntry(name, 0o100644, bytes(20), stat) for name in names])
    assert len(git(run, "ls-files").splitlines()) == 100_000


def test_a_path_that_occurs_twice_is_refused(run: Path) -> None:
    entry = IndexEntry(b"a", 0o100644, bytes(20))
    before = (run / ".git" / "index").read_bytes()
    with pytest.raises(ValueError, match="twice"):
        write_index(run / ".git", [entry, entry._replace(mode=0o100755)])
    assert (run / ".git" / "index").read_bytes() == before
    assert not (run / ".git" / "index.lock").exists()


def test_another_git_is_waited_for(run: Path) -> None:
    lock = run / ".git" / "index.lock"
    lock.touch()
    threading.Timer(0.1, lock.unlink).start()
    write_index(run / ".git", head_entries(run))
    lock.touch()
    with pytest.raises(ConflictError, match=r"index\.lock"):
        write_index(run / ".git", [], patience=0.01)
    assert lock.exists()


def test_a_disk_that_refuses_leaves_the_old_index(run: Path) -> None:
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from kitaru_fs.git.index import *\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "names = [b'files/%06d' % i for i in range(1000)]\n"
        "write_index(Path(sys.argv[1]), [IndexEntry(n, 0o100644, bytes(20)) for n in names])\n"
    )
    before = (run / ".git" / "index").read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", code, str(run / ".git")], capture_output=True, text=True, check=False
    )
    assert StorageError.__name__ in done.stderr
    assert (run / ".git" / "index").read_bytes() == before
    assert not (run / ".git" / "index.lock").exists()


def test_a_lock_of_a_killed_kitaru_is_cleared(run: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from kitaru_fs.git.locks import LockFile\n"
        "LockFile.acquire(Path(sys.argv[1]) / 'refs/heads/main').write(b'x')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run / ".git")], check=False)
    assert done.returncode == -signal.SIGKILL
    [found] = find_locks(run / ".git")
    assert (found.path, found.is_stale) == ("refs/heads/main.lock", True)
    assert clear_stale_locks(run / ".git") == ["refs/heads/main.lock"]
    assert find_locks(run / ".git") == []


def test_a_lock_that_a_running_git_holds_stays(run: Path) -> None:
    # `git update-index --stdin` holds index.lock while it waits for more.
    with subprocess.Popen(
        ["git", "update-index", "--index-info"], cwd=run, stdin=subprocess.PIPE
    ) as process:
        lock = run / ".git" / "index.lock"
        while not lock.exists():
            assert process.poll() is None
            time.sleep(0.005)
        [found] = find_locks(run / ".git")
        assert not found.is_stale
        assert clear_stale_locks(run / ".git") == []
        process.kill()
        process.wait()
    assert lock.exists()
    cleared = clear_stale_locks(run / ".git")
    found = find_locks(run / ".git")
    # In a container a git of the host might hold it: then it stays, and says so.
    assert cleared == ["index.lock"] or "cannot be seen" in found[0].why


def test_a_lock_that_another_program_has_open_stays(run: Path) -> None:
    code = "import sys; f = open(sys.argv[1], 'x'); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(run / ".git" / "HEAD.lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert clear_stale_locks(run / ".git") == []


def test_a_lock_file_is_given_up_without_a_trace(run: Path) -> None:
    head = (run / ".git" / "HEAD").read_bytes()
    lock = LockFile.acquire(run / ".git" / "HEAD")
    lock.write(b"ref: refs/heads/other\n")
    lock.release()
    lock.release()
    assert (run / ".git" / "HEAD").read_bytes() == head
    assert find_locks(run / ".git") == []
