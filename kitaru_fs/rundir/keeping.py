"""What was set aside when `files/` were put back: a commit each, under a ref of its own."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from kitaru_fs.rundir.repository import TORN, Repository

__all__ = ["Kept", "kept"]


class Kept(NamedTuple):
    """A state of `files/` that no branch holds.

    Attributes:
        ref: Where it is; `git show REF` shows how it differs from what was put back.
        commit: 40 hexadecimal digits.
        why: What left it.
        when: When it was set aside.
    """

    ref: str
    commit: str
    why: str
    when: datetime


def kept(repository: Repository) -> list[Kept]:
    """Returns what was set aside, newest first.

    Raises:
        RunDamagedError: A commit is missing.
    """
    found: list[Kept] = []
    for ref, sha in repository.refs.all(TORN).items():
        commit = repository.read_commit(sha)
        why = commit.message.partition("\n")[0].removeprefix("torn: ")
        seconds = int(commit.committer.rsplit(b" ", 2)[1])
        found.append(Kept(ref, sha.hex(), why, datetime.fromtimestamp(seconds, UTC)))
    return sorted(found, key=lambda one: (one.when, one.ref), reverse=True)
