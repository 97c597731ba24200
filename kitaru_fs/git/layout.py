"""Whether a run's `.git` is what kitaru can go on with: a plain repository with all of its own."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from kitaru_fs.errors import FormatError, RunDamagedError
from kitaru_fs.git.configfile import ConfigEntry

__all__ = [
    "check_format",
    "check_layout",
    "linked_directories",
    "read_plain_file",
    "read_regular",
    "write_anew",
]

_LIMIT = 1 << 20


def check_layout(git_dir: Path) -> None:
    """Checks that a run's `.git` is a plain repository with its own objects, refs and history.

    Raises:
        RunDamagedError: It is not.
    """
    try:
        mode = git_dir.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise RunDamagedError(
            f"{git_dir} is missing.", hint="Without it there is no journal: restore it from a copy."
        ) from None
    if not stat.S_ISDIR(mode):
        raise RunDamagedError(
            f"{git_dir} is not a directory: this run's repository would be elsewhere.",
            hint="Put the repository itself there, or make a run of it with `git clone`.",
        )
    for name in ("objects", "objects/pack", "refs", "refs/heads", "kitaru", "kitaru/tampered"):
        part = git_dir / name
        if os.path.lexists(part) and not stat.S_ISDIR(part.lstat().st_mode):
            raise RunDamagedError(
                f"{part} is not a directory of its own.",
                hint="`kitaru doctor` puts the directory itself there.",
            )
    for part in linked_directories(git_dir / "refs"):
        raise RunDamagedError(
            f"{part} is not a directory of its own.",
            hint="`kitaru doctor` puts the directory itself there.",
        )
    if os.path.lexists(git_dir / "commondir"):
        raise RunDamagedError(
            f"{git_dir / 'commondir'} sends git to another repository.",
            hint="`kitaru doctor` takes it out of the way; a run has a repository of its own.",
        )
    alternates = git_dir / "objects/info/alternates"
    if _has_lines(alternates):
        raise RunDamagedError(
            f"{alternates} takes objects from another repository.",
            hint="`kitaru doctor` copies them, and takes that file out of the way.",
        )
    if _has_lines(git_dir / "shallow"):
        raise RunDamagedError(
            f"{git_dir / 'shallow'} cuts the history off.",
            hint="In the run, `git fetch --unshallow` gets it; clone runs without --depth.",
        )


def linked_directories(top: Path) -> list[Path]:
    """Returns the links to directories below a directory."""
    return [
        Path(folder, name)
        for folder, names, _ in os.walk(top)
        for name in names
        if os.path.islink(os.path.join(folder, name))
    ]


def _has_lines(path: Path) -> bool:
    if not os.path.lexists(path):
        return False
    content = read_plain_file(path)
    return content is None or any(
        line.strip() and not line.startswith(b"#") for line in content.splitlines()
    )


def check_format(git_dir: Path, entries: Iterable[ConfigEntry]) -> None:
    """Checks that a run's repository is in a format that kitaru reads.

    The config alone proves nothing: an agent may have written it.

    Args:
        git_dir: The run's `.git`.
        entries: What its config says.

    Raises:
        FormatError: It is not.
        RunDamagedError: It is a partial clone.
    """
    extensions = {
        entry.key: (entry.value or "") for entry in entries if entry.section == "extensions"
    }
    hint = "kitaru reads SHA-1 repositories with file refs: clone the run into one."
    if (git_dir / "reftable").is_dir():
        raise FormatError(f"{git_dir} keeps its refs as a reftable.", hint=hint)
    if extensions.get("objectformat", "sha1") != "sha1" and _has_sha256_refs(git_dir):
        raise FormatError(f"{git_dir} has SHA-256 objects.", hint=hint)
    if any((git_dir / "objects/pack").glob("*.promisor")):
        raise RunDamagedError(
            f"{git_dir} is a partial clone: objects are missing.",
            hint="Clone the run without --filter.",
        )


def _has_sha256_refs(git_dir: Path) -> bool:
    """Whether the refs are SHA-256 ids, whatever a planted config says."""
    refs = [git_dir / "HEAD", git_dir / "packed-refs", *(git_dir / "refs").rglob("*")]
    contents = (read_plain_file(path) or b"" for path in refs if path.is_file())
    return any(re.search(rb"(?m)^[0-9a-f]{64}\b", content) for content in contents)


def read_plain_file(path: Path) -> bytes | None:
    """A regular file's content; None where it is missing, too large, or anything else."""
    try:
        # O_NONBLOCK: a planted FIFO may not hang us.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        return file.read() if stat.S_ISREG(found.st_mode) and found.st_size <= _LIMIT else None


def read_regular(path: Path | str) -> bytes:
    """Returns a file's content. What was planted in its place, as a FIFO, never hangs the reader.

    Raises:
        IsADirectoryError: It is no regular file.
        OSError: It cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise IsADirectoryError(errno.EISDIR, "it is no regular file", str(path))
        return file.read()


def write_anew(path: Path, content: bytes, *, sync: bool = False) -> None:
    """Writes a file that was not there: through nothing that was planted in its place, as a link.

    Raises:
        OSError: The disk refused.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        if sync:
            os.fsync(file.fileno())
