"""What of a commit stands on disk beside `files/`, for people to read: run.json, code/, journal/.

The commits are the truth; a crash may leave these files missing, torn or of another commit.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from kitaru_fs.objects import MODE_TREE, TreeEntry, object_id, parse_tree
from kitaru_fs.repository import Repository
from kitaru_fs.store import Store

__all__ = ["put_right"]

_SHOWN = (b"run.json", b"code", b"journal")


def put_right(repository: Repository, root: dict[bytes, TreeEntry]) -> None:
    """Makes run.json, code/ and journal/ on disk what a commit's root tree says.

    Only what is torn, or what the repository holds, is replaced or removed: anything else was put
    there by somebody.

    Raises:
        OSError: The disk refused.
    """
    store, base = repository.store, os.fsencode(repository.path)
    wanted: dict[bytes, bytes] = {}
    for name in _SHOWN:
        if name in root:
            wanted.update(_leaves(store, name, root[name]))
    for path, sha in wanted.items():
        place = os.path.join(base, path)
        found = _read(place)
        if found is None or (object_id("blob", found) != sha and _is_ours(store, found, sha)):
            os.makedirs(os.path.dirname(place), exist_ok=True)
            Path(os.fsdecode(place)).write_bytes(store.read(sha, "blob"))
    for path in _on_disk(base):
        found = _read(os.path.join(base, path)) if path not in wanted else None
        if found is not None and _is_ours(store, found, None):
            os.unlink(os.path.join(base, path))
            with contextlib.suppress(OSError):
                os.removedirs(os.path.dirname(os.path.join(base, path)))


def _leaves(store: Store, path: bytes, entry: TreeEntry) -> Iterator[tuple[bytes, bytes]]:
    if entry.mode != MODE_TREE:
        yield path, entry.sha
        return
    for name, below in parse_tree(store.read(entry.sha, "tree")).items():
        yield from _leaves(store, path + b"/" + name, below)


def _on_disk(base: bytes) -> Iterator[bytes]:
    for top in (b"code", b"journal"):
        for folder, _, names in os.walk(os.path.join(base, top)):
            for name in names:
                yield os.path.relpath(os.path.join(folder, name), base)


def _read(path: bytes) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def _is_ours(store: Store, found: bytes, sha: bytes | None) -> bool:
    """Says whether content is a torn piece of what should be there, or stands in the repository."""
    start = found.rstrip(b"\0")
    if not start or (sha is not None and store.read(sha, "blob").startswith(start)):
        return True
    return store.has(object_id("blob", found))
