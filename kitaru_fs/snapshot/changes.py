"""What scans saw change since a commit, so that its entry need not compare trees."""

from __future__ import annotations

from kitaru_fs.snapshot.filetree import Change, DirRef, Item
from kitaru_fs.snapshot.seen import SeenDirectory

__all__ = ["Changes"]


class Changes:
    """The paths that changed, and what was there in the commit.

    Attributes:
        since: The state that they are counted from; None if nothing is counted.
    """

    def __init__(self) -> None:
        self.since: DirRef | None = None
        self._before: dict[bytes, Item | None] = {}

    def begin(self, since: DirRef | None) -> None:
        """Counts anew."""
        self.since = since
        self._before.clear()

    def note(self, path: bytes, before: Item | None, after: Item | None) -> None:
        """Notes that something else stands at a path."""
        if self.since is None or path in self._before:
            return
        both = before is not None and after is not None and before.kind == after.kind == "dir"
        # What changed in a directory is noted there.
        if not both or (before and after and before.mode != after.mode):
            self._before[path] = before

    def removed(self, seen: SeenDirectory, path: bytes) -> None:
        """Notes that all that was in a directory is gone."""
        if self.since is None:
            return
        for name, file in seen.files.items():
            self._before.setdefault(path + b"/" + name, file.item)
        for name, below in seen.directories.items():
            self._before.setdefault(path + b"/" + name, seen.item(name))
            self.removed(below, path + b"/" + name)

    def paths(self, seen: SeenDirectory) -> list[Change]:
        """Returns each path that differs, in the order in which `filetree.diff` yields them."""
        found: list[Change] = []
        for path in sorted(self._before, key=lambda path: path.split(b"/")):
            before, after = self._before[path], _item_at(seen, path)
            same_kind = before is not None and after is not None and before.kind == after.kind
            if same_kind and before is not None and after is not None and before.kind == "dir":
                differs = before.mode != after.mode
            else:
                differs = before != after
            if differs:
                found.append(Change(path, before, after))
        return found


def _item_at(seen: SeenDirectory, path: bytes) -> Item | None:
    *folders, name = path.split(b"/")
    for folder in folders:
        below = seen.directories.get(folder)
        if below is None:
            return None
        seen = below
    return seen.item(name)
