"""The operation log: everything that moved a run's branches, in git itself.

Each operation is a ref, `refs/kitaru/ops/NNNNNN-KIND`, to a blob of JSON: what was done, by whom,
and where HEAD stood before and after. (A blob does not clutter `git log --all`.) Every branch keeps
its tip under a ref, so each operation can be taken back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from kitaru_fs.clock import nonce, stamp
from kitaru_fs.errors import RunDamagedError
from kitaru_fs.rundir.repository import COMMITTER, Repository
from kitaru_fs.storage.objects import object_id

__all__ = [
    "NOWHERE",
    "OPS",
    "PUT_BACK",
    "SET_ASIDE",
    "Operation",
    "Place",
    "branch_moved",
    "operations",
    "read_operation",
    "record_operation",
    "stage_operation",
]

OPS = "refs/kitaru/ops/"
PUT_BACK = "put-back"
SET_ASIDE = "set-aside"
NOWHERE = "0" * 40
_COMMIT = re.compile(r"[0-9a-f]{40}")


class Place(msgspec.Struct, frozen=True):
    """Where HEAD stands: a branch's name, without `refs/heads/`, and a commit's 40 digits."""

    branch: str
    commit: str


class Operation(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One act that moved a branch.

    Attributes:
        id: Its identity in the log.
        kind: `rewind`, `undo`, `redo`; `checkout` for where a human's git moved HEAD; `put-back`
            for a branch that git moved or deleted, or whose ref was damaged, and that is where it
            was again; `set-aside` for one that stood in the way of another.
        why: What was asked, for people.
        who: The human's name.
        when: UTC, ISO 8601.
        before: Where HEAD stood, or the branch that was put back (`NOWHERE`: it was on no commit).
        after: Where it stands since (`NOWHERE`: the branch was set aside).
        of: The operation, or the commit, that an `undo` takes back or a `redo` does again.
    """

    kind: str
    why: str
    before: Place
    after: Place
    who: str = ""
    id: str = ""
    when: str = ""
    of: str | None = None


def branch_moved(
    kind: str, branch: str, was: bytes | None, now: bytes | None, why: str
) -> Operation:
    """Returns the operation that put a branch back, or set it aside.

    Args:
        kind: `PUT_BACK` or `SET_ASIDE`.
        branch: Its name, without `refs/heads/`.
        was: The commit that it was on; None for none.
        now: The commit that it is on since; None for none.
        why: For people.
    """
    before, after = (Place(branch, sha.hex() if sha is not None else NOWHERE) for sha in (was, now))
    return Operation(kind=kind, why=why, before=before, after=after)


def stage_operation(
    repository: Repository, operation: Operation, identity: tuple[str, str] | None
) -> dict[str, bytes]:
    """Stages one more operation; returns the ref to set for it."""
    name, content = _next_record(repository, operation, identity)
    return {name: repository.store.put("blob", content)}


def record_operation(
    repository: Repository, operation: Operation, identity: tuple[str, str] | None
) -> None:
    """Records one more operation in git's own files, beside the write-ahead log.

    Raises:
        OSError: The disk refused.
    """
    name, content = _next_record(repository, operation, identity)
    sha = object_id("blob", content)
    repository.store.loose.write(sha, "blob", content)
    repository.store.loose.sync(sha)
    repository.refs.write(name, sha)
    repository.refs.sync([name])


def _next_record(
    repository: Repository, operation: Operation, identity: tuple[str, str] | None
) -> tuple[str, bytes]:
    name, _ = identity or COMMITTER
    operation.id = operation.id or nonce()
    operation.when = operation.when or stamp()
    operation.who = name
    content = msgspec.json.format(msgspec.json.encode(operation), indent=2) + b"\n"
    number = 1 + max(map(_number, repository.refs.all(OPS)), default=-1)
    return f"{OPS}{number:06d}-{operation.kind}", content


def operations(repository: Repository, here: Place) -> Iterator[Operation]:
    """Yields the operations that happened, newest first.

    An operation is logged before HEAD moves. Where it was cut off between the two, what follows it
    begins where it began.

    Args:
        repository: The run.
        here: Where HEAD stands.
    """
    following = here
    refs = repository.refs.all(OPS)
    for name in sorted(refs, key=_number, reverse=True):
        operation = read_operation(repository, refs[name])
        if operation is None:
            continue
        if operation.kind in (PUT_BACK, SET_ASIDE):
            yield operation
            continue
        if following != operation.before or operation.before == operation.after:
            yield operation
        following = operation.before


def read_operation(repository: Repository, sha: bytes) -> Operation | None:
    """Returns an operation from its blob; None if it is none of ours: an agent may plant a ref."""
    try:
        operation = msgspec.json.decode(repository.store.read(sha, "blob"), type=Operation)
    except (RunDamagedError, msgspec.MsgspecError):
        return None
    places = (operation.before, operation.after)
    return operation if all(_COMMIT.fullmatch(place.commit) for place in places) else None


def _number(name: str) -> int:
    found = re.match(r"\d{1,9}", name.removeprefix(OPS))
    return int(found[0]) if found else -1
