"""What stands in a run's directory beside `files/`, for reading: `run.json`, `code/`, `journal/`.

The commits are the truth. These files show them, and are put right where a crash, a clone or a
human left them otherwise; what is replaced is kept in `.git/kitaru/aside/`.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from kitaru_fs.clock import nonce
from kitaru_fs.objects import MODE_TREE, TreeEntry, parse_tree
from kitaru_fs.repository import Repository
from kitaru_fs.store import Store

__all__ = ["put_right", "show"]

_SHOWN = (b"run.json", b"code", b"journal")


def show(path: Path, name: str, content: bytes) -> None:
    """Writes one file of a run's directory.

    Args:
        path: The run's directory.
        name: The file's path in it.
        content: What it holds.

    Raises:
        OSError: The disk refused.
    """
    file = os.path.join(path, name)
    try:
        _write(file, content)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(file), exist_ok=True)
        _write(file, content)


def put_right(repository: Repository, root: dict[bytes, TreeEntry]) -> list[str]:
    """Makes what is shown equal to a commit's root tree; returns what was set aside.

    A checked-out `state/` (as `git clone` makes it) goes: kitaru applies it, nobody reads it.

    Raises:
        OSError: The disk refused.
    """
    aside = repository.private_dir / "aside" / nonce()[:8]
    moved: list[str] = []
    for name in _SHOWN:
        if name in root:
            _put_right(repository.store, repository.path, name, root[name], aside, moved)
    state = repository.path / "state"
    if os.path.lexists(state):
        entry = root.get(b"state")
        if entry is None or not _equals(repository.store, state, entry):
            _move(state, aside / "state", moved, "state")
        else:
            shutil.rmtree(state)
    return moved


def _put_right(
    store: Store, path: Path, name: bytes, entry: TreeEntry, aside: Path, moved: list[str]
) -> None:
    file = path / os.fsdecode(name)
    if entry.mode == MODE_TREE:
        if file.is_symlink() or (file.exists() and not file.is_dir()):
            _move(file, aside / os.fsdecode(name), moved, os.fsdecode(name))
        for below, found in parse_tree(store.read(entry.sha, "tree")).items():
            _put_right(store, path, name + b"/" + below, found, aside, moved)
        return
    content = store.read(entry.sha, "blob")
    if _reads(file) == content:
        return
    if os.path.lexists(file) and (file.is_dir() or file.is_symlink() or file.stat().st_size):
        _move(file, aside / os.fsdecode(name), moved, os.fsdecode(name))
    show(path, os.fsdecode(name), content)


def _equals(store: Store, place: Path, entry: TreeEntry) -> bool:
    if entry.mode != MODE_TREE:
        return _reads(place) == store.read(entry.sha, "blob")
    if place.is_symlink() or not place.is_dir():
        return False
    below = parse_tree(store.read(entry.sha, "tree"))
    if {os.fsencode(name) for name in os.listdir(place)} != set(below):
        return False
    return all(_equals(store, place / os.fsdecode(name), one) for name, one in below.items())


def _reads(file: Path) -> bytes | None:
    try:
        if file.is_symlink():
            return os.fsencode(os.readlink(file))
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def _move(source: Path, target: Path, moved: list[str], name: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    os.rename(source, target)
    moved.append(f"{name} -> {target}")


def _write(file: str, content: bytes) -> None:
    descriptor = os.open(
        file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644
    )
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
    finally:
        os.close(descriptor)
