"""git's config, hooks and attributes, and lock files that nobody holds any more."""

from __future__ import annotations

from kitaru_fs.errors import RunDamagedError
from kitaru_fs.git.config import ensure_canonical, find_tampered
from kitaru_fs.git.locks import find_locks
from kitaru_fs.redaction.vault import Vault
from kitaru_fs.rundir.checkup.examination import Examination, Finding

__all__ = ["check_locks", "check_settings", "check_vault"]


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
