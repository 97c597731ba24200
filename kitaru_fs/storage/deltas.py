"""Trees as what differs from an earlier one: a middle that is other, between two equal ends.

A directory of a thousand files is a tree of 35 kB, written anew for each file that changes in it.
As a difference it is a few dozen bytes, in the log and in a pack (git's delta format,
gitformat-pack). A chain of differences is cut at `LONGEST`, so that reading stays cheap.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["LONGEST", "Difference", "apply", "difference", "git_apply", "git_delta"]

LONGEST = 50
"""So many differences may build on one another."""

_COPY_LIMIT = 0x10000


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
    for start in range(0, len(found.middle), 127):
        piece = found.middle[start : start + 127]
        out.append(len(piece))
        out += piece
    _copy(out, old_size - found.suffix, found.suffix)
    return bytes(out)


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
