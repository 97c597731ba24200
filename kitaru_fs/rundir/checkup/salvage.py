"""Objects that the files of a run's directory still have, found by what they would be named."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from pathlib import Path

from kitaru_fs.rundir.repository import Repository
from kitaru_fs.snapshot.exclude import Exclude
from kitaru_fs.snapshot.scanner import Scanner
from kitaru_fs.storage.objects import (
    MODE_FILE,
    MODE_TREE,
    ObjectKind,
    TreeEntry,
    encode_tree,
    object_id,
)
from kitaru_fs.storage.store import Store

__all__ = ["salvage"]

_SHOWN = ("code", "journal")


def salvage(
    repository: Repository, exclude: Exclude, wanted: Collection[bytes]
) -> dict[bytes, tuple[ObjectKind, bytes]]:
    """Returns those of some objects that the files of the run's directory have.

    Args:
        repository: The run. Nothing is written.
        exclude: What is left out of every commit.
        wanted: The objects' ids.
    """
    kept = _Keeping(repository, wanted)
    root: dict[bytes, TreeEntry] = {}
    for name in _SHOWN:
        tree = kept.directory(repository.path / name)
        if tree is not None:
            root[name.encode()] = TreeEntry(MODE_TREE, tree)
    request = kept.file(repository.path / "run.json")
    if request is not None:
        root[b"run.json"] = TreeEntry(MODE_FILE, request)
    # A file may be as large as it likes: only what is wanted is held.
    files = Scanner(repository.files_dir, kept, exclude, 1 << 62).scan()
    for name, sha in ((b"files", files.files), (b"state", files.state)):
        if sha is not None:
            root[name] = TreeEntry(MODE_TREE, sha)
    kept.put_scanned("tree", encode_tree(root))
    return kept.found


class _Keeping(Store):
    """Names what is on disk as the run's store does, and keeps only what is wanted."""

    def __init__(self, repository: Repository, wanted: Collection[bytes]) -> None:
        super().__init__(repository.git_dir, repository.git)
        self._wanted = frozenset(wanted)
        self._trees: dict[bytes, bytes] = {}
        self.found: dict[bytes, tuple[ObjectKind, bytes]] = {}

    def read(self, sha: bytes, kind: ObjectKind | None = None) -> bytes:
        known = self._trees.get(sha)
        return super().read(sha, kind) if known is None else known

    def put_scanned(
        self,
        kind: ObjectKind,
        data: bytes,
        *,
        base: bytes | None = None,
        sha: bytes | None = None,
    ) -> bytes:
        sha = sha or object_id(kind, data)
        if sha in self._wanted:
            self.found[sha] = (kind, data)
        if kind == "tree":
            self._trees[sha] = data
        return sha

    def put_large(
        self, descriptor: int, size: int, watch: object = None, *, base: bytes | None = None
    ) -> bytes:
        with os.fdopen(os.dup(descriptor), "rb") as file:
            return self.put_scanned("blob", file.read())

    def file(self, path: Path) -> bytes | None:
        """Looks at a file that is shown; returns its blob's id."""
        try:
            if not stat.S_ISREG(path.lstat().st_mode):
                return None
            return self.put_scanned("blob", path.read_bytes())
        except OSError:
            return None

    def directory(self, path: Path) -> bytes | None:
        """Looks at a directory that is shown; returns its tree's id."""
        if path.is_symlink() or not path.is_dir():
            return None
        entries: dict[bytes, TreeEntry] = {}
        for name in sorted(os.listdir(path)):
            below = path / name
            tree = self.directory(below)
            blob = self.file(below) if tree is None else None
            if tree is not None:
                entries[os.fsencode(name)] = TreeEntry(MODE_TREE, tree)
            elif blob is not None:
                entries[os.fsencode(name)] = TreeEntry(MODE_FILE, blob)
        return self.put_scanned("tree", encode_tree(entries))
