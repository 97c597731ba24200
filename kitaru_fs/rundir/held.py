"""A stopped run that this process holds, to move it: open, settled, and brought to rest."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from kitaru_fs.errors import ConflictError
from kitaru_fs.holding.lock import RunLock
from kitaru_fs.holding.processes import end, processes_of
from kitaru_fs.rundir.events import Event
from kitaru_fs.rundir.leaving import record_left
from kitaru_fs.rundir.options import Options
from kitaru_fs.rundir.recovery import Standing, take_up
from kitaru_fs.rundir.repository import Repository
from kitaru_fs.rundir.runindex import write_run_index
from kitaru_fs.rundir.takeover import Takeover
from kitaru_fs.rundir.workfiles import WorkFiles
from kitaru_fs.rundir.writer import Writer
from kitaru_fs.snapshot.scanner import Scanner
from kitaru_fs.storage.objects import TreeEntry
from kitaru_fs.storage.store import storage_error

__all__ = ["Held", "hold", "rest"]

_GRACE_SECONDS = 2.0


class Held:
    """A run that is taken up, with what moves it.

    Attributes:
        repository: The run.
        standing: Where it was found.
        writer: Adds to its branch.
        files: Its directory.
        takeover: What was found on disk, and how it is settled.
    """

    def __init__(
        self, lock: RunLock, repository: Repository, standing: Standing, options: Options
    ) -> None:
        self.lock = lock
        self.repository = repository
        self.standing = standing
        self._listener = options.listener
        base = standing.base
        flow = repository.request(base).flow
        self.writer = Writer(
            repository,
            branch=standing.branch,
            tip=standing.head,
            base=base,
            run=repository.path.name,
            flow=flow,
        )
        scanner = Scanner(
            repository.files_dir,
            repository.store,
            options.exclude,
            options.max_file,
            known=base.files,
            secrets=repository.secrets,
        )
        scanner.load(repository.seen_file)
        self.files = WorkFiles(repository, scanner, self.writer, self.tell)
        self.takeover = Takeover(repository, standing, options, self.writer, self.files, flow)

    def tell(self, kind: str, name: str, text: str) -> None:
        """Tells the listener."""
        if self._listener is not None:
            self._listener(Event(kind=kind, run=self.repository.path.name, name=name, text=text))


@contextmanager
def hold(path: Path, options: Options) -> Generator[Held]:
    """Takes a stopped run up, with its files settled: a human's edits are committed as theirs.

    Args:
        path: The run's directory.
        options: How it is taken up.

    Raises:
        HeldError: A process drives it.
        KitaruError: It is damaged, or the disk refused.
    """
    taken = take_up(
        path, purpose=options.purpose, durable=options.durable, credentials=options.credentials
    )
    repository, lock = taken.repository, taken.lock
    try:
        held = Held(lock, repository, taken.standing, options)
        for note in taken.standing.notes:
            held.tell("notice", note, "")
        _end_processes(held)
        held.takeover.look()
        record_left(repository, orderly=False)
        held.takeover.settle_files()
        try:
            yield held
        except ConflictError:
            # Refused: the run stays where it is, and was let go in order.
            rest(repository, held.writer.root, held.files.scanner, lock)
            raise
    except OSError as error:
        raise storage_error(error, f"moving the run {path.name}") from error
    finally:
        repository.close()
        lock.release()


def _end_processes(held: Held) -> None:
    """Ends what the run's steps have left running: it would write into the files."""
    for one in end(processes_of(held.repository.path), _GRACE_SECONDS):
        text = f"ended process {one.pid} that a step had left running: {one.command}"
        held.tell("notice", text, "")


def rest(
    repository: Repository, root: dict[bytes, TreeEntry], scanner: Scanner, lock: RunLock
) -> None:
    """Brings a run to rest: packed, the index in line with a commit, nothing left of dead holders.

    Raises:
        OSError: The disk refused.
    """
    repository.store.rest()
    write_run_index(repository, root, scanner)
    record_left(repository, orderly=True)
    lock.forget_previous()
