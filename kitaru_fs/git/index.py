"""`.git/index`, written in process, so that plain git finds a stopped run clean at once.

The index is git's cache of what is checked out. kitaru never depends on it;
a missing or stale one costs `git status` time and truth, nothing else.

Format (git's `Documentation/gitformat-index.txt`): `DIRC`, version 2 (3 where an entry has the
skip-worktree bit), the number of entries, the entries in the order of their paths' bytes, a SHA-1.
No extensions are written.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from hashlib import sha1
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from kitaru_fs.git.layout import read_regular
from kitaru_fs.git.locks import FoundLock, LockFile, clear_stale_locks, find_locks

__all__ = [
    "CheckedOut",
    "FoundLock",
    "IndexEntry",
    "IndexedPath",
    "clear_stale_locks",
    "find_locks",
    "gitlinks",
    "read_index",
    "write_index",
]

_ENTRY = struct.Struct(">10I20sH")
_EXTENDED_ENTRY = struct.Struct(">10I20sHH")
_SKIP_WORKTREE = 0x4000
_EXTENDED = 0x4000
_WORD = 0xFFFFFFFF
_NANO = 1_000_000_000
_GITLINK_MODE = bytes((0, 0, 0xE0, 0))
_FLUSH_AT = 1 << 20


class IndexEntry(NamedTuple):
    """One path of the index.

    Attributes:
        path: Relative to the run's directory, with `/`, as bytes.
        mode: 0o100644, 0o100755 or 0o120000.
        sha: The blob's id, 20 bytes.
        stat: The file's `lstat` when its content was that blob; None makes git look at the content.
        skip_worktree: The path is committed and not checked out.
    """

    path: bytes
    mode: int
    sha: bytes
    stat: os.stat_result | None = None
    skip_worktree: bool = False


def write_index(
    git_dir: Path,
    entries: Iterable[IndexEntry],
    durable: bool = False,
    *,
    as_of: int | None = None,
    patience: float = 2.0,
) -> None:
    """Replaces the run's index, atomically and under git's own `index.lock`.

    git compares the content of a file that changed in the second in which the index was written,
    or later. Stats that were taken earlier than now need `as_of`, else a change of the same size
    between them and now, in the second of the file's last change, would not be seen.

    Args:
        git_dir: The run's `.git`.
        entries: Each path once, in any order.
        durable: Whether a power cut may not lose it; a cache needs that seldom.
        as_of: When the first of the stats was taken, in nanoseconds since the epoch
            (`time.time_ns()` before the scan); None for now.
        patience: For so many seconds another git may hold `index.lock`.

    Raises:
        ConflictError: Another git holds `index.lock`.
        StorageError: The disk refused; the old index is as it was.
        ValueError: A path occurs twice.
    """
    path = git_dir / "index"
    ordered = sorted(entries, key=itemgetter(0))
    extended = any(entry.skip_worktree for entry in ordered)
    lock = LockFile.acquire(path, patience)
    try:
        digest = sha1(usedforsecurity=False)
        pending = bytearray(struct.pack(">4sII", b"DIRC", 3 if extended else 2, len(ordered)))
        previous: bytes | None = None
        for entry in ordered:
            if entry.path == previous:
                raise ValueError(f"{entry.path!r} occurs twice in an index")
            previous = entry.path
            pending += _encode(entry)
            if len(pending) >= _FLUSH_AT:
                digest.update(pending)
                lock.write(pending)
                pending.clear()
        digest.update(pending)
        lock.write(pending + digest.digest())
        lock.commit(durable=durable, modified=as_of)
    finally:
        lock.release()


class IndexedPath(NamedTuple):
    """What an index says of one path: mode and blob, whether it is not checked out, and its stage
    in a merge (0 outside of one)."""

    mode: int
    sha: bytes
    skip_worktree: bool
    stage: int


def read_index(git_dir: Path) -> dict[bytes, IndexedPath] | None:
    """Returns the paths of a run's index; None if it is missing, cut short or damaged.

    Args:
        git_dir: The run's `.git`.
    """
    try:
        data = read_regular(git_dir / "index")
        if data[:4] != b"DIRC" or sha1(data[:-20], usedforsecurity=False).digest() != data[-20:]:
            return None
        found: dict[bytes, IndexedPath] = {}
        for name, at in _entries(data):
            mode, sha, flags = struct.unpack_from(">24xI12x20sH", data, at)
            more = struct.unpack_from(">H", data, at + 62)[0] if flags & _EXTENDED else 0
            skip = bool(more & _SKIP_WORKTREE)
            found[name] = IndexedPath(mode, sha, skip, flags >> 12 & 3)
        return found
    except (OSError, IndexError, ValueError, struct.error):
        return None


def gitlinks(git_dir: Path) -> list[bytes]:
    """The paths that the index has as submodules; kitaru writes none, a human's `git add` may.

    Args:
        git_dir: The run's `.git`.

    Returns:
        The paths; `[b"?"]` for an index in parts, which is not looked into.
    """
    try:
        data = read_regular(git_dir / "index")
    except OSError:
        return []
    if any(name.startswith("sharedindex.") for name in os.listdir(git_dir)):
        return [b"?"]
    # Nearly every index has these bytes nowhere, and is not read entry by entry.
    if data.find(_GITLINK_MODE) < 0:
        return []
    try:
        return [name for name, at in _entries(data) if data[at + 24 : at + 28] == _GITLINK_MODE]
    except (IndexError, struct.error):
        return []  # git does not read it either


class CheckedOut:
    """What git's index remembers of the files that git itself checked out.

    Args:
        git_dir: The repository's `.git`.
    """

    def __init__(self, git_dir: Path) -> None:
        self._stats: dict[bytes, tuple[int, ...]] = {}
        try:
            data = read_regular(git_dir / "index")
            for name, at in _entries(data):
                self._stats[name] = struct.unpack_from(">10I", data, at)
        except (OSError, IndexError, ValueError, struct.error):
            self._stats.clear()  # no index, or one that git does not read either

    def is_untouched(self, path: bytes, status: os.stat_result) -> bool:
        """Says whether a file is as git left it, by its size, times and inode.

        Args:
            path: Relative to the repository's directory.
            status: What `lstat` says of it now.
        """
        known = self._stats.get(path)
        if known is None:
            return False
        changed, modified = divmod(status.st_ctime_ns, _NANO), divmod(status.st_mtime_ns, _NANO)
        now = (changed[0], changed[1], modified[0], modified[1], status.st_ino, status.st_size)
        then = (*known[:4], known[5], known[9])
        return tuple(part & _WORD for part in now) == then


def _entries(data: bytes) -> Iterator[tuple[bytes, int]]:
    """The paths of an index of any version, and where their records begin, as git finds them."""
    _, version, count = struct.unpack_from(">4sII", data)
    position, name = 12, b""
    for _ in range(count):
        (flags,) = struct.unpack_from(">H", data, position + 60)
        start = position + (64 if flags & _EXTENDED and version > 2 else 62)
        kept = 0
        if version == 4:
            strip, start = _variable_number(data, start)
            kept = len(name) - strip
        length = flags & 0xFFF
        if length == 0xFFF:
            length = data.index(0, start) - start + kept
        end = start + length - kept
        name = name[:kept] + data[start:end]
        yield name, position
        position = end + 1 if version == 4 else position + (end - position + 8) // 8 * 8


def _variable_number(data: bytes, position: int) -> tuple[int, int]:
    """A number of git's varint encoding, and where it ends."""
    byte = data[position]
    value = byte & 0x7F
    while byte & 0x80:
        position += 1
        byte = data[position]
        value = ((value + 1) << 7) | (byte & 0x7F)
    return value, position + 1


def _encode(entry: IndexEntry) -> bytes:
    name, mode, sha, stat, skip = entry
    flags = len(name) if len(name) < 0xFFF else 0xFFF
    if stat is None:
        fields = (0, 0, 0, 0, 0, 0, mode, 0, 0, 0)
    else:
        changed, modified = divmod(stat.st_ctime_ns, _NANO), divmod(stat.st_mtime_ns, _NANO)
        fields = (
            changed[0] & _WORD,
            changed[1],
            modified[0] & _WORD,
            modified[1],
            stat.st_dev & _WORD,
            stat.st_ino & _WORD,
            mode,
            stat.st_uid & _WORD,
            stat.st_gid & _WORD,
            stat.st_size & _WORD,
        )
    if skip:
        head = _EXTENDED_ENTRY.pack(*fields, sha, flags | _EXTENDED, _SKIP_WORKTREE)
    else:
        head = _ENTRY.pack(*fields, sha, flags)
    size = len(head) + len(name)
    return head + name + bytes(8 - size % 8)
