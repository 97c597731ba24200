"""Making a run: a whole directory with its first commit, or nothing at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from kitaru_fs.clock import stamp, utc_now
from kitaru_fs.entry import Entry
from kitaru_fs.git.config import canonical_files
from kitaru_fs.redaction.credentials import Credentials
from kitaru_fs.redaction.redactor import Redactor
from kitaru_fs.rundir.leaving import record_made
from kitaru_fs.rundir.masking import mask_request
from kitaru_fs.rundir.repository import Repository, Request, agent_author
from kitaru_fs.rundir.showing import clear, show
from kitaru_fs.rundir.workfiles import changed_paths, list_left_out
from kitaru_fs.rundir.writer import Writer
from kitaru_fs.snapshot.exclude import Exclude
from kitaru_fs.snapshot.filetree import EMPTY, left_out_below
from kitaru_fs.snapshot.removal import remove_tree
from kitaru_fs.snapshot.scanner import Scanner
from kitaru_fs.storage.objects import MODE_FILE, MODE_TREE, TreeEntry, encode_tree
from kitaru_fs.storage.refs import sync_directory
from kitaru_fs.storage.store import Store, storage_error
from kitaru_fs.storage.wal import WriteAheadLog

__all__ = ["CodeFile", "create_run", "making", "mask_code", "put_code", "show_code"]

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_AT_ONCE = 100

CodeFile = tuple[str, bytes]
"""A module that runs: its path below `code/`, and its content."""

_DIRECTORIES = (
    *("", "objects", "objects/info", "objects/pack", "refs", "refs/heads", "refs/tags"),
    *("refs/kitaru", "refs/kitaru/tips", "info", "kitaru"),
)


def create_run(
    runs: Path,
    request: Request,
    *,
    code: Sequence[CodeFile] = (),
    fill: Callable[[Path], list[dict[str, Any]]] | None = None,
    exclude: Exclude,
    max_file: int,
    durable: bool = True,
    credentials: Credentials | None = None,
) -> Path:
    """Makes a run's directory under its id, with its first commit, durable as a whole.

    Args:
        runs: The workspace's `runs/`.
        request: What is asked; `request.run` is the id.
        code: The agents' modules.
        fill: Puts the first content into `files/`, given that directory; returns what it left out,
            as an entry lists it.
        exclude: What is left out of every commit.
        max_file: The largest file that is recorded, in bytes.
        durable: Whether to wait for the disk.
        credentials: What is kept out of every commit; the environment's by default.

    Returns:
        The run's directory.

    Raises:
        StorageError: The disk refused; nothing is left behind.
    """
    with making(runs, request.run, durable=durable) as building:
        left_out = fill(building / "files") if fill is not None else []
        # All of it is synced at the end, at once.
        repository = Repository(building, durable=False, credentials=credentials)
        try:
            _first_commit(repository, request, code, exclude, max_file, left_out)
            record_made(repository)
        finally:
            repository.close()
    return runs / request.run


@contextmanager
def making(runs: Path, run: str, *, durable: bool) -> Generator[Path]:
    """Yields the directory of a run that is being made; at the end it stands in its place, whole.

    Args:
        runs: The workspace's `runs/`.
        run: The run's id.
        durable: Whether to wait for the disk.

    Raises:
        StorageError: The disk refused; nothing is left behind.
    """
    building = runs / f".new-{run}"
    try:
        runs.mkdir(exist_ok=True)
        if os.path.lexists(building):
            # A process was killed that made it: ids are given once, a child's with its call.
            remove_tree(building)
        building.mkdir(mode=0o700)
        try:
            _lay_out(building)
            yield building
            if durable:
                _sync(building / ".git")
                sync_directory(building)
            os.rename(building, runs / run)
            if durable:
                sync_directory(runs)
        except BaseException:
            with suppress(OSError):
                remove_tree(building)
            raise
    except OSError as error:
        raise storage_error(error, f"making the run {run}", then="start it again") from error


def _lay_out(path: Path) -> None:
    git_dir = path / ".git"
    for name in _DIRECTORIES:
        os.mkdir(git_dir / name, 0o700 if name == "kitaru" else 0o777)
    (path / "files").mkdir()
    (path / "inbox").mkdir()
    for name, content in {"HEAD": b"ref: refs/heads/main\n", **canonical_files()}.items():
        descriptor = os.open(
            git_dir / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644
        )
        try:
            os.write(descriptor, content)
        finally:
            os.close(descriptor)
    WriteAheadLog.create(git_dir / "kitaru" / "wal", sync=False)


def _sync(git_dir: Path) -> None:
    """Waits until all of a new repository is on the disk."""
    folders: list[bytes] = []
    files: list[int] = []
    try:
        for folder, _, names in os.walk(os.fsencode(git_dir), topdown=False):
            folders.append(folder)
            for name in names:
                files.append(os.open(os.path.join(folder, name), _READ))
            if len(files) > _AT_ONCE:
                _sync_files(files)
        _sync_files(files)
    finally:
        for descriptor in files:
            os.close(descriptor)
    for folder in folders:
        sync_directory(os.fsdecode(folder))


def _sync_files(files: list[int]) -> None:
    """Waits until open files are on the disk, and closes them."""
    for descriptor in files if hasattr(os, "posix_fadvise") else ():
        # Linux begins to write what it is not to keep: then all go with one commit of its journal.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    while files:
        os.fsync(files[-1])
        os.close(files.pop())


def _first_commit(
    repository: Repository,
    request: Request,
    code: Sequence[CodeFile],
    exclude: Exclude,
    max_file: int,
    left_out: list[dict[str, Any]],
) -> None:
    path = repository.path
    repository.store.open_log()
    masked = mask_request(repository.secrets, request)
    raw = msgspec.json.format(msgspec.json.encode(masked), indent=2) + b"\n"
    (path / "run.json").write_bytes(raw)
    writer = Writer.first(repository, request=raw, run=request.run, flow=request.flow)
    if code:
        code = mask_code(repository.secrets, code)
        writer.set_code(put_code(repository.store, code))
        show_code(path, code)
    scanner = Scanner(
        path / "files", repository.store, exclude, max_file, secrets=repository.secrets
    )
    files = scanner.scan()
    now = utc_now()
    entry = Entry(
        step=0,
        key="start",
        name=request.flow,
        kind="start",
        started=stamp(now),
        input=request.input,
        files=changed_paths(repository, EMPTY, files),
    )
    left_out += list_left_out(left_out_below(repository.store, files))
    entry.left_out = left_out or None
    author = agent_author(request.flow, int(now.timestamp()))
    writer.append(entry, files=files, status="running", author=author)
    writer.pack()
    scanner.save(repository.seen_file, files)


def mask_code(redactor: Redactor, code: Sequence[CodeFile]) -> list[CodeFile]:
    """Returns modules with placeholders for the secrets that are written in them."""
    return [(name, redactor.mask_bytes(content)) for name, content in code]


def put_code(store: Store, code: Sequence[CodeFile]) -> bytes:
    """Stages the tree of `code/`; returns its id."""
    folders: dict[str, list[CodeFile]] = {}
    entries: dict[bytes, TreeEntry] = {}
    for name, content in code:
        first, _, rest = name.partition("/")
        if rest:
            folders.setdefault(first, []).append((rest, content))
        else:
            entries[first.encode()] = TreeEntry(MODE_FILE, store.put("blob", content))
    for folder, inside in folders.items():
        entries[folder.encode()] = TreeEntry(MODE_TREE, put_code(store, inside))
    return store.put("tree", encode_tree(entries))


def show_code(path: Path, code: Sequence[CodeFile]) -> None:
    """Writes `code/` in a run's directory, in place of what was there."""
    clear(path, "code")
    show(path, [(f"code/{name}", content) for name, content in code])
