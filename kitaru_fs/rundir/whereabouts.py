"""Where in a run's history an object is: the first commit that holds it, and the path there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from kitaru_fs.errors import RunDamagedError
from kitaru_fs.rundir.repository import Repository
from kitaru_fs.storage.objects import MODE_GITLINK, MODE_TREE, Commit, parse_commit, parse_tree

__all__ = ["Place", "all_commits", "find_places"]


class Place(NamedTuple):
    """A commit, and a path in it; empty for the commit itself."""

    commit: bytes
    path: bytes


def all_commits(repository: Repository, also: Iterable[bytes] = ()) -> list[tuple[bytes, Commit]]:
    """Returns every commit that a ref or HEAD leads to, oldest first; what is missing is left out.

    What is no commit (the operation log's blobs) is left out as well.

    Args:
        repository: The run.
        also: Further commits to begin at.
    """
    refs = repository.refs
    head = refs.head()
    queue = [*refs.all().values(), *also, *([head] if isinstance(head, bytes) else [])]
    found: dict[bytes, Commit] = {}
    while queue:
        sha = queue.pop()
        if sha in found:
            continue
        try:
            commit = parse_commit(repository.store.read(sha, "commit"))
        except (RunDamagedError, ValueError):
            continue
        found[sha] = commit
        queue += commit.parents
    return _parents_first(found)


def _parents_first(commits: dict[bytes, Commit]) -> list[tuple[bytes, Commit]]:
    ordered: dict[bytes, Commit] = {}
    for start in sorted(commits, key=lambda sha: _time(commits[sha])):
        stack = [start]
        while stack:
            sha = stack[-1]
            if sha in ordered:
                stack.pop()
                continue
            waiting = [p for p in commits[sha].parents if p in commits and p not in ordered]
            if waiting:
                stack += waiting
            else:
                ordered[sha] = commits[sha]
                stack.pop()
    return list(ordered.items())


def _time(commit: Commit) -> int:
    return int(commit.committer.rsplit(b" ", 2)[1])


def find_places(
    repository: Repository, wanted: Collection[bytes], commits: Iterable[tuple[bytes, Commit]]
) -> dict[bytes, Place]:
    """Returns the first place of each object that is wanted; one that no commit holds is left out.

    Each directory of the history is read once, so the cost follows what changed.

    Args:
        repository: The run.
        wanted: The objects' ids.
        commits: The commits to look in, oldest first.
    """
    left = set(wanted)
    found: dict[bytes, Place] = {}
    seen: set[bytes] = set()
    for sha, commit in commits:
        if not left:
            break
        if sha in left:
            left.discard(sha)
            found[sha] = Place(sha, b"")
        for inner, path in _walk(repository, commit.tree, b"", seen):
            if inner in left:
                left.discard(inner)
                found[inner] = Place(sha, path)
    return found


def _walk(
    repository: Repository, tree: bytes, base: bytes, seen: set[bytes]
) -> Iterator[tuple[bytes, bytes]]:
    """Yields what is at and below a tree and was not yielded before, with its path."""
    if tree in seen:
        return
    seen.add(tree)
    yield tree, base
    try:
        entries = parse_tree(repository.store.read(tree, "tree"))
    except (RunDamagedError, ValueError):
        return
    for name, entry in entries.items():
        path = base + b"/" + name if base else name
        if entry.mode == MODE_TREE:
            yield from _walk(repository, entry.sha, path, seen)
        elif entry.mode != MODE_GITLINK and entry.sha not in seen:
            seen.add(entry.sha)
            yield entry.sha, path
