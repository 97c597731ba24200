"""How `files/` differ between two commits, of one run or of two. Nothing is written into a run."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from kitaru_fs.errors import GitError, RunDamagedError, StorageError
from kitaru_fs.quoting import quote_path
from kitaru_fs.rundir.history import OpenRun
from kitaru_fs.rundir.workfiles import own_state_of
from kitaru_fs.snapshot.filetree import EMPTY, Change, DirRef, diff
from kitaru_fs.storage.objects import ObjectKind
from kitaru_fs.storage.pack import Whole, write_pack
from kitaru_fs.storage.store import Store

__all__ = ["Comparison", "compare", "compare_step"]

_DIFF = (
    *("diff", "--no-ext-diff", "--no-textconv", "--no-color"),
    *("--src-prefix=a/", "--dst-prefix=b/"),
)


class Comparison(NamedTuple):
    """How `files/` differ.

    Attributes:
        diff: What git shows.
        beside: What git has no words for, a line each: other modes than executable or not, empty
            directories, the own state of nested repositories.
    """

    diff: str
    beside: list[str]


def compare_step(opened: OpenRun, commit: bytes) -> Comparison:
    """Returns what a commit changed under `files/`.

    Raises:
        RunDamagedError: An object is missing.
    """
    parents = opened.repository.read_commit(commit).parents
    before = opened.repository.point(parents[0]).files if parents else EMPTY
    return _compare(opened, before, opened, opened.repository.point(commit).files)


def compare(first: OpenRun, left: bytes, second: OpenRun, right: bytes) -> Comparison:
    """Returns how `files/` differ between two commits, of one run or of two.

    Raises:
        RunDamagedError: An object is missing.
    """
    before, after = first.repository.point(left).files, second.repository.point(right).files
    return _compare(first, before, second, after)


def _compare(first: OpenRun, before: DirRef, second: OpenRun, after: DirRef) -> Comparison:
    objects = _Both(first.repository.store, second.repository.store)
    text = _tree_diff(first, before.files, second, after.files).decode("utf-8", "replace")
    return Comparison(text, list(_beside(diff(objects, before, after))))


class _Both:
    """The objects of two runs."""

    def __init__(self, first: Store, second: Store) -> None:
        self._first = first
        self._second = second

    def read(self, sha: bytes, kind: ObjectKind | None = None) -> bytes:
        try:
            return self._first.read(sha, kind)
        except RunDamagedError:
            return self._second.read(sha, kind)


def _beside(changes: Iterator[Change]) -> Iterator[str]:
    repositories: set[bytes] = set()
    for path, before, after in changes:
        own_state = own_state_of(path)
        if own_state is not None:
            if own_state not in repositories:
                repositories.add(own_state)
                yield f"{quote_path(own_state)}: a repository's own state"
        elif before is not None and after is not None and before.kind == after.kind:
            # Of files git shows whether they are executable.
            if before.mode != after.mode and not (
                after.kind == "file" and (before.mode ^ after.mode) & 0o100
            ):
                slash = "/" if after.kind == "dir" else ""
                yield f"{quote_path(path)}{slash}: mode {before.mode:04o} -> {after.mode:04o}"
        else:
            for item, what in ((before, "removed"), (after, "added")):
                if item is not None and item.kind == "dir" and item.ref.files is None:
                    yield f"{quote_path(path)}/: a directory without files, {what}"


def _tree_diff(first: OpenRun, before: bytes | None, second: OpenRun, after: bytes | None) -> bytes:
    """Returns git's diff of two trees, with no driver and no filter of anybody's."""
    if before == after:
        return b""
    git = first.repository.git
    empty = git.run("hash-object", "-t", "tree", "--stdin").decode().strip()
    trees = [tree.hex() if tree else empty for tree in (before, after)]
    others = [second.repository.git_dir / "objects"] if second is not first else []
    try:
        return git.run(*_DIFF, *trees, objects_too=others)
    except GitError:
        if not (first.has_log or second.has_log):
            raise
    # The newest steps are in the run's log only, where git cannot see them.
    with _logged_objects(first, second) as logged:
        return git.run(*_DIFF, *trees, objects_too=[*others, logged])


@contextmanager
def _logged_objects(*runs: OpenRun) -> Generator[Path]:
    """Yields an `objects` directory with what the runs' logs hold."""
    found: dict[bytes, tuple[ObjectKind, bytes]] = {}
    for run in runs:
        found.update(run.repository.store.logged_objects())
    try:
        with tempfile.TemporaryDirectory(prefix="kitaru-diff-") as name:
            packed = (Whole(sha, kind, data) for sha, (kind, data) in found.items())
            write_pack(Path(name), packed, len(found), sync=False)
            yield Path(name)
    except OSError as error:
        raise StorageError(
            f"making the diff failed: {error.strerror or error}",
            hint="it needs a temporary directory: make room there, or set TMPDIR",
        ) from error
