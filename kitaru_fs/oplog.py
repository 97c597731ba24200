"""The operation log: everything that moved a run's branches, in git itself.

`refs/kitaru/ops` names a tree (so it does not clutter `git log --all`) with one file an operation,
`NNNNNN-KIND.json`: what was done, by whom, and where HEAD stood before and after. Every branch keeps
its tip under a ref, so each operation can be taken back.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from kitaru_fs.clock import nonce, stamp
from kitaru_fs.objects import MODE_FILE, TreeEntry, encode_tree, parse_tree
from kitaru_fs.repository import COMMITTER, Repository

__all__ = ["OPS", "Operation", "Place", "operations", "stage_operation"]

OPS = "refs/kitaru/ops"


class Place(msgspec.Struct, frozen=True):
    """Where HEAD stands: a branch's name, without `refs/heads/`, and a commit's 40 digits."""

    branch: str
    commit: str


class Operation(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One act that moved a branch.

    Attributes:
        id: Its identity in the log.
        kind: `rewind`, `undo`, `redo`, or `checkout` for what a human did with git.
        why: What was asked, for people.
        who: The human's name.
        when: UTC, ISO 8601.
        before: Where HEAD stood.
        after: Where it stands since.
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


def stage_operation(
    repository: Repository, operation: Operation, identity: tuple[str, str] | None
) -> dict[str, bytes]:
    """Stages the log with one more operation; returns the ref to set for it."""
    name, _ = identity or COMMITTER
    operation.id = operation.id or nonce()
    operation.when = operation.when or stamp()
    operation.who = name
    store = repository.store
    content = msgspec.json.format(msgspec.json.encode(operation), indent=2) + b"\n"
    log = _read_log(repository)
    file = f"{len(log):06d}-{operation.kind}.json".encode()
    log[file] = TreeEntry(MODE_FILE, store.put("blob", content))
    return {OPS: store.put("tree", encode_tree(log))}


def operations(repository: Repository) -> Iterator[Operation]:
    """Yields the logged operations, newest first."""
    log = _read_log(repository)
    for name in sorted(log, reverse=True):
        raw = repository.store.read(log[name].sha, "blob")
        yield msgspec.json.decode(raw, type=Operation)


def _read_log(repository: Repository) -> dict[bytes, TreeEntry]:
    last = repository.refs.read(OPS)
    return parse_tree(repository.store.read(last, "tree")) if last else {}
