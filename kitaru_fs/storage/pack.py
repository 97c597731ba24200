"""Writing git packs: many objects in one file, one sync instead of thousands.

Formats: gitformat-pack (version 2 pack, version 2 index).
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from hashlib import sha1
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from kitaru_fs.storage.objects import deflate
from kitaru_fs.storage.refs import sync_directory

__all__ = ["KINDS", "OFFSET_DELTA", "Copied", "Delta", "Streamed", "Whole", "write_pack"]

KINDS = {"commit": 1, "tree": 2, "blob": 3, "tag": 4}
OFFSET_DELTA = 6


class Whole(NamedTuple):
    """An object with its content."""

    sha: bytes
    kind: str
    content: bytes


class Delta(NamedTuple):
    """An object as git's delta of another one, which stands before it in the same pack."""

    sha: bytes
    base: bytes
    delta: bytes


class Copied(NamedTuple):
    """An object as it stands in another pack: its size there, and its zlib stream.

    `base` is None for a whole object of a kind; else the object that it is a delta of.
    """

    sha: bytes
    kind: str
    base: bytes | None
    size: int
    stream: bytes | memoryview


class Streamed:
    """A blob that comes in pieces, so that its size does not matter.

    Args:
        size: How many bytes it has.
        pieces: Its content.

    Attributes:
        sha: Its id, known once it was written.
    """

    def __init__(self, size: int, pieces: Iterable[bytes]) -> None:
        self.size = size
        self.sha = b""
        self._pieces = pieces

    def streams(self) -> Iterator[bytes]:
        """Yields its zlib stream, in pieces."""
        digest = sha1(b"blob %d\0" % self.size)
        deflater: Any = None
        for piece in self._pieces:
            digest.update(piece)
            deflater = deflater or zlib.compressobj(_level_for(piece))
            yield deflater.compress(piece)
        yield (deflater or zlib.compressobj()).flush()
        self.sha = digest.digest()


def _level_for(sample: bytes) -> int:
    return 1 if len(zlib.compress(sample[: 1 << 16], 1)) < 0.9 * len(sample[: 1 << 16]) else 0


Item = Whole | Delta | Copied | Streamed


def write_pack(
    objects_dir: Path, objects: Iterable[Item], count: int, *, sync: bool
) -> Path | None:
    """Writes objects as one pack with its index; a crash leaves either all of it or none.

    Args:
        objects_dir: The repository's `objects` directory.
        objects: The objects, without repeats.
        count: How many there are.
        sync: Whether to wait until the pack is on the disk.

    Returns:
        The pack's path, or None if there was nothing to write.

    Raises:
        OSError: The disk refused; nothing is left behind.
    """
    if not count:
        return None
    folder = objects_dir / "pack"
    folder.mkdir(exist_ok=True)
    token = f"{os.getpid()}-{os.urandom(4).hex()}"
    temporary_pack, temporary_index = folder / f"tmp_pack_{token}", folder / f"tmp_idx_{token}"
    try:
        rows, checksum = _write_objects(temporary_pack, objects, count, sync)
        _write_index(temporary_index, rows, checksum, sync)
        # Named by what is in it, byte for byte: a name never gets another content.
        pack = folder / f"pack-{checksum.hex()}.pack"
        # The index last: git looks for indexes, so a pack without one is not seen.
        os.rename(temporary_pack, pack)
        os.rename(temporary_index, pack.with_suffix(".idx"))
        if sync:
            sync_directory(folder)
        return pack
    except BaseException:
        temporary_pack.unlink(missing_ok=True)
        temporary_index.unlink(missing_ok=True)
        raise


def _header(kind: int, size: int) -> bytes:
    byte = (kind << 4) | (size & 0x0F)
    size >>= 4
    out = bytearray()
    while size:
        out.append(byte | 0x80)
        byte = size & 0x7F
        size >>= 7
    out.append(byte)
    return bytes(out)


def _distance(number: int) -> bytes:
    out = bytearray([number & 0x7F])
    number >>= 7
    while number:
        number -= 1
        out.insert(0, 0x80 | number & 0x7F)
        number >>= 7
    return bytes(out)


def _write_objects(
    path: Path, objects: Iterable[Item], count: int, sync: bool
) -> tuple[list[tuple[bytes, int, int]], bytes]:
    rows: list[tuple[bytes, int, int]] = []
    places: dict[bytes, int] = {}
    digest = sha1()
    with open(path, "xb", opener=_private) as file:
        head = b"PACK" + struct.pack(">II", 2, count)
        digest.update(head)
        file.write(head)
        offset = len(head)
        for item in objects:
            checksum, length = _write_item(file, digest, item, offset, places)
            places[item.sha] = offset
            rows.append((item.sha, checksum, offset))
            offset += length
        end = digest.digest()
        file.write(end)
        file.flush()
        if sync:
            os.fsync(file.fileno())
    if len(rows) != count:
        raise ValueError(f"{len(rows)} objects came, not {count}")
    rows.sort()
    return rows, end


def _write_item(
    file: BinaryIO, digest: Any, item: Item, offset: int, places: dict[bytes, int]
) -> tuple[int, int]:
    if isinstance(item, Whole):
        head = _header(KINDS[item.kind], len(item.content))
        stream: bytes | memoryview = deflate(item.content)
    elif isinstance(item, Delta):
        back = _distance(offset - places[item.base])
        head = _header(OFFSET_DELTA, len(item.delta)) + back
        stream = deflate(item.delta)
    elif isinstance(item, Streamed):
        return _write_pieces(file, digest, [_header(KINDS["blob"], item.size)], item.streams())
    else:
        stream = item.stream
        if item.base is None:
            head = _header(KINDS[item.kind], item.size)
        else:
            back = _distance(offset - places[item.base])
            head = _header(OFFSET_DELTA, item.size) + back
    return _write_pieces(file, digest, [head, stream], ())


def _write_pieces(
    file: BinaryIO, digest: Any, first: list[bytes | memoryview], more: Iterable[bytes]
) -> tuple[int, int]:
    checksum = length = 0
    for piece in chain(first, more):
        digest.update(piece)
        file.write(piece)
        checksum = zlib.crc32(piece, checksum)
        length += len(piece)
    return checksum, length


def _write_index(
    path: Path, rows: list[tuple[bytes, int, int]], checksum: bytes, sync: bool
) -> None:
    fanout = [0] * 256
    for sha, _, _ in rows:
        fanout[sha[0]] += 1
    total = 0
    for first in range(256):
        total += fanout[first]
        fanout[first] = total
    large: list[int] = []
    offsets: list[int] = []
    for _, _, offset in rows:
        if offset < 0x80000000:
            offsets.append(offset)
        else:
            offsets.append(0x80000000 | len(large))
            large.append(offset)
    count = len(rows)
    body = b"".join(
        [
            b"\xfftOc",
            struct.pack(">I", 2),
            struct.pack(">256I", *fanout),
            b"".join(row[0] for row in rows),
            struct.pack(f">{count}I", *(row[1] for row in rows)),
            struct.pack(f">{count}I", *offsets),
            struct.pack(f">{len(large)}Q", *large),
            checksum,
        ]
    )
    with open(path, "xb", opener=_private) as file:
        file.write(body + sha1(body).digest())
        file.flush()
        if sync:
            os.fsync(file.fileno())


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o444)
