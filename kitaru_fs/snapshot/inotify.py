"""What changed below a directory, as the kernel says: Linux's inotify.

The kernel queues an event within the call that changes a file. So what is read here is complete
for all that was done before, by whatever process, without waiting for anything. Never seen are
writes through `mmap`, and those that another machine, or another name of the same file (a hard link
outside the directory), is the way of.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

__all__ = ["Event", "Inotify"]

_EVENT = struct.Struct("iIII")
_READ = 1 << 16
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC  # IN_NONBLOCK and IN_CLOEXEC are these

_MODIFY, _ATTRIB, _MOVED_FROM, _MOVED_TO = 0x2, 0x4, 0x40, 0x80
_CREATE, _DELETE, _DELETE_SELF, _MOVE_SELF = 0x100, 0x200, 0x400, 0x800
_UNMOUNT, _OVERFLOW, _IGNORED = 0x2000, 0x4000, 0x8000
_ONLY_DIRECTORY = 0x1000000
_CONTENT = _MODIFY | _ATTRIB | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
_MASK = _CONTENT | _DELETE_SELF | _MOVE_SELF | _ONLY_DIRECTORY
_LOST = _UNMOUNT | _OVERFLOW
# A user has 128 in all, by default: most are left to other programs.
_MOST = 32


class Event(NamedTuple):
    """Something changed: a name in a watched directory, or the directory itself (an empty name)."""

    watch: int
    name: bytes
    gone: bool


@cache
def _library() -> Any:
    library = ctypes.CDLL(None, use_errno=True)
    return library if hasattr(library, "inotify_init1") else None


class Inotify:
    """Watches directories.

    Raises:
        OSError: The system has none left, or none at all, or this process has its share.
    """

    _open = 0

    def __init__(self) -> None:
        library = _library() if sys.platform == "linux" else None
        if library is None:
            raise OSError("no inotify here")
        if Inotify._open >= _MOST:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        self._library = library
        self._descriptor = library.inotify_init1(_FLAGS)
        if self._descriptor < 0:
            self._descriptor = -1
            raise OSError(ctypes.get_errno(), "inotify_init1")
        Inotify._open += 1

    def watch(self, directory: int) -> int:
        """Watches an open directory; returns the watch, the same for the same directory.

        Raises:
            OSError: The system has no watch left.
        """
        path = b"/proc/self/fd/%d" % directory
        found = self._library.inotify_add_watch(self._descriptor, path, _MASK)
        if found < 0:
            raise OSError(ctypes.get_errno(), "inotify_add_watch")
        return int(found)

    def forget(self, watch: int) -> None:
        """Ends a watch; one that has ended already is no error."""
        self._library.inotify_rm_watch(self._descriptor, watch)

    def events(self) -> Iterator[Event | None]:
        """Yields what happened since the last call; None where some of it was lost."""
        while True:
            try:
                data = os.read(self._descriptor, _READ)
            except BlockingIOError:
                return
            position = 0
            while position < len(data):
                watch, mask, _, length = _EVENT.unpack_from(data, position)
                position += _EVENT.size
                name = data[position : position + length].rstrip(b"\0")
                position += length
                if mask & _LOST:
                    yield None
                elif mask & _IGNORED:
                    yield Event(watch, b"", gone=True)
                elif mask & (_CONTENT | _MOVE_SELF | _DELETE_SELF):
                    yield Event(watch, name, gone=False)
            if len(data) < _READ // 2:
                return

    def close(self) -> None:
        """Ends all watches."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            Inotify._open -= 1
