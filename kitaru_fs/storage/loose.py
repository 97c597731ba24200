"""Loose objects: one file each, as git has them.

They show a commit to git at once; what makes them durable is the log.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from hashlib import sha1
from pathlib import Path
from typing import BinaryIO

from kitaru_fs.storage.objects import ObjectKind, decode_loose, encode_loose, object_id
from kitaru_fs.storage.refs import sync_directory

__all__ = ["LooseObjects"]

_CHUNK = 1 << 20
_NOT_THERE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_REST = re.compile(r"[0-9a-f]{38}")


class LooseObjects:
    """The loose objects of one repository.

    Args:
        objects_dir: Its `objects`.
    """

    def __init__(self, objects_dir: Path) -> None:
        self.directory = objects_dir
        self._prefix = os.fspath(objects_dir)

    def path(self, sha: bytes) -> str:
        """Returns where an object is, or would be."""
        name = sha.hex()
        return f"{self._prefix}/{name[:2]}/{name[2:]}"

    def has(self, sha: bytes) -> bool:
        """Says whether there is a file of that name."""
        return os.path.exists(self.path(sha))

    def all(self) -> Iterator[bytes]:
        """Yields the ids of all that are there."""
        for first in range(256):
            try:
                names = os.listdir(f"{self._prefix}/{first:02x}")
            except (FileNotFoundError, NotADirectoryError):
                continue
            for name in names:
                if _REST.fullmatch(name):
                    yield bytes.fromhex(f"{first:02x}{name}")

    def read(self, sha: bytes) -> tuple[ObjectKind, bytes] | None:
        """Returns an object's kind and content; None if it is missing, damaged or closed to us."""
        try:
            with open(self.path(sha), "rb", opener=_unhurried) as file:
                kind, data = decode_loose(file.read())
        except (*_NOT_THERE, PermissionError, ValueError):
            return None
        return kind, data  # type: ignore[return-value]

    def is_whole(self, sha: bytes) -> bool:
        """Says whether an object is there and is what its name says; streams a large one."""
        try:
            with open(self.path(sha), "rb", opener=_unhurried) as file:
                digest = sha1()
                for piece in _inflate(file, with_header=True):
                    digest.update(piece)
        except (*_NOT_THERE, ValueError):
            return False
        return digest.digest() == sha

    def stream(self, sha: bytes) -> Iterator[bytes]:
        """Yields an object's content in pieces.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is damaged.
        """
        with open(self.path(sha), "rb", opener=_unhurried) as file:
            yield from _inflate(file)

    def write(self, sha: bytes, kind: ObjectKind, data: bytes) -> None:
        """Writes an object, unsynced; one that is there stays, unless it was cut short.

        Raises:
            OSError: The disk refused; nothing is left behind.
        """
        path = self.path(sha)
        raw = encode_loose(kind, data)
        try:
            descriptor = _create(path)
        except FileNotFoundError:
            # A repack by another git may have removed the empty directory; make it again.
            os.makedirs(os.path.dirname(path), exist_ok=True)
            descriptor = _create(path)
        except FileExistsError:
            if os.stat(path).st_size != len(raw):
                self.put_right(sha, kind, data)
            return
        try:
            try:
                view = memoryview(raw)
                while view:
                    view = view[os.write(descriptor, view) :]
            finally:
                os.close(descriptor)
        except BaseException:
            os.unlink(path)
            raise

    def put_right(self, sha: bytes, kind: ObjectKind, data: bytes) -> None:
        """Replaces an object's file unless it is whole.

        Raises:
            OSError: The disk refused.
        """
        present = self.read(sha)
        if present is not None and object_id(*present) == sha:
            return
        temporary = self._temporary()
        try:
            with open(temporary, "xb", opener=_read_only) as out:
                out.write(encode_loose(kind, data))
            os.makedirs(os.path.dirname(self.path(sha)), exist_ok=True)
            os.rename(temporary, self.path(sha))
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def sync(self, sha: bytes) -> None:
        """Waits until an object's file is on the disk, with the directories that name it.

        Raises:
            OSError: The disk refused.
        """
        path = Path(self.path(sha))
        with path.open("rb") as file:
            os.fsync(file.fileno())
        for folder in (path.parent, path.parent.parent):
            sync_directory(folder)

    def remove(self, sha: bytes) -> None:
        """Removes an object's file, if there is one."""
        try:
            os.unlink(self.path(sha))
        except FileNotFoundError:
            return

    def _temporary(self) -> str:
        return f"{self._prefix}/tmp_obj_{os.getpid()}_{os.urandom(6).hex()}"


def _inflate(file: BinaryIO, *, with_header: bool = False) -> Iterator[bytes]:
    """Yields the content of a loose object, with or without its header.

    Raises:
        ValueError: It is no whole loose object.
    """
    inflate = zlib.decompressobj()
    head = b""
    left: int | None = None
    while not inflate.eof:
        raw = inflate.unconsumed_tail or file.read(_CHUNK)
        if not raw:
            raise ValueError("a loose object is cut short")
        try:
            piece = inflate.decompress(raw, _CHUNK)
        except zlib.error as error:
            raise ValueError(str(error)) from error
        if left is None:
            head += piece
            header, separator, piece = head.partition(b"\0")
            if not separator:
                continue
            size = header.partition(b" ")[2]
            if not size.isdigit():
                raise ValueError("not a loose object")
            left = int(size)
            if with_header:
                yield header + b"\0"
        left -= len(piece)
        yield piece
    if left != 0:
        raise ValueError("a loose object's header does not fit its content")


def _unhurried(path: str, flags: int) -> int:
    # A FIFO that was planted in an object's place reads as empty, and never hangs the reader.
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _create(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)


def _read_only(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o444)
