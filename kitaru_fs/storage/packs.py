"""Reading a repository's packs in process: what a run's own packs hold, without starting git.

Formats: gitformat-pack (version 2 pack, version 2 index). What is in no such pack (an index of
version 1, a pack that another git is just replacing) is left to git.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from kitaru_fs.storage.deltas import git_apply
from kitaru_fs.storage.objects import ObjectKind
from kitaru_fs.storage.pack import KINDS, OFFSET_DELTA, Copied, Whole

__all__ = ["OpenPack", "Packs", "Stored", "copied", "remove_pack"]

_REFERENCE_DELTA = 7
_NAMES: dict[int, ObjectKind] = {number: name for name, number in KINDS.items()}  # type: ignore[misc]
_FANOUT = 8
_IDS = _FANOUT + 256 * 4
_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")
# Larger contents are streamed by git, so that memory stays flat.
_LARGEST = 64 << 20


class Stored(NamedTuple):
    """An object as it stands in a pack: `kind` is its type's number there, `base` an offset or id;
    `size` is that of what its zlib stream, at `start`, holds."""

    kind: int
    size: int
    base: int | bytes | None
    start: int


class OpenPack:
    """One pack with its index, mapped into memory.

    Args:
        index: The path of its `.idx`.

    Raises:
        ValueError: It is damaged, or of another version.
        OSError: It cannot be read.
    """

    def __init__(self, index: Path) -> None:
        self.index = index
        self.path = index.with_suffix(".pack")
        self._idx = _map(index)
        if len(self._idx) < _IDS + 40 or self._idx[:8] != b"\xfftOc\0\0\0\2":
            raise ValueError(f"{index} is no index of version 2")
        self._fanout = struct.unpack_from(">256I", self._idx, _FANOUT)
        self.count = self._fanout[255]
        self._crcs = _IDS + 20 * self.count
        self._offsets = self._crcs + 4 * self.count
        self._large = self._offsets + 4 * self.count
        if len(self._idx) < self._large + 40:
            raise ValueError(f"{index} is cut short")
        self.data = _map(self.path)
        if self.data[:4] != b"PACK" or _U32.unpack_from(self.data, 8)[0] != self.count:
            raise ValueError(f"{self.path} does not fit its index")

    def close(self) -> None:
        """Lets the files go."""
        self._idx.close()
        self.data.close()

    def find(self, sha: bytes) -> int | None:
        """Returns where an object is in the pack."""
        first = sha[0]
        low, high = (self._fanout[first - 1] if first else 0), self._fanout[first]
        idx = self._idx
        while low < high:
            middle = (low + high) // 2
            place = _IDS + 20 * middle
            found = idx[place : place + 20]
            if found < sha:
                low = middle + 1
            elif found > sha:
                high = middle
            else:
                return self._offset(middle)
        return None

    def _offset(self, number: int) -> int:
        (offset,) = _U32.unpack_from(self._idx, self._offsets + 4 * number)
        if offset & 0x80000000:
            (offset,) = _U64.unpack_from(self._idx, self._large + 8 * (offset & 0x7FFFFFFF))
        return offset

    def all(self) -> list[tuple[int, bytes]]:
        """Returns the offset and the id of every object, in the order in which they stand."""
        ids = (self._idx[at : at + 20] for at in range(_IDS, self._crcs, 20))
        return sorted((self._offset(number), sha) for number, sha in enumerate(ids))

    def stored(self, offset: int) -> Stored:
        """Returns an object as it stands in the pack.

        Raises:
            ValueError: The pack is damaged.
        """
        data = self.data
        try:
            byte = data[offset]
            kind, size, shift = byte >> 4 & 7, byte & 0x0F, 4
            position = offset + 1
            while byte & 0x80:
                byte = data[position]
                position += 1
                size |= (byte & 0x7F) << shift
                shift += 7
            base: int | bytes | None = None
            if kind == OFFSET_DELTA:
                byte = data[position]
                position += 1
                back = byte & 0x7F
                while byte & 0x80:
                    byte = data[position]
                    position += 1
                    back = back + 1 << 7 | byte & 0x7F
                base = offset - back
            elif kind == _REFERENCE_DELTA:
                base = data[position : position + 20]
                position += 20
        except IndexError as error:
            raise ValueError(f"{self.path} is cut short") from error
        return Stored(kind, size, base, position)

    def inflate(self, found: Stored) -> bytes:
        """Returns what an object's zlib stream holds.

        Raises:
            ValueError: The pack is damaged.
        """
        # Where the stream ends is not known; a little more than it can be is cut off by zlib.
        end = found.start + found.size + (found.size >> 8) + 64
        try:
            data = zlib.decompress(self.data[found.start : end])
        except zlib.error as error:
            raise ValueError(f"{self.path}: {error}") from error
        if len(data) != found.size:
            raise ValueError(f"{self.path}: an object has another size than it says")
        return data

    def read(self, offset: int, *, limit: int = _LARGEST) -> tuple[ObjectKind, bytes] | None:
        """Returns an object's kind and content; None for one that is too large to hold.

        Raises:
            KeyError: It is a delta of an object that is not in this pack.
            ValueError: The pack is damaged.
        """
        chain: list[Stored] = []
        found = self.stored(offset)
        while found.base is not None:
            chain.append(found)
            at = self.find(found.base) if isinstance(found.base, bytes) else found.base
            if at is None:
                raise KeyError(found.base)
            found = self.stored(at)
            if len(chain) > self.count:
                raise ValueError(f"{self.path}: deltas go round in a circle")
        if found.size > limit:
            return None
        content = self.inflate(found)
        for step in reversed(chain):
            content = git_apply(self.inflate(step), content)
        return _NAMES[found.kind], content


class Packs:
    """The packs of a repository, looked for again where an object is in none of them.

    Args:
        objects_dir: The repository's `objects`.
    """

    def __init__(self, objects_dir: Path) -> None:
        self._folder = objects_dir / "pack"
        self._open: dict[str, OpenPack] = {}
        self._seen: tuple[int, int] | None = None
        self._last: OpenPack | None = None

    def close(self) -> None:
        """Lets all files go."""
        for pack in self._open.values():
            pack.close()
        self._open.clear()
        self._seen = self._last = None

    def __iter__(self) -> Iterator[OpenPack]:
        self._look()
        yield from self._open.values()

    def find(self, sha: bytes) -> tuple[OpenPack, int] | None:
        """Returns the pack that holds an object, and where in it."""
        found = self._find(sha)
        if found is None and self._look():
            found = self._find(sha)
        return found

    def read(self, sha: bytes) -> tuple[ObjectKind, bytes] | None:
        """Returns an object's kind and content; None where git has to be asked."""
        found = self.find(sha)
        if found is None:
            return None
        pack, offset = found
        try:
            return pack.read(offset)
        except (KeyError, ValueError):
            return None

    def _find(self, sha: bytes) -> tuple[OpenPack, int] | None:
        # What is read one after the other was mostly written together.
        if self._last is not None and (offset := self._last.find(sha)) is not None:
            return self._last, offset
        for pack in self._open.values():
            offset = pack.find(sha)
            if offset is not None:
                self._last = pack
                return pack, offset
        return None

    def _look(self) -> bool:
        """Opens packs that are new, forgets those that are gone; says whether there were any."""
        try:
            status = os.stat(self._folder)
        except OSError:
            return False
        now = (status.st_mtime_ns, status.st_ino)
        if now == self._seen:
            return False
        self._seen = now
        names = {name for name in os.listdir(self._folder) if name.endswith(".idx")}
        for name in self._open.keys() - names:
            self._open.pop(name).close()
            self._last = None
        news: dict[str, OpenPack] = {}
        for name in sorted(names - self._open.keys()):
            try:
                news[name] = OpenPack(self._folder / name)
            except (OSError, ValueError):
                continue
        # The newest are asked first.
        self._open = {**news, **self._open}
        return bool(news)


def copied(pack: OpenPack) -> Iterator[Copied | Whole]:
    """Yields the objects of a pack as another one takes them, without inflating them."""
    rows = pack.all()
    ids = dict(rows)
    ends = [offset for offset, _ in rows[1:]] + [len(pack.data) - 20]
    for (offset, sha), end in zip(rows, ends, strict=True):
        stored = pack.stored(offset)
        if stored.kind == _REFERENCE_DELTA:
            # Its base may stand behind it: only another git writes such.
            found = pack.read(offset)
            assert found is not None
            yield Whole(sha, *found)
            continue
        base = ids[stored.base] if isinstance(stored.base, int) else None
        kind = _NAMES.get(stored.kind, "blob")
        yield Copied(sha, kind, base, stored.size, pack.data[stored.start : end])


def remove_pack(index: Path) -> None:
    """Removes a pack whose objects stand elsewhere: its index first, so that nobody opens it."""
    for path in (index, index.with_suffix(".rev"), index.with_suffix(".pack")):
        path.unlink(missing_ok=True)


def _map(path: Path) -> mmap.mmap:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if os.fstat(descriptor).st_size == 0:
            raise ValueError(f"{path} is empty")
        return mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
    finally:
        os.close(descriptor)
