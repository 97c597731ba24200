"""Which paths under `files/` are left out of every commit, by `[files] exclude`."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable

__all__ = ["Exclude"]


class Exclude:
    """Patterns as in `.gitignore`, without negation.

    A pattern without a slash matches a name anywhere; one with a slash in it matches a path from
    `files/` on, `**` crossing directories; one that ends in a slash matches directories only.

    Args:
        patterns: The patterns; odd bytes as surrogates.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._names = {True: re.compile(r"(?!)"), False: re.compile(r"(?!)")}
        self._paths = {True: re.compile(r"(?!)"), False: re.compile(r"(?!)")}
        names: dict[bool, list[str]] = {True: [], False: []}
        paths: dict[bool, list[str]] = {True: [], False: []}
        for pattern in patterns:
            directories_only = pattern.endswith("/")
            body = pattern.rstrip("/")
            if not body:
                continue
            place, text = (
                (paths, _translate_path(body.lstrip("/")))
                if "/" in body
                else (names, fnmatch.translate(body))
            )
            place[True].append(text)
            if not directories_only:
                place[False].append(text)
        for is_directory in (True, False):
            if names[is_directory]:
                self._names[is_directory] = re.compile("|".join(names[is_directory]))
            if paths[is_directory]:
                self._paths[is_directory] = re.compile("|".join(paths[is_directory]))
        self._any_paths = bool(paths[True])

    def matches(self, path: bytes, name: str, *, directory: bool) -> bool:
        """Says whether a path (relative to `files/`, with `name` as its last part) is left out."""
        if self._names[directory].match(name):
            return True
        if not self._any_paths:
            return False
        return bool(self._paths[directory].match(path.decode("utf-8", "surrogateescape")))


def _translate_path(pattern: str) -> str:
    parts = pattern.split("/")
    text = ""
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if part == "**":
            text += ".+" if last else "(?:[^/]+/)*"
        else:
            text += _translate_part(part) + ("" if last else "/")
    return f"(?s:{text})\\Z"


def _translate_part(part: str) -> str:
    text, position = "", 0
    while position < len(part):
        char = part[position]
        position += 1
        if char == "*":
            text += "[^/]*"
        elif char == "?":
            text += "[^/]"
        elif char == "[" and (end := part.find("]", position + 1)) > 0:
            body = part[position:end].replace("\\", "\\\\")
            text += "[" + ("^" + body[1:] if body[0] in "!^" else body) + "]"
            position = end + 1
        else:
            text += re.escape(char)
    return text
