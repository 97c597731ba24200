"""Making room: runs go to the trash, the trash goes for good, histories are packed tightly.

`rm` and `prune` move whole runs to `runs/.trash/`, from where they can be moved back. `gc` alone
drops what is there; of a run that stays it drops nothing: it packs its history anew.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from kitaru_fs.errors import ConflictError, HeldError, KitaruError
from kitaru_fs.holding.lock import RunLock
from kitaru_fs.run import Run
from kitaru_fs.rundir.repository import Repository, decode_request
from kitaru_fs.snapshot.removal import remove_tree
from kitaru_fs.storage.refs import sync_directory
from kitaru_fs.storage.store import storage_error

__all__ = ["TRASH", "Collected", "collect", "may_go", "to_trash"]

TRASH = ".trash"
_OVER = ("completed", "failed", "cancelled")


class Collected(NamedTuple):
    """What `gc` did, or would do.

    Attributes:
        dropped: The runs in the trash, which go for good.
        room: How many bytes they take.
        packed: The runs whose histories were packed anew: their sizes before and after, in bytes;
            after is None where it is not known yet.
        skipped: The runs that were left alone, and why.
    """

    dropped: list[str]
    room: int
    packed: dict[str, tuple[int, int | None]]
    skipped: dict[str, str]


def may_go(run: Run, before: datetime) -> bool:
    """Says whether `prune` takes a run: it is over, nothing has moved it since, and its parent,
    if it has one, is gone."""
    state = run.state()
    if state["status"] not in _OVER or state["holder"] is not None:
        return False
    if datetime.fromisoformat(state["updated"]).astimezone(UTC) >= before:
        return False
    file = run.path / "run.json"
    parent = decode_request(file.read_bytes(), file).parent
    return parent is None or not (run.path.parent / parent["run"]).exists()


def to_trash(run: Run) -> Path:
    """Moves a run to the trash.

    Returns:
        Where it is now; moved back to `runs/`, it is a run again.

    Raises:
        HeldError: A process drives it.
        ConflictError: The trash has one of that name.
        StorageError: The disk refused.
    """
    trash = run.path.parent / TRASH
    place = trash / run.id
    try:
        with RunLock.acquire(run.path / ".git", "rm"):
            trash.mkdir(mode=0o700, exist_ok=True)
            if os.path.lexists(place):
                raise ConflictError(f"{place} exists", hint="kitaru gc empties the trash")
            os.rename(run.path, place)
            sync_directory(trash)
            sync_directory(run.path.parent)
    except OSError as error:
        raise storage_error(error, f"moving {run.id} to the trash", then="try again") from error
    return place


def collect(runs: Iterable[Run], folder: Path, *, dry_run: bool) -> Collected:
    """Empties the trash, and packs the histories of runs that nobody drives.

    Args:
        runs: The runs to pack.
        folder: The workspace's `runs/`.
        dry_run: Only say what would go.

    Raises:
        StorageError: The disk refused.
    """
    trash = folder / TRASH
    found = Collected([], 0, {}, {})
    try:
        names = sorted(os.listdir(trash)) if trash.is_dir() and not trash.is_symlink() else []
        found = found._replace(dropped=names, room=sum(_size(trash / name) for name in names))
        for name in () if dry_run else names:
            remove_tree(trash / name)
        for run in runs:
            objects = run.path / ".git" / "objects"
            before = _size(objects)
            if dry_run:
                found.packed[run.id] = (before, None)
                continue
            try:
                with RunLock.acquire(run.path / ".git", "gc"):
                    _pack(run.path)
                found.packed[run.id] = (before, _size(objects))
            except HeldError:
                found.skipped[run.id] = "a process drives it"
            except KitaruError as error:
                found.skipped[run.id] = error.message
    except OSError as error:
        raise storage_error(error, "making room", then="run `kitaru gc` again") from error
    return found


def _pack(path: Path) -> None:
    repository = Repository(path)
    try:
        if (repository.private_dir / "driven").exists() or repository.store.load_log():
            raise ConflictError(
                "it was killed: `kitaru resume` or `kitaru doctor` comes first", run=path.name
            )
        repository.store.pack_tightly()
    finally:
        repository.close()


def _size(folder: Path) -> int:
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            found = os.lstat(os.path.join(place, name))
            # What a fork shares is not freed by dropping one of the two.
            size += found.st_size // found.st_nlink
    return size
