"""One run's directory as a git repository: what stands where, and adding a commit to it.

run.json                what was asked (`Request`); in the first commit
code/                   the agents' modules that ran
journal/                entries (see `entry`)
files/, state/          the agent's directory (see `filetree`)
.git/kitaru/            ours alone, in no commit: wal, lock, holder.json, vault, seen; `leaving`'s
refs/heads/BRANCH       where a human's git may move to; followed, never trusted
refs/kitaru/tips/BRANCH the branch's last commit of ours; only kitaru moves it
refs/kitaru/torn/...    what a torn step or a failed attempt left
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from kitaru_fs.entry import FORMAT, parse_trailers
from kitaru_fs.errors import FormatError, NewerFormatError, RunDamagedError
from kitaru_fs.git.safe import Git
from kitaru_fs.quoting import quote_path
from kitaru_fs.redaction.credentials import Credentials, shared_credentials
from kitaru_fs.redaction.redactor import Redactor
from kitaru_fs.redaction.vault import Vault
from kitaru_fs.rundir.journal import Journal
from kitaru_fs.snapshot.filetree import DirRef
from kitaru_fs.storage.objects import (
    MODE_TREE,
    Commit,
    Person,
    TreeEntry,
    is_unsafe_name,
    parse_commit,
    parse_tree,
)
from kitaru_fs.storage.store import Store

__all__ = [
    "COMMITTER",
    "HEADS",
    "TIPS",
    "TORN",
    "Point",
    "Repository",
    "Request",
    "agent_author",
    "decode_request",
    "leaves",
]

HEADS = "refs/heads/"
TIPS = "refs/kitaru/tips/"
TORN = "refs/kitaru/torn/"
COMMITTER = ("kitaru", "kitaru@kitaru.invalid")


class Request(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What was asked of a run; `run.json`.

    Attributes:
        run: The id under which the run was made; a copy in another directory has another.
        target: How the flow is found again (`agents/hello.py:hello`).
        input: The arguments, by name, as JSON.
        key: The idempotency key that it was started with.
        parent: `run` and `key` of the call that made it, for a child run.
        detached: It was made for a supervisor to start.
        source: The directory that `--files` named, and its own commit, if it has one.
        fork: `run`, `step` and `commit` that it was forked from.
        secrets: The places of `input` that hold placeholders for secrets (see `redaction`).
    """

    run: str
    flow: str
    target: str
    created: str
    format: int = FORMAT
    version: str = ""
    input: dict[str, Any] = {}
    key: str | None = None
    parent: dict[str, str] | None = None
    detached: bool = False
    source: dict[str, str] | None = None
    fork: dict[str, Any] | None = None
    secrets: list[str] | None = None


class Point(NamedTuple):
    """A commit of ours: its id, step number, trailers, message and root tree."""

    sha: bytes
    step: int
    trailers: dict[str, str]
    message: str
    root: dict[bytes, TreeEntry]

    @property
    def files(self) -> DirRef:
        """The agent's directory in this commit."""
        files, state = self.root.get(b"files"), self.root.get(b"state")
        return DirRef(files.sha if files else None, state.sha if state else None)

    @property
    def journal(self) -> bytes | None:
        """The journal's tree."""
        found = self.root.get(b"journal")
        return found.sha if found else None

    @property
    def status(self) -> str:
        """The run's status after this commit."""
        return self.trailers.get("Kitaru-Status", "")


def agent_author(name: str, seconds: int) -> Person:
    """Returns the author of what an agent or flow did."""
    return Person(name, "agent@kitaru.invalid", seconds)


class Repository:
    """An open run.

    Args:
        path: The run's directory.
        durable: Whether commits wait for the disk.
        credentials: What the environment holds, by the settings of the workspace.

    Attributes:
        durable: Whether commits wait for the disk.

    Raises:
        RunDamagedError: There is no repository in the directory.
    """

    def __init__(
        self, path: Path, *, durable: bool = True, credentials: Credentials | None = None
    ) -> None:
        self.path = path
        self.durable = durable
        self._credentials = credentials
        self.git_dir = path / ".git"
        if not self.git_dir.is_dir() or self.git_dir.is_symlink():
            raise RunDamagedError(
                f"{path}: no repository: .git is missing",
                hint="restore .git from a copy, or remove the directory",
            )
        if not (self.git_dir / "objects").is_dir():
            raise RunDamagedError(
                f"{path}: .git has no objects directory", hint="restore the run from a copy"
            )
        self.git = Git(self.git_dir, path)
        self.store = Store(self.git_dir, self.git, durable=durable)
        self.refs = self.store.refs

    @property
    def files_dir(self) -> Path:
        """The agent's working directory."""
        return self.path / "files"

    @property
    def private_dir(self) -> Path:
        """What is ours alone, in no commit."""
        return self.git_dir / "kitaru"

    @cached_property
    def secrets(self) -> Redactor:
        """What keeps secrets out of the run's commits, and fills them in again.

        Raises:
            RunDamagedError: The run's vault cannot be read.
        """
        return self._redactor(self.private_dir)

    def thorough_secrets(self, keep_in: Path | None = None) -> Redactor:
        """What finds whatever the run's vault has too, in any form.

        Args:
            keep_in: The directory whose vault is asked and added to; the run's own by default.
        """
        return self._redactor(keep_in or self.private_dir, thorough=True)

    def _redactor(self, folder: Path, *, thorough: bool = False) -> Redactor:
        vault = Vault(folder / "vault", durable=self.durable)
        return Redactor(self._credentials or shared_credentials(), vault, thorough=thorough)

    @property
    def seen_file(self) -> Path:
        """What `files/` were last seen to be: a cache."""
        return self.private_dir / "seen"

    def read_commit(self, sha: bytes) -> Commit:
        """Returns a parsed commit.

        Raises:
            RunDamagedError: It is missing or unreadable.
        """
        try:
            return parse_commit(self.store.read(sha, "commit"))
        except ValueError as error:
            raise RunDamagedError(f"{self.path}: commit {sha.hex()}: {error}") from error

    def point(self, sha: bytes) -> Point:
        """Returns a commit with its root tree; `step` is -1 for one that a human made."""
        commit = self.read_commit(sha)
        trailers = parse_trailers(commit.message)
        number = trailers.get("Kitaru-Step", "")
        root = parse_tree(self.store.read(commit.tree, "tree"))
        return Point(sha, int(number) if number.isdigit() else -1, trailers, commit.message, root)

    def nearest_point(self, sha: bytes) -> Point:
        """Returns the nearest commit of ours at or before a commit.

        Raises:
            FormatError: There is none.
        """
        for found in self.ancestors(sha):
            point = self.point(found)
            if point.step >= 0:
                return point
        raise FormatError(
            f"{self.path}: no commit of kitaru's at or before {sha.hex()[:12]}",
            hint="check out a commit of the run: git log --all",
        )

    def ancestors(self, sha: bytes) -> Iterator[bytes]:
        """Yields a commit and its first parents, back to the first."""
        current: bytes | None = sha
        while current is not None:
            yield current
            parents = self.read_commit(current).parents
            current = parents[0] if parents else None

    def request(self, point: Point) -> Request:
        """Returns what was asked, as a commit holds it; of a newer format, what can be read of it.

        Raises:
            FormatError: `run.json` is missing, or is no request.
        """
        found = point.root.get(b"run.json")
        if found is None:
            raise FormatError(f"{self.path}: the commit has no run.json")
        return decode_request(self.store.read(found.sha, "blob"), self.path / "run.json")

    def format_of(self, point: Point) -> int:
        """Returns the newest format that a commit says it is of."""
        said = point.trailers.get("Kitaru-Format", "")
        return max(self.request(point).format, int(said) if said.isdigit() else 0)

    def refuse_newer(self, point: Point) -> None:
        """Refuses to go on from a commit that a newer kitaru made.

        Raises:
            NewerFormatError: It is of a newer format.
        """
        found = self.format_of(point)
        if found > FORMAT:
            raise NewerFormatError(
                f"a newer kitaru wrote step {point.step} of the run {self.path.name}, in format"
                f" {found}: this one goes on from format {FORMAT} at most",
                hint="upgrade kitaru-fs; log, show, diff and export read it all the same",
            )

    def journal(self, point: Point) -> Journal:
        """Returns the journal of a commit."""
        return Journal(self.store, point.journal)

    def close(self) -> None:
        """Closes the store and ends the git process that reads packs."""
        self.store.close()


def leaves(store: Store, path: bytes, entry: TreeEntry) -> Iterator[tuple[bytes, TreeEntry]]:
    """Yields the path and entry of each file at or below a tree's entry.

    Raises:
        RunDamagedError: A name is none that git would check out: the commit is somebody else's.
    """
    if entry.mode != MODE_TREE:
        yield path, entry
        return
    for name, below in parse_tree(store.read(entry.sha, "tree")).items():
        if is_unsafe_name(name) or b"/" in name:
            raise RunDamagedError(
                f"a commit holds {quote_path(path + b'/' + name)!r}, a path that leads elsewhere",
                hint="the commit was made by another program; rewind to one before it",
            )
        yield from leaves(store, path + b"/" + name, below)


def decode_request(raw: bytes, where: Path) -> Request:
    """Returns a run's request from its file; of a newer format, what can be read of it.

    Raises:
        FormatError: The file is no request.
    """
    try:
        return msgspec.json.decode(raw, type=Request)
    except msgspec.MsgspecError as error:
        newer = _readable_part(raw)
        if newer is not None:
            return newer
        raise FormatError(f"{where}: {error}", hint="restore the run from a copy") from error


def _readable_part(raw: bytes) -> Request | None:
    """Returns what can be read of a request of a newer format; None if it is not of one."""
    try:
        found = msgspec.json.decode(raw, type=dict[str, Any])
    except msgspec.MsgspecError:
        return None
    number = found.get("format")
    if not isinstance(number, int) or number <= FORMAT:
        return None
    request = Request(run="", flow="", target="", created="", format=number)
    for field in msgspec.structs.fields(Request):
        with suppress(msgspec.ValidationError):
            if field.name in found:
                setattr(request, field.name, msgspec.convert(found[field.name], field.type))
    return request
