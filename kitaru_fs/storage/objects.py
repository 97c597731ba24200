"""Git objects in process: identity, encoding and parsing of blobs, trees and commits.

The formats are git's own (gitformat-loose, git-commit-tree): an object's id is the SHA-1 of
`TYPE SIZE NUL CONTENT`; a tree is a sorted list of `MODE SPACE NAME NUL ID`.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import sha1
from typing import Literal, NamedTuple

__all__ = [
    "EMPTY_TREE",
    "MODE_EXECUTABLE",
    "MODE_FILE",
    "MODE_GITLINK",
    "MODE_LINK",
    "MODE_TREE",
    "Commit",
    "GrowingTree",
    "Person",
    "TreeEntry",
    "decode_loose",
    "deflate",
    "encode_commit",
    "encode_loose",
    "encode_tree",
    "is_unsafe_name",
    "object_id",
    "parse_commit",
    "parse_tree",
]

ObjectKind = Literal["blob", "tree", "commit", "tag"]

MODE_FILE = 0o100644
MODE_EXECUTABLE = 0o100755
MODE_LINK = 0o120000
MODE_TREE = 0o040000
MODE_GITLINK = 0o160000

EMPTY_TREE = bytes.fromhex("4b825dc642cb6eb9a060e54bf8d69288fbee4904")


class TreeEntry(NamedTuple):
    """What a tree says of one name: git's mode and the object's id (20 bytes)."""

    mode: int
    sha: bytes


class Person(NamedTuple):
    """Who acted, and when (seconds since the epoch, UTC)."""

    name: str
    email: str
    time: int

    def encode(self) -> bytes:
        name = _clean_identity(self.name) or "unknown"
        return f"{name} <{_clean_identity(self.email)}> {self.time} +0000".encode()


class Commit(NamedTuple):
    """A parsed commit; `tree` and `parents` are 20-byte ids."""

    tree: bytes
    parents: tuple[bytes, ...]
    author: bytes
    committer: bytes
    message: str


@lru_cache(256)
def _clean_identity(text: str) -> str:
    return re.sub(r"[<>\x00-\x1f\x7f]", "", text).strip(" .,:;'\"")


def object_id(kind: ObjectKind, data: bytes) -> bytes:
    """Returns the 20-byte id of an object."""
    return sha1(b"%s %d\0" % (kind.encode(), len(data)) + data).digest()


def deflate(data: bytes) -> bytes:
    """Returns data as a zlib stream, quickly.

    What a stream costs is mostly the setting up of its window: most objects are small, so theirs
    is too; what is hardly more than an id is stored.
    """
    size = len(data)
    if size <= 64:
        head = b"\x78\x01\x01" + struct.pack("<HH", size, size ^ 0xFFFF)
        return head + data + struct.pack(">I", zlib.adler32(data))
    if size <= 1024:
        stream = zlib.compressobj(6, zlib.DEFLATED, 10, 4)
    elif size <= 8192:
        stream = zlib.compressobj(4, zlib.DEFLATED, 13, 6)
    else:
        return zlib.compress(data, 1)
    return stream.compress(data) + stream.flush()


def encode_loose(kind: ObjectKind, data: bytes) -> bytes:
    """Returns the bytes of a loose object file."""
    return deflate(b"%s %d\0" % (kind.encode(), len(data)) + data)


def decode_loose(raw: bytes) -> tuple[str, bytes]:
    """Returns kind and content of a loose object file.

    Raises:
        ValueError: The bytes are no complete loose object.
    """
    try:
        whole = zlib.decompress(raw)
    except zlib.error as error:
        raise ValueError(f"not a loose object: {error}") from error
    header, separator, data = whole.partition(b"\0")
    kind, _, size = header.partition(b" ")
    if not separator or not size.isdigit() or int(size) != len(data):
        raise ValueError("not a loose object: its header does not fit its content")
    return kind.decode("ascii"), data


def encode_tree(entries: Mapping[bytes, TreeEntry]) -> bytes:
    """Returns the content of a tree, in git's order (a directory sorts as if it ended in `/`)."""
    ordered = sorted(
        entries.items(),
        key=lambda item: item[0] + b"/" if item[1].mode == MODE_TREE else item[0],
    )
    return b"".join([b"%o %s\0%s" % (entry.mode, name, entry.sha) for name, entry in ordered])


def parse_tree(data: bytes) -> dict[bytes, TreeEntry]:
    """Returns a tree's entries by name, in the tree's order.

    Raises:
        ValueError: The content is no tree.
    """
    entries: dict[bytes, TreeEntry] = {}
    position, end = 0, len(data)
    while position < end:
        space = data.index(b" ", position)
        null = data.index(b"\0", space)
        sha = data[null + 1 : null + 21]
        if len(sha) != 20:
            raise ValueError("a tree entry is cut short")
        entries[data[space + 1 : null]] = TreeEntry(int(data[position:space], 8), sha)
        position = null + 21
    return entries


class GrowingTree:
    """The content of a tree that grows at its end: what is put there is not sorted in again.

    Args:
        data: Its content.

    Attributes:
        data: Its content now.
        entries: Its entries by name, in order.
    """

    def __init__(self, data: bytes) -> None:
        self._load(data)

    def _load(self, data: bytes) -> None:
        self.data = data
        self._last = b""
        self._last_at = len(data)
        self.entries = parse_tree(data)
        if self.entries:
            self._last, entry = next(reversed(self.entries.items()))
            self._last_at = len(data) - len(b"%o %s\0" % (entry.mode, self._last)) - 20

    def put(self, name: bytes, mode: int, sha: bytes) -> None:
        """Sets what the tree says of a name."""
        row = b"%o %s\0%s" % (mode, name, sha)
        if name > self._last:
            self._last_at = len(self.data)
            self.data += row
        elif name == self._last:
            self.data = self.data[: self._last_at] + row
        else:
            self._load(encode_tree({**self.entries, name: TreeEntry(mode, sha)}))
            return
        self._last = name
        self.entries[name] = TreeEntry(mode, sha)


def encode_commit(
    tree: bytes, parents: Iterable[bytes], author: Person, committer: Person, message: str
) -> bytes:
    """Returns the content of a commit; `message` is text, its last line is ended here."""
    lines = [b"tree " + tree.hex().encode()]
    lines += [b"parent " + parent.hex().encode() for parent in parents]
    lines += [b"author " + author.encode(), b"committer " + committer.encode()]
    text = message.replace("\0", "\ufffd").encode("utf-8", "replace")
    return b"\n".join(lines) + b"\n\n" + text.rstrip(b"\n") + b"\n"


def parse_commit(data: bytes) -> Commit:
    """Returns a commit's fields.

    Raises:
        ValueError: The content is no commit.
    """
    head, _, message = data.partition(b"\n\n")
    tree = b""
    parents: list[bytes] = []
    author = committer = b""
    for line in head.split(b"\n"):
        key, _, value = line.partition(b" ")
        if key == b"tree":
            tree = bytes.fromhex(value.decode("ascii"))
        elif key == b"parent":
            parents.append(bytes.fromhex(value.decode("ascii")))
        elif key == b"author":
            author = value
        elif key == b"committer":
            committer = value
    if len(tree) != 20:
        raise ValueError("not a commit: it names no tree")
    return Commit(tree, tuple(parents), author, committer, message.decode("utf-8", "replace"))


# What HFS+ ignores in a name (git's utf8.c, next_hfs_char).
_HFS_IGNORED = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")
# What NTFS takes for `.git` (git's path.c, is_ntfs_dotgit).
_NTFS_DOTGIT = re.compile(rb"(?:\.git|git~1)[ .]*(?:$|[:\\])", re.IGNORECASE)


def is_unsafe_name(name: bytes) -> bool:
    """Says whether git refuses a tree entry of this name (`.git` in any disguise, `.`, `..`)."""
    if name in (b".", b"..", b""):
        return True
    if b"\\" in name:
        # NTFS takes a backslash for a separator.
        return any(is_unsafe_name(part) for part in name.split(b"\\") if part not in (b"", b"."))
    first = name[:1]
    if first in b".gG" and _NTFS_DOTGIT.match(name):
        return True
    if b"\xe2" in name or b"\xef" in name:
        plain = _HFS_IGNORED.sub("", name.decode("utf-8", "surrogateescape"))
        return plain.lower() == ".git"
    return False
