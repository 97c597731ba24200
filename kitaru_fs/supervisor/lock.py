"""One supervisor a workspace: who has the lock on `.kitaru/up.lock`; the file says who that is."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from pathlib import Path
from typing import NamedTuple

import msgspec

from kitaru_fs.clock import stamp
from kitaru_fs.errors import HeldError
from kitaru_fs.storage.store import storage_error

__all__ = ["LockHolder", "has_lock", "read_lock_holder", "take_lock"]

# Who only looks has the lock for a moment too.
_TRIES = 5
_PAUSE = 0.02


class LockHolder(NamedTuple):
    """Who supervises a workspace.

    Attributes:
        since: UTC, ISO 8601.
    """

    pid: int
    host: str
    since: str


def take_lock(workspace: Path) -> int:
    """Makes this process the workspace's supervisor, until it ends or closes the descriptor.

    Args:
        workspace: The workspace's directory.

    Returns:
        The descriptor that holds the lock.

    Raises:
        HeldError: Another process is; the message names it.
        StorageError: The disk refused.
    """
    path = _path(workspace)
    descriptor = -1
    try:
        path.parent.mkdir(exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not _lock(descriptor):
            raise _taken(_read(descriptor))
        holder = LockHolder(os.getpid(), socket.gethostname(), stamp())
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, msgspec.json.encode(holder._asdict()) + b"\n", 0)
    except (OSError, HeldError) as error:
        if descriptor >= 0:
            os.close(descriptor)
        if isinstance(error, HeldError):
            raise
        raise storage_error(error, "becoming the workspace's supervisor") from error
    return descriptor


def has_lock(workspace: Path, descriptor: int) -> bool:
    """Says whether a supervisor's lock still keeps others out: `.kitaru/` may be deleted.

    Args:
        workspace: The workspace's directory.
        descriptor: What `take_lock` returned.
    """
    with contextlib.suppress(OSError):
        return os.path.samestat(os.stat(_path(workspace)), os.fstat(descriptor))
    return False


def read_lock_holder(workspace: Path) -> LockHolder | None:
    """Returns who supervises a workspace; None if nobody does. Writes nothing.

    Args:
        workspace: The workspace's directory.
    """
    try:
        descriptor = os.open(_path(workspace), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _read(descriptor)
    finally:
        os.close(descriptor)
    return None


def _lock(descriptor: int) -> bool:
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_PAUSE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            pass
    return False


def _taken(holder: LockHolder) -> HeldError:
    return HeldError(
        f"process {holder.pid} on {holder.host} supervises this workspace since {holder.since}",
        hint=f"kitaru watch shows what it does; `kill {holder.pid}` on {holder.host} stops it "
        "in order",
    )


def _read(descriptor: int) -> LockHolder:
    try:
        return LockHolder(**msgspec.json.decode(os.pread(descriptor, 4096, 0)))
    except (OSError, msgspec.MsgspecError, TypeError):
        return LockHolder(0, "this machine", "a moment ago")  # it is just writing that


def _path(workspace: Path) -> Path:
    return workspace / ".kitaru" / "up.lock"
