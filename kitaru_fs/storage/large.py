"""Large files: past the log, straight into a synced pack, read once.

Each is a pack of its own, or joins the one of the version that it follows, as a delta of the first
version there: a database that is written over again and again takes little more than once its
size. The pack is written anew for that, which is no more than writing the version would be.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from hashlib import sha1
from pathlib import Path

from kitaru_fs.storage.deltas import block_delta
from kitaru_fs.storage.loose import LooseObjects
from kitaru_fs.storage.pack import KINDS, Delta, Item, Streamed, write_pack
from kitaru_fs.storage.packs import OpenPack, Packs, copied, remove_pack

__all__ = ["FileChanged", "LargeBlobs"]

_CHUNK = 1 << 20
# What is larger is streamed, and never compared.
_COMPARED = 64 << 20
_LARGEST_FAMILY = 128 << 20
_MOST_VERSIONS = 1000


class FileChanged(Exception):
    """A file's size changed while it was read."""


class _Known(Exception):
    """The blob is in the repository already."""


class LargeBlobs:
    """The large blobs of one repository.

    Args:
        objects_dir: Its `objects`.
        packs: Reads its packs.
        loose: Its loose objects.
    """

    def __init__(self, objects_dir: Path, packs: Packs, loose: LooseObjects) -> None:
        self._objects_dir = objects_dir
        self._packs = packs
        self._loose = loose

    def put(
        self,
        descriptor: int,
        size: int,
        *,
        sync: bool,
        refuse: Callable[[bytes], bool] | None = None,
        base: bytes | None = None,
    ) -> tuple[bytes, bool]:
        """Writes an open file as a blob.

        Args:
            descriptor: The file, open for reading.
            size: How many bytes it has.
            sync: Whether to wait until the blob is on the disk.
            refuse: Says of a piece of the content whether the blob must not be.
            base: The blob that the file held before.

        Returns:
            The blob's id, and whether it is there.

        Raises:
            FileChanged: The file did not have `size` bytes.
            OSError: The disk refused.
        """
        reading = _Reading(descriptor, size, refuse)
        if size <= _COMPARED:
            content = b"".join(reading.pieces())
            sha = sha1(b"blob %d\0" % size + content).digest()
            if reading.refused or self._has(sha):
                return sha, self._has(sha)
            if base is not None and self._join(sha, content, base, sync):
                return sha, True
            blob = Streamed(size, (content[at : at + _CHUNK] for at in range(0, size, _CHUNK)))
            write_pack(self._objects_dir, [blob], 1, sync=sync)
            return sha, True
        blob = Streamed(size, reading.pieces())

        def once() -> Iterator[Item]:
            yield blob
            if reading.refused or self._has(blob.sha):
                raise _Known

        try:
            write_pack(self._objects_dir, once(), 1, sync=sync)
        except _Known:
            return blob.sha, self._has(blob.sha)
        return blob.sha, True

    def _has(self, sha: bytes) -> bool:
        return self._packs.find(sha) is not None or self._loose.has(sha)

    def _join(self, sha: bytes, content: bytes, base: bytes, sync: bool) -> bool:
        """Adds a version to the pack of the one before, if it differs little from the first."""
        found = self._packs.find(base)
        if found is None or not self._is_family(found[0]):
            return False
        pack = found[0]
        (first, root), *_ = pack.all()
        whole = pack.read(first)
        if whole is None or (delta := block_delta(whole[1], content)) is None:
            return False
        items: list[Item] = [*copied(pack), Delta(sha, root, delta)]
        write_pack(self._objects_dir, items, len(items), sync=sync)
        remove_pack(pack.index)
        return True

    def _is_family(self, pack: OpenPack) -> bool:
        if pack.count > _MOST_VERSIONS or len(pack.data) > _LARGEST_FAMILY:
            return False
        kinds = [pack.stored(offset) for offset, _ in pack.all()]
        first = kinds[0]
        return (
            first.kind == KINDS["blob"]
            and first.size > len(pack.data) // 64
            and all(stored.base is not None for stored in kinds[1:])
        )


class _Reading:
    """A file that is read once.

    Attributes:
        refused: Whether a piece of it must not be in the repository.
    """

    def __init__(self, descriptor: int, size: int, refuse: Callable[[bytes], bool] | None) -> None:
        self._descriptor = descriptor
        self._size = size
        self._refuse = refuse
        self.refused = False

    def pieces(self) -> Iterator[bytes]:
        """Yields the content.

        Raises:
            FileChanged: The file has another size.
        """
        seen = 0
        while piece := os.read(self._descriptor, min(_CHUNK, self._size - seen + 1)):
            seen += len(piece)
            if seen > self._size:
                raise FileChanged
            if self._refuse is not None and not self.refused:
                self.refused = self._refuse(piece)
            yield piece
        if seen != self._size:
            raise FileChanged
