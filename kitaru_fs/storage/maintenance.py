"""Keeping a run's packs few: small ones become one, as they are, without being inflated.

Only who holds the run's lock does it. The new pack is on the disk before an old one goes, so a
reader beside it, git or kitaru, finds every object in one of them. Nothing is dropped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from kitaru_fs.storage.pack import Item, write_pack
from kitaru_fs.storage.packs import OpenPack, Packs, copied, remove_pack

__all__ = ["consolidate"]

# So many packs become one, if they have no more than so many objects and bytes together: that
# takes some tenths of a second.
_ENOUGH = 16
_OBJECTS = 40_000
_BYTES = 64 << 20
# From so many packs on it may take longer: looking in each of them does.
_CROWDED = 64
_SPARE = 16 << 20


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
    known = [pack for pack in packs if _is_plain(pack)]
    factor = 8 if len(known) >= _CROWDED else 1
    chosen: list[OpenPack] = []
    objects = size = 0
    for pack in sorted(known, key=lambda pack: len(pack.data)):
        objects += pack.count
        size += len(pack.data)
        if objects > _OBJECTS * factor or size > _BYTES * factor:
            break
        chosen.append(pack)
    if len(chosen) < _ENOUGH or not _has_room(objects_dir, size):
        return 0
    count = len({sha for pack in chosen for _, sha in pack.all()})
    written = write_pack(objects_dir, _once(chosen), count, sync=sync)
    for pack in chosen:
        if pack.path != written:
            remove_pack(pack.index)
    return len(chosen)


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
