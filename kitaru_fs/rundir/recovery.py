"""Taking a run up: from whatever a dead process, a human's git or a clone left, to a known state.

Order: lock -> end what a dead holder's steps left running -> our git settings -> log -> refs ->
where HEAD stands -> what the journal shows on disk. Nothing here writes a commit or touches
`files/`; what must be committed or put back is described by `Standing`, and done by the execution
once replay has agreed with the journal.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from kitaru_fs.errors import ConflictError, RunDamagedError
from kitaru_fs.git.config import ensure_canonical
from kitaru_fs.git.index import clear_stale_locks
from kitaru_fs.holding.lock import Holder, RunLock
from kitaru_fs.holding.processes import end_leftovers
from kitaru_fs.redaction.credentials import Credentials
from kitaru_fs.rundir.aside import keep_if_lost
from kitaru_fs.rundir.leaving import (
    has_crashed,
    is_clone,
    left_where,
    mark_clone,
    moved_by_hand,
    moved_since_left,
    reflog_grew,
    was_cut_off,
)
from kitaru_fs.rundir.oplog import Place
from kitaru_fs.rundir.repository import HEADS, TIPS, Point, Repository
from kitaru_fs.rundir.showing import put_right
from kitaru_fs.storage.refs import Refs
from kitaru_fs.storage.store import storage_error

__all__ = [
    "Standing",
    "is_unfinished",
    "locate",
    "next_branch",
    "recover",
    "recover_refs",
    "take_up",
]

_GRACE_SECONDS = 2.0


class Standing(NamedTuple):
    """Where a run stands when it is taken up.

    Attributes:
        head: The commit that HEAD is on.
        base: The nearest commit of ours at or before it: replay goes up to there.
        branch: The branch to go on with, without `refs/heads/`.
        create: The branch does not exist yet: it begins at `head`.
        put_back: Branches that a human's `reset` moved, and where they belong.
        moved: HEAD moved under plain git since kitaru left it.
        by_hand: It was plain git that did, not what a process that died committed.
        fresh: The directory is a clone, and what git does not carry was not set in it yet.
        crashed: The last process that drove it ended without an orderly stop.
        died_in: What that process had taken it up for, if that is known.
        notes: What was found and put right, a sentence each.
        left_at: Where kitaru left HEAD, as far as is known.
    """

    head: bytes
    base: Point
    branch: str
    create: bool
    put_back: dict[str, bytes]
    moved: bool
    by_hand: bool
    fresh: bool
    crashed: bool
    died_in: str
    notes: list[str]
    left_at: Place | None


class TakenUp(NamedTuple):
    """A run that this process holds."""

    lock: RunLock
    repository: Repository
    standing: Standing


def take_up(
    path: Path, *, purpose: str, durable: bool = True, credentials: Credentials | None = None
) -> TakenUp:
    """Takes the run's lock, recovers its store, and says where it stands.

    Args:
        path: The run's directory.
        purpose: What for, as others are told (`resume`).
        durable: Whether commits wait for the disk.
        credentials: What is kept out of every commit; the environment's by default.

    Raises:
        HeldError: Another process drives the run.
        FormatError: A newer kitaru wrote it.
        RunDamagedError: The repository is missing or damaged.
        StorageError: The disk refused.
    """
    git_dir = path / ".git"
    try:
        if not (git_dir / "objects").is_dir():
            Repository(path).close()
        mark_clone(git_dir)
        lock = RunLock.acquire(git_dir, purpose)
    except OSError as error:
        raise storage_error(error, f"taking up the run {path.name}") from error
    try:
        return recover(lock, path, durable=durable, credentials=credentials)
    except BaseException:
        lock.release()
        raise


def recover(
    lock: RunLock, path: Path, *, durable: bool = True, credentials: Credentials | None = None
) -> TakenUp:
    """Recovers the store of a run whose lock was taken, and says where it stands.

    Args:
        lock: The run's lock; the caller gives it up, after an error too.
        path: The run's directory.
        durable: Whether commits wait for the disk.
        credentials: What is kept out of every commit; the environment's by default.

    Raises:
        RunDamagedError: The repository is missing or damaged.
        StorageError: The disk refused.
    """
    git_dir = path / ".git"
    try:
        fresh = is_clone(git_dir)
        notes: list[str] = []
        if lock.previous is not None:
            notes += _end_leftovers(lock.previous, path)
        notes += [str(found) for found in ensure_canonical(git_dir)]
        notes += [f"cleared a stale lock: {name}" for name in clear_stale_locks(git_dir)]
        if fresh:
            _adopt_clone(path)
        repository = Repository(path, durable=durable, credentials=credentials)
        try:
            repository.store.open_log()
            recover_refs(repository)
            if fresh:
                _adopt_branches(repository.refs)
            crashed = has_crashed(repository, lock.previous)
            if crashed:
                repository.store.sweep()
            died_in = lock.previous.purpose if lock.previous is not None else ""
            standing = locate(
                repository, fresh=fresh, crashed=crashed, died_in=died_in, notes=notes
            )
            repository.refuse_newer(standing.base)
            if crashed or fresh or standing.moved or was_cut_off(git_dir):
                moved = put_right(repository, standing.base.root)
                notes += [f"set aside: {one}" for one in moved]
        except BaseException:
            repository.close()
            raise
    except OSError as error:
        raise storage_error(error, f"taking up the run {path.name}") from error
    return TakenUp(lock, repository, standing)


def _end_leftovers(holder: Holder, path: Path) -> list[str]:
    try:
        ended = end_leftovers(holder, path, _GRACE_SECONDS)
    except ConflictError as error:
        # It died on another machine: what it left running there cannot be ended from here.
        return [error.message]
    return [f"ended process {one.pid} that a step had left running: {one.command}" for one in ended]


def _adopt_clone(path: Path) -> None:
    for name in ("files", "inbox"):
        (path / name).mkdir(exist_ok=True)
    os.chmod(path, 0o700)


def _adopt_branches(refs: Refs) -> None:
    """Gives each branch the tip of ours that a clone does not carry: it tells a human's `reset`."""
    names = [TIPS + name.removeprefix(HEADS) for name in refs.all(HEADS)]
    missing = [name for name in names if refs.read(name) is None]
    for name in missing:
        found = refs.read(HEADS + name.removeprefix(TIPS))
        if found is not None:
            refs.write(name, found)
    if missing:
        refs.sync(missing)


def recover_refs(repository: Repository) -> None:
    """Completes what the log holds: its objects, then its refs. Doing it twice changes nothing.

    A branch's own tip (`refs/kitaru/tips/`) always follows the log. The branch itself follows only
    from where the log's commits found it: elsewhere, a human's `git reset` put it there.
    """
    refs = repository.refs
    logged = repository.store.recover_objects()
    for name, sha in logged.items():
        if name.startswith(HEADS):
            tip = TIPS + name.removeprefix(HEADS)
            branch, at = refs.read(name), refs.read(tip)
            if is_unfinished(repository, branch, at, sha):
                if branch != at:
                    keep_if_lost(repository, name, sha)
                refs.write(name, sha)
    for name, sha in logged.items():
        if not name.startswith(HEADS) and refs.read(name) != sha:
            refs.write(name, sha)


def is_unfinished(
    repository: Repository, branch: bytes | None, tip: bytes | None, logged: bytes
) -> bool:
    """Says whether a branch is where an unfinished commit of ours left it.

    We write the branch first and its tip second, so the branch is at the tip or ahead of it, and
    not ahead of the log. A tip that cannot be read means a power cut.
    """
    if branch == logged:
        return False
    if branch is None or tip is None:
        return True
    # Without a word in git's reflog nobody moved it: a power cut brought an older value back.
    if not reflog_grew(repository.git_dir):
        return True
    for sha in repository.ancestors(logged):
        if sha == branch:
            return True
        if sha == tip:
            return False
    return False


def locate(
    repository: Repository, *, fresh: bool, crashed: bool, died_in: str, notes: list[str]
) -> Standing:
    """Says which commit and branch a run goes on from, as HEAD stands; writes nothing.

    Raises:
        RunDamagedError: HEAD names nothing.
    """
    refs = repository.refs
    at = refs.head()
    put_back: dict[str, bytes] = {}
    create = False
    if isinstance(at, bytes):
        head = at
        branch = _branch_at(refs, head)
        if branch is None:
            branch, create = next_branch(refs), True
    else:
        branch = at.removeprefix(HEADS)
        found = _there(repository, refs.read(at))
        tip = _there(repository, refs.read(TIPS + branch))
        if found is None and tip is None:
            raise RunDamagedError(
                f"{repository.path}: HEAD is on {branch!r}, which has no commit",
                hint="`kitaru doctor` puts it right where it can; else git -C RUN switch BRANCH,"
                " with one that `git branch` lists",
            )
        if found is None and tip is not None:
            put_back[branch], found = tip, tip
        assert found is not None
        head = found
        if tip is not None and tip != head and tip not in _back(repository, head, tip):
            put_back[branch] = tip
            branch, create = next_branch(refs), True
    for name, tip in refs.all(TIPS).items():
        other = name.removeprefix(TIPS)
        at_other = refs.read(HEADS + other)
        if other == branch or at_other == tip or other in put_back:
            continue
        if _there(repository, tip) is None:
            continue
        if at_other is None or tip not in _back(repository, at_other, tip):
            put_back[other] = tip
    left = left_where(repository.git_dir)
    begun = left is not None or repository.point(head).step != 0
    moved = begun and moved_since_left(repository.git_dir, refs)
    return Standing(
        head=head,
        base=repository.nearest_point(head),
        branch=branch,
        create=create,
        put_back=put_back,
        moved=moved and not fresh,
        by_hand=moved_by_hand(repository.git_dir, refs, crashed=crashed),
        fresh=fresh,
        crashed=crashed,
        died_in=died_in,
        notes=notes,
        left_at=left,
    )


def _there(repository: Repository, sha: bytes | None) -> bytes | None:
    """Returns what a ref names, unless nothing of it is there: an agent may have planted it."""
    store = repository.store
    return sha if sha is not None and (store.loose.has(sha) or store.has(sha)) else None


def _back(repository: Repository, start: bytes, until: bytes) -> list[bytes]:
    """Returns the first-parent chain from `start` back to `until`, or to the first commit of ours
    that is not `until`: a tip of ours is never below another commit of ours that a human made.
    """
    chain: list[bytes] = []
    for sha in repository.ancestors(start):
        chain.append(sha)
        if sha == until or repository.point(sha).step >= 0:
            break
    return chain


def _branch_at(refs: Refs, commit: bytes) -> str | None:
    names = [name.removeprefix(TIPS) for name, sha in refs.all(TIPS).items() if sha == commit] + [
        name.removeprefix(HEADS) for name, sha in refs.all(HEADS).items() if sha == commit
    ]
    return names[0] if names else None


def next_branch(refs: Refs) -> str:
    """Returns the name of the next branch that kitaru makes; names are never used again."""
    used = [1]
    for prefix in (HEADS, TIPS, "refs/remotes/"):
        for name in refs.all(prefix):
            # A clone has the other branches as `refs/remotes/origin/NAME`.
            match = re.fullmatch(r"(?:.*/)?branch-(\d{1,9})", name.removeprefix(prefix))
            if match:
                used.append(int(match[1]))
    return f"branch-{max(used) + 1}"
