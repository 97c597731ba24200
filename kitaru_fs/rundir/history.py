"""Reading a run's past: its commits, its entries, and what a STEP names. Nothing here writes."""

from __future__ import annotations

import re
from collections.abc import Container, Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from kitaru_fs.entry import Entry, Usage, parse_total, parse_trailers
from kitaru_fs.errors import AmbiguousError, NotFoundError
from kitaru_fs.redaction.credentials import Credentials
from kitaru_fs.rundir.recovery import is_unfinished
from kitaru_fs.rundir.repository import HEADS, TIPS, Point, Repository
from kitaru_fs.snapshot.filetree import DirRef, read_directory
from kitaru_fs.storage.objects import Commit, parse_commit
from kitaru_fs.storage.store import storage_error

__all__ = [
    "At",
    "LogLine",
    "OpenRun",
    "open_run",
    "read_file",
    "read_log",
    "read_new",
    "resolve",
]

# Entries that are no outcome of a step: a name finds them only if no step has it.
_BESIDE = frozenset({"failed", "resume", "end", "start", "intent", "edit", "fork"})

# So many commits are read one by one before git is asked for the others.
_FEW = 200


class LogLine(NamedTuple):
    """One commit of a run.

    Attributes:
        step: Its number; None for a commit that a human made.
        commit: 40 hexadecimal digits.
        duration: Seconds.
        files: The paths that changed.
        branch: The branch that it was found on.
        kept: The ref that keeps what a failed attempt left.
        parent: The commit before it; None for the first.
    """

    step: int | None
    name: str
    kind: str
    status: str
    commit: str
    duration: float
    files: list[str]
    usage: Usage | None
    branch: str
    subject: str
    attempt: int
    kept: str | None
    parent: str | None

    def to_json(self) -> dict[str, Any]:
        """Returns the line as the command line's `--json` has it."""
        return {
            "step": self.step,
            "name": self.name,
            "kind": self.kind,
            "status": self.status,
            "commit": self.commit,
            "duration": self.duration,
            "files": self.files,
            "usage": msgspec.to_builtins(self.usage),
            "branch": self.branch,
            "attempt": self.attempt,
            "parent": self.parent,
        }


class At(NamedTuple):
    """A commit that a STEP names; `step` is None for one that a human made."""

    commit: bytes
    step: int | None


class OpenRun:
    """A run that is open for reading.

    Attributes:
        repository: Its repository.
        head: The commit that HEAD is on.
        branch: The branch that HEAD is on; None if it is detached.
        point: The nearest commit of ours at or before it.
    """

    def __init__(self, path: Path, *, credentials: Credentials | None = None) -> None:
        self.repository = Repository(path, credentials=credentials)
        refs = self.repository.refs
        at = refs.head()
        # Before the log, which is never behind them.
        self._refs = refs.all(HEADS) | refs.all(TIPS)
        # What is in the log counts, though a process that died has not published it, or one that
        # lives has yet to.
        self._logged = self.repository.store.load_log()
        if isinstance(at, bytes):
            self.branch, self.head = None, at
        else:
            self.branch = at.removeprefix(HEADS)
            found = self.tip(self.branch)
            if found is None:
                raise NotFoundError(
                    f"{path}: HEAD is on {self.branch!r}, which has no commit",
                    hint="`kitaru doctor` puts it right, or git -C RUN switch BRANCH",
                )
            self.head = found
        self.point: Point = self.repository.nearest_point(self.head)

    @property
    def has_log(self) -> bool:
        """Whether a dead process left commits in its log that recovery has yet to complete."""
        return bool(self._logged)

    def tip(self, branch: str) -> bytes | None:
        """Returns the commit that a branch is on, as recovery would leave it."""
        found = self._refs.get(HEADS + branch)
        logged = self._logged.get(HEADS + branch)
        if logged is not None and is_unfinished(
            self.repository, found, self._refs.get(TIPS + branch), logged
        ):
            return logged
        return found

    def branches(self) -> list[str]:
        """Returns the branches' names, the one that HEAD is on first."""
        names = {name.removeprefix(HEADS).removeprefix(TIPS) for name in self._refs}
        names.discard(self.branch or "")
        return ([self.branch] if self.branch else []) + sorted(names)

    def tips(self) -> dict[str, bytes]:
        """Returns every ref, the branches as recovery would leave them."""
        found = self.repository.refs.all()
        for name in self.branches():
            tip = self.tip(name)
            if tip is not None:
                found[HEADS + name] = tip
        return found

    def commits(self, tip: bytes) -> list[tuple[bytes, Commit]]:
        """Returns a commit and its first parents, newest first."""
        return list(self.commits_of(self.chain(tip)))

    def chain(self, tip: bytes) -> list[bytes]:
        """Returns the ids of a commit and its first parents, newest first."""
        store = self.repository.store
        found: list[bytes] = []
        current: bytes | None = tip
        while current is not None and (len(found) < _FEW or store.is_near(current)):
            found.append(current)
            parents = self.repository.read_commit(current).parents
            current = parents[0] if parents else None
        if current is not None:
            # git walks the rest in one go.
            listed = self.repository.git.run("rev-list", "--first-parent", current.hex())
            found += [bytes.fromhex(line) for line in listed.decode("ascii").split()]
        return found

    def commits_of(self, shas: Iterable[bytes]) -> Iterator[tuple[bytes, Commit]]:
        """Yields commits, in the order asked for."""
        for sha, data in self.repository.store.read_many(shas):
            yield sha, parse_commit(data)

    def at_step(self, number: int) -> bytes | None:
        """Returns the commit of a step on the way to HEAD, without reading those after it."""
        sha: bytes | None = self.head
        while sha is not None:
            commit = self.repository.read_commit(sha)
            step = parse_trailers(commit.message).get("Kitaru-Step", "")
            # A commit of ours is one step after the one of ours before it.
            behind = int(step) - number if step.isdigit() else 1
            if behind <= 0:
                return sha if behind == 0 else None
            parent = commit.parents[0] if commit.parents else None
            if behind > 1 and parent is not None and not self.repository.store.is_near(parent):
                skip = f"--skip={behind - 1}"
                found = self.repository.git.run(
                    "rev-list", "--first-parent", "--max-count=1", skip, parent.hex()
                )
                sha = bytes.fromhex(found.decode("ascii").strip()) or None
            else:
                sha = parent
        return None

    def committed_at(self) -> int:
        """Returns when HEAD's commit was made, in seconds since the epoch."""
        return _made_at(self.repository.read_commit(self.head))

    def usage(self) -> Usage:
        """Returns what the run spent up to HEAD."""
        return parse_total(self.point.trailers.get("Kitaru-Total", ""))


@contextmanager
def open_run(path: Path, *, credentials: Credentials | None = None) -> Generator[OpenRun]:
    """Opens a run for reading.

    Args:
        path: The run's directory.
        credentials: What is kept out of its commits; the environment's by default.

    Raises:
        RunDamagedError: It cannot be read.
        StorageError: The disk, or a file's permissions, refused.
    """
    try:
        opened = OpenRun(path, credentials=credentials)
    except OSError as error:
        raise storage_error(error, f"reading the run {path.name}", then="again") from error
    try:
        yield opened
    finally:
        opened.repository.close()


def read_log(opened: OpenRun, *, every_branch: bool = False) -> Iterator[LogLine]:
    """Yields a run's commits, oldest first; with `every_branch`, branch after branch."""
    seen: set[bytes] = set()
    yield from _branch_log(opened, opened.head, opened.branch or "HEAD", seen)
    for branch in opened.branches() if every_branch else ():
        tip = opened.tip(branch) or opened.repository.refs.read(TIPS + branch)
        if tip is not None:
            yield from _branch_log(opened, tip, branch, seen)


def _branch_log(opened: OpenRun, tip: bytes, branch: str, seen: set[bytes]) -> Generator[LogLine]:
    repository = opened.repository
    chain = [sha for sha in reversed(opened.chain(tip)) if sha not in seen]
    seen.update(chain)
    # Both are in the order of the steps; what another branch has shown is passed over.
    entries = repository.journal(repository.nearest_point(tip)).entries()
    entry: Entry | None = None
    for sha, commit in opened.commits_of(chain):
        number = _step_of(commit)
        while number is not None and (entry is None or entry.step < number):
            entry = next(entries)
        yield _line(sha, commit, entry if number is not None else None, branch)


def read_new(opened: OpenRun, seen: Container[bytes], since: float) -> list[LogLine]:
    """Returns the commits that led to HEAD and are new, oldest first; costs what those cost.

    Args:
        opened: The run.
        seen: Ids of commits; what is before one of them is not new either.
        since: What was made before is not new; in seconds since the epoch.
    """
    repository = opened.repository
    found: list[tuple[bytes, Commit]] = []
    sha: bytes | None = opened.head
    while sha is not None and sha not in seen:
        commit = repository.read_commit(sha)
        if _made_at(commit) < since:
            break
        found.append((sha, commit))
        sha = commit.parents[0] if commit.parents else None
    journal = repository.journal(opened.point)
    lines: list[LogLine] = []
    for sha, commit in reversed(found):
        number = _step_of(commit)
        entry = journal.read(number) if number is not None else None
        lines.append(_line(sha, commit, entry, opened.branch or "HEAD"))
    return lines


def _step_of(commit: Commit) -> int | None:
    """The number of a commit's step; None for one that a human made."""
    number = parse_trailers(commit.message).get("Kitaru-Step", "")
    return int(number) if number.isdigit() else None


def _made_at(commit: Commit) -> int:
    return int(commit.committer.rsplit(b" ", 2)[1])


def _line(sha: bytes, commit: Commit, entry: Entry | None, branch: str) -> LogLine:
    subject = commit.message.partition("\n")[0]
    parent = commit.parents[0].hex() if commit.parents else None
    if entry is None:
        name = commit.author.partition(b" <")[0].decode("utf-8", "replace")
        return LogLine(
            None, name, "human", "ok", sha.hex(), 0.0, [], None, branch, subject, 1, None, parent
        )
    return LogLine(
        entry.step,
        entry.name,
        entry.kind,
        entry.status,
        sha.hex(),
        entry.duration,
        entry.files,
        entry.usage,
        branch,
        subject,
        entry.attempt,
        entry.kept,
        parent,
    )


def resolve(opened: OpenRun, step: str | None) -> At:
    """Returns the commit that a STEP names.

    Args:
        opened: The run.
        step: A number, a name that occurs once, `NAME#K` (the K-th so named), a commit (at least 4
            digits), or a branch, for its last one; None for the last one.

    Raises:
        NotFoundError: None fits.
        AmbiguousError: More than one fits; the message lists them.
    """
    if step is None:
        number = opened.point.step if opened.head == opened.point.sha else None
        return At(opened.head, number)
    run = opened.repository.path.name
    if re.fullmatch(r"\d{1,6}", step):
        return _by_number(opened, int(step), run)
    lines = list(read_log(opened))
    name, _, count = step.rpartition("#")
    if name and count.isdigit():
        fits = _named(lines, name)
        if 1 <= int(count) <= len(fits):
            return _at(fits[int(count) - 1])
        raise NotFoundError(
            f"run {run} has {len(fits)} steps named {name!r}, so there is no {step}",
            hint=f"kitaru log {run}",
        )
    fits = _named(lines, step)
    if len(fits) == 1:
        return _at(fits[0])
    if fits:
        shown = ", ".join(f"{step}#{k} (step {line.step})" for k, line in enumerate(fits[:12], 1))
        raise AmbiguousError(
            f"{step!r} names {len(fits)} steps of run {run}: {shown}", hint="name one of them"
        )
    if re.fullmatch(r"[0-9a-f]{4,40}", step):
        found = [
            line for line in read_log(opened, every_branch=True) if line.commit.startswith(step)
        ]
        if len(found) == 1:
            return _at(found[0])
        if found:
            raise AmbiguousError(
                f"{step!r} fits {len(found)} commits of run {run}", hint="give more digits"
            )
    tip = opened.tip(step) if step in opened.branches() else None
    if tip is not None:
        number = opened.repository.point(tip).step
        return At(tip, number if number >= 0 else None)
    raise NotFoundError(f"run {run} has no step {step!r}", hint=f"kitaru log {run} lists its steps")


def _by_number(opened: OpenRun, number: int, run: str) -> At:
    sha = opened.at_step(number)
    if sha is not None:
        return At(sha, number)
    raise NotFoundError(
        f"run {run} has no step {number}: its last is {opened.point.step}",
        hint=f"kitaru log {run} lists its steps",
    )


def _named(lines: list[LogLine], name: str) -> list[LogLine]:
    fits = [line for line in lines if line.name == name and line.step is not None]
    return [line for line in fits if not _is_beside(line)] or fits


def _is_beside(line: LogLine) -> bool:
    begins_child = line.kind == "child" and line.status == "waiting"
    return line.kind in _BESIDE or begins_child


def _at(line: LogLine) -> At:
    return At(bytes.fromhex(line.commit), line.step)


def read_entry(opened: OpenRun, at: At) -> Entry | None:
    """Returns the entry of a commit; None for one that a human made."""
    point = opened.repository.point(at.commit)
    return opened.repository.journal(point).read(point.step) if point.step >= 0 else None


def read_file(opened: OpenRun, commit: bytes, path: str) -> bytes:
    """Returns a file of the agent's, as a commit holds it.

    Args:
        opened: The run.
        commit: The commit.
        path: Relative to `files/`.

    Raises:
        NotFoundError: The commit holds no such file.
    """
    store = opened.repository.store
    ref: DirRef = opened.repository.point(commit).files
    *folders, name = [part.encode("utf-8", "surrogateescape") for part in path.split("/") if part]
    missing = NotFoundError(f"no file {path!r} in the commit {commit.hex()[:12]}")
    for folder in folders:
        item = read_directory(store, ref).items.get(folder)
        if item is None or item.kind != "dir":
            raise missing
        ref = item.ref
    item = read_directory(store, ref).items.get(name)
    if item is None or item.kind == "dir":
        raise missing
    return store.read(item.sha, "blob")
