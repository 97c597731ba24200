"""Turning `files/` into trees, byte for byte, by difference from what was seen last.

A walk looks at every file; one is read again only if its size, times, inode or mode changed since
it was last read, or if it could have changed within one tick of the file system's clock after that
("racy", as git calls it). In a large tree the kernel says what changed (`inotify`), and only that
is looked at; whoever has to be sure of everything asks for a walk (`full`): the kernel does not see
writes through `mmap`.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from itertools import count
from pathlib import Path

from kitaru_fs.git.locks import is_local
from kitaru_fs.redaction.redactor import Redactor
from kitaru_fs.snapshot.changes import Changes
from kitaru_fs.snapshot.exclude import Exclude
from kitaru_fs.snapshot.filetree import (
    EMPTY,
    Change,
    DirectoryTree,
    DirRef,
    Item,
    LeftOut,
    read_directory,
)
from kitaru_fs.snapshot.inotify import Inotify
from kitaru_fs.snapshot.reading import HOLDS, FileReader
from kitaru_fs.snapshot.seen import (
    Refused,
    SeenDirectory,
    SeenFile,
    clock_ns,
    is_racy,
    load_seen,
    save_seen,
    signature,
)
from kitaru_fs.storage.objects import is_unsafe_name
from kitaru_fs.storage.store import Store

__all__ = ["Scanner"]

_OPEN_DIRECTORY = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC
# A walk over fewer files than this is quick, and the truth.
WATCH_FROM = 32
# Reading fewer files than this anew is quicker than keeping what was seen.
_KEPT_FROM = 200


class Scanner:
    """Turns one directory on disk into trees, again and again.

    Args:
        root: The directory (`files/`).
        store: Where new objects are staged.
        exclude: What is left out by name.
        max_file: The largest file that is recorded, in bytes.
        known: The directory's trees in the last commit: what is equal to them is not staged again.
        secrets: Knows what is a secret; without it nothing is left out for that.
        watch: Whether the kernel may be asked what changed (`[files] scan = "auto"`).

    Attributes:
        scanned_at: When the last scan began, in nanoseconds since the epoch.
        reader: What read the files.
        looks: How many names were looked at so far.
    """

    def __init__(
        self,
        root: Path,
        store: Store,
        exclude: Exclude,
        max_file: int,
        known: DirRef = EMPTY,
        *,
        secrets: Redactor | None = None,
        watch: bool = False,
    ) -> None:
        self._secrets = secrets
        self.root = root
        self._store = store
        self._exclude = exclude
        self.reader = FileReader(store, max_file)
        self._seen = SeenDirectory(known)
        self._changes = Changes()
        self.scanned_at = 0
        self.looks = 0
        self._may_watch = watch
        self._inotify: Inotify | None = None
        self._watched: dict[int, SeenDirectory] = {}
        self._links: dict[int, dict[tuple[SeenDirectory, bytes], None]] = {}
        self._newly_linked: set[int] = set()

    @property
    def seen(self) -> SeenDirectory:
        """What the last scan saw."""
        return self._seen

    def start_from(self, seen: SeenDirectory, at: int) -> None:
        """Takes what was just written to the directory for what a scan saw.

        Args:
            seen: What was written.
            at: When that began, in nanoseconds since the epoch.
        """
        self._seen, self.scanned_at = seen, at

    def load(self, place: Path) -> None:
        """Begins with what `save` kept, if its trees are in the repository."""
        seen = load_seen(place)
        if seen is None or seen.known is None:
            return
        if all(self._store.has(sha) for sha in seen.known[:2] if sha is not None):
            self._seen = seen

    def save(self, place: Path, ref: DirRef) -> None:
        """Keeps what was seen for the next process, if it is what a commit holds, and much.

        Raises:
            OSError: The disk refused.
        """
        if self._seen.ref == ref and self._seen.holds(_KEPT_FROM):
            save_seen(place, self._seen)

    def close(self) -> None:
        """Lets the kernel forget what it watches."""
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None
        self._watched.clear()

    # What changed since a commit

    def settle(self, ref: DirRef) -> None:
        """Notes that a commit holds `ref`: what changes from here on is reported from it on."""
        self._changes.begin(ref if self._seen.ref == ref else None)

    def changed(self, since: DirRef, now: DirRef) -> list[Change] | None:
        """Returns what differs between a commit's state and the last scan's, as `filetree.diff`
        would; None if it was not counted.
        """
        if self._changes.since != since or self._seen.ref != now:
            return None
        return self._changes.paths(self._seen)

    # Scanning

    def scan(self, *, full: bool = False) -> DirRef:
        """Stages what changed on disk and returns the trees of the directory as it is now.

        Args:
            full: Look at every file, whatever the kernel says.

        Raises:
            OSError: The disk refused; nothing that was staged is lost.
        """
        self.scanned_at = time.time_ns()
        self.reader.finder = self._secrets.finder() if self._secrets is not None else None
        try:
            descriptor = os.open(self.root, _OPEN_DIRECTORY)
        except FileNotFoundError:
            self.close()
            self._seen = SeenDirectory(EMPTY)
            self._changes.begin(None)
            return EMPTY
        try:
            full = not self._hear(descriptor) or full
            if full:
                self._links.clear()
            before = self.looks
            self._directory(descriptor, self._seen, b"", unsafe=False, full=full)
            while not full and self._find_twins():
                self._directory(descriptor, self._seen, b"", unsafe=False, full=False)
        except BaseException:
            # What was touched is forgotten: the next scan is a walk.
            self._seen.unknown = True
            self.close()
            raise
        finally:
            os.close(descriptor)
        if full and self._inotify is None and self.looks - before >= WATCH_FROM:
            self._begin_to_watch()
        assert self._seen.ref is not None
        return self._seen.ref

    def _directory(
        self, descriptor: int, seen: SeenDirectory, base: bytes, *, unsafe: bool, full: bool
    ) -> None:
        # Before it is looked at: what changes from here on is in the next scan.
        self._watch(descriptor, seen)
        touched, seen.touched = seen.touched, set()
        stirred, seen.stirred = seen.stirred, set()
        look = _Look(descriptor, seen, base, unsafe, full, self._known_items(seen))
        if full or seen.unknown:
            names = os.listdir(descriptor)
            here = {os.fsencode(name) for name in names}
            for name in [name for name in seen.names() if name not in here]:
                self._gone(look, name)
            for name in names:
                self._look(look, name)
            seen.unknown = False
        else:
            for name in touched:
                self._look(look, os.fsdecode(name))
            for name in stirred - touched:
                if name in seen.directories:
                    self._look(look, os.fsdecode(name))
        if seen.ref is None:
            self._build(seen, unsafe=unsafe, root=not base)

    def _look(self, look: _Look, name: str) -> None:
        raw, seen = os.fsencode(name), look.seen
        self.looks += 1
        try:
            status = os.lstat(name, dir_fd=look.descriptor)
        except FileNotFoundError:
            self._gone(look, raw)
            return
        if raw not in seen.files and raw not in seen.directories and self._hide(look, raw):
            return
        is_directory = stat.S_ISDIR(status.st_mode)
        path = look.base + raw
        if not look.unsafe and self._exclude.matches(path, name, directory=is_directory):
            self._set(look, raw, LeftOut("excluded"))
        elif is_directory:
            self._look_into(look, name, raw, status)
        else:
            previous = seen.files.get(raw)
            if status.st_nlink > 1:
                self._note_link(look, raw, status.st_ino)
            if (
                previous is not None
                and previous.signature == signature(status)
                and not is_racy(previous.signature, previous.read_at)
            ):
                return
            refused = seen.secret.get(raw)
            if refused is not None and refused.is_still(status):
                return
            read_at = clock_ns()
            # What was seen last is staged or committed: it is not staged again.
            last = look.known.get(raw) if previous is None else previous.item
            found = self.reader.read(look.descriptor, name, status, last)
            seen.secret.pop(raw, None)
            if isinstance(found, LeftOut) and found.reason.startswith(HOLDS):
                seen.secret[raw] = Refused(signature(status), read_at)
            self._set(look, raw, found)

    def _gone(self, look: _Look, raw: bytes) -> None:
        look.seen.secret.pop(raw, None)
        self._set(look, look.seen.hidden.pop(raw, raw), None)

    def _hide(self, look: _Look, raw: bytes) -> bool:
        """Leaves a name out that holds a secret, under another; says whether it did."""
        seen = look.seen
        holds = self.reader.finder.held_by(raw) if self.reader.finder is not None else None
        if holds is None:
            return False
        if raw not in seen.hidden:
            numbers = (b"(name %d)" % number for number in count(1))
            seen.hidden[raw] = next(name for name in numbers if name not in seen.left_out)
        self._set(look, seen.hidden[raw], LeftOut(f"its name holds {holds}"))
        return True

    def _look_into(self, look: _Look, name: str, raw: bytes, status: os.stat_result) -> None:
        seen = look.seen
        child = seen.directories.get(raw)
        if child is None:
            item = look.known.get(raw)
            known = item.ref if item and item.kind == "dir" else EMPTY
            child = SeenDirectory(known, (seen, raw))
        before = (child.ref, child.mode)
        unsafe = look.unsafe or is_unsafe_name(raw)
        try:
            opened = os.open(name, _OPEN_DIRECTORY, dir_fd=look.descriptor)
            try:
                mode = stat.S_IMODE(status.st_mode)
                if mode != child.mode:
                    child.mode, child.ref, child.tree = mode, None, None
                base = look.base + raw + b"/"
                self._directory(opened, child, base, unsafe=unsafe, full=look.full)
            finally:
                os.close(opened)
        except (FileNotFoundError, NotADirectoryError):
            self._gone(look, raw)
        except PermissionError:
            self._set(look, raw, LeftOut("unreadable"))
        else:
            if raw not in seen.directories or before != (child.ref, child.mode):
                self._set(look, raw, child, before)

    def _set(
        self,
        look: _Look,
        name: bytes,
        found: SeenFile | SeenDirectory | LeftOut | None,
        before: tuple[DirRef | None, int] | None = None,
    ) -> None:
        """Sets what is seen under a name, and notes whether that is a change."""
        seen = look.seen
        file, below = seen.files.get(name), seen.directories.get(name)
        old: Item | None = file.item if file else None
        if below is not None:
            ref, mode = before or (below.ref, below.mode)
            old = Item("dir", mode, ref=ref or EMPTY)
        left_out = seen.left_out.get(name)
        if file is not None and not isinstance(found, SeenFile):
            del seen.files[name]
        if below is not None and found is not below:
            self._changes.removed(below, look.base + name)
            self._forget(below)
            del seen.directories[name]
        now_left_out = found if isinstance(found, LeftOut) else None
        if now_left_out is None:
            seen.left_out.pop(name, None)
        else:
            seen.left_out[name] = now_left_out
        item: Item | None = None
        if isinstance(found, SeenFile):
            seen.files[name] = found
            item = found.item
        elif isinstance(found, SeenDirectory):
            seen.directories[name] = found
            item = Item("dir", found.mode, ref=found.ref or EMPTY)
        if item == old and now_left_out == left_out:
            return
        self._changes.note(look.base + name, old, item)
        seen.ref = None
        if seen.tree is not None:
            seen.tree.put(name, item)
            seen.tree.leave_out(name, now_left_out)

    def _build(self, seen: SeenDirectory, *, unsafe: bool, root: bool) -> None:
        known = seen.known or EMPTY
        tree = seen.tree
        if tree is None:
            tree = DirectoryTree(unsafe=unsafe, root=root)
            for name in (*seen.files, *seen.directories):
                tree.put(name, seen.item(name))
            for name, why in seen.left_out.items():
                tree.leave_out(name, why)
            # A directory that changes once may change again.
            seen.tree = tree if seen.built else None
        tree.mode = seen.mode
        seen.ref = seen.known = tree.refs(self._store, known)
        seen.built = True

    def _known_items(self, seen: SeenDirectory) -> dict[bytes, Item]:
        # Only the first look at a directory compares with the commit, later ones with the last.
        if seen.built or seen.files or seen.known is None or seen.known[:2] == (None, None):
            return {}
        return read_directory(self._store, seen.known).items

    # What the kernel says

    def _begin_to_watch(self) -> None:
        if not self._may_watch or not is_local(self.root):
            return
        with contextlib.suppress(OSError):
            # From the next walk on, which is the next scan.
            self._inotify = Inotify()

    def _watch(self, descriptor: int, seen: SeenDirectory) -> None:
        if self._inotify is None:
            return
        place = _place(descriptor)
        if seen.watch is not None and seen.place == place:
            return
        try:
            watch = self._inotify.watch(descriptor)
        except OSError:
            # The system has no watch left: walks, from here on.
            self.close()
            self._may_watch = False
            return
        if watch != seen.watch:
            # New, or another directory in the place of one that was there.
            seen.watch, seen.unknown = watch, True
        seen.place = place
        self._watched[watch] = seen

    def _hear(self, descriptor: int) -> bool:
        """Notes what the kernel says has changed; says whether that is all."""
        if self._inotify is None:
            return False
        # That one which was watched is gone, and its inode another's, is among the events.
        if self._seen.watch is None or self._seen.place != _place(descriptor):
            return False
        whole = True
        for event in self._inotify.events():
            seen = self._watched.get(event.watch) if event is not None else None
            if event is None:
                whole = False
            elif seen is None:
                continue
            elif event.gone:
                del self._watched[event.watch]
                seen.watch = None
                whole = whole and seen is not self._seen
            elif event.name:
                seen.touch(event.name)
                self._touch_twins(seen, event.name)
            elif seen.above is not None:
                seen.above[0].touch(seen.above[1])
        return whole

    def _note_link(self, look: _Look, name: bytes, inode: int) -> None:
        links = self._links.setdefault(inode, {})
        if not look.full and (look.seen, name) not in links:
            self._newly_linked.add(inode)
        links[look.seen, name] = None

    def _find_twins(self) -> bool:
        """Touches the other names of files that have got one; says whether there are any."""
        inodes, self._newly_linked = self._newly_linked, set()
        if not inodes:
            return False
        for seen in self._seen.below():
            for name, file in seen.files.items():
                if file.signature[3] in inodes:
                    self._links[file.signature[3]][seen, name] = None
                    seen.touch(name)
        return True

    def _touch_twins(self, seen: SeenDirectory, name: bytes) -> None:
        """Notes that the other names of a file may have changed with this one."""
        file = seen.files.get(name)
        if file is None or not self._links:
            return
        for place, twin in self._links.get(file.signature[3], ()):
            place.touch(twin)

    def _forget(self, gone: SeenDirectory) -> None:
        for seen in gone.below():
            if seen.watch is not None and self._watched.get(seen.watch) is seen:
                del self._watched[seen.watch]
                if self._inotify is not None:
                    self._inotify.forget(seen.watch)


def _place(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


class _Look:
    """A directory that is being looked at."""

    __slots__ = ("base", "descriptor", "full", "known", "seen", "unsafe")

    def __init__(
        self,
        descriptor: int,
        seen: SeenDirectory,
        base: bytes,
        unsafe: bool,
        full: bool,
        known: dict[bytes, Item],
    ) -> None:
        self.descriptor = descriptor
        self.seen = seen
        self.base = base
        self.unsafe = unsafe
        self.full = full
        self.known = known
