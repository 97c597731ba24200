"""What a record of the log means: objects, and the refs that a commit sets.

    u32      count of objects, each:
        20 bytes   id
        u8         kind: 1 commit, 2 tree, 3 blob; with 16 added it is a difference (`deltas`):
        [20 bytes  id of the base, an earlier object of this log
         u32, u32  how many bytes of the base's beginning and of its end]
        u32        length of what follows: the content, or the difference's middle
    u32      count of refs, each:
        u16        length of the name
        name
        20 bytes   id

Contents are not compressed: that would take longer than writing them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from kitaru_fs.storage.deltas import LONGEST, Difference, apply, difference
from kitaru_fs.storage.objects import ObjectKind
from kitaru_fs.storage.refs import is_ref_name

__all__ = ["LoggedObjects", "encode_record", "parse_record"]

_KINDS: dict[ObjectKind, int] = {"commit": 1, "tree": 2, "blob": 3}
_NAMES: dict[int, ObjectKind] = {number: name for name, number in _KINDS.items()}
_DIFFERENCE = 16
_RECENT = 64
_HEAD = struct.Struct("<20sBI")
_HEAD_OF_DIFFERENCE = struct.Struct("<20sB20sIII")
_U32 = struct.Struct("<I")
_U16 = struct.Struct("<H")


class Logged(NamedTuple):
    """An object of the log: whole, or as a difference; `depth` is how many it builds on."""

    kind: ObjectKind
    content: bytes | Difference
    depth: int
    root: bytes


class LoggedObjects:
    """The objects of one generation of the log, in the order in which they were written."""

    def __init__(self) -> None:
        self._objects: dict[bytes, Logged] = {}
        self._recent: dict[bytes, bytes] = {}

    def __len__(self) -> int:
        return len(self._objects)

    def __contains__(self, sha: bytes) -> bool:
        return sha in self._objects

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._objects)

    def clear(self) -> None:
        """Forgets all of them."""
        self._objects.clear()
        self._recent.clear()

    def get(self, sha: bytes) -> tuple[ObjectKind, bytes] | None:
        """Returns an object's kind and content."""
        found = self._objects.get(sha)
        if found is None:
            return None
        return found.kind, self._recent.get(sha) or self._content(found)

    def item(self, sha: bytes) -> Logged:
        """Returns an object as it stands in the log."""
        return self._objects[sha]

    def size(self, sha: bytes) -> int:
        """Returns an object's length in bytes."""
        content = self._objects[sha].content
        if isinstance(content, bytes):
            return len(content)
        return content.prefix + len(content.middle) + content.suffix

    def _content(self, found: Logged) -> bytes:
        chain: list[Difference] = []
        while isinstance(found.content, Difference):
            chain.append(found.content)
            found = self._objects[found.content.base]
        content = found.content
        for step in reversed(chain):
            content = apply(step, content)
        return content

    def add(self, sha: bytes, kind: ObjectKind, content: bytes, base: bytes | None) -> Logged:
        """Adds an object; as a difference from `base` where the log has that and it is smaller."""
        logged = Logged(kind, content, 0, sha)
        before = self._objects.get(base) if base is not None else None
        if before is not None and base is not None and base != sha:
            step = difference(base, self._recent.pop(base, None) or self._content(before), content)
            start, most = before.root, len(step.middle) + 32
            if start != base and len(content) - self.size(start) <= most:
                # What was edited in one place only differs as little from where the chain began.
                whole = difference(start, self._content(self._objects[start]), content)
                if len(whole.middle) <= most:
                    step = whole
            depth = 1 if step.base == start else before.depth + 1
            if depth <= LONGEST and len(step.middle) + 40 < len(content):
                logged = Logged(kind, step, depth, start)
        if base is not None:
            self._recent[sha] = content
            if len(self._recent) > _RECENT:
                del self._recent[next(iter(self._recent))]
        self._objects[sha] = logged
        return logged

    def remove(self, sha: bytes) -> None:
        """Takes the objects back that were added last: one, as long as none builds on it."""
        self._objects.pop(sha, None)
        self._recent.pop(sha, None)

    def load(self, sha: bytes, logged: Logged) -> None:
        """Adds an object as it was read from the log."""
        if isinstance(logged.content, Difference):
            base = self._objects[logged.content.base]
            logged = logged._replace(depth=base.depth + 1, root=base.root)
        self._objects[sha] = logged


def encode_record(objects: list[tuple[bytes, Logged]], refs: Mapping[str, bytes]) -> list[bytes]:
    """Returns the pieces of a record's payload."""
    parts: list[bytes] = [_U32.pack(len(objects))]
    for sha, (kind, content, _, _) in objects:
        if isinstance(content, bytes):
            parts += (_HEAD.pack(sha, _KINDS[kind], len(content)), content)
        else:
            base, prefix, suffix, middle = content
            number = _KINDS[kind] | _DIFFERENCE
            head = _HEAD_OF_DIFFERENCE.pack(sha, number, base, prefix, suffix, len(middle))
            parts += (head, middle)
    parts.append(_U32.pack(len(refs)))
    for name, sha in refs.items():
        encoded = name.encode("utf-8", "surrogateescape")
        parts.append(_U16.pack(len(encoded)) + encoded + sha)
    return parts


def parse_record(payload: bytes, into: LoggedObjects) -> dict[str, bytes]:
    """Adds a record's objects to those of its log; returns its refs.

    A name that no ref can have is passed over: a crafted record may name any path.
    """
    (count,) = _U32.unpack_from(payload, 0)
    position = 4
    for _ in range(count):
        if payload[position + 20] & _DIFFERENCE:
            sha, number, base, prefix, suffix, length = _HEAD_OF_DIFFERENCE.unpack_from(
                payload, position
            )
            position += _HEAD_OF_DIFFERENCE.size
            content = Difference(base, prefix, suffix, payload[position : position + length])
        else:
            sha, number, length = _HEAD.unpack_from(payload, position)
            position += _HEAD.size
            content = payload[position : position + length]
        into.load(sha, Logged(_NAMES[number & ~_DIFFERENCE], content, 0, sha))
        position += length
    refs: dict[str, bytes] = {}
    (count,) = _U32.unpack_from(payload, position)
    position += 4
    for _ in range(count):
        (length,) = _U16.unpack_from(payload, position)
        name = payload[position + 2 : position + 2 + length].decode("utf-8", "surrogateescape")
        position += 2 + length
        if is_ref_name(name):
            refs[name] = payload[position : position + 20]
        position += 20
    return refs
