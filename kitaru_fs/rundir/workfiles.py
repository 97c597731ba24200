"""A run's `files/` on disk: looking at them, putting them to a state, keeping a state aside."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from kitaru_fs.clock import nonce, utc_now
from kitaru_fs.git.index import CheckedOut
from kitaru_fs.holding.processes import processes_in
from kitaru_fs.quoting import quote_path
from kitaru_fs.rundir.repository import TORN, Repository, agent_author
from kitaru_fs.rundir.writer import Writer
from kitaru_fs.snapshot.filetree import (
    Change,
    DirRef,
    Item,
    LeftOut,
    diff,
    merge_checkout,
    newly_left_out,
)
from kitaru_fs.snapshot.restore import StillWritingError, put_files, same_items
from kitaru_fs.snapshot.scanner import Scanner
from kitaru_fs.storage.objects import is_unsafe_name
from kitaru_fs.storage.store import storage_error

__all__ = ["WorkFiles", "changed_paths", "list_left_out", "own_state_of"]

_OWNER = 0o700
BULK_FILES = 5000
BULK_BYTES = 50_000_000


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
        self._root = os.fspath(repository.files_dir)
        self.scanner = scanner
        self._writer = writer
        self.tell = tell

    def scan(self, *, full: bool = False) -> DirRef:
        """Returns the trees of the directory as it is now.

        Args:
            full: Look at every file, whatever the kernel says.

        Raises:
            StorageError: It cannot be read.
        """
        try:
            self._open_up()
            return self.scanner.scan(full=full)
        except OSError as error:
            raise storage_error(error, "reading files/") from error

    def _open_up(self) -> None:
        """Gives the owner access to the directory again, if an agent took it."""
        root = self._root
        try:
            mode = os.lstat(root).st_mode
        except FileNotFoundError:
            return
        if stat.S_ISDIR(mode) and mode & _OWNER != _OWNER:
            os.chmod(root, stat.S_IMODE(mode) | _OWNER)
            closed = f"files/ had been closed (mode {stat.S_IMODE(mode):04o}), and is open again"
            self.tell("notice", closed, "")

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
        except StillWritingError as error:
            found = processes_in(self._repository.files_dir)
            if found:
                named = ", ".join(f"{one.pid} ({one.command})" for one in found)
                error.hint = f"end what works there, {named}, then run the command again"
            raise
        except OSError as error:
            raise storage_error(error, "putting files/ back") from error
        for moved in done.moved_aside:
            self.tell("notice", f"moved aside, since no commit holds it: {moved}", "")

    def same(self, left: DirRef, right: DirRef) -> bool:
        """Says whether two states hold the same; what is left out of them may differ."""
        return same_items(self._repository.store, left, right)

    def after_checkout(self, found: DirRef, clean: DirRef) -> DirRef:
        """Returns what the directory is to be after plain git checked a commit out."""
        return merge_checkout(self._repository.store, found, clean)

    def after_clone(self, found: DirRef, clean: DirRef) -> DirRef:
        """Returns what the directory is to be in a new clone, whose git may have converted files.

        A file is git's, and not a human's edit, if the index says that nobody touched it since, or
        if its line ends are all that differs.
        """
        store = self._repository.store
        checked_out = CheckedOut(self._repository.git_dir)

        def is_gits(path: bytes, item: Item, known: Item) -> bool:
            place = os.path.join(os.fsencode(self._repository.files_dir), path)
            if checked_out.is_untouched(b"files/" + path, os.lstat(place)):
                return True
            converted, content = store.read(item.sha, "blob"), store.read(known.sha, "blob")
            return converted.replace(b"\r\n", b"\n") == content.replace(b"\r\n", b"\n")

        return merge_checkout(store, found, clean, is_gits)

    def keep(self, files: DirRef, why: str, flow: str) -> dict[str, bytes]:
        """Stages a commit that keeps a state; returns the ref to set for it."""
        ref = f"{TORN}{self._writer.step + 1:06d}-{nonce()[:6]}"
        author = agent_author(flow, int(utc_now().timestamp()))
        commit = self._writer.keep(ref, files, f"torn: {why}", author)
        self.tell("kept", why, ref)
        return {ref: commit}

    def keep_now(self, files: DirRef, why: str, flow: str) -> None:
        """Keeps a state under a ref, at once.

        Raises:
            StorageError: The disk refused.
        """
        self._repository.store.commit(self.keep(files, why, flow), trees=files[:2])

    def changed(self, files: DirRef) -> list[str]:
        """Returns the paths that differ from the last commit, quoted."""
        noted = self.scanner.changed(self._writer.files, files)
        if noted is not None:
            return _named(noted)
        return changed_paths(self._repository, self._writer.files, files)

    def settle(self) -> None:
        """Notes that the last commit was made: changes are counted from it on."""
        self.scanner.settle(self._writer.files)

    def left_out(self, files: DirRef) -> list[dict[str, Any]]:
        """Returns what a state leaves out and the last commit did not, with the reasons."""
        store = self._repository.store
        return list_left_out(newly_left_out(store, self._writer.files, files))

    def notice_bulk(self, changed: list[str]) -> None:
        """Tells how to leave a directory out if the last step added very much."""
        added = self.scanner.reader.bytes_staged
        self.scanner.reader.bytes_staged = 0
        if len(changed) <= BULK_FILES and added <= BULK_BYTES:
            return
        folders = Counter(path.partition("/")[0] for path in changed if "/" in path)
        if folders:
            name, count = folders.most_common(1)[0]
            self.tell(
                "notice",
                f"a step changed {len(changed)} files ({added // 1_000_000} MB), {count} of them in"
                f' {name}/; to leave it out of the commits: [files] exclude = ["{name}/", ...]',
                "",
            )


def list_left_out(found: Iterable[tuple[bytes, LeftOut]]) -> list[dict[str, Any]]:
    """Returns what is left out as an entry lists it: path, reason and size."""
    return [
        {"path": quote_path(path), "reason": why.reason}
        | ({} if why.size is None else {"size": why.size})
        for path, why in found
    ]


def changed_paths(repository: Repository, before: DirRef, after: DirRef) -> list[str]:
    """Returns the paths that differ between two states, quoted as git quotes them.

    A directory ends in a slash and is named only if git would not see the change in it; a nested
    repository's own state is named as one path.
    """
    return _named(diff(repository.store, before, after))


def _named(changes: Iterable[Change]) -> list[str]:
    changed: dict[str, None] = {}
    for change in changes:
        item = change.after or change.before
        own_state = own_state_of(change.path)
        if own_state is not None:
            changed[quote_path(own_state)] = None
        elif item is not None and item.kind != "dir":
            changed[quote_path(change.path)] = None
        elif item is not None and (item.ref.files is None or (change.before and change.after)):
            changed[quote_path(change.path) + "/"] = None
    return list(changed)


def own_state_of(path: bytes) -> bytes | None:
    """Returns the nested `.git` that a path is or lies in, if any."""
    parts = path.split(b"/")
    for number, part in enumerate(parts):
        if is_unsafe_name(part):
            return b"/".join(parts[: number + 1])
    return None
