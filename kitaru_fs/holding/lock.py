"""One writer per run.

The lock is a POSIX record lock on `.git/kitaru/lock`: the kernel drops it when the process ends,
however it ends; a stopped process keeps it; a forked child does not have it. `holder.json` beside
it names the holder (`holder`).

A POSIX lock goes when its process closes *any* descriptor of the file. So the file is never opened
while this process holds it, and opening and closing happen under `_guard`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import socket
import stat
import struct
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from kitaru_fs.errors import HeldError, RunDamagedError, StorageError
from kitaru_fs.holding.holder import Holder, iso_time, read_record, record_path, write_record
from kitaru_fs.processtable import boot_id, pid_namespace, start_time

__all__ = ["Holder", "RunLock", "read_holder", "read_last_holder", "replace_lock_file"]


_Key = tuple[int, int]
_guard = threading.Lock()
_held: dict[_Key, RunLock] = {}


class RunLock:
    """The lock on one run. `acquire` takes it; `release`, or the end of the process, gives it up.

    Attributes:
        holder: This process's record; its `nonce` is for `processes.run_environment`.
        previous: Who died holding the run; what its steps may have left running is to be ended
            (`processes.end_leftovers`) and recovered from, then forgotten (`forget_previous`).
    """

    def __init__(self, git_dir: Path, fd: int, key: _Key, holder: Holder) -> None:
        self.git_dir = git_dir
        self.holder = holder
        self.previous = holder.previous
        self._fd: int | None = fd
        self._key = key
        self._path = os.fspath(_lock_path(git_dir))
        self._owner = os.getpid()

    @classmethod
    def acquire(cls, git_dir: Path, purpose: str) -> RunLock:
        """Takes the lock of a run.

        Args:
            git_dir: The run's `.git`.
            purpose: What for, in a word or two, to be shown to others.

        Raises:
            HeldError: Somebody holds it, this process included.
            RunDamagedError: The run has no `.git`, or its lock is no plain file.
            StorageError: The disk refused, or its file system knows no locks.
        """
        git_dir = git_dir.absolute()
        path = _lock_path(git_dir)
        with _guard:
            while True:
                _refuse_own(path, git_dir)
                fd = _open(path)
                try:
                    key = _lock(fd, path, git_dir)
                    if key is not None:
                        lock = cls._begin(git_dir, fd, key, purpose)
                        _held[key] = lock
                        return lock
                except BaseException:
                    os.close(fd)
                    raise
                os.close(fd)  # the file was replaced meanwhile

    @classmethod
    def _begin(cls, git_dir: Path, fd: int, key: _Key, purpose: str) -> RunLock:
        path, pid = record_path(git_dir), os.getpid()
        holder = Holder(
            pid=pid,
            host=socket.gethostname(),
            since=iso_time(datetime.now(UTC)),
            boot=boot_id(),
            start=start_time(pid) or 0,
            namespace=pid_namespace(),
            nonce=secrets.token_hex(8),
            pgid=os.getpgrp(),
            sid=os.getsid(0),
            purpose=purpose,
            alive=True,
            previous=_dead(read_record(git_dir, key[1])),
        )
        lock = cls(git_dir, fd, key, holder)
        try:
            os.utime(fd)
            write_record(git_dir, key, holder)
        except OSError as error:
            # A full disk must not keep `gc` from making room; others then learn the pid alone.
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise _refused(path, error) from error
        return lock

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    @property
    def is_held(self) -> bool:
        """Whether this process holds the lock by this object; never in a forked child."""
        return self._fd is not None and self._owner == os.getpid()

    def verify(self) -> None:
        """Checks that the lock still keeps others out. Cheap: one `stat`.

        Raises:
            HeldError: It was given up, or this is a forked child.
            RunDamagedError: Somebody removed or replaced the lock file.
        """
        if not self.is_held:
            raise HeldError(
                f"This process ({os.getpid()}) does not hold the run in {self.git_dir.parent}.",
                hint="Only the process that took the run up may drive it, not one forked from it.",
                run=self.git_dir.parent.name,
            )
        if _key_of(self._path) != self._key:
            raise RunDamagedError(
                f"{self._path} was removed or replaced while the run was driven.",
                hint="End this process and resume: nothing else keeps a second one out.",
                run=self.git_dir.parent.name,
            )

    def forget_previous(self) -> None:
        """Records that nothing of a dead holder is left to be ended or recovered from.

        Until this is called, `release` leaves the dead holder's record, and the next `acquire`
        returns it again.

        Raises:
            StorageError: The disk refused.
        """
        if self.is_held and self.previous is not None:
            try:
                write_record(self.git_dir, self._key, replace(self.holder, previous=None))
            except OSError as error:
                raise _refused(record_path(self.git_dir), error) from error
            self.previous = None

    def release(self) -> None:
        """Gives the lock up. May be called twice; does nothing in a forked child."""
        if not self.is_held:
            return
        with _guard:
            # The record goes while the lock is ours: another's must not be removed.
            with contextlib.suppress(OSError):
                write_record(self.git_dir, self._key, self.previous)
            _held.pop(self._key, None)
            self.drop()

    def drop(self) -> None:
        """Closes the lock file and nothing else; for a forked child, where that drops no lock."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def read_holder(git_dir: Path) -> Holder | None:
    """Who holds a run's lock, or died holding it. Writes nothing, and drops no lock.

    Args:
        git_dir: The run's `.git`.

    Returns:
        The holder, with `alive` true; one that died, with `alive` false (None where that was on
        another machine, whose locks this file system may not show); None where the last holder
        gave the lock up in order.
    """
    path = _lock_path(git_dir)
    with _guard:
        key = _key_of(path)
        if key is None:
            return None
        own = _held.get(key)
        if own is not None:
            return own.holder
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            pid = _locked_by(fd)
        finally:
            os.close(fd)
    if pid is not None:
        return _describe(pid, git_dir, key)
    return _dead(read_record(git_dir, key[1]))


def read_last_holder(git_dir: Path) -> Holder | None:
    """Who held a run's lock last, where the lock itself cannot be asked: something else is in the
    place of its file.

    Args:
        git_dir: The run's `.git`.

    Returns:
        The holder, with `alive` true where its process is still there, and None where that cannot
        be known from here; None for nobody.
    """
    with _guard:
        for own in _held.values():
            if own.git_dir == git_dir.absolute():
                return own.holder
    holder = read_record(git_dir)
    if holder is None:
        return None
    if holder.boot == boot_id() and holder.namespace == pid_namespace():
        return replace(holder, alive=start_time(holder.pid) == holder.start)
    return _dead(holder)


def replace_lock_file(git_dir: Path, holder: Holder | None) -> None:
    """Makes a run's lock file anew, where it is missing, with the record of who died holding it.

    Args:
        git_dir: The run's `.git`.
        holder: Who held it last.

    Raises:
        OSError: The disk refused.
    """
    path = _lock_path(git_dir)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    key = _key_of(path)
    if key is not None:
        write_record(git_dir, key, holder)


def _dead(holder: Holder | None) -> Holder | None:
    if holder is None:
        return None
    here = holder.host == socket.gethostname() or holder.boot == boot_id()
    return replace(holder, alive=False if here else None)


def _describe(pid: int, git_dir: Path, key: _Key) -> Holder:
    """The holder with a pid, from its record if that is about it."""
    holder = read_record(git_dir, key[1])
    # A pid of another machine or pid namespace cannot be compared with the record's.
    if holder and (pid in (0, holder.pid) or holder.host != socket.gethostname()):
        return replace(holder, alive=True)
    taken = datetime.fromtimestamp(_lock_path(git_dir).lstat().st_mtime, UTC)
    return Holder(
        pid=pid,
        host=socket.gethostname(),
        since=iso_time(taken),
        boot=boot_id(),
        start=start_time(pid) or 0,
        namespace=pid_namespace(),
        alive=True,
    )


def _lock_path(git_dir: Path) -> Path:
    return git_dir / "kitaru" / "lock"


def _key_of(path: Path | str) -> _Key | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _refuse_own(path: Path, git_dir: Path) -> None:
    key = _key_of(path)
    own = _held.get(key) if key is not None else None
    if own is not None:
        raise _held_error(own.holder, git_dir)


def _open(path: Path) -> int:
    if not path.parent.parent.is_dir():
        raise RunDamagedError(
            f"{path.parent.parent} is missing.", hint="`kitaru runs` lists the runs that are whole."
        )
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if path.parent.is_symlink():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        # O_NONBLOCK: a planted FIFO may not hang us.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(path, flags, 0o600)
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENXIO):
            raise RunDamagedError(
                f"{path} is not a plain file in a plain directory.",
                hint="`kitaru doctor` makes it anew.",
            ) from error
        raise _refused(path, error) from error


def _refused(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"The run cannot be taken up, {path} cannot be written: {error.strerror}.",
        hint="Make room on the disk or make it writable; reading commands work as it is.",
    )


def _lock(fd: int, path: Path, git_dir: Path) -> _Key | None:
    """Locks the open file and returns its key; None if it is not the file at `path` any more."""
    found = os.fstat(fd)
    key = found.st_dev, found.st_ino
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise _held_error(_describe(_locked_by(fd) or 0, git_dir, key), git_dir) from None
        raise StorageError(
            f"{path} cannot be locked: {error.strerror}.",
            hint="Keep the workspace on a file system with POSIX locks, such as a local disk.",
        ) from error
    return key if _key_of(path) == key else None


def _held_error(holder: Holder, git_dir: Path) -> HeldError:
    run = git_dir.parent.name
    purpose = f" for {holder.purpose}" if holder.purpose else ""
    if holder.pid == os.getpid() and holder.host == socket.gethostname():
        who = f"This process (pid {holder.pid} on {holder.host})"
        hint = "Close the handle that drives it, or use that one."
    else:
        who = f"Process {holder.pid} on {holder.host}" if holder.pid else "Another process"
        hint = "Wait until it ends, or stop it in order: `kitaru pause` the run"
        if holder.pid:
            hint += (
                f", or `kill {holder.pid}` on {holder.host} (`kill -CONT` too, if it is stopped)"
            )
        hint += "."
    message = f"{who} holds the run {run}{purpose} since {holder.since}."
    return HeldError(message, hint=hint, run=run)


def _locked_by(fd: int) -> int | None:
    """The pid of another process with the lock; 0 where it has none here; None for nobody."""
    # struct flock: type, whence, start, length, pid; BSD, and so macOS, has the first two last.
    linux = sys.platform.startswith("linux")
    layout = "hhqqi" if linux else "qqihh"
    asked = (fcntl.F_WRLCK, 0, 0, 0, 0) if linux else (0, 0, 0, fcntl.F_WRLCK, 0)
    # The structure may end with padding: some bytes more.
    answer = fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack(layout, *asked) + bytes(8))
    found = struct.unpack_from(layout, answer)
    kind, pid = (found[0], found[4]) if linux else (found[3], found[2])
    return None if kind == fcntl.F_UNLCK else max(int(pid), 0)


def _forget_after_fork() -> None:
    """In a forked child: the parent's locks are not ours, nor is what another thread guarded."""
    global _guard
    _guard = threading.Lock()
    for lock in _held.values():
        lock.drop()
    _held.clear()


os.register_at_fork(after_in_child=_forget_after_fork)
