"""Git refs in process: `HEAD`, loose refs with git's own lock files, and `packed-refs`."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

from kitaru_fs.errors import RunDamagedError, StorageError
from kitaru_fs.git.layout import read_regular
from kitaru_fs.git.locks import LOCK_MODE
from kitaru_fs.storage.exchange import exchange

__all__ = ["Refs", "is_ref_name"]

_SHA = re.compile(rb"^[0-9a-f]{40}$")
# As `git check-ref-format` has it; a name that leaves no room for `.lock` is none either.
_NAME = re.compile(rb"refs(?:/(?!\.)[^\x00-\x20\x7f~^:?*\[\\/]{1,250}(?<!\.lock))+\Z")
_REFUSED = re.compile(rb"\.\.|@\{|\.\Z")
_LONGEST = 1000
_ASIDE = "refs/kitaru/aside/"
_PATIENCE_SECONDS = 2.0


def is_ref_name(name: str) -> bool:
    """Says whether git, and the file system, take a name (`refs/heads/main`) for a ref."""
    raw = name.encode("utf-8", "surrogateescape")
    return bool(_NAME.match(raw)) and not _REFUSED.search(raw) and len(raw) <= _LONGEST


class Refs:
    """The refs of one repository.

    Args:
        git_dir: The repository's `.git`.
    """

    def __init__(self, git_dir: Path) -> None:
        self._git_dir = git_dir

    def head(self) -> str | bytes:
        """Returns the ref that HEAD is on (`refs/heads/main`), or the commit of a detached HEAD.

        Raises:
            RunDamagedError: HEAD is missing or unreadable.
        """
        try:
            raw = read_regular(self._git_dir / "HEAD").strip()
        except OSError as error:
            raise RunDamagedError(
                f"{self._git_dir}: HEAD cannot be read ({error.strerror})",
                hint="`kitaru doctor` puts it back; else restore the run from a copy or a clone",
            ) from error
        if raw.startswith(b"ref:"):
            name = raw[4:].strip().decode("utf-8", "surrogateescape")
            if is_ref_name(name):
                return name
        if _SHA.match(raw):
            return bytes.fromhex(raw.decode("ascii"))
        raise RunDamagedError(
            f"{self._git_dir}: HEAD names neither a branch nor a commit",
            hint="`kitaru doctor` puts it where it was; else git -C RUN symbolic-ref HEAD"
            " refs/heads/main",
        )

    def set_head(self, ref: str) -> None:
        """Puts HEAD on a branch (`refs/heads/...`); a power cut leaves the one or the other."""
        content = b"ref: " + ref.encode("utf-8", "surrogateescape") + b"\n"
        head = self._git_dir / "HEAD"
        if not head.is_file() or head.read_bytes() != content:
            self._write("HEAD", content, sync=True)

    def detach_head(self, sha: bytes) -> None:
        """Puts HEAD on a commit, and on no branch."""
        self._write("HEAD", sha.hex().encode("ascii") + b"\n")

    def read(self, name: str) -> bytes | None:
        """Returns the commit (20 bytes) that a ref names; None if it is missing or damaged."""
        if not is_ref_name(name):
            return None
        try:
            raw = read_regular(self._git_dir / name).strip()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return self.packed().get(name)
        except OSError:
            return None  # a link in a circle, say
        return bytes.fromhex(raw.decode("ascii")) if _SHA.match(raw) else None

    def all(self, prefix: str = "refs/") -> dict[str, bytes]:
        """Returns every readable ref under a prefix (`refs/heads/`), by name, sorted.

        As git does, it passes over what no ref can be named.
        """
        found = {name: sha for name, sha in self.packed().items() if name.startswith(prefix)}
        git_dir = os.fspath(self._git_dir)
        for folder, _, files in os.walk(f"{git_dir}/{prefix.rstrip('/')}"):
            for file in files:
                if file.endswith(".lock"):
                    continue
                name = f"{folder}/{file}"[len(git_dir) + 1 :]
                sha = self.read(name)
                if sha is not None:
                    found[name] = sha
        return dict(sorted(found.items()))

    def write(self, name: str, sha: bytes) -> None:
        """Sets a ref, unsynced, under git's own lock so that a human's git is never torn.

        Raises:
            StorageError: Another git command keeps the ref locked.
            OSError: The disk refused.
        """
        self._write(name, sha.hex().encode("ascii") + b"\n")

    def keep(self, sha: bytes) -> str:
        """Keeps an object reachable that nothing else may hold; returns the ref that does.

        Raises:
            OSError: The disk refused.
        """
        name = _ASIDE + os.urandom(4).hex()
        self.write(name, sha)
        self.sync([name])
        return name

    def advance(self, name: str, sha: bytes) -> bytes | None:
        """Sets a ref as `write` does, cheaply: for the refs that every commit moves.

        A branch, which a human's git may read at any time, is swapped with a file that holds the
        new value. A ref of ours is overwritten in place: 41 bytes for 41 bytes.

        Returns:
            What a branch named until then; None for another ref, or if it named nothing.

        Raises:
            StorageError: Another git command keeps the ref locked.
            OSError: The disk refused.
        """
        content = sha.hex().encode("ascii") + b"\n"
        path = os.path.join(self._git_dir, name)
        if os.path.exists(path + ".lock"):
            return self._write(name, content)
        if not name.startswith("refs/heads/"):
            return None if _overwrite(path, content) else self._write(name, content)
        if not os.path.isdir(path):
            twin = os.path.join(self._git_dir, "kitaru", "twin")
            if not _overwrite(twin, content):
                _make_anew(twin, content)
            if exchange(twin, path):
                return _named_by(twin)
        return self._write(name, content)

    def write_packed(self, refs: Mapping[str, bytes]) -> None:
        """Replaces `packed-refs`, synced.

        Raises:
            StorageError: Another git command keeps it locked.
            OSError: The disk refused.
        """
        lines = [
            b"%s %s\n" % (sha.hex().encode("ascii"), name.encode("utf-8", "surrogateescape"))
            for name, sha in refs.items()
        ]
        self._write("packed-refs", b"".join(lines), sync=True)

    def delete(self, name: str) -> None:
        """Removes a loose ref; a packed one is the caller's error."""
        (self._git_dir / name).unlink(missing_ok=True)

    def sync(self, names: list[str]) -> None:
        """Waits until refs (and HEAD) are on the disk, with the directories that name them."""
        folders: set[Path] = {self._git_dir}
        for name in names:
            path = self._git_dir / name
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            parent = path.parent
            while parent != self._git_dir:
                folders.add(parent)
                parent = parent.parent
        for folder in sorted(folders, reverse=True):
            sync_directory(folder)

    def _write(self, name: str, content: bytes, *, sync: bool = False) -> bytes | None:
        """Replaces a file of refs under its lock; returns the commit that it named."""
        if name not in ("HEAD", "packed-refs") and not is_ref_name(name):
            raise RunDamagedError(
                f"{self._git_dir}: {name!r} is no name of a ref",
                hint="`kitaru doctor` keeps it aside",
            )
        path = os.path.join(self._git_dir, name)
        lock = path + ".lock"
        deadline = 0.0
        while True:
            try:
                descriptor = os.open(
                    lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, LOCK_MODE
                )
                break
            except FileNotFoundError:
                os.makedirs(os.path.dirname(path), exist_ok=True)
            except FileExistsError:
                now = time.monotonic()
                deadline = deadline or now + _PATIENCE_SECONDS
                if now > deadline:
                    raise StorageError(
                        f"{lock} exists: another git command holds the ref",
                        hint="wait for that command to end; if none runs, remove the lock file",
                    ) from None
                time.sleep(0.01)
        try:
            try:
                os.write(descriptor, content)
                if sync:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if os.path.isdir(path) and not os.path.islink(path):
                _remove_empty(path)
            named = _named_by(path)
            os.rename(lock, path)
        except BaseException:
            os.unlink(lock)
            raise
        # As a lock its mode proved that it was ours; as a ref it is overwritten in place.
        os.chmod(path, 0o644)
        return named

    def packed(self) -> dict[str, bytes]:
        try:
            raw = read_regular(self._git_dir / "packed-refs")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return {}
        packed: dict[str, bytes] = {}
        for line in raw.splitlines():
            sha, _, name = line.partition(b" ")
            decoded = name.decode("utf-8", "surrogateescape")
            if _SHA.match(sha) and is_ref_name(decoded):
                packed[decoded] = bytes.fromhex(sha.decode("ascii"))
        return packed


def _named_by(path: str) -> bytes | None:
    """Returns the commit that a file of one ref names."""
    try:
        raw = read_regular(Path(path)).strip()
    except OSError:
        return None
    return bytes.fromhex(raw.decode("ascii")) if _SHA.match(raw) else None


def _overwrite(path: str, content: bytes) -> bool:
    """Overwrites a file of the same length that no other name shares; says whether it did."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        status = os.fstat(descriptor)
        if status.st_nlink != 1 or status.st_size != len(content):
            return False
        return os.pwrite(descriptor, content, 0) == len(content)
    finally:
        os.close(descriptor)


def _make_anew(path: str, content: bytes) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)


def _remove_empty(path: str) -> None:
    """Removes directories that hold no file, as git does where a ref is to be."""
    for folder, _, _ in os.walk(path, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def sync_directory(path: Path | str) -> None:
    """Waits until the names in a directory are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
