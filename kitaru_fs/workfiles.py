"""A run's `files/` on disk: looking at them, putting them to a state, keeping a state aside."""

from __future__ import annotations

from collections.abc import Callable

from kitaru_fs.clock import nonce, utc_now
from kitaru_fs.filetree import DirRef, diff
from kitaru_fs.objects import is_unsafe_name
from kitaru_fs.quoting import quote_path
from kitaru_fs.repository import TORN, Repository, agent_author
from kitaru_fs.restore import put_files, same_items
from kitaru_fs.snapshot import Scanner
from kitaru_fs.store import storage_error
from kitaru_fs.writer import Writer

__all__ = ["WorkFiles", "changed_paths"]


class WorkFiles:
    """The agent's directory of one held run.

    Args:
        repository: The run.
        scanner: Looks at the directory.
        writer: Adds to the run's branch.
        tell: Told a notice, as (kind, name, text).
    """

    def __init__(
        self,
        repository: Repository,
        scanner: Scanner,
        writer: Writer,
        tell: Callable[[str, str, str], None],
    ) -> None:
        self._repository = repository
        self.scanner = scanner
        self._writer = writer
        self._tell = tell

    def scan(self) -> DirRef:
        """Returns the trees of the directory as it is now.

        Raises:
            StorageError: It cannot be read.
        """
        try:
            return self.scanner.scan()
        except OSError as error:
            raise storage_error(error, "reading files/") from error

    def is_current(self, files: DirRef) -> bool:
        """Says whether a state is what the last scan returned."""
        return self.scanner.seen.ref == files

    def put(self, target: DirRef) -> None:
        """Makes the directory equal to a state; what no commit holds stays.

        Raises:
            StorageError: The disk refused.
            RunDamagedError: Something keeps writing there.
        """
        try:
            done = put_files(
                self._repository.files_dir, self.scanner, self._repository.store, target
            )
        except OSError as error:
            raise storage_error(error, "putting files/ back") from error
        for moved in done.moved_aside:
            self._tell("notice", f"moved aside, since no commit holds it: {moved}", "")

    def same(self, left: DirRef, right: DirRef) -> bool:
        """Says whether two states hold the same; what is left out of them may differ."""
        return same_items(self._repository.store, left, right)

    def keep(self, files: DirRef, why: str, flow: str) -> dict[str, bytes]:
        """Stages a commit that keeps a state; returns the ref to set for it."""
        ref = f"{TORN}{self._writer.step + 1:06d}-{nonce()[:6]}"
        author = agent_author(flow, int(utc_now().timestamp()))
        commit = self._writer.keep(ref, files, f"torn: {why}", author)
        self._tell("kept", why, ref)
        return {ref: commit}

    def keep_now(self, files: DirRef, why: str, flow: str) -> None:
        """Keeps a state under a ref, at once.

        Raises:
            StorageError: The disk refused.
        """
        self._repository.store.commit(self.keep(files, why, flow), trees=files[:2])

    def changed(self, files: DirRef) -> list[str]:
        """Returns the paths that differ from the last commit, quoted."""
        return changed_paths(self._repository, self._writer.files, files)


def changed_paths(repository: Repository, before: DirRef, after: DirRef) -> list[str]:
    """Returns the paths that differ between two states, quoted as git quotes them.

    A directory ends in a slash and is named only if git would not see the change in it; a nested
    repository's own state is named as one path.
    """
    changed: dict[str, None] = {}
    for change in diff(repository.store, before, after):
        item = change.after or change.before
        path = _collapse(change.path)
        if path != change.path or (item is not None and item.kind != "dir"):
            changed[quote_path(path)] = None
        elif item is not None and (item.ref.files is None or (change.before and change.after)):
            changed[quote_path(path) + "/"] = None
    return list(changed)


def _collapse(path: bytes) -> bytes:
    parts = path.split(b"/")
    for number, part in enumerate(parts):
        if is_unsafe_name(part):
            return b"/".join(parts[: number + 1])
    return path
