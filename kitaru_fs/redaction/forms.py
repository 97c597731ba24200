"""The spellings in which a credential's value is looked for.

Covered: the value as it is; escaped as in JSON, once or twice, with or without `\\uXXXX` and `\\/`;
URL-encoded; in hexadecimal; in base64, standard and URL-safe, wherever in the encoded bytes it
begins (an `Authorization: Basic` header, `bytes` in a step's output). Of base64, the first and the
last character may mix the value's bits with its neighbours' and stay.

Not covered: base64 that is broken into lines, compressed or encrypted content, text in UTF-16, a
value that is split, reversed or otherwise disguised. Whoever has a secret can always hide it.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable

__all__ = ["FORMS", "PLAIN", "anchors_of", "spell", "spellings"]

PLAIN = ""
# Shorter ones would be found in the base64 or hexadecimal text of anything.
_SHORTEST_ENCODED = 8
_LONGEST_ANCHOR = 48
_RUN = re.compile(rb"[A-Za-z0-9_.~-]+")
_LETTERS = re.compile(rb"[A-Za-z0-9]+")


def _raw(value: str) -> bytes:
    return value.encode("utf-8", "surrogateescape")


def _json(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)[1:-1]


def _json_ascii(value: str) -> str:
    return json.dumps(value)[1:-1]


def _url(value: str, safe: str) -> str:
    from urllib.parse import quote

    return quote(_raw(value), safe=safe)


def _base64(value: str, before: int) -> str:
    """The characters of base64 that only the value decides, with so many bytes before it."""
    raw = _raw(value)
    whole = base64.b64encode(bytes(before) + raw + bytes(2))
    return whole[-(-8 * before // 6) : 8 * (before + len(raw)) // 6].decode("ascii")


def _url_safe(text: str) -> str:
    return text.replace("+", "-").replace("/", "_")


FORMS: dict[str, Callable[[str], str]] = {
    PLAIN: lambda value: value,
    "json": _json,
    "json-ascii": _json_ascii,
    "json-slash": lambda value: _json(value).replace("/", r"\/"),
    "json-json": lambda value: _json(_json(value)),
    "json-json-ascii": lambda value: _json_ascii(_json_ascii(value)),
    "url": lambda value: _url(value, ""),
    "uri": lambda value: _url(value, "!'()*"),
    "path": lambda value: _url(value, "/"),
    "form": lambda value: _url(value, " ").replace(" ", "+"),
    "hex": lambda value: _raw(value).hex(),
    "base64-0": lambda value: _base64(value, 0),
    "base64-1": lambda value: _base64(value, 1),
    "base64-2": lambda value: _base64(value, 2),
    "base64url-0": lambda value: _url_safe(_base64(value, 0)),
    "base64url-1": lambda value: _url_safe(_base64(value, 1)),
    "base64url-2": lambda value: _url_safe(_base64(value, 2)),
}
_ENCODED = frozenset(name for name in FORMS if name.startswith(("hex", "base64")))


def spell(value: str, form: str) -> str:
    """Returns a value in one of its forms.

    Raises:
        KeyError: There is no such form.
    """
    return FORMS[form](value)


def spellings(value: str) -> dict[str, str]:
    """Returns a value's spellings and the first form that each has, longest spelling first."""
    found: dict[str, str] = {}
    for form in FORMS:
        if form in _ENCODED and len(_raw(value)) < _SHORTEST_ENCODED:
            continue
        found.setdefault(spell(value, form), form)
    return dict(sorted(found.items(), key=lambda item: -len(item[0])))


def anchors_of(value: str) -> set[bytes]:
    """Returns byte strings of which at least one is in every text that holds a spelling, whatever
    further JSON escapes that text was written with."""
    anchors: set[bytes] = set()
    runs = [run for run in _RUN.findall(_raw(value)) if len(run) >= 4]
    if runs:
        # It is the same in every form but the encoded ones.
        anchors.add(max(runs, key=len)[:_LONGEST_ANCHOR])
    for spelling, form in spellings(value).items():
        if form in _ENCODED:
            letters = _LETTERS.findall(spelling.encode("ascii"))
            longest = max(letters, key=len, default=b"")
            if len(longest) >= 8:
                anchors.add(longest[:_LONGEST_ANCHOR])
                continue
        elif runs:
            continue
        raw = _raw(spelling)
        anchors |= {raw, _raw(_json(spelling)), _raw(_json_ascii(spelling))}
    return anchors
