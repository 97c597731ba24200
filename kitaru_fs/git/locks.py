"""git's lock files in a run: taking them as git does, and clearing those that nobody holds.

A killed git, or a killed kitaru, leaves `index.lock`, `HEAD.lock` or a ref's lock, and the next
git refuses to work. A lock file says nothing about who made it, so ours are marked (`LOCK_MODE`),
and others are cleared only where it is proved that their makers are gone.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from kitaru_fs.errors import ConflictError, StorageError
from kitaru_fs.processtable import (
    Process,
    arguments,
    process_table,
    sees_all_processes,
    start_seconds,
    start_time,
    variable,
    works_in,
)

__all__ = ["LOCK_MODE", "FoundLock", "LockFile", "clear_stale_locks", "find_locks", "is_local"]

LOCK_MODE = 0o444
"""The mode of every lock file that kitaru makes. It marks them: git's own are writable."""

# File systems that no other machine works on; a git there would not be among our processes.
_LOCAL = frozenset(
    {
        *("apfs", "bcachefs", "btrfs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs", "hfs"),
        *("jfs", "nilfs2", "ntfs3", "overlay", "ramfs", "reiserfs", "tmpfs", "ubifs", "ufs"),
        *("vfat", "xfs", "zfs"),
    }
)


class LockFile:
    """The `NAME.lock` beside a file of git's, taken as git takes it, and provable as ours.

    It is made read-only: git makes its own writable. The file that it becomes stays so, which
    hinders nobody: git replaces files, it never writes into them.
    """

    def __init__(self, target: Path, lock: Path, fd: int) -> None:
        self._target = target
        self._lock = lock
        self._fd = fd
        self._committed = False

    @classmethod
    def acquire(cls, target: Path, patience: float = 2.0) -> LockFile:
        """Takes the lock on a file.

        Args:
            target: The file that will be replaced.
            patience: For so many seconds another program may hold the lock.

        Raises:
            ConflictError: Another program holds it.
            StorageError: The disk refused.
        """
        lock = target.with_name(target.name + ".lock")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        deadline = time.monotonic() + patience
        pause = 0.005
        while True:
            try:
                return cls(target, lock, os.open(lock, flags, LOCK_MODE))
            except FileExistsError:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise ConflictError(
                        f"Another git is at work: {lock} exists.",
                        hint="Let it end. If none runs there, `kitaru doctor` clears it.",
                    ) from None
                # Nothing tells when a lock file goes; git itself polls.
                time.sleep(min(pause, left))
                pause = min(pause * 2, 0.1)
            except OSError as error:
                raise _refused(lock, error) from error

    def write(self, data: bytes | bytearray) -> None:
        """Appends to what will replace the file.

        Raises:
            StorageError: The disk refused.
        """
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            raise _refused(self._lock, error) from error

    def commit(self, *, durable: bool = False, modified: int | None = None) -> None:
        """Replaces the file by what was written.

        Args:
            durable: Whether it must outlive a power cut.
            modified: The modification time that the file shall have, in nanoseconds.

        Raises:
            StorageError: The disk refused; the file is as it was.
        """
        try:
            if modified is not None:
                os.utime(self._fd, ns=(modified, modified))
            if durable:
                os.fsync(self._fd)
            os.rename(self._lock, self._target)
            self._committed = True
            if durable:
                _sync_directory(self._target.parent)
        except OSError as error:
            raise _refused(self._target, error) from error

    def release(self) -> None:
        """Gives the lock up; without `commit` the file stays as it was. May be called twice."""
        if self._fd < 0:
            return
        os.close(self._fd)
        self._fd = -1
        if not self._committed:
            self._lock.unlink(missing_ok=True)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True)
class FoundLock:
    """A lock file of git's in a run.

    Attributes:
        path: Relative to `.git`.
        is_stale: Whether it is proved that nobody holds it.
        why: The proof, or what speaks against it, in a few words.
    """

    path: str
    is_stale: bool
    why: str


def find_locks(git_dir: Path) -> list[FoundLock]:
    """The lock files of a run, and whether each is proved to be nobody's. Writes nothing.

    Only for who holds the run's lock, and before it writes anything. A lock is stale if

    - it has our mark (`LOCK_MODE`): only who holds the run's lock makes such, and that is we; or
    - it is empty of a living holder on this machine: this process sees all others, and none that
      is older than the lock has a file open or its working directory in the run, or is a git that
      names the run. A git keeps its working directory in the work tree while it holds a lock.

    Everything else is left alone: in a container, without `/proc`, or on a network file system a
    git that this process cannot see may hold it.

    Args:
        git_dir: The run's `.git`.
    """
    found: list[FoundLock] = []
    for path in _lock_paths(git_dir):
        with contextlib.suppress(FileNotFoundError):
            is_stale, why = _judge(path, git_dir)
            found.append(FoundLock(str(path.relative_to(git_dir)), is_stale, why))
    return found


def clear_stale_locks(git_dir: Path) -> list[str]:
    """Removes the lock files that a killed kitaru or git left (`find_locks` has the proof).

    Only who holds the run's lock may call it, before it writes anything.

    Args:
        git_dir: The run's `.git`.

    Returns:
        What was removed, relative to `.git`.

    Raises:
        StorageError: The disk refused.
    """
    cleared: list[str] = []
    for lock in find_locks(git_dir):
        if lock.is_stale:
            try:
                (git_dir / lock.path).unlink(missing_ok=True)
            except OSError as error:
                raise _refused(git_dir / lock.path, error) from error
            cleared.append(lock.path)
    return cleared


def _lock_paths(git_dir: Path) -> list[Path]:
    paths = [git_dir / name for name in os.listdir(git_dir) if name.endswith(".lock")]
    for folder in (git_dir / "refs", git_dir / "logs", git_dir / "info"):
        for parent, _, names in os.walk(folder):
            paths += [Path(parent, name) for name in names if name.endswith(".lock")]
    return sorted(paths)


def _judge(path: Path, git_dir: Path) -> tuple[bool, str]:
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        return False, "it is no plain file"
    if not found.st_mode & stat.S_IWUSR:
        return True, "kitaru made it, and nobody but this process drives the run"
    if not sees_all_processes() or not is_local(path):
        return False, "a git that cannot be seen from here may hold it"
    run = git_dir.resolve().parent
    resolved = path.resolve()
    for process in process_table().values():
        if process.pid != os.getpid() and _may_hold(process, resolved, run, found.st_mtime):
            return False, f"process {process.pid} ({process.command}) may hold it"
    return True, "the git that made it is gone"


def _may_hold(process: Process, path: Path, run: Path, made: float) -> bool:
    """Whether a process may have made a lock file and hold it still."""
    # Start times are known to the second.
    if start_seconds(process) > made + 2:
        return False
    if works_in(process.pid, path, files_only=True):
        return True
    if process.command != "git" and not process.command.startswith("git-"):
        return False
    words = arguments(process.pid)
    if words is None:
        return start_time(process.pid) == process.start  # it may have ended meanwhile
    if "cat-file" in words:
        return False  # a reader, ours or another's; it takes no locks
    told = [*words, variable(process.pid, "GIT_DIR") or "", variable(process.pid, "PWD") or ""]
    return works_in(process.pid, run) or any(str(run) in word for word in told)


def is_local(path: Path) -> bool:
    """Whether a file is on a file system of this machine alone."""
    resolved = path.resolve()
    kind, depth = "", -1
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        mounted = Path(re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), before.split()[4]))
        if resolved.is_relative_to(mounted) and len(mounted.parts) >= depth:
            kind, depth = after.split()[0], len(mounted.parts)
    return kind in _LOCAL


def _refused(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"Could not write {path}: {error.strerror}.",
        hint="Make room on the disk or make it writable; nothing was changed.",
    )
