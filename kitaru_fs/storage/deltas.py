"""Trees as what differs from an earlier one: a middle that is other, between two equal ends.

A directory of a thousand files is a tree of 35 kB, written anew for each file that changes in it.
As a difference it is a few dozen bytes, in the log and in a pack (git's delta format,
gitformat-pack). A chain of differences is cut at `LONGEST`, so that reading stays cheap.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "LONGEST",
    "Difference",
    "apply",
    "block_delta",
    "difference",
    "git_apply",
    "git_delta",
    "line_delta",
]

LONGEST = 50
"""So many differences may build on one another."""

_COPY_LIMIT = 0x10000
_BLOCK = 4096


class Difference(NamedTuple):
    """Content that is `prefix` bytes of its base, `middle`, and the base's last `suffix` bytes."""

    base: bytes
    prefix: int
    suffix: int
    middle: bytes


def difference(base: bytes, old: bytes, new: bytes) -> Difference:
    """Returns what makes `new` of `old`, whose id is `base`."""
    limit = min(len(old), len(new))
    prefix = _equal(old, new, limit)
    suffix = _equal_backwards(old, new, limit - prefix)
    return Difference(base, prefix, suffix, new[prefix : len(new) - suffix])


def apply(found: Difference, old: bytes) -> bytes:
    """Returns the content that a difference makes of its base's."""
    return old[: found.prefix] + found.middle + old[len(old) - found.suffix :]


def _equal(left: bytes, right: bytes, limit: int) -> int:
    if left[:limit] == right[:limit]:
        # What grows at its end, as a journal does.
        return limit
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _equal_backwards(left: bytes, right: bytes, limit: int) -> int:
    a, b = len(left), len(right)
    if not limit or left[a - 1] != right[b - 1]:
        return 0
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if left[a - middle : a - low] == right[b - middle : b - low]:
            low = middle
        else:
            high = middle - 1
    return low


def git_delta(found: Difference, old_size: int) -> bytes:
    """Returns a difference in the form that a pack has it."""
    out = bytearray(_size(old_size))
    out += _size(found.prefix + len(found.middle) + found.suffix)
    _copy(out, 0, found.prefix)
    _insert(out, found.middle)
    _copy(out, old_size - found.suffix, found.suffix)
    return bytes(out)


def block_delta(old: bytes, new: bytes) -> bytes | None:
    """Returns what makes `new` of `old`, as a pack has it, found block by block.

    It finds what was appended, inserted in one place, or written over in the blocks of a database.

    Returns:
        None where it would not be less than half of the content.
    """
    limit = min(len(old), len(new))
    prefix = _equal(old, new, limit) // _BLOCK * _BLOCK
    suffix = _equal_backwards(old, new, limit - prefix)
    end = len(new) - suffix
    known = {old[at : at + _BLOCK]: at for at in range(prefix, len(old) - suffix, _BLOCK)}
    out = bytearray(_size(len(old)) + _size(len(new)))
    _copy(out, 0, prefix)
    literal = start = prefix
    while start < end:
        piece = new[start : min(start + _BLOCK, end)]
        at = start if old[start : start + len(piece)] == piece else known.get(piece)
        if at is not None:
            _insert(out, new[literal:start])
            _copy(out, at, len(piece))
            literal = start + len(piece)
        start += len(piece)
        if len(out) + start - literal > len(new) // 2:
            return None
    _insert(out, new[literal:end])
    _copy(out, len(old) - suffix, suffix)
    return bytes(out)


def line_delta(old: bytes, new: bytes) -> bytes | None:
    """Returns what makes `new` of `old`, as a pack has it, where lines are written over.

    Returns:
        None where they have other lines than that.
    """
    before, after = old.split(b"\n"), new.split(b"\n")
    if len(before) != len(after):
        return None
    out = bytearray(_size(len(old)) + _size(len(new)))
    # What is the same since the last insertion begins at `start`; `at` is where this line does.
    start = at = 0
    for number, (was, line) in enumerate(zip(before, after, strict=True)):
        size = len(was) + (number < len(before) - 1)
        if was != line:
            kept = _equal(was, line, min(len(was), len(line)))
            _copy(out, start, at + kept - start)
            _insert(out, line[kept:])
            start = at + len(was)
        at += size
    _copy(out, start, len(old) - start)
    return bytes(out)


def _insert(out: bytearray, data: bytes) -> None:
    for start in range(0, len(data), 127):
        piece = data[start : start + 127]
        out.append(len(piece))
        out += piece


def _copy(out: bytearray, offset: int, length: int) -> None:
    while length:
        piece = min(length, _COPY_LIMIT)
        at = len(out)
        out.append(0x80)
        for bit in range(4):
            byte = offset >> (8 * bit) & 0xFF
            if byte:
                out[at] |= 1 << bit
                out.append(byte)
        # A length of 0 stands for the limit.
        for bit in range(2):
            byte = piece >> (8 * bit) & 0xFF
            if byte:
                out[at] |= 0x10 << bit
                out.append(byte)
        offset += piece
        length -= piece


def _size(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def git_apply(delta: bytes, old: bytes) -> bytes:
    """Returns the content that a pack's delta makes of its base's.

    Raises:
        ValueError: The delta is damaged, or is of another base.
    """
    try:
        position, old_size = _read_size(delta, 0)
        position, new_size = _read_size(delta, position)
        parts: list[bytes] = []
        while position < len(delta):
            command = delta[position]
            position += 1
            if command & 0x80:
                offset = length = 0
                for bit in range(4):
                    if command & 1 << bit:
                        offset |= delta[position] << (8 * bit)
                        position += 1
                for bit in range(3):
                    if command & 0x10 << bit:
                        length |= delta[position] << (8 * bit)
                        position += 1
                length = length or _COPY_LIMIT
                parts.append(old[offset : offset + length])
            else:
                parts.append(delta[position : position + command])
                position += command
    except IndexError as error:
        raise ValueError("a delta is cut short") from error
    new = b"".join(parts)
    if old_size != len(old) or new_size != len(new):
        raise ValueError("a delta does not fit its base")
    return new


def _read_size(data: bytes, position: int) -> tuple[int, int]:
    size = shift = 0
    while True:
        byte = data[position]
        position += 1
        size |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return position, size
