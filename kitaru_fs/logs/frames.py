"""What a process says of itself in the pipe that it prints into, between what it prints.

A frame is MARK LENGTH HEADER NUL TEXT: the mark is a record separator and a nonce that only the
two ends know, the length is four hexadecimal digits, the header JSON, the text bytes as printed.
A frame is never longer than what a pipe takes in one piece, so nothing gets between its parts; what
it says holds for the place where it stands among what was printed.
"""

from __future__ import annotations

import select
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

__all__ = ["Frame", "FrameReader", "FrameWriter"]

# POSIX guarantees 512, Linux 4096.
_ATOMIC = getattr(select, "PIPE_BUF", 512)
_LENGTH = 4


class Frame(NamedTuple):
    """A header, and what was printed under it."""

    header: dict[str, Any]
    text: bytes


class FrameWriter:
    """Makes frames.

    Args:
        nonce: What both ends know.
    """

    def __init__(self, nonce: str) -> None:
        self._mark = b"\x1e" + nonce.encode("ascii")

    def one(self, header: dict[str, Any]) -> bytes:
        """Returns a frame without text.

        Raises:
            ValueError: It is too long.
        """
        return self._frame(msgspec.json.encode(header), b"")

    def printed(self, header: dict[str, Any], text: bytes) -> Iterator[bytes]:
        """Yields as many frames as a text needs.

        Raises:
            ValueError: The header is too long.
        """
        encoded = msgspec.json.encode(header)
        room = self._room(encoded)
        for start in range(0, len(text), room):
            yield self._frame(encoded, text[start : start + room])

    def _room(self, encoded: bytes) -> int:
        room = _ATOMIC - len(self._mark) - _LENGTH - len(encoded) - 1
        if room < 1:
            raise ValueError("a frame's header is too long")
        return room

    def _frame(self, encoded: bytes, text: bytes) -> bytes:
        self._room(encoded)
        length = len(encoded) + 1 + len(text)
        return b"%s%04x%s\0%s" % (self._mark, length, encoded, text)


class FrameReader:
    """Takes what comes out of the pipe apart.

    Args:
        nonce: What both ends know.
    """

    def __init__(self, nonce: str) -> None:
        self._mark = b"\x1e" + nonce.encode("ascii")
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Frame | bytes]:
        """Yields frames and what was printed between them, as far as it has come."""
        self._rest += data
        while True:
            start = self._rest.find(self._mark)
            if start < 0:
                whole = len(self._rest) - self._begun()
                if whole:
                    yield self._take(whole)
                return
            if start:
                yield self._take(start)
            begin = len(self._mark) + _LENGTH
            if len(self._rest) < begin:
                return
            end = begin + int(self._rest[len(self._mark) : begin], 16)
            if len(self._rest) < end:
                return
            header, _, text = self._take(end)[begin:].partition(b"\0")
            yield Frame(msgspec.json.decode(header), text)

    def end(self) -> bytes:
        """Returns what is left when nothing comes any more."""
        return self._take(len(self._rest))

    def _take(self, length: int) -> bytes:
        taken, self._rest = self._rest[:length], self._rest[length:]
        return taken

    def _begun(self) -> int:
        """How many bytes at the end may be the beginning of a mark."""
        at = self._rest.rfind(self._mark[:1], max(0, len(self._rest) - len(self._mark) + 1))
        return len(self._rest) - at if at >= 0 and self._mark.startswith(self._rest[at:]) else 0
