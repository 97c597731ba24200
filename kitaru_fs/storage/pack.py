"""Writing git packs: many objects in one file, one sync instead of thousands.

Formats: gitformat-pack (version 2 pack, version 2 index), without deltas.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable
from hashlib import sha1
from pathlib import Path

from kitaru_fs.storage.refs import sync_directory

__all__ = ["write_pack"]

_KINDS = {"commit": 1, "tree": 2, "blob": 3, "tag": 4}


def _entry_header(kind: str, size: int) -> bytes:
    byte = (_KINDS[kind] << 4) | (size & 0x0F)
    size >>= 4
    out = bytearray()
    while size:
        out.append(byte | 0x80)
        byte = size & 0x7F
        size >>= 7
    out.append(byte)
    return bytes(out)


def write_pack(
    objects_dir: Path, objects: Iterable[tuple[bytes, str, bytes]], count: int, *, sync: bool
) -> Path | None:
    """Writes objects as one pack with its index; a crash leaves either all of it or none.

    Args:
        objects_dir: The repository's `objects` directory.
        objects: (id, kind, content) of each object, without repeats.
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
        name = sha1(b"".join(row[0] for row in rows)).hexdigest()
        _write_index(temporary_index, rows, checksum, sync)
        pack = folder / f"pack-{name}.pack"
        # The index last: git looks for indexes, so a pack without one is not seen.
        os.rename(temporary_pack, pack)
        os.rename(temporary_index, folder / f"pack-{name}.idx")
        if sync:
            sync_directory(folder)
        return pack
    except BaseException:
        temporary_pack.unlink(missing_ok=True)
        temporary_index.unlink(missing_ok=True)
        raise


def _write_objects(
    path: Path, objects: Iterable[tuple[bytes, str, bytes]], count: int, sync: bool
) -> tuple[list[tuple[bytes, int, int]], bytes]:
    rows: list[tuple[bytes, int, int]] = []
    digest = sha1()
    with open(path, "xb", opener=_private) as file:

        def put(data: bytes) -> None:
            digest.update(data)
            file.write(data)

        put(b"PACK" + struct.pack(">II", 2, count))
        offset = 12
        for sha, kind, content in objects:
            data = _entry_header(kind, len(content)) + zlib.compress(content, 3)
            rows.append((sha, zlib.crc32(data), offset))
            put(data)
            offset += len(data)
        checksum = digest.digest()
        file.write(checksum)
        file.flush()
        if sync:
            os.fsync(file.fileno())
    rows.sort()
    return rows, checksum


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
