"""Bringing `.git/index` in line with a run's last commit, so that plain git finds it clean."""

from __future__ import annotations

import os
from collections.abc import Iterator

from kitaru_fs.git.index import IndexEntry, write_index
from kitaru_fs.rundir.repository import Repository, leaves
from kitaru_fs.snapshot.scanner import Scanner
from kitaru_fs.snapshot.seen import SeenDirectory
from kitaru_fs.storage.objects import TreeEntry

__all__ = ["write_run_index"]


def write_run_index(repository: Repository, root: dict[bytes, TreeEntry], scanner: Scanner) -> None:
    """Writes the index of a commit's root tree; `state/` is marked as not checked out.

    Files under `files/` carry what `lstat` said when they were read, so git need not read them.

    Raises:
        OSError: The disk refused.
        StorageError: Another git command keeps the index locked.
    """
    write_index(
        repository.git_dir,
        _entries(repository, root, scanner.seen),
        as_of=scanner.scanned_at or None,
    )


def _entries(
    repository: Repository, root: dict[bytes, TreeEntry], seen: SeenDirectory
) -> Iterator[IndexEntry]:
    files = os.fsencode(repository.files_dir)
    for name, entry in root.items():
        for path, found in leaves(repository.store, name, entry):
            if name == b"files":
                status = _unchanged(files, path[len(b"files/") :], seen)
                yield IndexEntry(path, found.mode, found.sha, status)
            else:
                yield IndexEntry(path, found.mode, found.sha, None, skip_worktree=name == b"state")


def _unchanged(files: bytes, path: bytes, seen: SeenDirectory) -> os.stat_result | None:
    """Returns a file's `lstat` if it is still as it was when it was read."""
    *folders, name = path.split(b"/")
    for folder in folders:
        below = seen.directories.get(folder)
        if below is None:
            return None
        seen = below
    known = seen.files.get(name)
    if known is None:
        return None
    try:
        status = os.lstat(os.path.join(files, path))
    except OSError:
        return None
    now = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_mode)
    return status if now == known.signature else None
