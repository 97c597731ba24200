"""What `files/` were seen to be: each file with what `lstat` said when it was read, and its blob.

`.git/kitaru/seen` keeps it from one process to the next, so that a resume does not read every file
again: a MessagePack of the trees that it is of, and the directories below. Deleting it costs time
alone.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from kitaru_fs.snapshot.filetree import EMPTY, DirectoryTree, DirRef, Item, LeftOut

__all__ = [
    "Refused",
    "SeenDirectory",
    "SeenFile",
    "Signature",
    "clock_ns",
    "is_racy",
    "load_seen",
    "save_seen",
    "signature",
]

_VERSION = 1
_TICK_NS = 20_000_000
_COARSE_TICK_NS = 2_100_000_000
_CLOCK = getattr(time, "CLOCK_REALTIME_COARSE", time.CLOCK_REALTIME)

Signature = tuple[int, int, int, int, int]
# So many bytes are read in the time that another file takes.
_AS_MANY = 1 << 16


class SeenFile(NamedTuple):
    """A file or link as it was last read: what `lstat` said, when, and what it held."""

    signature: Signature
    read_at: int
    item: Item


class Refused(NamedTuple):
    """A file that was read and holds a secret: it is not read again while it stays the same."""

    signature: Signature
    read_at: int

    def is_still(self, status: os.stat_result) -> bool:
        """Says whether it is the same, by its `lstat`."""
        return self.signature == signature(status) and not is_racy(self.signature, self.read_at)


class SeenDirectory:
    """A directory as it was last read.

    Attributes:
        known: Its trees in the commit that was taken up; they are not staged again.
        mode: Its permissions.
        files: Its files and links, by name.
        directories: Its directories.
        left_out: What is in it and in no commit.
        secret: Files that hold a secret.
        hidden: Names that hold a secret, and under which each is left out.
        built: Whether its trees were built once.
        ref: Its trees; None where something below it was not looked at since it changed.
        tree: What its trees are made of.
        above: The directory that it is in, and under which name.
        watch: What watches it; None if nothing does.
        place: Its device and inode, when that began.
        touched: Names in it that may have changed since.
        stirred: Directories in it with something below that may have changed.
        unknown: Whether all of it is to be looked at.
    """

    __slots__ = (
        *("above", "built", "directories", "files", "hidden", "known", "left_out", "mode"),
        *("place", "ref", "secret", "stirred", "touched", "tree", "unknown", "watch"),
    )

    def __init__(
        self, known: DirRef | None, above: tuple[SeenDirectory, bytes] | None = None
    ) -> None:
        self.known = known
        self.mode = 0
        self.files: dict[bytes, SeenFile] = {}
        self.directories: dict[bytes, SeenDirectory] = {}
        self.left_out: dict[bytes, LeftOut] = {}
        self.secret: dict[bytes, Refused] = {}
        self.hidden: dict[bytes, bytes] = {}
        self.built = False
        self.ref: DirRef | None = None
        self.tree: DirectoryTree | None = None
        self.above = above
        self.watch: int | None = None
        self.place: tuple[int, int] | None = None
        self.touched: set[bytes] = set()
        self.stirred: set[bytes] = set()
        self.unknown = True

    def names(self) -> Iterator[bytes]:
        """Yields every name that was seen in it."""
        yield from self.files
        yield from self.directories
        shown = set(self.hidden.values())
        yield from (name for name in self.left_out if name not in shown)
        yield from self.hidden

    def holds(self, many: int) -> bool:
        """Says whether there are at least so many files in it and below; a large one is many."""
        for seen in self.below():
            for file in seen.files.values():
                many -= 1 + file.signature[0] // _AS_MANY
                if many <= 0:
                    return True
        return False

    def touch(self, name: bytes) -> None:
        """Notes that a name in it may have changed."""
        self.touched.add(name)
        self.stir()

    def stir(self) -> None:
        """Notes in the directories above that something in it is to be looked at."""
        place = self
        while place.above is not None:
            above, name = place.above
            if name in above.stirred:
                return
            above.stirred.add(name)
            place = above

    def item(self, name: bytes) -> Item | None:
        """Returns what is seen under a name."""
        file = self.files.get(name)
        if file is not None:
            return file.item
        below = self.directories.get(name)
        return Item("dir", below.mode, ref=below.ref or EMPTY) if below is not None else None

    def below(self) -> Iterator[SeenDirectory]:
        """Yields it, and every directory below it."""
        yield self
        for directory in self.directories.values():
            yield from directory.below()


def signature(status: os.stat_result) -> Signature:
    """Returns what changes of a file's `lstat` when the file does."""
    return (
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_ino,
        status.st_mode,
    )


def clock_ns() -> int:
    """Returns the time as file systems tell it, in nanoseconds since the epoch."""
    return time.clock_gettime_ns(_CLOCK)


def is_racy(signature: Signature, read_at: int) -> bool:
    """Says whether a file could have changed after it was read without its times saying so."""
    changed = max(signature[1], signature[2])
    # Times in whole seconds mean a file system whose clock ticks in seconds.
    tick = _TICK_NS if signature[2] % 1_000_000_000 else _COARSE_TICK_NS
    return changed + tick >= read_at


# Between processes


def save_seen(place: Path, seen: SeenDirectory) -> None:
    """Keeps what was seen. All that it names must be in commits.

    Raises:
        OSError: The disk refused.
    """
    assert seen.ref is not None
    content = msgspec.msgpack.encode([_VERSION, _pack(seen)])
    temporary = place.with_name(f"{place.name}.new")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    descriptor = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    os.rename(temporary, place)


def load_seen(place: Path) -> SeenDirectory | None:
    """Returns what was kept, to be looked through; None if there is nothing that can be read."""
    try:
        with open(place, "rb", opener=_no_follow) as file:
            version, packed = msgspec.msgpack.decode(file.read())
        if version != _VERSION:
            return None
        seen = SeenDirectory(EMPTY)
        _unpack(packed, seen)
    except (OSError, ValueError, TypeError, KeyError, IndexError, msgspec.MsgspecError):
        return None
    return seen


def _pack(seen: SeenDirectory) -> list[Any]:
    files = {
        name: (*file.signature, file.read_at, file.item.kind == "link", file.item.sha)
        for name, file in seen.files.items()
    }
    directories = {name: _pack(below) for name, below in seen.directories.items()}
    return [seen.mode, *(seen.ref or EMPTY), files, directories]


def _unpack(packed: list[Any], into: SeenDirectory) -> None:
    into.mode, files_tree, state_tree, unsafe, files, directories = packed
    into.known = DirRef(files_tree, state_tree, unsafe)
    for name, (size, modified, changed, inode, mode, read_at, is_link, sha) in files.items():
        item = Item("link", 0o777, sha) if is_link else Item("file", mode & 0o7777, sha)
        into.files[name] = SeenFile((size, modified, changed, inode, mode), read_at, item)
    for name, below in directories.items():
        child = SeenDirectory(EMPTY, (into, name))
        _unpack(below, child)
        into.directories[name] = child


def _no_follow(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
