"""git's config file format, read and quoted without git."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["ConfigEntry", "parse_config", "quote_value"]


@dataclass(frozen=True, slots=True)
class ConfigEntry:
    """One line of a git config: names in lower case, the subsection as it is."""

    section: str
    subsection: str | None
    key: str
    value: str | None


_TOKEN = re.compile(
    r"(?P<space>\s+|[#;][^\n]*)"
    r'|\[(?P<section>[A-Za-z0-9.-]+)(?:[ \t]+"(?P<subsection>(?:[^"\\\n]|\\.)*)")?\]'
    r"|(?P<key>[A-Za-z][A-Za-z0-9-]*)[ \t]*"
    r'(?:(?P<equals>=)(?P<value>(?:[^"\\\n#;]|"(?:[^"\\\n]|\\[\n"\\ntb])*"|\\[\n"\\ntb])*)'
    r"|(?=[\n#;]|\Z))"
)
_ESCAPED = re.compile(r'\\([\n"\\ntb])|"')
_CHARACTERS = {"\n": "", "n": "\n", "t": "\t", "b": "\b"}


def parse_config(content: bytes) -> tuple[list[ConfigEntry], bool]:
    """Reads a git config file. Nothing is included or executed.

    Args:
        content: The file's bytes.

    Returns:
        Its entries up to its end, or up to what is no config; and whether that was its end.
    """
    text = content.decode("utf-8", "surrogateescape").removeprefix("\ufeff").replace("\r\n", "\n")
    entries: list[ConfigEntry] = []
    section, subsection = "", None
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or (match["key"] and not section):
            return entries, False
        position = match.end()
        if match["section"]:
            section, dot, old = match["section"].lower().partition(".")
            subsection = old if dot else match["subsection"]
            if subsection is not None:
                subsection = re.sub(r"\\(.)", r"\1", subsection)
        elif match["key"]:
            value = _unquote(match["value"]) if match["equals"] else None
            entries.append(ConfigEntry(section, subsection, match["key"].lower(), value))
    return entries, True


def _unquote(raw: str) -> str:
    def character(match: re.Match[str]) -> str:
        return _CHARACTERS.get(match[1], match[1]) if match[1] else ""

    return _ESCAPED.sub(character, raw.strip(" \t\n"))


def quote_value(value: str) -> str:
    """A value as git writes it into a config file.

    Args:
        value: The value, without line breaks.
    """
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"' if value != value.strip(" ") or re.search("[;#]", value) else escaped
