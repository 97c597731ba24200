"""The write-ahead log: one preallocated file, one `fdatasync` a commit, or a group of commits.

On disk (`.git/kitaru/wal`), all integers little-endian:

    header, at 0 and repeated at 512:
        8 bytes  "KITARUW2"
        u64      generation: grows by one at every reset, so that older records no longer count
        u32      CRC-32 of the 16 bytes before
    records, from 4096 on, back to back:
        u32      CRC-32 of all that follows in this record
        u64      generation
        u32      sequence number in this generation, from 0
        u32      length of the payload in bytes
        payload  (what a payload means is `store`'s business)

A record counts if its CRC, generation and sequence number fit; the first that does not ends the
log. The file is filled with zeros when it is made or grows, so that a later `fdatasync` writes data
only, without a file-system journal commit. It grows with the run, and is cut to its headers when
the run comes to rest. The two headers are written one after the other, each synced, so one of them
is always whole; the larger generation of the valid ones counts.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = ["FIRST_SIZE", "LARGEST_SIZE", "NewerLog", "WriteAheadLog"]

FIRST_SIZE = 64 << 10
LARGEST_SIZE = 4 << 20
_MAGIC = b"KITARUW2"
_FAMILY = _MAGIC[:-1]
_FIRST = 4096
_COPIES = (0, 512)
_HEADER = struct.Struct("<8sQI")
_RECORD = struct.Struct("<IQII")
_BODY = struct.Struct("<QII")


def _header(generation: int) -> bytes:
    body = _MAGIC + struct.pack("<Q", generation)
    return body + struct.pack("<I", zlib.crc32(body))


def _is_newer(magic: bytes) -> bool:
    return magic[:-1] == _FAMILY and _MAGIC[-1:] < magic[-1:] <= b"9"


def _read_generation(raw: bytes) -> int | None:
    if len(raw) < _HEADER.size:
        return None
    magic, generation, crc = _HEADER.unpack(raw[: _HEADER.size])
    if magic != _MAGIC or zlib.crc32(raw[:16]) != crc:
        return None
    return generation


class NewerLog(ValueError):
    """A log that a newer version writes otherwise."""


class WriteAheadLog:
    """An open log. Not thread-safe: the store that owns it serializes its use.

    Attributes:
        position: Where the next record goes, in bytes.
        size: The file's length, in bytes.
    """

    def __init__(self, descriptor: int, generation: int, size: int) -> None:
        self._descriptor = descriptor
        self._generation = generation
        self._sequence = 0
        self.position = _FIRST
        self.size = size

    @staticmethod
    def create(path: Path, size: int = FIRST_SIZE, *, sync: bool = True) -> None:
        """Makes an empty log of `size` bytes. The caller syncs the directory.

        Args:
            path: Where.
            size: Its length in bytes.
            sync: Whether to wait for the disk; else the caller does.

        Raises:
            OSError: The disk refused.
        """
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            zeros = bytes(1 << 18)
            for offset in range(0, size, len(zeros)):
                _write_all(descriptor, zeros[: size - offset], offset)
            for offset in _COPIES:
                _write_all(descriptor, _header(1), offset)
            if sync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @classmethod
    def open(cls, path: Path) -> WriteAheadLog:
        """Opens a log for reading its records and appending more.

        Raises:
            FileNotFoundError: There is no log.
            ValueError: The file is no log of ours.
            OSError: The disk refused.
        """
        return cls._open(path, os.O_RDWR)

    @classmethod
    def open_for_reading(cls, path: Path) -> WriteAheadLog:
        """Opens a log to read its records, on a read-only disk too. Raises as `open` does."""
        return cls._open(path, os.O_RDONLY)

    @classmethod
    def _open(cls, path: Path, flags: int) -> WriteAheadLog:
        try:
            # A FIFO in its place must not hang who opens it.
            descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise ValueError(f"{path} is a link, and no write-ahead log") from error
            raise
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ValueError(f"{path} is no file, and no write-ahead log")
            raw = os.pread(descriptor, _FIRST, 0)
            generations = [_read_generation(raw[offset : offset + 64]) for offset in _COPIES]
            valid = [generation for generation in generations if generation is not None]
            if not valid:
                if any(_is_newer(raw[offset : offset + 8]) for offset in _COPIES):
                    raise NewerLog(f"{path} is a write-ahead log of a newer version")
                raise ValueError(f"{path} is no write-ahead log")
            return cls(descriptor, max(valid), os.fstat(descriptor).st_size)
        except BaseException:
            os.close(descriptor)
            raise

    def records(self) -> Iterator[bytes]:
        """Yields the payloads that count, in order; `append` then goes on behind them."""
        position, sequence = _FIRST, 0
        while position + _RECORD.size <= self.size:
            head = os.pread(self._descriptor, _RECORD.size, position)
            if len(head) < _RECORD.size:
                break
            crc, generation, number, length = _RECORD.unpack(head)
            if generation != self._generation or number != sequence:
                break
            if position + _RECORD.size + length > self.size:
                break
            payload = os.pread(self._descriptor, length, position + _RECORD.size)
            if len(payload) < length or zlib.crc32(payload, zlib.crc32(head[4:])) != crc:
                break
            position += _RECORD.size + length
            sequence += 1
            yield payload
        self.position, self._sequence = position, sequence

    @property
    def torn(self) -> bool:
        """Whether a record was begun behind those that count; known once they were read."""
        head = os.pread(self._descriptor, _RECORD.size, self.position)
        if len(head) < _RECORD.size:
            return False
        _, generation, number, length = _RECORD.unpack(head)
        return generation == self._generation and number == self._sequence and length > 0

    @staticmethod
    def salvage(path: Path) -> bool:
        """Writes the headers of a log anew, where both are lost and its first record is whole.

        Returns:
            Whether the file is a log again.

        Raises:
            OSError: The disk refused.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            head = os.pread(descriptor, _RECORD.size, _FIRST)
            if len(head) < _RECORD.size:
                return False
            crc, generation, number, length = _RECORD.unpack(head)
            if number != 0 or length > os.fstat(descriptor).st_size:
                return False
            payload = os.pread(descriptor, length, _FIRST + _RECORD.size)
            if len(payload) < length or zlib.crc32(payload, zlib.crc32(head[4:])) != crc:
                return False
            for offset in _COPIES:
                _write_all(descriptor, _header(generation), offset)
            os.fsync(descriptor)
            return True
        finally:
            os.close(descriptor)

    def make_room(self, length: int) -> bool:
        """Says whether a payload of `length` bytes fits, once the log has grown if it may.

        Raises:
            OSError: The disk refused.
        """
        needed = self.position + _RECORD.size + length
        if needed <= self.size:
            return True
        if needed > LARGEST_SIZE:
            return False
        size = max(self.size, FIRST_SIZE)
        while size < needed:
            size *= 4
        self._fill(min(size, LARGEST_SIZE))
        return True

    def _fill(self, size: int) -> None:
        zeros = bytes(1 << 18)
        for offset in range(self.size, size, len(zeros)):
            _write_all(self._descriptor, zeros[: size - offset], offset)
        os.fsync(self._descriptor)
        self.size = size

    @property
    def capacity(self) -> int:
        """The largest payload that an empty log takes, in bytes."""
        return LARGEST_SIZE - _FIRST - _RECORD.size

    @property
    def empty(self) -> bool:
        """Whether no record was written since the last reset."""
        return self.position == _FIRST

    def append(self, parts: Sequence[bytes]) -> None:
        """Writes one record, for which `make_room` said that it fits.

        Raises:
            OSError: The disk refused; the record does not count.
        """
        payload = b"".join(parts)
        body = _BODY.pack(self._generation, self._sequence, len(payload))
        crc = zlib.crc32(payload, zlib.crc32(body))
        record = struct.pack("<I", crc) + body + payload
        _write_all(self._descriptor, record, self.position)
        self.position += len(record)
        self._sequence += 1

    def sync(self) -> None:
        """Waits until a power cut no longer loses what was written.

        Raises:
            OSError: The disk refused, and nobody can know what it holds: the log must not be used
                any more.
        """
        os.fdatasync(self._descriptor)

    def reset(self, *, sync: bool) -> None:
        """Forgets all records. What they held must be durable elsewhere before.

        Raises:
            OSError: The disk refused; the old records still count, or the log is empty.
        """
        for offset in _COPIES:
            _write_all(self._descriptor, _header(self._generation + 1), offset)
            if sync:
                os.fdatasync(self._descriptor)
        self._generation += 1
        self._sequence = 0
        self.position = _FIRST

    def shrink(self) -> None:
        """Cuts an empty log to its headers.

        Raises:
            OSError: The disk refused.
        """
        os.ftruncate(self._descriptor, _FIRST)
        self.size = _FIRST

    def close(self) -> None:
        """Closes the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view = view[written:]
        offset += written
