"""Keeping a run's packs few: small ones become one, as they are, without being inflated.

Only who holds the run's lock does it. The new pack is on the disk before an old one goes, so a
reader beside it, git or kitaru, finds every object in one of them. Nothing is dropped.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Container, Iterator
from pathlib import Path
from typing import NamedTuple

from kitaru_fs.git.safe import Git
from kitaru_fs.storage.loose import LooseObjects
from kitaru_fs.storage.objects import object_id
from kitaru_fs.storage.pack import Item, write_pack
from kitaru_fs.storage.packs import OpenPack, Packs, copied, remove_pack
from kitaru_fs.storage.refs import sync_directory

__all__ = ["consolidate", "pack_tightly", "sweep"]

_SPARE = 16 << 20


class _Amount(NamedTuple):
    """How much may become one pack.

    Attributes:
        crowd: With so many packs in all.
        packs: If so many become one.
        objects: If they have no more than so many objects together.
        size: Nor more than so many bytes.
    """

    crowd: int
    packs: int
    objects: int
    size: int


# The first takes some tenths of a second. In a crowd, where looking for an object takes long too,
# fewer packs are worth that, and else some seconds and 100 MB of memory.
_AMOUNTS = (
    _Amount(16, 16, 40_000, 64 << 20),
    _Amount(64, 4, 40_000, 64 << 20),
    _Amount(64, 8, 320_000, 512 << 20),
)
# Files of ours that were being written; git's own temporary files have other names.
_HALF_WRITTEN = re.compile(r"tmp_(pack|idx)_\d+-[0-9a-f]{8}|tmp_obj_\d+_[0-9a-f]{12}")


def sweep(loose: LooseObjects, packs: Packs, *, needed: Container[bytes]) -> None:
    """Removes what a process that was killed left: half written files, and loose copies of packs.

    Args:
        loose: The repository's loose objects.
        packs: Its packs.
        needed: Loose objects that stay, whether a pack has them or not.

    Raises:
        OSError: The disk refused; nothing is lost.
    """
    for folder in (loose.directory, loose.directory / "pack"):
        for name in os.listdir(folder) if folder.is_dir() else ():
            if _HALF_WRITTEN.fullmatch(name):
                (folder / name).unlink(missing_ok=True)
    known = list(packs)
    for sha in loose.all():
        if sha in needed or not any(pack.find(sha) is not None for pack in known):
            continue
        found = packs.read(sha)
        if found is not None and object_id(*found) == sha:
            loose.remove(sha)


def consolidate(objects_dir: Path, packs: Packs, *, sync: bool) -> int:
    """Makes one pack of the smallest ones, if there are many.

    Args:
        objects_dir: The repository's `objects`.
        packs: Reads its packs.
        sync: Whether to wait until the new pack is on the disk.

    Returns:
        How many packs became one; 0 if there are few, or no room.

    Raises:
        OSError: The disk refused; all packs are as they were.
    """
    known = sorted((pack for pack in packs if _is_plain(pack)), key=lambda pack: len(pack.data))
    chosen: list[OpenPack] = []
    for amount in _AMOUNTS:
        chosen = chosen or _smallest(known, amount)
    if not chosen or not _has_room(objects_dir, sum(len(pack.data) for pack in chosen)):
        return 0
    count = len({sha for pack in chosen for _, sha in pack.all()})
    written = write_pack(objects_dir, _once(chosen), count, sync=sync)
    for pack in chosen:
        if pack.path != written:
            remove_pack(pack.index)
    return len(chosen)


def _smallest(packs: list[OpenPack], amount: _Amount) -> list[OpenPack]:
    """Returns the first packs, as many as may become one; none if that is not worth it."""
    chosen: list[OpenPack] = []
    objects = size = 0
    for pack in packs if len(packs) >= amount.crowd else ():
        objects += pack.count
        size += len(pack.data)
        if objects > amount.objects or size > amount.size:
            break
        chosen.append(pack)
    return chosen if len(chosen) >= amount.packs else []


def pack_tightly(objects_dir: Path, packs: Packs, git: Git) -> None:
    """Makes one pack of all packs, its deltas looked for by git, if that is smaller.

    Args:
        objects_dir: The repository's `objects`.
        packs: Reads its packs.
        git: git on the repository.

    Raises:
        OSError: The disk refused, or has no room; all packs are as they were.
        GitError: git could not.
    """
    old = [pack for pack in packs if _is_plain(pack)]
    ids = {sha for pack in old for _, sha in pack.all()}
    size = sum(len(pack.data) for pack in old)
    if not ids:
        return
    if not _has_room(objects_dir, size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(objects_dir))
    folder = objects_dir / "pack"
    command = (
        "pack-objects",
        "-q",
        "--delta-base-offset",
        "--no-reuse-delta",
        "--window=10",
        "--depth=50",
    )
    names = "".join(f"{sha.hex()}\n" for sha in sorted(ids))
    done = git.run(
        "-c", "pack.threads=1", *command, os.fspath(folder / "pack"), input=names.encode()
    )
    index = folder / f"pack-{done.decode('ascii').strip()}.idx"
    for path in (index.with_suffix(".pack"), index):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    sync_directory(folder)
    known = {pack.index for pack in old}
    new = OpenPack(index)
    try:
        if {sha for _, sha in new.all()} != ids:
            raise ValueError(f"{index} does not hold what the others do")
        if index not in known and len(new.data) >= size:
            remove_pack(index)
            return
    finally:
        new.close()
    for other in known - {index}:
        remove_pack(other)


def _once(packs: list[OpenPack]) -> Iterator[Item]:
    seen: set[bytes] = set()
    for pack in packs:
        for item in copied(pack):
            if item.sha not in seen:
                seen.add(item.sha)
                yield item


def _is_plain(pack: OpenPack) -> bool:
    """Says whether a pack has nothing beside it that says what it is kept for."""
    return not any(
        pack.index.with_suffix(end).exists() for end in (".keep", ".promisor", ".mtimes")
    )


def _has_room(folder: Path, size: int) -> bool:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize > size + _SPARE
