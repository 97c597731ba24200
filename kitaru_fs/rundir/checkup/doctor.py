"""Going through all of a run's checks: looking only, or putting right what can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from kitaru_fs.errors import (
    ConflictError,
    FormatError,
    KitaruError,
    NewerFormatError,
    RunDamagedError,
)
from kitaru_fs.git.layout import check_layout
from kitaru_fs.holding.lock import Holder, RunLock, read_holder
from kitaru_fs.rundir.checkup.damage import check_journals, check_leftovers, check_objects
from kitaru_fs.rundir.checkup.examination import Examination, Finding
from kitaru_fs.rundir.checkup.layout import (
    check_access,
    check_layout_parts,
    check_permissions,
    is_there,
)
from kitaru_fs.rundir.checkup.order import (
    check_crash,
    check_index,
    check_shown,
    find_stale_index,
)
from kitaru_fs.rundir.checkup.pointers import check_head, check_log
from kitaru_fs.rundir.checkup.refs import check_refs
from kitaru_fs.rundir.checkup.settings import (
    check_lock_file,
    check_locks,
    check_settings,
    check_vault,
)
from kitaru_fs.rundir.history import open_run
from kitaru_fs.rundir.leaving import has_crashed, is_clone, mark_clone
from kitaru_fs.rundir.oplog import record_operation
from kitaru_fs.rundir.options import Options
from kitaru_fs.rundir.recovery import locate, recover, recover_refs
from kitaru_fs.rundir.repository import Repository
from kitaru_fs.storage.store import storage_error
from kitaru_fs.storage.wal import NewerLog, WriteAheadLog

__all__ = ["Checkup", "check_up"]


class Checkup(NamedTuple):
    """What a look at a run found, and what was done about it.

    Attributes:
        run: The run's id.
        looked_only: Nothing was to be repaired, or a process drives the run.
        holder: Who drives it.
        findings: What was not as it should be.
    """

    run: str
    looked_only: bool
    holder: Holder | None
    findings: list[Finding]

    @property
    def in_order(self) -> bool:
        """Whether nothing is left that is not as it should be."""
        return all(finding.state == "repaired" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Returns it as the command line's `--json` has it."""
        return {
            "run": self.run,
            "in_order": self.in_order,
            "looked_only": self.looked_only,
            "findings": [msgspec.to_builtins(finding) for finding in self.findings],
        }


def check_up(path: Path, options: Options, *, repair: bool) -> Checkup:
    """Looks at a run, and puts right what can be. With a process that drives it, it only looks.

    Args:
        path: The run's directory.
        options: How it is taken up.
        repair: Whether to put anything right; without it nothing is written.

    Raises:
        HeldError: A process took the run up meanwhile.
        StorageError: The disk refused; what was put right before stays so.
    """
    try:
        return _check_up(path, options, repair=repair)
    except OSError as error:
        raise storage_error(error, f"looking through {path.name}", then="again") from error


def _check_up(path: Path, options: Options, *, repair: bool) -> Checkup:
    git_dir = path / ".git"
    look = Examination(path, repair=repair)
    check_access(look)
    if look.has("permissions"):
        # The rest can be looked at once this is repaired.
        return Checkup(path.name, True, None, look.findings)
    holder = read_holder(git_dir) if git_dir.is_dir() else None
    alive = holder is not None and holder.alive is not False
    look.repair = repair and not alive
    if not is_there(look) or _is_newer(look):
        return Checkup(path.name, True, holder if alive else None, look.findings)
    if look.repair:
        _repair(look, options)
    else:
        _look(look, options, alive=alive)
    return Checkup(path.name, not look.repair, holder if alive else None, look.findings)


def _is_newer(look: Examination) -> bool:
    """Says whether a newer kitaru wrote the run, which this one could only do harm to."""
    hint = "upgrade kitaru-fs"
    log = look.git_dir / "kitaru" / "wal"
    try:
        WriteAheadLog.open_for_reading(log).close()
    except NewerLog as error:
        return not look.report("format", str(error), log, hint=hint)
    except (ValueError, OSError):
        pass
    try:
        with open_run(look.path) as opened:
            opened.repository.refuse_newer(opened.point)
    except NewerFormatError as error:
        return not look.report("format", error.message, hint=error.hint)
    except (KitaruError, OSError, ValueError):
        pass  # What keeps it from being read is for the checks to say.
    return False


def _repair(look: Examination, options: Options) -> None:
    # Before anything is made in .git/kitaru: that kitaru was never here tells a clone.
    if not (look.git_dir / "kitaru").is_symlink():
        mark_clone(look.git_dir)
    check_layout_parts(look)
    if not _has_own_layout(look):
        return
    check_lock_file(look)
    if look.has("locks"):
        return
    with RunLock.acquire(look.git_dir, "doctor") as lock:
        check_permissions(look)
        check_settings(look)
        check_locks(look)
        check_leftovers(look)
        check_vault(look)
        check_log(look)
        repository = Repository(look.path, durable=options.durable, credentials=options.credentials)
        try:
            logged = repository.store.load_log()
            check_refs(look, repository, logged)
            check_head(look, repository)
            for operation in look.moved:
                record_operation(repository, operation, options.identity)
            lost = _loose_damage(repository)
            repository.store.open_log()
            recover_refs(repository)
            if lost:
                _note_recovered(look, repository, lost)
            check_objects(look, repository, options.exclude)
            check_journals(look, repository)
        finally:
            repository.close()
        _bring_to_rest(look, lock, options)


def _bring_to_rest(look: Examination, lock: RunLock, options: Options) -> None:
    try:
        taken = recover(lock, look.path, durable=options.durable, credentials=options.credentials)
    except (RunDamagedError, FormatError, ConflictError) as error:
        if all(finding.state == "repaired" for finding in look.findings):
            look.report("crash", error.message, hint=error.hint)
        return
    try:
        for note in taken.standing.notes:
            look.note("crash", note)
        check_crash(look, taken, options)
        check_shown(look, taken.repository, taken.standing)
        check_index(look, taken, options)
    finally:
        taken.repository.close()


def _look(look: Examination, options: Options, *, alive: bool) -> None:
    check_layout_parts(look)
    if not _has_own_layout(look) or look.has("layout"):
        # The rest can be looked at once this is repaired.
        return
    check_lock_file(look)
    check_permissions(look)
    try:
        check_settings(look)
    except FormatError as error:
        look.report("settings", error.message, hint=error.hint)
        return
    if not alive:
        # A living holder's locks, log and half-written files are its own.
        check_locks(look)
        check_leftovers(look)
        check_log(look)
    check_vault(look)
    repository = Repository(look.path, credentials=options.credentials)
    try:
        logged = repository.store.load_log()
        check_refs(look, repository, logged)
        check_head(look, repository)
        check_objects(look, repository, options.exclude)
        check_journals(look, repository)
        if not alive and not look.has("head", "refs", "objects"):
            _look_at_order(look, repository)
    finally:
        repository.close()


def _look_at_order(look: Examination, repository: Repository) -> None:
    holder = read_holder(look.git_dir)
    if is_clone(look.git_dir):
        return
    if has_crashed(repository, holder):
        look.report(
            "crash",
            "the last process that drove the run died",
            mend=lambda: None,
            hint="`kitaru doctor` brings it to rest, `kitaru resume` goes on",
        )
        return
    standing = locate(repository, fresh=False, crashed=False, died_in="", notes=[])
    check_shown(look, repository, standing)
    if standing.moved or standing.head != standing.base.sha:
        return
    why = find_stale_index(repository, standing.base.root)
    if why is not None:
        look.report("index", f"git's index is {why}", look.git_dir / "index", mend=lambda: None)


def _has_own_layout(look: Examination) -> bool:
    try:
        check_layout(look.git_dir)
    except RunDamagedError as error:
        if not look.has("layout"):
            look.report("layout", error.message, hint=error.hint)
        return False
    return True


def _loose_damage(repository: Repository) -> list[bytes]:
    """The log's objects whose loose copies are there and not whole."""
    loose = repository.store.loose
    return [
        sha
        for sha in repository.store.logged_objects()
        if loose.has(sha) and not loose.is_whole(sha)
    ]


def _note_recovered(look: Examination, repository: Repository, lost: list[bytes]) -> None:
    for sha in lost:
        if repository.store.loose.is_whole(sha):
            look.note("objects", f"object {sha.hex()[:12]} was damaged; the log had it")
