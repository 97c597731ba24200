"""Entries of a journal, redacted for a second time, with the files that stand beside them."""

from __future__ import annotations

import re
from typing import Any, cast

import msgspec

from kitaru_fs.entry import entry_path
from kitaru_fs.redaction.redactor import Redactor
from kitaru_fs.values import digest

__all__ = ["Keys", "scrub_entry", "scrub_request"]

_FILLED = ("output", "error", "observed", "given")
_KEY = re.compile(r"(?s)(.*):([0-9a-f]{16})#(\d+)\Z")


class Keys:
    """The keys of calls whose arguments held a secret, as they are without it.

    A key holds a digest of the arguments; of those of a short secret it would tell too much. Where
    it cannot be made anew from what the entry shows (an agent's conversation), it stays.
    """

    def __init__(self) -> None:
        self.changed: dict[str, str] = {}
        self._counts: dict[str, int] = {}

    def masked(self, entry: dict[str, Any], arguments: bytes, name: str) -> str:
        """Returns an entry's key.

        Args:
            entry: The entry, as it was.
            arguments: Its `input` without secrets, as JSON.
            name: Its name without secrets.
        """
        key = str(entry["key"])
        if key in self.changed:
            return self.changed[key]
        match = _KEY.match(key)
        was = msgspec.json.encode(entry.get("input"))
        if match is None or match[2] != digest(was)[:16]:
            return key
        base = f"{name}:{digest(arguments)[:16]}"
        if base == f"{match[1]}:{match[2]}":
            return key
        # Calls that only a secret told apart are told apart by their order from now on.
        self._counts[base] = self._counts.get(base, 0) + 1
        self.changed[key] = f"{base}#{self._counts[base]}"
        return self.changed[key]


def scrub_entry(
    redactor: Redactor, keys: Keys, content: bytes, beside: dict[str, bytes]
) -> dict[str, bytes]:
    """Returns an entry's file and those beside it, by their names, without secrets.

    Args:
        redactor: Knows the secrets.
        keys: The keys that change.
        content: The entry's file.
        beside: The files beside it, by the ends of their names (`out`, `DIGEST.png`).

    Raises:
        msgspec.MsgspecError: It is no entry.
    """
    entry: dict[str, Any] = msgspec.json.decode(content)
    placed = frozenset(cast("list[str]", entry.get("secrets") or []))
    places: list[str] = []
    masked: dict[str, Any] = {}
    for name, value in entry.items():
        if name in ("key", "secrets") or isinstance(value, int | float) or value is None:
            masked[name] = value
            continue
        raw = msgspec.json.encode(value)
        if name in _FILLED or (name == "input" and entry.get("status") == "waiting"):
            raw, found = redactor.redact_json(raw, name, placed)
            places += found
        else:
            raw = redactor.mask_json(raw, again=True)
        masked[name] = msgspec.json.decode(raw)
    step, name = int(entry["step"]), str(masked["name"])
    masked["key"] = keys.masked(entry, msgspec.json.encode(masked.get("input")), name)
    files: dict[str, bytes] = {}
    for end, data in beside.items():
        if end == "out":
            data, found = redactor.redact_json(data, "output", placed)
            places += found
            masked["output_file"] = entry_path(step, name, end)[1]
        else:
            hidden = redactor.redact_bytes(data, again=f"beside/{end}" in placed)
            places += [f"beside/{end}"] if hidden is not data else []
            data = hidden
        files[entry_path(step, name, end)[1]] = data
    if places:
        masked["secrets"] = [*placed, *(place for place in places if place not in placed)]
    shown = msgspec.json.format(msgspec.json.encode(masked), indent=2) + b"\n"
    files[entry_path(step, name)[1]] = shown
    return files


def scrub_request(redactor: Redactor, content: bytes) -> bytes:
    """Returns a `run.json` without secrets.

    Raises:
        msgspec.MsgspecError: It is none.
    """
    request: dict[str, Any] = msgspec.json.decode(content)
    placed = frozenset(cast("list[str]", request.get("secrets") or []))
    given = msgspec.json.encode(request.pop("input", {}))
    hidden, places = redactor.redact_json(given, "input", placed)
    masked: dict[str, Any] = msgspec.json.decode(
        redactor.mask_json(msgspec.json.encode(request), again=True)
    )
    masked["input"] = msgspec.json.decode(hidden)
    if places or placed:
        masked["secrets"] = [*placed, *(place for place in places if place not in placed)]
    return msgspec.json.format(msgspec.json.encode(masked), indent=2) + b"\n"
