"""Putting `files/` to a commit's state by difference: what is equal is not touched.

Nothing is followed, nothing is written outside the directory, and what no commit holds (left-out
files) is never deleted or overwritten: where the commit needs their place they are renamed aside.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Collection, Generator
from pathlib import Path
from typing import NamedTuple

from kitaru_fs.errors import RunDamagedError
from kitaru_fs.quoting import quote_path
from kitaru_fs.snapshot.filetree import DirRef, Item, read_directory
from kitaru_fs.snapshot.scanner import Scanner
from kitaru_fs.storage.store import Store

__all__ = ["Restored", "StillWritingError", "check_name", "put_files", "same_items"]

_OPEN_DIRECTORY = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC
_TRIES = 3
_WRITABLE = 0o300


class StillWritingError(RunDamagedError):
    """A process keeps writing in the directory."""


class Restored(NamedTuple):
    """What putting files did: paths (quoted) that were changed, and left-out ones moved aside."""

    changed: list[str]
    moved_aside: list[str]


def put_files(root: Path, scanner: Scanner, store: Store, target: DirRef) -> Restored:
    """Makes a directory equal to `target`, which names trees of a commit.

    What is on disk must be in the store already (the scan that this begins with stages it); the
    caller keeps it under a ref if no commit holds it.

    Args:
        root: The directory.
        scanner: Its scanner.
        store: Holds the target's objects.
        target: What is to be on disk.

    Raises:
        StillWritingError: A process kept writing, so that the directory could not be made equal.
        RunDamagedError: The commit holds a name that no file can have.
        OSError: The disk refused; what was not reached is as it was.
    """
    changed: list[str] = []
    moved: list[str] = []
    root.mkdir(mode=0o755, exist_ok=True)
    written: set[bytes] = set()
    for _ in range(_TRIES):
        current = scanner.scan()
        if same_items(store, current, target, written):
            return Restored(changed, moved)
        work = _Restore(store, changed, moved, written)
        descriptor = os.open(root, _OPEN_DIRECTORY)
        try:
            work.directory(descriptor, current, target, b"")
        finally:
            os.close(descriptor)
    current = scanner.scan()
    if same_items(store, current, target, written):
        return Restored(changed, moved)
    raise StillWritingError(
        f"{root}: something keeps writing there, so the files could not be put back",
        hint="end the process that writes (fuser -v shows it), then run the command again",
    )


def same_items(
    store: Store,
    left: DirRef,
    right: DirRef,
    written: Collection[bytes] = (),
    base: bytes = b"",
) -> bool:
    """Says whether two directories hold the same items; what is left out may differ.

    Args:
        store: Holds their trees.
        left: As it is on disk.
        right: As it is to be.
        written: Paths that were just written as `right` has them: they may be left out of `left`,
            which settings that came after the commit leave out.
        base: The directories' path, with a slash.
    """
    if left == right:
        return True
    if left.files != right.files and not written:
        return False
    ours, theirs = read_directory(store, left), read_directory(store, right)
    if ours.mode != theirs.mode:
        return False
    for name in ours.items.keys() | theirs.items.keys():
        mine, other = ours.items.get(name), theirs.items.get(name)
        if mine is None:
            if name not in ours.left_out or base + name not in written:
                return False
        elif other is None:
            # What is more on disk may only be directories that hold left-out files.
            if mine.kind != "dir" or not _holds_only_left_out(store, mine.ref):
                return False
        elif (mine.kind, mine.mode, mine.sha) != (other.kind, other.mode, other.sha):
            return False
        elif mine.kind == "dir":
            below = base + name + b"/"
            if not same_items(store, mine.ref, other.ref, written, below):
                return False
    return True


def _holds_only_left_out(store: Store, ref: DirRef) -> bool:
    directory = read_directory(store, ref)
    if not directory.items and not directory.left_out:
        return False
    return all(
        item.kind == "dir" and _holds_only_left_out(store, item.ref)
        for item in directory.items.values()
    )


class _Restore:
    def __init__(
        self, store: Store, changed: list[str], moved: list[str], written: set[bytes]
    ) -> None:
        self._store = store
        self._changed = changed
        self._moved = moved
        self._written = written

    def directory(self, descriptor: int, current: DirRef, target: DirRef, base: bytes) -> None:
        old = read_directory(self._store, current)
        new = read_directory(self._store, target)
        with _writable(descriptor):
            for name in sorted(old.items.keys() - new.items.keys()):
                self._remove(descriptor, name, old.items[name], base + name)
            for name in sorted(new.items):
                before, after = old.items.get(name), new.items[name]
                if before == after:
                    continue
                is_left_out = before is None and name in old.left_out
                if is_left_out and base + name in self._written:
                    continue
                check_name(name)
                if before is not None and before.kind != after.kind:
                    self._remove(descriptor, name, before, base + name)
                    before = None
                if is_left_out:
                    self._move_aside(descriptor, name, base + name)
                self._put(descriptor, name, before, after, base + name)
                self._written.add(base + name)

    def _put(
        self, descriptor: int, name: bytes, before: Item | None, after: Item, path: bytes
    ) -> None:
        if after.kind == "dir":
            if before is None:
                self._make_directory(descriptor, name, path)
            opened = os.open(name, _OPEN_DIRECTORY, dir_fd=descriptor)
            try:
                known = before.ref if before is not None else DirRef(None, None, after.ref.unsafe)
                if known != after.ref:
                    self.directory(opened, known, after.ref, path + b"/")
                if stat.S_IMODE(os.fstat(opened).st_mode) != after.mode:
                    os.fchmod(opened, after.mode)
                    self._changed.append(quote_path(path) + "/")
            finally:
                os.close(opened)
            return
        if before is not None and before.kind == "file" and before.sha == after.sha:
            opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
            try:
                os.fchmod(opened, after.mode)
            finally:
                os.close(opened)
        else:
            self._write(descriptor, name, after)
        self._changed.append(quote_path(path))

    def _write(self, descriptor: int, name: bytes, item: Item) -> None:
        temporary = b".kitaru-" + os.urandom(6).hex().encode()
        try:
            if item.kind == "link":
                target = self._store.read(item.sha, "blob")
                os.symlink(target, temporary, dir_fd=descriptor)
            else:
                opened = os.open(
                    temporary,
                    os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
                    0o600,
                    dir_fd=descriptor,
                )
                with open(opened, "wb") as out:
                    self._store.write_blob(item.sha, out)
                    out.flush()
                    os.fchmod(out.fileno(), item.mode)
            os.rename(temporary, name, src_dir_fd=descriptor, dst_dir_fd=descriptor)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=descriptor)
            raise

    def _make_directory(self, descriptor: int, name: bytes, path: bytes) -> None:
        try:
            os.mkdir(name, 0o755, dir_fd=descriptor)
            self._changed.append(quote_path(path) + "/")
        except FileExistsError:
            status = os.lstat(name, dir_fd=descriptor)
            if not stat.S_ISDIR(status.st_mode):
                self._move_aside(descriptor, name, path)
                os.mkdir(name, 0o755, dir_fd=descriptor)

    def _remove(self, descriptor: int, name: bytes, item: Item, path: bytes) -> None:
        try:
            if item.kind != "dir":
                os.unlink(name, dir_fd=descriptor)
                self._changed.append(quote_path(path))
                return
            opened = os.open(name, _OPEN_DIRECTORY, dir_fd=descriptor)
            try:
                with _writable(opened):
                    held = read_directory(self._store, item.ref)
                    for child in sorted(held.items):
                        self._remove(opened, child, held.items[child], path + b"/" + child)
            finally:
                os.close(opened)
            os.rmdir(name, dir_fd=descriptor)
            self._changed.append(quote_path(path) + "/")
        except FileNotFoundError:
            return
        except OSError as error:
            # What is left in the directory is in no commit, so it stays.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.ELOOP):
                raise

    def _move_aside(self, descriptor: int, name: bytes, path: bytes) -> None:
        for number in range(1, 1000):
            aside = name[:200] + b".kept-%d" % number
            try:
                os.lstat(aside, dir_fd=descriptor)
            except FileNotFoundError:
                os.rename(name, aside, src_dir_fd=descriptor, dst_dir_fd=descriptor)
                self._moved.append(f"{quote_path(path)} -> {quote_path(aside)}")
                return
        raise FileExistsError(errno.EEXIST, "no free name to move a file aside", os.fsdecode(path))


def check_name(name: bytes) -> None:
    """Checks that a file can have a name that a commit holds.

    Raises:
        RunDamagedError: None can.
    """
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        raise RunDamagedError(
            f"a commit holds a file named {quote_path(name)!r}, which no file can be",
            hint="the commit was made by another program; rewind to one before it",
        )


@contextlib.contextmanager
def _writable(descriptor: int) -> Generator[None]:
    """Gives the owner write access to a directory for as long as it is changed."""
    mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
    if mode & _WRITABLE == _WRITABLE:
        yield
        return
    os.fchmod(descriptor, mode | _WRITABLE)
    try:
        yield
    finally:
        os.fchmod(descriptor, mode)
