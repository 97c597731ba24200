"""Writing a commit's files into an empty directory, as fast as the disk makes files.

For a directory that holds something there is `restore`, which works by difference.
"""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

from kitaru_fs.snapshot.filetree import DirRef, Item, read_directory
from kitaru_fs.snapshot.restore import check_name
from kitaru_fs.snapshot.seen import SeenDirectory, SeenFile, signature
from kitaru_fs.storage.store import Store

__all__ = ["fill_directory"]

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_DIRECTORY = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC


def fill_directory(root: Path, store: Store, target: DirRef) -> SeenDirectory:
    """Writes what a commit says of a directory; what it leaves out is not there.

    Args:
        root: The directory; it exists and is empty.
        store: Holds the objects.
        target: The directory in the commit.

    Returns:
        What a scan would see there.

    Raises:
        RunDamagedError: An object is missing, or a name is none that a file can have.
        OSError: The disk refused.
    """
    descriptor = os.open(root, _OPEN_DIRECTORY)
    try:
        return _fill(descriptor, store, target)
    finally:
        os.close(descriptor)


def _fill(
    descriptor: int,
    store: Store,
    target: DirRef,
    above: tuple[SeenDirectory, bytes] | None = None,
) -> SeenDirectory:
    seen = SeenDirectory(target, above)
    seen.ref = target
    leaves: dict[bytes, list[bytes]] = {}
    wanted = read_directory(store, target)
    for name, item in wanted.items.items():
        check_name(name)
        if item.kind == "dir":
            seen.directories[name] = _fill_below(descriptor, store, item, (seen, name))
        else:
            leaves.setdefault(item.sha, []).append(name)
    for sha, content in store.read_many(leaves):
        for name in leaves[sha]:
            seen.files[name] = _write(descriptor, name, wanted.items[name], content)
    return seen


def _fill_below(
    descriptor: int, store: Store, item: Item, above: tuple[SeenDirectory, bytes]
) -> SeenDirectory:
    name = above[1]
    os.mkdir(name, 0o755, dir_fd=descriptor)
    opened = os.open(name, _OPEN_DIRECTORY, dir_fd=descriptor)
    try:
        seen = _fill(opened, store, item.ref, above)
        if stat.S_IMODE(os.fstat(opened).st_mode) != item.mode:
            os.fchmod(opened, item.mode)
    finally:
        os.close(opened)
    seen.mode = item.mode
    return seen


def _write(descriptor: int, name: bytes, item: Item, content: bytes) -> SeenFile:
    if item.kind == "link":
        os.symlink(content, name, dir_fd=descriptor)
        status = os.lstat(name, dir_fd=descriptor)
    else:
        opened = os.open(name, _NEW_FILE, item.mode, dir_fd=descriptor)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(opened, view) :]
            status = os.fstat(opened)
            if stat.S_IMODE(status.st_mode) != item.mode:
                os.fchmod(opened, item.mode)
                status = os.fstat(opened)
        finally:
            os.close(opened)
    return SeenFile(signature(status), time.time_ns(), item)
