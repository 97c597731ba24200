"""What a commit says of a directory: git's trees, and beside them what git alone does not carry.

A directory of the agent's is two trees of the commit, walked side by side:

    files/PATH    what git can hold: files, executables, symlinks, directories with content
    state/PATH    the rest, in a mirror of the same directories:
        =dir      a JSON record of this directory, present only if it says something:
                    mode      the directory's permissions, if not 0755
                    modes     {name: permissions} of files that are not 0644 or 0755
                    empty     true: git sees nothing here, but the directory exists
                    left_out  {name: {"reason", "size"}} of what is on disk and in no commit
        %NAME     a file or directory whose name git refuses (`.git` in any disguise), whole:
                  below it files are plain entries of this tree, nothing stands under files/

A name in `state/` that starts with `%` or `=`, or that git refuses, has a `%` put before it. Names
in a record are quoted as git quotes paths; permissions are octal text.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, Protocol

import msgspec

from kitaru_fs.quoting import quote_path, unquote_path
from kitaru_fs.storage.objects import (
    MODE_EXECUTABLE,
    MODE_FILE,
    MODE_GITLINK,
    MODE_LINK,
    MODE_TREE,
    ObjectKind,
    TreeEntry,
    is_unsafe_name,
    object_id,
    parse_tree,
)

__all__ = [
    "EMPTY",
    "Change",
    "DirRef",
    "Directory",
    "DirectoryTree",
    "Item",
    "LeftOut",
    "build_directory",
    "diff",
    "left_out_below",
    "merge_checkout",
    "newly_left_out",
    "read_directory",
]

DEFAULT_DIRECTORY_MODE = 0o755
_RECORD = b"=dir"


class DirRef(NamedTuple):
    """A directory in a commit: its two trees, and whether git refuses a name on the way to it."""

    files: bytes | None
    state: bytes | None
    unsafe: bool = False


EMPTY = DirRef(None, None)


class Item(NamedTuple):
    """One name in a directory: a file (blob, permissions), a link (blob) or a directory."""

    kind: Literal["file", "link", "dir"]
    mode: int
    sha: bytes = b""
    ref: DirRef = EMPTY


class LeftOut(NamedTuple):
    """Something on disk that no commit holds, and why."""

    reason: str
    size: int | None = None


class Directory(NamedTuple):
    """A directory's own mode, its items by name, and what is left out of it."""

    mode: int
    items: dict[bytes, Item]
    left_out: dict[bytes, LeftOut]


class Change(NamedTuple):
    """A path that differs; `before` or `after` is None where it was added or removed."""

    path: bytes
    before: Item | None
    after: Item | None


class Readable(Protocol):
    """Where objects are read."""

    def read(self, sha: bytes, kind: ObjectKind | None = None) -> bytes: ...


class _Objects(Readable, Protocol):
    def put_scanned(
        self,
        kind: ObjectKind,
        data: bytes,
        *,
        base: bytes | None = None,
        sha: bytes | None = None,
    ) -> bytes: ...


class _Record(msgspec.Struct, omit_defaults=True):
    mode: str | None = None
    modes: dict[str, str] = {}
    empty: bool = False
    left_out: dict[str, dict[str, str | int]] = {}


_decode_record = msgspec.json.Decoder(_Record).decode


def _escape(name: bytes) -> bytes:
    return b"%" + name if name[:1] in (b"%", b"=") or is_unsafe_name(name) else name


def _unescape(name: bytes) -> bytes:
    return name[1:] if name[:1] == b"%" else name


def read_directory(objects: Readable, ref: DirRef) -> Directory:
    """Returns what a commit says of one directory.

    Raises:
        RunDamagedError: An object is missing.
        ValueError: A tree or record cannot be read.
    """
    files = parse_tree(objects.read(ref.files, "tree")) if ref.files else {}
    state = parse_tree(objects.read(ref.state, "tree")) if ref.state else {}
    record = _Record()
    if _RECORD in state:
        record = _decode_record(objects.read(state[_RECORD].sha, "blob"))
    modes = {unquote_path(name): int(mode, 8) for name, mode in record.modes.items()}
    items: dict[bytes, Item] = {}
    for name, entry in files.items():
        if entry.mode == MODE_GITLINK:
            # A human's commit may hold one; its files are not in the run, so it holds nothing.
            continue
        if entry.mode == MODE_TREE:
            beside = state.get(_escape(name))
            below = DirRef(entry.sha, beside.sha if beside else None)
            items[name] = Item("dir", _directory_mode(objects, below), ref=below)
        else:
            items[name] = _leaf(entry, modes.get(name))
    for escaped, entry in state.items():
        name = _unescape(escaped)
        if escaped == _RECORD or name in items:
            continue
        unsafe = ref.unsafe or is_unsafe_name(name)
        if entry.mode == MODE_TREE:
            below = DirRef(None, entry.sha, unsafe)
            items[name] = Item("dir", _directory_mode(objects, below), ref=below)
        elif unsafe:
            items[name] = _leaf(entry, modes.get(name))
    left_out = {
        unquote_path(name): LeftOut(str(why.get("reason", "")), _size(why.get("size")))
        for name, why in record.left_out.items()
    }
    mode = int(record.mode, 8) if record.mode else DEFAULT_DIRECTORY_MODE
    return Directory(mode, items, left_out)


def _size(value: str | int | None) -> int | None:
    return value if isinstance(value, int) else None


def _leaf(entry: TreeEntry, mode: int | None) -> Item:
    if entry.mode == MODE_LINK:
        return Item("link", 0o777, entry.sha)
    return Item("file", entry.mode & 0o777 if mode is None else mode, entry.sha)


def _directory_mode(objects: Readable, ref: DirRef) -> int:
    if ref.state is None:
        return DEFAULT_DIRECTORY_MODE
    record = parse_tree(objects.read(ref.state, "tree")).get(_RECORD)
    if record is None:
        return DEFAULT_DIRECTORY_MODE
    mode = _decode_record(objects.read(record.sha, "blob")).mode
    return int(mode, 8) if mode else DEFAULT_DIRECTORY_MODE


def build_directory(
    objects: _Objects, directory: Directory, *, unsafe: bool, root: bool, known: DirRef = EMPTY
) -> DirRef:
    """Stages the trees of one directory and returns them.

    Args:
        objects: Where new objects are staged.
        directory: What is on disk; sub-directories are built already.
        unsafe: Whether git refuses a name on the way to it.
        root: Whether it is `files/` itself, which needs no mention when it is empty.
        known: The directory's trees in the last commit, which are not staged again.
    """
    tree = DirectoryTree(unsafe=unsafe, root=root)
    tree.mode = directory.mode
    for name, item in directory.items.items():
        tree.put(name, item)
    for name, why in directory.left_out.items():
        tree.leave_out(name, why)
    return tree.refs(objects, known)


class DirectoryTree:
    """What the two trees of one directory are made of, so that a change costs what it changes.

    Args:
        unsafe: Whether git refuses a name on the way to it.
        root: Whether it is `files/` itself, which needs no mention when it is empty.

    Attributes:
        mode: The directory's permissions.
    """

    def __init__(self, *, unsafe: bool, root: bool) -> None:
        self.mode = DEFAULT_DIRECTORY_MODE
        self._unsafe = unsafe
        self._root = root
        self._files = _Rows()
        self._state = _Rows()
        self._modes: dict[str, str] = {}
        self._left_out: dict[str, dict[str, str | int]] = {}

    def put(self, name: bytes, item: Item | None) -> None:
        """Sets what stands under a name; its directories are built already."""
        escaped = _escape(name)
        self._files.remove(name)
        self._state.remove(escaped)
        if self._modes:
            self._modes.pop(quote_path(name), None)
        if item is None:
            return
        beside = self._unsafe or is_unsafe_name(name)
        place, key = (self._state, escaped) if beside else (self._files, name)
        if item.kind == "dir":
            if item.ref.files:
                self._files.set(name, MODE_TREE, item.ref.files)
            if item.ref.state:
                self._state.set(escaped, MODE_TREE, item.ref.state)
        elif item.kind == "link":
            place.set(key, MODE_LINK, item.sha)
        else:
            git_mode = MODE_EXECUTABLE if item.mode & 0o100 else MODE_FILE
            place.set(key, git_mode, item.sha)
            if item.mode != git_mode & 0o777:
                self._modes[quote_path(name)] = f"{item.mode:04o}"

    def leave_out(self, name: bytes, why: LeftOut | None) -> None:
        """Sets why a name is in no commit; None if it is not left out."""
        if why is not None:
            size: dict[str, str | int] = {} if why.size is None else {"size": why.size}
            self._left_out[quote_path(name)] = {"reason": why.reason} | size
        elif self._left_out:
            self._left_out.pop(quote_path(name), None)

    def refs(self, objects: _Objects, known: DirRef) -> DirRef:
        """Stages the trees and returns them; those of `known` are there already."""
        self._state.remove(_RECORD)
        own_mode = None if self._root or self.mode == DEFAULT_DIRECTORY_MODE else self.mode
        record = _Record(
            mode=None if own_mode is None else f"{own_mode:04o}",
            modes=dict(sorted(self._modes.items())),
            empty=not self._root and not (self._state if self._unsafe else self._files),
            left_out=dict(sorted(self._left_out.items())),
        )
        content = msgspec.json.encode(record)
        if content != b"{}":
            sha = objects.put_scanned("blob", content + b"\n")
            self._state.set(_RECORD, MODE_FILE, sha)
        return DirRef(
            _put_tree(objects, self._files.data(), known.files),
            _put_tree(objects, self._state.data(), known.state),
            self._unsafe,
        )


class _Rows:
    """The rows of a tree, in git's order: a directory sorts as if it ended in a slash."""

    def __init__(self) -> None:
        self._rows: dict[bytes, bytes] = {}
        self._order: list[bytes] | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def set(self, name: bytes, mode: int, sha: bytes) -> None:
        key = name + b"/" if mode == MODE_TREE else name
        if key not in self._rows and self._order is not None:
            insort(self._order, key)
        self._rows[key] = b"%o %s\0%s" % (mode, name, sha)

    def remove(self, name: bytes) -> None:
        for key in (name, name + b"/"):
            if self._rows.pop(key, None) is not None and self._order is not None:
                del self._order[bisect_left(self._order, key)]

    def data(self) -> bytes:
        if self._order is None:
            self._order = sorted(self._rows)
        return b"".join([self._rows[key] for key in self._order])


def _put_tree(objects: _Objects, data: bytes, known: bytes | None) -> bytes | None:
    if not data:
        return None
    sha = object_id("tree", data)
    return sha if sha == known else objects.put_scanned("tree", data, base=known, sha=sha)


def diff(objects: Readable, before: DirRef, after: DirRef, base: bytes = b"") -> Iterator[Change]:
    """Yields the paths that differ between two directories, sorted within each directory.

    A directory that is added or removed is yielded itself, and then its content; equal sub-trees
    are not read, so the cost follows the difference.
    """
    if before == after:
        return
    old = read_directory(objects, before)
    new = read_directory(objects, after)
    for name in sorted(old.items.keys() | new.items.keys()):
        was, now = old.items.get(name), new.items.get(name)
        if was == now:
            continue
        path = base + b"/" + name if base else name
        same_kind = was is not None and now is not None and was.kind == now.kind == "dir"
        if not same_kind or (was and now and was.mode != now.mode):
            yield Change(path, was, now)
        was_ref = was.ref if was and was.kind == "dir" else EMPTY
        now_ref = now.ref if now and now.kind == "dir" else EMPTY
        if was_ref != now_ref:
            yield from diff(objects, was_ref, now_ref, path)


def merge_checkout(
    objects: _Objects,
    found: DirRef,
    clean: DirRef,
    is_gits: Callable[[bytes, Item, Item], bool] = lambda path, item, known: False,
    base: bytes = b"",
) -> DirRef:
    """Stages what a directory is to be after plain git checked a commit out.

    Args:
        objects: Where new trees are staged.
        found: The directory as it is on disk: git's checkout, and a human's edits on top.
        clean: The directory in that commit.
        is_gits: Says of a path whether what differs there is git's doing: a conversion.
        base: Where the directory lies below `files/`; empty, or ends in a slash.

    Returns:
        The human's content where it differs from the commit's; the commit's permissions, empty
        directories and nested repositories' own state, which git does not carry, everywhere else.
    """
    if found.files == clean.files and (not base or found.files is not None):
        return clean
    here, there = read_directory(objects, found), read_directory(objects, clean)
    items: dict[bytes, Item] = {}
    for name, item in here.items.items():
        known = there.items.get(name)
        if is_unsafe_name(name):
            continue
        if known is None or known.kind != item.kind:
            items[name] = item
        elif item.kind == "dir":
            ref = merge_checkout(objects, item.ref, known.ref, is_gits, base + name + b"/")
            items[name] = Item("dir", known.mode, ref=ref)
        else:
            same = item.sha == known.sha and item.mode & 0o100 == known.mode & 0o100
            items[name] = known if same or is_gits(base + name, item, known) else item
    for name, item in there.items.items():
        unseen = item.kind == "dir" and item.ref.files is None
        if is_unsafe_name(name) or (unseen and name not in items):
            items[name] = item
    merged = Directory(there.mode, items, here.left_out)
    return build_directory(objects, merged, unsafe=False, root=not base, known=clean)


def newly_left_out(
    objects: Readable, before: DirRef, after: DirRef, base: bytes = b""
) -> Iterator[tuple[bytes, LeftOut]]:
    """Yields the paths that `after` leaves out and `before` did not, or for another reason.

    Directories whose `state/` is the same in both are not read.
    """
    if after.state is None or before.state == after.state:
        return
    old, new = read_directory(objects, before), read_directory(objects, after)
    for name, why in sorted(new.left_out.items()):
        if old.left_out.get(name) != why:
            yield base + b"/" + name if base else name, why
    for name, item in new.items.items():
        if item.kind == "dir":
            was = old.items.get(name)
            known = was.ref if was and was.kind == "dir" else EMPTY
            below = base + b"/" + name if base else name
            yield from newly_left_out(objects, known, item.ref, below)


def left_out_below(
    objects: Readable, ref: DirRef, base: bytes = b""
) -> Iterator[tuple[bytes, LeftOut]]:
    """Yields every path that is on disk and in no commit, as a commit lists them."""
    if ref.state is None:
        return
    directory = read_directory(objects, ref)
    for name, why in directory.left_out.items():
        yield base + b"/" + name if base else name, why
    for name, item in directory.items.items():
        if item.kind == "dir" and item.ref.state:
            yield from left_out_below(objects, item.ref, base + b"/" + name if base else name)
