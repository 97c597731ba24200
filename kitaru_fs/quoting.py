r"""Names and texts from outside, made fit for JSON, a terminal, a commit subject or a file name.

Paths are bytes; in an entry and on a terminal they are text, quoted in git's C style where they
must be (`"a\tb\377"`). A quoted path gives its exact bytes back.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from kitaru_fs.errors import UsageError

__all__ = ["printable", "quote_path", "slug", "unquote_path"]

SLUG_LIMIT = 40

_PLAIN_PATH = re.compile(rb"[ !#-\[\]-~]*\Z")
_LETTERS = {7: "a", 8: "b", 9: "t", 10: "n", 11: "v", 12: "f", 13: "r", 34: '"', 92: "\\"}
_NUMBERS = {letter: number for number, letter in _LETTERS.items()}
_ESCAPE = re.compile(r"\\([abtnvfr\"\\]|[0-3][0-7]{2})")
_QUOTED = re.compile(r'"(?:[^"\\]|\\(?:[abtnvfr"\\]|[0-3][0-7]{2}))*"\Z')
_BREAKS = "\t\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029"
_BREAK_RUN = re.compile(f"[{_BREAKS}]+")


def quote_path(raw: bytes) -> str:
    """A path as text, quoted as git does with `core.quotePath=false` where it must be.

    A path of printable UTF-8 is itself. One with control characters, a quote, a backslash,
    bytes that are not UTF-8, or characters that do not show (bidi overrides, zero-width ones)
    is put in double quotes, those as escapes.

    Args:
        raw: The path's bytes.

    Returns:
        Text that can be encoded as UTF-8 and that `unquote_path` turns back into `raw`.
    """
    if _PLAIN_PATH.match(raw):
        return raw.decode("ascii")
    text = raw.decode("utf-8", "surrogateescape")
    if text.isprintable() and '"' not in text and "\\" not in text:
        return text
    return '"' + "".join(map(_quote_character, text)) + '"'


def _quote_character(character: str) -> str:
    letter = _LETTERS.get(ord(character))
    if letter is not None:
        return "\\" + letter
    if character.isprintable():
        return character
    return "".join(f"\\{byte:03o}" for byte in character.encode("utf-8", "surrogateescape"))


def unquote_path(text: str) -> bytes:
    """The bytes of a path that `quote_path`, or git with any `core.quotePath`, wrote.

    Args:
        text: The path, quoted or plain.

    Returns:
        The path's bytes.

    Raises:
        UsageError: It starts with a quote and is not a whole quoted path.
    """
    if text.startswith('"'):
        if not _QUOTED.match(text):
            raise UsageError(
                f"This is not a quoted path: {printable(text, 200)}",
                hint=r'Write it as git does, such as "a\tb\303\244", or without quotes.',
            )
        parts = _ESCAPE.split(text[1:-1])  # every second one is an escape, without its backslash
        return b"".join(
            _unescape(part) if index % 2 else _encode(part) for index, part in enumerate(parts)
        )
    return _encode(text)


def _unescape(escape: str) -> bytes:
    number = _NUMBERS.get(escape)
    return bytes([int(escape, 8) if number is None else number])


def _encode(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise UsageError(
            f"This path has a character that no file name can have: {text!a}"
        ) from None


def printable(text: str, limit: int | None = None) -> str:
    r"""Text from outside on one line, safe on a terminal and in a commit subject.

    Line breaks and tabs become one space (none at the ends). Every other character that does not
    show, or that changes how its neighbours show (terminal escapes, bidi overrides, zero-width
    characters, lone surrogates), becomes a visible escape such as `\x1b` or `\u202e`.

    Args:
        text: The text.
        limit: At most so many characters, the last one an ellipsis where the text was cut;
            None for all.

    Returns:
        Printable text.
    """
    # What is printable has no breaks.
    if text.isprintable() and (limit is None or len(text) <= limit):
        return text
    line = _BREAK_RUN.sub(" ", text.strip(_BREAKS))
    if line.isprintable() and (limit is None or len(line) <= limit):
        return line
    shown = [_show_character(character) for character in line]
    if limit is None or sum(map(len, shown)) <= limit:
        return "".join(shown)
    room = limit - 1
    kept: list[str] = []
    for piece in shown:
        room -= len(piece)
        if room < 0:
            break
        kept.append(piece)
    return ("".join(kept) + "…")[: max(limit, 0)]


def _show_character(character: str) -> str:
    if character.isprintable():
        return character
    number = ord(character)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


@lru_cache(256)
def slug(name: str) -> str:
    """A name as it stands in a path: `[a-z0-9._-]`, 1 to 40 characters.

    It never starts with `-`, `.` or `_`, never ends with `-`, `.` or `.lock`, and never has `..`,
    so that it can also be part of a ref's name. Different names may give the same slug.

    Args:
        name: Any text.

    Returns:
        The slug; `unnamed` where nothing of the name can stand in one.
    """
    folded = unicodedata.normalize("NFKD", name).lower()
    folded = "".join(c for c in folded if not unicodedata.combining(c))
    text = re.sub(r"[^a-z0-9._-]+", "-", folded)
    text = re.sub(r"\.{2,}", ".", text).lstrip("-._")[:SLUG_LIMIT].rstrip("-.")
    if text.endswith(".lock"):
        text = text[: -len(".lock")] + "-lock"
    return text or "unnamed"
