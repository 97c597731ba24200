"""What the kernel says changed is what a walk would find, whatever is done to a directory."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kitaru_fs.git.config import canonical_files
from kitaru_fs.git.safe import Git
from kitaru_fs.rundir.workfiles import changed_paths
from kitaru_fs.snapshot import scanner as scanning
from kitaru_fs.snapshot.exclude import Exclude
from kitaru_fs.snapshot.filetree import EMPTY, DirRef
from kitaru_fs.snapshot.inotify import Inotify
from kitaru_fs.snapshot.scanner import Scanner
from kitaru_fs.storage.store import Store

try:
    Inotify().close()
except OSError:
    pytest.skip("no inotify here", allow_module_level=True)

PATHS = st.sampled_from(
    ["a", "b", "d", "d/x", "d/y", "d/e", "d/e/z", "f/g/h", "left.tmp", ".git/x"]
)
TEXTS = st.text("xyz", max_size=4)
EXCLUDE = ["*.tmp"]


def make_store(root: Path) -> Store:
    git_dir = root / ".git"
    for name in ("objects/pack", "refs/heads", "info", "kitaru"):
        (git_dir / name).mkdir(parents=True)
    for name, content in {"HEAD": b"ref: refs/heads/main\n", **canonical_files()}.items():
        (git_dir / name).write_bytes(content)
    return Store(git_dir, Git(git_dir, root))


def make_scanner(root: Path, store: Store, *, watch: bool, known: DirRef = EMPTY) -> Scanner:
    return Scanner(root / "files", store, Exclude(EXCLUDE), 1000, known, watch=watch)


class _Repository:
    def __init__(self, store: Store) -> None:
        self.store = store


class Watched(RuleBasedStateMachine):
    """One directory, changed in any way; the one scanner hears of it, the other walks."""

    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="kitaru-"))
        self.store = make_store(self.root)
        self.files = self.root / "files"
        self.files.mkdir()
        scanning.WATCH_FROM, self.usual = 0, scanning.WATCH_FROM
        self.scanner = make_scanner(self.root, self.store, watch=True)
        self.scanner.scan()
        self.settled = self.scanner.scan()
        self.scanner.settle(self.settled)

    def teardown(self) -> None:
        scanning.WATCH_FROM = self.usual
        self.scanner.close()
        self.store.close()
        shutil.rmtree(self.root)

    def attempt(self, action: Callable[[], Any]) -> None:
        """Does something that the directory may not allow as it is."""
        try:
            action()
        except (OSError, shutil.Error):
            return

    @rule(path=PATHS, text=TEXTS)
    def write(self, path: str, text: str) -> None:
        place = self.files / path
        self.attempt(lambda: place.parent.mkdir(parents=True, exist_ok=True))
        self.attempt(lambda: place.write_text(text))

    @rule(path=PATHS, text=TEXTS)
    def append(self, path: str, text: str) -> None:
        def action() -> None:
            with open(self.files / path, "a") as file:
                file.write(text)

        self.attempt(action)

    @rule(path=PATHS)
    def remove(self, path: str) -> None:
        place = self.files / path
        self.attempt(lambda: shutil.rmtree(place) if place.is_dir() else place.unlink())

    @rule(path=PATHS)
    def make_directory(self, path: str) -> None:
        self.attempt(lambda: (self.files / path).mkdir(parents=True))

    @rule(old=PATHS, new=PATHS)
    def rename(self, old: str, new: str) -> None:
        self.attempt(lambda: os.rename(self.files / old, self.files / new))

    @rule(old=PATHS, new=PATHS)
    def link(self, old: str, new: str) -> None:
        self.attempt(lambda: os.link(self.files / old, self.files / new))

    @rule(old=PATHS, new=PATHS)
    def symlink(self, old: str, new: str) -> None:
        self.attempt(lambda: os.symlink(old, self.files / new))

    @rule(path=PATHS, mode=st.sampled_from([0o600, 0o644, 0o755, 0o700]))
    def chmod(self, path: str, mode: int) -> None:
        self.attempt(lambda: (self.files / path).chmod(mode))

    @rule(path=PATHS)
    def move_out_and_back(self, path: str) -> None:
        outside = self.root / "outside"
        self.attempt(lambda: os.rename(self.files / path, outside))
        self.attempt(lambda: (outside / "more").write_text("more"))
        self.attempt(lambda: os.rename(outside, self.files / path))

    @rule()
    def replace_all(self) -> None:
        os.rename(self.files, self.root / "old")
        self.files.mkdir()
        (self.files / "new").write_text("new")
        shutil.rmtree(self.root / "old")

    @rule()
    def commit(self) -> None:
        self.settled = self.scanner.scan()
        self.scanner.settle(self.settled)

    @invariant()
    def what_is_heard_is_what_a_walk_finds(self) -> None:
        if not hasattr(self, "scanner"):
            return
        heard = self.scanner.scan()
        walked = make_scanner(self.root, self.store, watch=False).scan()
        assert heard == walked
        noted = self.scanner.changed(self.settled, heard)
        if noted is not None:
            names = {change.path for change in noted}
            repository: Any = _Repository(self.store)
            for path in changed_paths(repository, self.settled, heard):
                assert any(name == path.rstrip("/").encode() or b".git" in name for name in names)


TestWatched = Watched.TestCase
TestWatched.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)


def test_only_what_changed_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path)
    for number in range(300):
        place = tmp_path / "files" / f"d{number % 3}" / f"f{number}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"{number}")
    scanner = make_scanner(tmp_path, store, watch=True)
    scanner.scan()
    before = scanner.scan()
    looks, read = scanner.looks, scanner.reader.files_read
    assert scanner.scan() == before
    assert scanner.looks == looks
    (tmp_path / "files/d1/f100").write_text("other")
    after = scanner.scan()
    assert after != before
    # The directory, and the file in it.
    assert (scanner.looks - looks, scanner.reader.files_read - read) == (2, 1)
    assert make_scanner(tmp_path, store, watch=False).scan() == after
    scanner.close()
    store.close()


def test_a_queue_that_overflows_is_a_walk(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    (tmp_path / "files").mkdir()
    for number in range(250):
        (tmp_path / "files" / f"f{number}").write_text(f"{number}")
    scanner = make_scanner(tmp_path, store, watch=True)
    scanner.scan()
    scanner.scan()
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    place = tmp_path / "files" / "f0"
    for number in range(limit // 2 + 10):
        os.chmod(place, 0o600 if number % 2 else 0o644)
        os.chmod(tmp_path / "files" / "f1", 0o644)
    (tmp_path / "files" / "f249").write_text("last")
    assert scanner.scan() == make_scanner(tmp_path, store, watch=False).scan()
    scanner.close()
    store.close()


def test_a_resume_reads_no_file_again(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    (tmp_path / "files").mkdir()
    for number in range(250):
        file = tmp_path / "files" / f"f{number}"
        file.write_text(f"{number}")
        os.utime(file, (1_600_000_000, 1_600_000_000))
    scanner = make_scanner(tmp_path, store, watch=False)
    found = scanner.scan()
    store.open_log()
    store.commit({}, trees=found[:2])
    scanner = make_scanner(tmp_path, store, watch=False, known=found)
    # Long enough after they were changed to be known by their times.
    while scanner.scan() and scanner.reader.files_read > 250:
        scanner.reader.files_read = 0
    scanner.save(tmp_path / "seen", found)
    scanner = make_scanner(tmp_path, store, watch=False, known=found)
    scanner.load(tmp_path / "seen")
    (tmp_path / "files" / "f7").write_text("other")
    assert scanner.scan() == make_scanner(tmp_path, store, watch=False).scan()
    assert scanner.reader.files_read < 250
    (tmp_path / "seen").write_bytes(b"torn")
    scanner = make_scanner(tmp_path, store, watch=False, known=found)
    scanner.load(tmp_path / "seen")
    assert scanner.scan() == make_scanner(tmp_path, store, watch=False).scan()
    store.close()


def test_a_resume_does_not_read_a_large_file_again(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    (tmp_path / "files").mkdir()
    large = tmp_path / "files" / "large"
    large.write_bytes(bytes(16 << 20))
    os.utime(large, (1_600_000_000, 1_600_000_000))
    found = make_scanner(tmp_path, store, watch=False).scan()
    store.open_log()
    store.commit({}, trees=found[:2])
    scanner = make_scanner(tmp_path, store, watch=False, known=found)
    # Until it is known by its times.
    before = -1
    while scanner.reader.files_read > before:
        before = scanner.reader.files_read
        scanner.scan()
    scanner.save(tmp_path / "seen", found)
    last = make_scanner(tmp_path, store, watch=False, known=found)
    last.load(tmp_path / "seen")
    assert last.scan() == found
    assert last.reader.files_read == 0
    store.close()


def test_a_process_leaves_watches_to_others(tmp_path: Path) -> None:
    # A user has 128 by default: the scanners past this process's share walk, and see as much.
    scanners: list[tuple[Path, Store, Scanner]] = []
    for number in range(40):
        root = tmp_path / str(number)
        store = make_store(root)
        (root / "files").mkdir()
        for name in range(40):
            (root / "files" / f"f{name}").write_text(f"{number} {name}")
        scanner = make_scanner(root, store, watch=True)
        scanner.scan()
        scanners.append((root, store, scanner))
    assert 8 <= _watchers() <= 32
    for root, store, scanner in scanners:
        before = scanner.scan()
        (root / "files" / "f1").write_text("other")
        after = scanner.scan()
        assert after != before
        assert after == make_scanner(root, store, watch=False).scan()
    for _, store, scanner in scanners:
        scanner.close()
        store.close()
    assert _watchers() == 0


def _watchers() -> int:
    found = 0
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found += os.readlink(f"/proc/self/fd/{descriptor}") == "anon_inode:inotify"
    return found
