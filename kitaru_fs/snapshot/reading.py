"""Reading one file of `files/` into a blob, or saying why it is left out.

Links are never followed: every file is opened relative to its open directory.

What is read and is not in the last commit is looked at for the credentials that the run knows: a
file that holds one, in its content or its name, is left out. So is what `[redact] patterns` match.
Nothing is decompressed for that: an archive, or an object of a nested repository, may hold one.
"""

from __future__ import annotations

import errno
import os
import stat

from kitaru_fs.redaction.finder import Finder
from kitaru_fs.redaction.redactor import FileWatch
from kitaru_fs.snapshot.filetree import Item, LeftOut
from kitaru_fs.snapshot.seen import SeenFile, clock_ns, signature
from kitaru_fs.storage.objects import object_id
from kitaru_fs.storage.store import LARGE_FILE, FileChanged, Store

__all__ = ["HOLDS", "FileReader"]

HOLDS = "holds the secret "

_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_READ_TRIES = 5


class FileReader:
    """Stages files.

    Args:
        store: Where new objects are staged.
        max_file: The largest file that is recorded, in bytes.

    Attributes:
        files_read: How many were read.
        bytes_staged: How much of that was new; the caller sets it back.
        finder: Finds what is a secret; without it nothing is left out for that.
    """

    def __init__(self, store: Store, max_file: int) -> None:
        self._store = store
        self._max_file = max_file
        self.files_read = 0
        self.bytes_staged = 0
        self.finder: Finder | None = None

    def read(
        self, descriptor: int, name: str, status: os.stat_result, known: Item | None
    ) -> SeenFile | LeftOut | None:
        """Stages a file's or a link's content.

        Args:
            descriptor: The directory that it is in, open.
            name: Its name there.
            status: What `lstat` said.
            known: What it held last, which is not staged again.

        Returns:
            What was read; why it is left out; None if it is gone.

        Raises:
            OSError: The disk refused.
        """
        try:
            if stat.S_ISLNK(status.st_mode):
                return self._read_link(descriptor, name, status, known)
            if stat.S_ISREG(status.st_mode):
                return self._read_file(descriptor, name, known)
        except FileNotFoundError:
            return None
        except PermissionError:
            return LeftOut("unreadable", status.st_size)
        except OSError as error:
            # ELOOP: it became a link, ENXIO: a socket, ESTALE: it is gone; the next look sees it.
            if error.errno in (errno.ELOOP, errno.ENXIO, errno.ESTALE):
                return LeftOut("changed while it was read")
            raise
        kinds = {
            stat.S_IFIFO: "FIFO",
            stat.S_IFSOCK: "socket",
            stat.S_IFBLK: "device",
            stat.S_IFCHR: "device",
        }
        return LeftOut(kinds.get(stat.S_IFMT(status.st_mode), "not a file"))

    def _read_link(
        self, descriptor: int, name: str, status: os.stat_result, known: Item | None
    ) -> SeenFile | LeftOut:
        read_at = clock_ns()
        target = os.fsencode(os.readlink(name, dir_fd=descriptor))
        sha = self._put(target, known)
        if isinstance(sha, LeftOut):
            return sha
        return SeenFile(signature(status), read_at, Item("link", 0o777, sha))

    def _read_file(self, descriptor: int, name: str, known: Item | None) -> SeenFile | LeftOut:
        size = 0
        for _ in range(_READ_TRIES):
            read_at = clock_ns()
            opened = os.open(name, _OPEN_FILE, dir_fd=descriptor)
            try:
                status = os.fstat(opened)
                size = status.st_size
                if not stat.S_ISREG(status.st_mode):
                    return LeftOut("changed while it was read")
                if size > self._max_file:
                    return LeftOut("larger than max_file", size)
                self.files_read += 1
                try:
                    sha = self._read_content(opened, size, known)
                except FileChanged:
                    continue
                if isinstance(sha, LeftOut):
                    return sha
                if signature(os.fstat(opened))[:4] == signature(status)[:4]:
                    mode = stat.S_IMODE(status.st_mode)
                    return SeenFile(signature(status), read_at, Item("file", mode, sha))
            finally:
                os.close(opened)
        return LeftOut("changing while it was read", size)

    def _read_content(self, opened: int, size: int, known: Item | None) -> bytes | LeftOut:
        if size > LARGE_FILE:
            watch = FileWatch(self.finder) if self.finder is not None else None
            base = known.sha if known is not None and known.kind == "file" else None
            sha = self._store.put_large(opened, size, watch, base=base)
            if sha is None:
                return _holds(watch.found if watch else None, size)
            self.bytes_staged += size if known is None or known.sha != sha else 0
            return sha
        # One byte more than there is to be: a file that has grown is noticed.
        data = os.read(opened, size + 1)
        while len(data) < size and (more := os.read(opened, size - len(data) + 1)):
            data += more
        if len(data) != size:
            raise FileChanged
        return self._put(data, known)

    def _put(self, data: bytes, known: Item | None) -> bytes | LeftOut:
        sha = object_id("blob", data)
        if known is not None and sha == known.sha:
            return sha
        found = self.finder.held_by(data) if self.finder is not None else None
        # What the history has already is not kept out of it by leaving the file out now.
        if found is not None and not self._store.has(sha):
            return _holds(found, len(data))
        self.bytes_staged += len(data)
        return self._store.put_scanned("blob", data, sha=sha)


def _holds(secret: str | None, size: int) -> LeftOut:
    return LeftOut(f"{HOLDS}{secret}", size)
