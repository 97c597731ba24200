"""git's config, hooks and attributes, and lock files that nobody holds any more."""

from __future__ import annotations

import os
from pathlib import Path

from kitaru_fs.errors import RunDamagedError
from kitaru_fs.git.config import ensure_canonical, find_tampered
from kitaru_fs.git.locks import find_locks
from kitaru_fs.holding.lock import read_last_holder, replace_lock_file
from kitaru_fs.processtable import process_table, works_in
from kitaru_fs.redaction.vault import Vault
from kitaru_fs.rundir.checkup.examination import Examination, Finding

__all__ = ["check_lock_file", "check_locks", "check_settings", "check_vault"]


def check_settings(look: Examination) -> None:
    """Checks that git's settings in the run are ours.

    Raises:
        FormatError: The run is in a repository format that kitaru does not read.
        StorageError: The disk refused.
    """
    if not look.repair:
        for path in find_tampered(look.git_dir):
            look.findings.append(
                Finding(
                    check="settings",
                    state="found",
                    what=f"{look.shown(path)} is not as kitaru left it",
                    path=look.shown(path),
                )
            )
        return
    for tampered in ensure_canonical(look.git_dir):
        kept = tampered.kept_as
        look.findings.append(
            Finding(
                check="settings",
                state="repaired",
                what=f"{look.shown(tampered.path)} "
                + ("was missing" if kept is None else "was tampered with"),
                path=look.shown(tampered.path),
                kept_as="" if kept is None else look.shown(kept),
            )
        )


def check_lock_file(look: Examination) -> None:
    """Checks that the lock by which one process alone drives the run is a file.

    Whoever held it as a file holds it still, and cannot be asked through what is in its place now.

    Raises:
        StorageError: The disk refused.
    """
    path = look.git_dir / "kitaru" / "lock"
    if not os.path.lexists(path) or (path.is_file() and not path.is_symlink()):
        return
    what = "what is no file was in the place of kitaru's lock"
    last = read_last_holder(look.git_dir)
    working = [
        f"process {pid} ({process.command})"
        for pid, process in process_table().items()
        if pid != os.getpid() and works_in(pid, path.parent.resolve(), files_only=True)
    ]
    if last is not None and last.alive is not False:
        working.append(f"process {last.pid} on {last.host}")
    if working:
        look.report(
            "locks",
            f"{what}, and {working[0]} may still drive the run",
            path,
            hint="make sure that it has ended, then `kitaru doctor` again",
        )
        return

    def mend() -> Path:
        kept = look.set_aside(path)
        replace_lock_file(look.git_dir, last)
        return kept

    look.report("locks", what, path, mend=mend)


def check_locks(look: Examination) -> None:
    """Checks for lock files of git's that a killed process left."""
    for lock in find_locks(look.git_dir):
        place = look.git_dir / lock.path
        if lock.is_stale:
            look.report(
                "locks",
                f"a stale lock: {lock.why}",
                place,
                mend=lambda place=place: place.unlink(missing_ok=True),
            )
        else:
            look.report(
                "locks",
                f"a lock that may be held: {lock.why}",
                place,
                hint="wait for that git to end; if you know that none runs, remove the file",
            )


def check_vault(look: Examination) -> None:
    """Checks that the vault of secrets can be read."""
    path = look.git_dir / "kitaru" / "vault"
    try:
        Vault(path)
    except RunDamagedError as error:
        look.report("vault", error.message, path, mend=lambda: look.set_aside(path))
