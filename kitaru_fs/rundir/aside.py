"""Commits that nothing leads to once a branch is where it belongs: a ref of ours keeps them."""

from __future__ import annotations

from kitaru_fs.rundir.oplog import PUT_BACK, branch_moved, record_operation
from kitaru_fs.rundir.repository import HEADS, Repository
from kitaru_fs.storage.store import storage_error

__all__ = ["keep_if_lost", "log_displaced"]


def keep_if_lost(repository: Repository, name: str, new: bytes) -> str:
    """Keeps the commit that a ref names, if nothing leads to it once the ref names another.

    Args:
        repository: The run.
        name: The ref's full name.
        new: The commit that it will name.

    Returns:
        The ref that holds it from now on; empty where there is no need, or where it is no commit.

    Raises:
        GitError: git is missing or too old.
        OSError: The disk refused.
    """
    at = repository.refs.read(name)
    if at is None or at == new:
        return ""
    # Not `--all`, which follows HEAD too.
    others = ("--not", new.hex(), f"--exclude={name}", "--glob=refs/*")
    found = repository.git.run("rev-list", "--max-count=1", at.hex(), *others, check=False)
    return repository.refs.keep(at) if found.strip() else ""


def log_displaced(repository: Repository, identity: tuple[str, str] | None) -> list[str]:
    """Logs the branches that another git moved while this process drove the run.

    Args:
        repository: The run, whose store has kept where they were.
        identity: The human's name and address.

    Returns:
        A sentence for each.

    Raises:
        StorageError: The disk refused.
    """
    displaced, repository.store.displaced = repository.store.displaced, []
    said: list[str] = []
    for name, was, now, kept in displaced:
        branch = name.removeprefix(HEADS)
        why = f"{branch} was moved by git while a process drove the run"
        try:
            record_operation(repository, branch_moved(PUT_BACK, branch, was, now, why), identity)
        except OSError as error:
            raise storage_error(error, "logging what git moved") from error
        said.append(f"git moved {branch} meanwhile: the commit that it was on is {kept}")
    return said
