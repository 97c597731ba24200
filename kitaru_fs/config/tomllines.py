"""The line on which each key and array element of a TOML text stands.

`tomllib` gives values without positions, and an error about a setting has to name its line. This
scanner reads only text that `tomllib` has accepted, so it may skip values without checking them.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left

__all__ = ["KeyPath", "key_lines"]

KeyPath = tuple[str | int, ...]
"""Where a value is: table keys as strings, array positions as integers."""

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\n]*")
_BASIC = re.compile(r'"(?:\\.|[^"\\\n])*"')
_LITERAL = re.compile(r"'[^'\n]*'")
# A multi-line string may end with up to two quotes of its own before the closing three.
_LONG_BASIC = re.compile(r'"""(?:\\.|[^\\])*?"""(?:"{0,2})', re.DOTALL)
_LONG_LITERAL = re.compile(r"'''.*?'''(?:'{0,2})", re.DOTALL)


def key_lines(text: str) -> dict[KeyPath, int]:
    """Map every key path of a valid TOML text to its line, counted from 1.

    Tables map to their header, array elements and array tables to where each begins. A table that
    is only implied (`[a.b]` implies `a`) maps to where it was first named.
    """
    return _Scanner(text).scan()


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[KeyPath, int] = {}
        self.newlines = [i for i, char in enumerate(text) if char == "\n"]
        self.array_tables: dict[KeyPath, int] = {}

    def scan(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        self._skip(_BLANK)
        while self.at < len(self.text):
            if self.text.startswith("[[", self.at):
                table = self._header(2)
            elif self.text[self.at] == "[":
                table = self._header(1)
            else:
                self._pair(table)
            self._skip(_BLANK)
        return self.lines

    def _header(self, brackets: int) -> KeyPath:
        start = self.at
        self.at += brackets
        keys = self._keys()
        self.at += brackets
        path: KeyPath = ()
        for place, key in enumerate(keys):
            path = (*path, key)
            self._record(path, start)
            if place == len(keys) - 1 and brackets == 2:
                self.array_tables[path] = self.array_tables.get(path, -1) + 1
            if path in self.array_tables:
                path = (*path, self.array_tables[path])
                self._record(path, start)
        return path

    def _pair(self, table: KeyPath) -> None:
        start = self.at
        path = table
        for key in self._keys():
            path = (*path, key)
            self._record(path, start)
        self.at += 1  # the equals sign
        self._skip(_SPACE)
        self._value(path)

    def _keys(self) -> list[str]:
        keys: list[str] = []
        while True:
            self._skip(_SPACE)
            if self.text[self.at] == '"':
                keys.append(tomllib.loads(f"key = {self._take(_BASIC)}")["key"])
            elif self.text[self.at] == "'":
                keys.append(self._take(_LITERAL)[1:-1])
            else:
                keys.append(self._take(_BARE_KEY))
            self._skip(_SPACE)
            if self.text[self.at] != ".":
                return keys
            self.at += 1

    def _value(self, path: KeyPath) -> None:
        rest = self.text[self.at : self.at + 3]
        if rest == '"""':
            self._take(_LONG_BASIC)
        elif rest == "'''":
            self._take(_LONG_LITERAL)
        elif rest[0] == '"':
            self._take(_BASIC)
        elif rest[0] == "'":
            self._take(_LITERAL)
        elif rest[0] == "[":
            self._array(path)
        elif rest[0] == "{":
            self._inline_table(path)
        else:
            self._take(_SCALAR)

    def _array(self, path: KeyPath) -> None:
        self.at += 1
        index = 0
        while True:
            self._skip(_BLANK)
            if self.text[self.at] == "]":
                self.at += 1
                return
            self._record((*path, index), self.at)
            self._value((*path, index))
            index += 1
            self._separator()

    def _inline_table(self, path: KeyPath) -> None:
        self.at += 1
        while True:
            self._skip(_BLANK)
            if self.text[self.at] == "}":
                self.at += 1
                return
            self._pair(path)
            self._separator()

    def _separator(self) -> None:
        self._skip(_BLANK)
        if self.text[self.at] == ",":
            self.at += 1

    def _record(self, path: KeyPath, at: int) -> None:
        self.lines.setdefault(path, bisect_left(self.newlines, at) + 1)

    def _skip(self, pattern: re.Pattern[str]) -> None:
        self._take(pattern)

    def _take(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self.at)
        if found is None:
            raise ValueError(f"not TOML at character {self.at}")
        self.at = found.end()
        return found.group()
