"""How kitaru left a run: where HEAD stood, and whether in order.

On disk, in `.git/kitaru/`:

    left.json    where HEAD was when the run was left, or began to be driven: `head`, `commit`,
                 `reflog` (the length of git's HEAD log: only git writes it); after an orderly stop
                 also `at` (nanoseconds since the epoch) and `boot` (see `lost_since`)
    made.json    `at` and `boot` of when the run was made
    driven       a process drives the run, or died doing so
    unfinished   it was stopped in the middle of something
    clone        a clone that kitaru did not settle yet
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from kitaru_fs.git.layout import write_anew
from kitaru_fs.holding.lock import Holder
from kitaru_fs.processtable import boot_id
from kitaru_fs.rundir.oplog import Place
from kitaru_fs.rundir.repository import HEADS, Repository
from kitaru_fs.storage.refs import Refs, sync_directory

__all__ = [
    "forget_clone",
    "forget_driven",
    "has_crashed",
    "is_clone",
    "left_where",
    "lost_since",
    "mark_clone",
    "moved_by_hand",
    "moved_since_left",
    "never_driven",
    "read_left",
    "record_left",
    "record_made",
    "reflog_grew",
    "was_cut_off",
    "was_driven",
    "was_left",
    "was_torn",
]

_LEFT = "left.json"
_MADE = "made.json"
_DRIVEN = "driven"
_UNFINISHED = "unfinished"
_CLONE = "clone"


# Leaving a run


def record_left(repository: Repository, *, orderly: bool, torn: bool = False) -> None:
    """Notes that the run is driven from here on, or that it stops here in order.

    An orderly stop notes where HEAD stands, so that a later `git checkout` or `reset` is seen. What
    drives a run and ends without one, by a crash or for a disk that refused, leaves the first note.

    Args:
        repository: The run.
        orderly: Whether the run stops here.
        torn: It was stopped in the middle of something: it does not wait, whatever its last commit
            says.

    Raises:
        OSError: The disk refused.
    """
    left = repository.private_dir / _LEFT
    if not orderly:
        _mark(repository.private_dir / _DRIVEN)
        if left.exists():
            return
    note = _where(repository.git_dir, repository.refs)
    _write_note(repository, _LEFT, note | (_now() if orderly else {}))
    if orderly:
        mark = repository.private_dir / _UNFINISHED
        if torn:
            _mark(mark)
        else:
            mark.unlink(missing_ok=True)
        if repository.durable:
            # Before the run is no longer known as driven.
            sync_directory(repository.private_dir)
        forget_driven(repository)


def record_made(repository: Repository) -> None:
    """Notes when a run was made. The caller syncs the directory.

    Raises:
        OSError: The disk refused.
    """
    _write_note(repository, _MADE, _now())


def _now() -> dict[str, Any]:
    return {"at": time.time_ns(), "boot": boot_id()}


def _mark(path: Path) -> None:
    if path.is_symlink() or not path.is_file():
        write_anew(path, b"")


def _write_note(repository: Repository, name: str, note: dict[str, Any]) -> None:
    place = repository.private_dir / name
    temporary = place.with_suffix(".new")
    write_anew(temporary, msgspec.json.encode(note), sync=repository.durable)
    os.rename(temporary, place)


def forget_driven(repository: Repository) -> None:
    """Notes that the run was let go in order, as it was found.

    Raises:
        OSError: The disk refused.
    """
    (repository.private_dir / _DRIVEN).unlink(missing_ok=True)


# Clones


def mark_clone(git_dir: Path) -> None:
    """Notes of a directory in which kitaru was never, before it makes anything there, that it is a
    clone: what git does not carry is to be set in it.

    Raises:
        OSError: The disk refused.
    """
    private = git_dir / "kitaru"
    if private.is_dir():
        return
    building = git_dir / f"kitaru.new-{os.getpid()}"
    building.mkdir(mode=0o700, exist_ok=True)
    (building / _CLONE).touch(mode=0o600)
    with contextlib.suppress(FileExistsError):
        # Another process has just done the same; its lock is what decides.
        os.rename(building, private)


def is_clone(git_dir: Path) -> bool:
    """Says whether a directory is a clone that was not settled yet; writes nothing."""
    private = git_dir / "kitaru"
    return not private.is_dir() or (private / _CLONE).exists()


def forget_clone(repository: Repository) -> None:
    """Notes that what git does not carry was set: from here on the clone is a run like any other.

    Raises:
        OSError: The disk refused.
    """
    (repository.private_dir / _CLONE).unlink(missing_ok=True)


# How it was left


def was_left(repository: Repository) -> bool:
    """Says whether a process has driven the run before."""
    return (repository.private_dir / _LEFT).exists()


def never_driven(git_dir: Path) -> bool:
    """Says whether no process has ever driven a run.

    Args:
        git_dir: The run's `.git`.
    """
    names = (_LEFT, _DRIVEN, _CLONE, "holder.json")
    return not any((git_dir / "kitaru" / name).exists() for name in names)


def has_crashed(repository: Repository, dead: Holder | None) -> bool:
    """Says whether the last process that drove a run ended without an orderly stop.

    Args:
        repository: The run, its log read.
        dead: Who died holding it, as far as is known.
    """
    # A copy of the run, or a power cut, may have lost any of these. The log of a run that was made
    # and never driven is not empty either.
    torn_log = repository.store.has_log and was_left(repository)
    return dead is not None or torn_log or was_driven(repository.git_dir)


def was_torn(git_dir: Path) -> bool:
    """Says whether the last process that drove a run left it in the middle of something."""
    private = git_dir / "kitaru"
    return (private / _DRIVEN).exists() or (private / _UNFINISHED).exists()


def was_driven(git_dir: Path) -> bool:
    """Says whether whoever drove a run last did not stop in order, or drives it still.

    Args:
        git_dir: The run's `.git`.
    """
    return (git_dir / "kitaru" / _DRIVEN).exists()


def was_cut_off(git_dir: Path) -> bool:
    """Says whether the machine was started anew since a run was made or stopped in order: its power
    may have been cut before all that was written then was on the disk.

    Args:
        git_dir: The run's `.git`.
    """
    boot = _read_stop(git_dir).get("boot")
    return bool(boot) and boot != boot_id()


def lost_since(repository: Repository, differing: Iterable[bytes]) -> bool:
    """Says whether a power cut is what changed files of a run that had stopped in order.

    What they held may not have been on the disk yet. Then they are not what a commit says though
    nobody touched them since: whoever edits a file sets the time of its last change.

    Args:
        repository: The run.
        differing: The paths below `files/` that are not what the last commit says.
    """
    at = _read_stop(repository.git_dir).get("at")
    if not was_cut_off(repository.git_dir) or not isinstance(at, int):
        return False
    root = os.fsencode(repository.files_dir)
    return any(_changed_at(root, path) <= at for path in differing)


def _changed_at(root: bytes, path: bytes) -> int:
    place = os.path.join(root, path)
    while True:
        try:
            return os.lstat(place).st_ctime_ns
        except (FileNotFoundError, NotADirectoryError):
            # Whoever removes a file changes its directory.
            place = os.path.dirname(place)


# Whether HEAD has moved since


def left_where(git_dir: Path) -> Place | None:
    """Returns where kitaru left HEAD, as far as is known."""
    left = read_left(git_dir)
    if left is None or not isinstance(left.get("commit"), str):
        return None
    return Place(str(left.get("head", "")).removeprefix(HEADS), left["commit"])


def moved_since_left(git_dir: Path, refs: Refs) -> bool:
    """Says whether HEAD is not where kitaru left it, whoever moved it.

    Raises:
        RunDamagedError: HEAD cannot be read.
    """
    left = read_left(git_dir) or {}
    return any(left.get(name) != value for name, value in _where(git_dir, refs).items())


def moved_by_hand(git_dir: Path, refs: Refs, *, crashed: bool) -> bool:
    """Says whether plain git moved HEAD since kitaru left the run, or began to drive it.

    Args:
        git_dir: The run's `.git`.
        refs: Its refs.
        crashed: Whoever drove it last died doing so: what it committed moved HEAD too.

    Raises:
        RunDamagedError: HEAD cannot be read.
    """
    if read_left(git_dir) is None:
        return False
    if crashed:
        return reflog_grew(git_dir) or isinstance(refs.head(), bytes)
    return moved_since_left(git_dir, refs)


def reflog_grew(git_dir: Path) -> bool:
    """Says whether git wrote its log of HEAD since kitaru left the run, or began to drive it."""
    left = read_left(git_dir)
    return _reflog(git_dir) != (left or {}).get("reflog", 0)


def _where(git_dir: Path, refs: Refs) -> dict[str, Any]:
    at = refs.head()
    sha = at if isinstance(at, bytes) else refs.read(at)
    return {
        "head": at.hex() if isinstance(at, bytes) else at,
        "commit": sha.hex() if sha else None,
        "reflog": _reflog(git_dir),
    }


def _reflog(git_dir: Path) -> int:
    log = git_dir / "logs" / "HEAD"
    return log.stat().st_size if log.exists() else 0


def read_left(git_dir: Path) -> dict[str, Any] | None:
    """Returns what `left.json` says; None where nothing can be read."""
    return _read_note(git_dir, _LEFT)


def _read_stop(git_dir: Path) -> dict[str, Any]:
    return read_left(git_dir) or _read_note(git_dir, _MADE) or {}


def _read_note(git_dir: Path, name: str) -> dict[str, Any] | None:
    try:
        return msgspec.json.decode((git_dir / "kitaru" / name).read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError):
        return None
