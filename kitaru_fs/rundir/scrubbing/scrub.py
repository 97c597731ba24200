"""Making the redacted copy of a run, whole or not at all; the run itself is only read."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from kitaru_fs.clock import new_run_id
from kitaru_fs.errors import ConflictError
from kitaru_fs.git.layout import check_layout
from kitaru_fs.quoting import quote_path
from kitaru_fs.rundir.creation import making
from kitaru_fs.rundir.history import OpenRun
from kitaru_fs.rundir.leaks import find_leaking, find_leaks
from kitaru_fs.rundir.leaving import record_left
from kitaru_fs.rundir.options import Options
from kitaru_fs.rundir.repository import HEADS, Repository
from kitaru_fs.rundir.runindex import write_run_index
from kitaru_fs.rundir.scrubbing.trees import History
from kitaru_fs.rundir.showing import show, show_tree
from kitaru_fs.rundir.whereabouts import all_commits
from kitaru_fs.snapshot.filling import fill_directory
from kitaru_fs.snapshot.scanner import Scanner
from kitaru_fs.storage.pack import Whole, write_pack
from kitaru_fs.storage.refs import sync_directory

__all__ = ["Scrubbed", "scrub"]

_BATCH = 32 << 20


class Scrubbed(NamedTuple):
    """A redacted copy.

    Attributes:
        path: The new run's directory; None if the history held no secret, and there is no copy.
        objects: How many objects of the old run held one.
        left_out: The paths that are left out of a commit now, quoted.
    """

    path: Path | None
    objects: int
    left_out: list[str]


def scrub(opened: OpenRun, runs: Path, options: Options, *, with_vault: bool) -> Scrubbed:
    """Makes a copy of a run without the secrets that are in its history.

    All branches, what was kept aside, and the operation log are in it; what no ref leads to is not.
    It is looked through before it stands in its place.

    Args:
        opened: The run.
        runs: The workspace's `runs/`.
        options: What is a secret, and whether to wait for the disk.
        with_vault: Whether the copy has a vault, so that it can be resumed where the environment
            has not all of the secrets.

    Raises:
        ConflictError: A secret could not be taken out; there is no copy.
        RunDamagedError: An object is missing: `kitaru doctor` says more.
        StorageError: The disk refused; nothing is left behind.
    """
    source = opened.repository
    check_layout(source.git_dir)
    finder = source.thorough_secrets().finder()
    leaking = find_leaking(source, finder)
    if not leaking:
        return Scrubbed(None, 0, [])
    flow = source.request(opened.point).flow
    run = new_run_id(flow)
    with making(runs, run, durable=options.durable) as building:
        private = building / ".git" / "kitaru"
        source.secrets.copy_vault(private)
        redactor = source.thorough_secrets(keep_in=private)
        history = History(source, redactor, leaking)
        scratch = private / "scrub"
        (scratch / "pack").mkdir(parents=True)
        _write_logged(source, scratch)
        tips = opened.tips()
        for sha, _ in all_commits(source, tips.values()):
            history.add(sha)
            if sum(len(data) for _, data in history.made.values()) > _BATCH:
                _write(scratch, history)
        refs = _new_refs(tips, history)
        _write(scratch, history)
        repository = Repository(building, durable=False, credentials=options.credentials)
        try:
            _pack(repository, [source.git_dir / "objects", scratch], refs.values())
            shutil.rmtree(scratch)
            repository.store.open_log()
            _point(opened, repository, refs, history)
            _fill(repository, source, options)
            repository.store.rest()
            redactor.save()
            _verify(repository, run)
            if not with_vault:
                (private / "vault").unlink(missing_ok=True)
        finally:
            repository.close()
    return Scrubbed(runs / run, len(leaking), sorted(map(quote_path, history.left_out)))


def _write_logged(source: Repository, scratch: Path) -> None:
    """What a dead process left in its log alone, git cannot see."""
    logged = source.store.logged_objects()
    items = (Whole(sha, kind, data) for sha, (kind, data) in logged.items())
    write_pack(scratch, items, len(logged), sync=False)


def _write(scratch: Path, history: History) -> None:
    made = history.made
    items = (Whole(sha, kind, data) for sha, (kind, data) in made.items())
    write_pack(scratch, items, len(made), sync=False)
    made.clear()


def _new_refs(tips: dict[str, bytes], history: History) -> dict[str, bytes]:
    return {
        history.ref_name(name): history.commits.get(sha) or history.other(sha)
        for name, sha in tips.items()
    }


def _pack(repository: Repository, sources: list[Path], tips: Iterable[bytes]) -> None:
    """Packs what the new refs lead to, and nothing else."""
    git = repository.git
    named = b"".join(sha.hex().encode("ascii") + b"\n" for sha in sorted(set(tips)))
    listed = git.run("rev-list", "--objects", "--stdin", input=named, objects_too=sources)
    ids = b"".join(line[:40] + b"\n" for line in listed.splitlines())
    folder = repository.git_dir / "objects" / "pack"
    git.run("pack-objects", "-q", str(folder / "pack"), input=ids, objects_too=sources)
    for name in os.listdir(folder):
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    sync_directory(folder)


def _point(
    opened: OpenRun, repository: Repository, refs: dict[str, bytes], history: History
) -> None:
    for name, sha in refs.items():
        repository.refs.write(name, sha)
    if opened.branch is not None:
        repository.refs.set_head(history.ref_name(HEADS + opened.branch))
    else:
        repository.refs.detach_head(history.commits[opened.head])
    repository.refs.sync(list(refs))


def _fill(repository: Repository, source: Repository, options: Options) -> None:
    at = repository.refs.head()
    sha = at if isinstance(at, bytes) else repository.refs.read(at)
    assert sha is not None
    point = repository.nearest_point(sha)
    request = point.root.get(b"run.json")
    if request is not None:
        show(repository.path, [("run.json", repository.store.read(request.sha, "blob"))])
    for name in ("code", "journal"):
        entry = point.root.get(name.encode())
        if entry is not None:
            show_tree(repository.path, name, repository.store, entry.sha, source.path)
    began = time.time_ns()
    scanner = Scanner(repository.files_dir, repository.store, options.exclude, options.max_file)
    seen = fill_directory(repository.files_dir, repository.store, point.files)
    scanner.start_from(seen, began)
    write_run_index(repository, point.root, scanner)
    record_left(repository, orderly=True)


def _verify(repository: Repository, run: str) -> None:
    left = next(iter(find_leaks(repository)), None)
    if left is not None:
        raise ConflictError(
            f"{left.secret} could not be taken out of {left.path or 'a message'}"
            f" ({left.commit[:12] or left.object[:12]}); no copy was made",
            hint="kitaru doctor --secrets lists all places; remove what holds it, or the run",
        )
