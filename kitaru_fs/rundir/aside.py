"""Commits that nothing else would hold any more: they stay reachable, under refs of ours."""

from __future__ import annotations

from kitaru_fs.clock import nonce
from kitaru_fs.rundir.repository import Repository

__all__ = ["keep", "keep_if_lost"]

_ASIDE = "refs/kitaru/aside/"


def keep(repository: Repository, sha: bytes) -> str:
    """Keeps an object reachable; returns the ref that holds it.

    Raises:
        OSError: The disk refused.
    """
    name = _ASIDE + nonce()[:8]
    repository.refs.write(name, sha)
    repository.refs.sync([name])
    return name


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
    return keep(repository, at) if found.strip() else ""
