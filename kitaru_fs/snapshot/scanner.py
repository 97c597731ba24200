"""Reading `files/` into trees, byte for byte, by difference from what was seen last.

A file is read again only if its size, times, inode or mode changed since it was last read, or if it
could have changed within one tick of the file system's clock after that ("racy", as git calls it).
Links are never followed: every file is opened relative to its open directory.

What is read and is not in the last commit is looked at for the credentials that the run knows: a
file that holds one, in its content or its name, is left out. So is what `[redact] patterns` match.
Nothing is decompressed for that: an archive, or an object of a nested repository, may hold one.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path
from typing import NamedTuple

from kitaru_fs.redaction.finder import Finder
from kitaru_fs.redaction.redactor import FileWatch, Redactor
from kitaru_fs.snapshot.exclude import Exclude
from kitaru_fs.snapshot.filetree import (
    EMPTY,
    Directory,
    DirRef,
    Item,
    LeftOut,
    build_directory,
    read_directory,
)
from kitaru_fs.storage.objects import is_unsafe_name, object_id
from kitaru_fs.storage.store import LARGE_FILE, FileChanged, Store

__all__ = ["Scanner", "SeenDirectory", "SeenFile", "signature"]

_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_OPEN_DIRECTORY = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC
_READ_TRIES = 5
_TICK_NS = 20_000_000
_COARSE_TICK_NS = 2_100_000_000
_HOLDS = "holds the secret "
_CLOCK = getattr(time, "CLOCK_REALTIME_COARSE", time.CLOCK_REALTIME)

Signature = tuple[int, int, int, int, int]


class SeenFile(NamedTuple):
    """A file or link as it was last read: what `lstat` said, when, and what it held."""

    signature: Signature
    read_at: int
    item: Item


class SeenDirectory:
    """A directory as it was last read; `known` are its trees in the commit that was taken up."""

    __slots__ = (
        "changing",
        "directories",
        "files",
        "known",
        "left_out",
        "mode",
        "ref",
        "secret",
    )

    def __init__(self, known: DirRef | None) -> None:
        self.known = known
        self.mode = 0
        self.files: dict[bytes, SeenFile] = {}
        self.directories: dict[bytes, SeenDirectory] = {}
        self.left_out: dict[bytes, LeftOut] = {}
        # Files that were read and hold a secret: they are not read again while they stay the same.
        self.secret: dict[bytes, tuple[Signature, int, LeftOut]] = {}
        self.ref: DirRef | None = None
        self.changing = False


def signature(status: os.stat_result) -> Signature:
    """Returns what changes of a file's `lstat` when the file does."""
    return (
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_ino,
        status.st_mode,
    )


def _is_racy(signature: Signature, read_at: int) -> bool:
    changed = max(signature[1], signature[2])
    # Times in whole seconds mean a file system whose clock ticks in seconds.
    tick = _TICK_NS if signature[2] % 1_000_000_000 else _COARSE_TICK_NS
    return changed + tick >= read_at


class Scanner:
    """Turns one directory on disk into trees, again and again.

    Args:
        root: The directory (`files/`).
        store: Where new objects are staged.
        exclude: What is left out by name.
        max_file: The largest file that is recorded, in bytes.
        known: The directory's trees in the last commit: what is equal to them is not staged again.
        secrets: Knows what is a secret; without it nothing is left out for that.
    """

    def __init__(
        self,
        root: Path,
        store: Store,
        exclude: Exclude,
        max_file: int,
        known: DirRef = EMPTY,
        secrets: Redactor | None = None,
    ) -> None:
        self._secrets = secrets
        self._finder: Finder | None = None
        self.root = root
        self._store = store
        self._exclude = exclude
        self._max_file = max_file
        self._seen = SeenDirectory(known)
        self.files_read = 0
        self.bytes_staged = 0
        self.scanned_at = 0

    @property
    def seen(self) -> SeenDirectory:
        """What the last scan saw."""
        return self._seen

    def start_from(self, seen: SeenDirectory, at: int) -> None:
        """Takes what was just written to the directory for what a scan saw.

        Args:
            seen: What was written.
            at: When that began, in nanoseconds since the epoch.
        """
        self._seen, self.scanned_at = seen, at

    def scan(self) -> DirRef:
        """Stages what changed on disk and returns the trees of the directory as it is now.

        Raises:
            OSError: The disk refused; nothing that was staged is lost.
        """
        self.scanned_at = time.time_ns()
        self._finder = self._secrets.finder() if self._secrets is not None else None
        try:
            descriptor = os.open(self.root, _OPEN_DIRECTORY)
        except FileNotFoundError:
            self._seen = SeenDirectory(EMPTY)
            return EMPTY
        try:
            return self._scan_directory(descriptor, self._seen, b"", unsafe=False)
        finally:
            os.close(descriptor)

    def _scan_directory(
        self, descriptor: int, seen: SeenDirectory, base: bytes, *, unsafe: bool
    ) -> DirRef:
        known = self._known_items(seen)
        files: dict[bytes, SeenFile] = {}
        directories: dict[bytes, SeenDirectory] = {}
        left_out: dict[bytes, LeftOut] = {}
        secret: dict[bytes, tuple[Signature, int, LeftOut]] = {}
        changed = seen.ref is None
        with os.scandir(descriptor) as listing:
            entries = list(listing)
        telling = 0
        for entry in entries:
            name = os.fsencode(entry.name)
            path = base + name
            if name not in seen.files and name not in seen.directories:
                found = self._finder.held_by(name) if self._finder is not None else None
                if found is not None:
                    telling += 1
                    left_out[b"(name %d)" % telling] = LeftOut(f"its name holds {found}")
                    continue
            try:
                status = os.lstat(entry.name, dir_fd=descriptor)
            except FileNotFoundError:
                continue
            is_directory = stat.S_ISDIR(status.st_mode)
            if not unsafe and self._exclude.matches(path, entry.name, directory=is_directory):
                left_out[name] = LeftOut("excluded")
            elif is_directory:
                child = seen.directories.get(name)
                if child is None:
                    item = known.get(name)
                    child = SeenDirectory(item.ref if item and item.kind == "dir" else EMPTY)
                before = (child.ref, child.mode)
                below = unsafe or is_unsafe_name(name)
                try:
                    self._enter(descriptor, entry.name, status, child, path + b"/", unsafe=below)
                except FileNotFoundError:
                    continue
                except PermissionError:
                    left_out[name] = LeftOut("unreadable")
                    continue
                directories[name] = child
                changed = changed or before != (child.ref, child.mode)
            else:
                previous = seen.files.get(name)
                if (
                    previous is not None
                    and previous.signature == signature(status)
                    and not _is_racy(previous.signature, previous.read_at)
                ):
                    files[name] = previous
                    continue
                refused = seen.secret.get(name)
                if (
                    refused is not None
                    and refused[0] == signature(status)
                    and not _is_racy(refused[0], refused[1])
                ):
                    secret[name], left_out[name] = refused, refused[2]
                    continue
                read_at = time.clock_gettime_ns(_CLOCK)
                # What was seen last is staged or committed: it is not staged again.
                last = known.get(name) if previous is None else previous.item
                found = self._read(descriptor, entry.name, status, last)
                if isinstance(found, LeftOut):
                    left_out[name] = found
                    if found.reason.startswith(_HOLDS):
                        secret[name] = (signature(status), read_at, found)
                elif found is not None:
                    files[name] = found
                    changed = changed or previous is None or previous.item != found.item
        changed = changed or left_out != seen.left_out
        changed = changed or files.keys() != seen.files.keys()
        changed = changed or directories.keys() != seen.directories.keys()
        seen.files, seen.directories = files, directories
        seen.left_out, seen.secret = left_out, secret
        if changed or seen.ref is None:
            seen.ref = self._build(seen, unsafe=unsafe, root=not base)
        return seen.ref

    def _enter(
        self,
        descriptor: int,
        name: str,
        status: os.stat_result,
        child: SeenDirectory,
        base: bytes,
        *,
        unsafe: bool,
    ) -> None:
        opened = os.open(name, _OPEN_DIRECTORY, dir_fd=descriptor)
        try:
            mode = stat.S_IMODE(status.st_mode)
            if mode != child.mode:
                child.mode, child.ref = mode, None
            self._scan_directory(opened, child, base, unsafe=unsafe)
        finally:
            os.close(opened)

    def _build(self, seen: SeenDirectory, *, unsafe: bool, root: bool) -> DirRef:
        items = {name: file.item for name, file in seen.files.items()}
        for name, child in seen.directories.items():
            items[name] = Item("dir", child.mode, ref=child.ref or EMPTY)
        directory = Directory(seen.mode, items, seen.left_out)
        return build_directory(
            self._store, directory, unsafe=unsafe, root=root, known=seen.known or EMPTY
        )

    def _known_items(self, seen: SeenDirectory) -> dict[bytes, Item]:
        # Only the first look at a directory compares with the commit, later ones with the last.
        if seen.ref is not None or seen.known is None or seen.known[:2] == (None, None):
            return {}
        return read_directory(self._store, seen.known).items

    def _read(
        self, descriptor: int, name: str, status: os.stat_result, known: Item | None
    ) -> SeenFile | LeftOut | None:
        try:
            if stat.S_ISLNK(status.st_mode):
                return self._read_link(descriptor, name, status, known)
            if stat.S_ISREG(status.st_mode):
                return self._read_file(descriptor, name, known)
        except FileNotFoundError:
            return None
        except PermissionError:
            return LeftOut("unreadable", status.st_size)
        except OSError as error:
            # ELOOP: it became a link, ENXIO: a socket, ESTALE: it is gone; the next look sees it.
            if error.errno in (errno.ELOOP, errno.ENXIO, errno.ESTALE):
                return LeftOut("changed while it was read")
            raise
        kinds = {
            stat.S_IFIFO: "FIFO",
            stat.S_IFSOCK: "socket",
            stat.S_IFBLK: "device",
            stat.S_IFCHR: "device",
        }
        return LeftOut(kinds.get(stat.S_IFMT(status.st_mode), "not a file"))

    def _read_link(
        self, descriptor: int, name: str, status: os.stat_result, known: Item | None
    ) -> SeenFile | LeftOut:
        read_at = time.clock_gettime_ns(_CLOCK)
        target = os.fsencode(os.readlink(name, dir_fd=descriptor))
        sha = self._put(target, known)
        if isinstance(sha, LeftOut):
            return sha
        return SeenFile(signature(status), read_at, Item("link", 0o777, sha))

    def _read_file(self, descriptor: int, name: str, known: Item | None) -> SeenFile | LeftOut:
        size = 0
        for _ in range(_READ_TRIES):
            read_at = time.clock_gettime_ns(_CLOCK)
            opened = os.open(name, _OPEN_FILE, dir_fd=descriptor)
            try:
                status = os.fstat(opened)
                size = status.st_size
                if not stat.S_ISREG(status.st_mode):
                    return LeftOut("changed while it was read")
                if size > self._max_file:
                    return LeftOut("larger than max_file", size)
                self.files_read += 1
                try:
                    sha = self._read_content(opened, size, known)
                except FileChanged:
                    continue
                if isinstance(sha, LeftOut):
                    return sha
                if signature(os.fstat(opened))[:4] == signature(status)[:4]:
                    mode = stat.S_IMODE(status.st_mode)
                    return SeenFile(signature(status), read_at, Item("file", mode, sha))
            finally:
                os.close(opened)
        return LeftOut("changing while it was read", size)

    def _read_content(self, opened: int, size: int, known: Item | None) -> bytes | LeftOut:
        if size > LARGE_FILE:
            watch = FileWatch(self._finder) if self._finder is not None else None
            sha = self._store.put_large(opened, size, watch)
            if sha is None:
                return _holds(watch.found if watch else None, size)
            self.bytes_staged += size if known is None or known.sha != sha else 0
            return sha
        chunks: list[bytes] = []
        seen = 0
        while chunk := os.read(opened, size - seen + 1):
            chunks.append(chunk)
            seen += len(chunk)
            if seen > size:
                raise FileChanged
        if seen != size:
            raise FileChanged
        return self._put(b"".join(chunks), known)

    def _put(self, data: bytes, known: Item | None) -> bytes | LeftOut:
        if known is not None and known.sha:
            sha = object_id("blob", data)
            if sha == known.sha:
                return sha
        found = self._finder.held_by(data) if self._finder is not None else None
        # What the history has already is not kept out of it by leaving the file out now.
        if found is not None and not self._store.has(object_id("blob", data)):
            return _holds(found, len(data))
        self.bytes_staged += len(data)
        return self._store.put_scanned("blob", data)


def _holds(secret: str | None, size: int) -> LeftOut:
    return LeftOut(f"{_HOLDS}{secret}", size)
