"""Walking over JSON text without decoding all of it: what is not changed stays byte for byte.

A place is where a text or number stands: the keys and indices on the way to it, each after a `/`;
for the key of a member itself, `#key` is added, for a number that became a text, `#number`. In a
key `~`, `/` and `#` are written `~0`, `~1` and `~2`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Literal

__all__ = ["Kind", "decode_text", "encode_number", "encode_text", "rewrite"]

Kind = Literal["text", "key", "number"]
_Change = Callable[[Kind, bytes, Callable[[], str]], bytes | None]

_SUFFIXES: dict[Kind, str] = {"text": "", "key": "#key", "number": "#number"}

_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\],:]|[^\s{}\[\],:"]++', re.DOTALL)
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
_ESCAPES = {"~": "~0", "/": "~1", "#": "~2"}
_ESCAPED = re.compile("[~/#]")


def decode_text(token: bytes) -> str:
    """Returns the text of a JSON string."""
    if b"\\" not in token:
        return token[1:-1].decode("utf-8", "surrogateescape")
    return str(json.loads(token))


def encode_text(text: str) -> bytes:
    """Returns a text as a JSON string."""
    try:
        return json.dumps(text, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(text).encode()


def encode_number(text: str) -> bytes:
    """Returns a text as a JSON number, or as a string where it is none."""
    return text.encode("ascii") if _NUMBER.fullmatch(text) else encode_text(text)


def rewrite(
    raw: bytes, change: _Change, root: str = "", *, keys_as_changed: bool
) -> tuple[bytes, list[str]]:
    """Changes some of the strings and numbers of JSON text.

    Args:
        raw: The JSON text; it must be valid.
        change: Given what a token is, its bytes, and what returns its place: what stands there
            instead, or None to leave it.
        root: What every place begins with.
        keys_as_changed: Places have the changed keys, not those that were found.

    Returns:
        The changed text, and the places that were changed.
    """
    parts: list[bytes] = []
    places: list[str] = []
    copied = 0
    # Of each open array the index, of each open object the last key.
    path: list[int | str] = []
    wants_key = False
    kind: Kind = "text"

    def place() -> str:
        return root + "".join(f"/{part}" for part in path) + _SUFFIXES[kind]

    for match in _TOKEN.finditer(raw):
        token = match[0]
        first = token[:1]
        if first == b"{":
            path.append("")
            wants_key = True
        elif first == b"[":
            path.append(0)
            wants_key = False
        elif first in b"}]":
            path.pop()
            wants_key = False
        elif first == b",":
            last = path[-1]
            if isinstance(last, int):
                path[-1] = last + 1
            else:
                wants_key = True
        elif first == b":":
            wants_key = False
        elif first == b'"' or first in b"-0123456789":
            kind = "text" if first == b'"' else "number"
            if wants_key:
                path[-1], kind = _component(token), "key"
            changed = change(kind, token, place)
            if changed is not None:
                parts += (raw[copied : match.start()], changed)
                copied = match.end()
                if kind == "key" and keys_as_changed:
                    path[-1] = _component(changed)
                places.append(place())
    if not places:
        return raw, places
    parts.append(raw[copied:])
    return b"".join(parts), places


def _component(token: bytes) -> str:
    return _ESCAPED.sub(lambda match: _ESCAPES[match[0]], decode_text(token))
