"""Images, sounds and other binary content: a file beside the entry, not a text in it.

In an entry's JSON the `data` of such content is `beside:DIGEST`; the file that has the digest in
its name stands beside the first entry that held it, and later ones only name it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import mimetypes
from collections.abc import Callable, Mapping
from typing import Any, cast

__all__ = ["put_back", "take_out"]

_PREFIX = "beside:"
# Base64 of less than this stays where it is.
_SMALL = 1024


def take_out(payload: Any, found: dict[str, bytes]) -> Any:
    """Returns a JSON value with its binary content taken out.

    Args:
        payload: The value; it is not changed.
        found: Takes the content, by the end of its file's name (`DIGEST.png`).
    """
    if isinstance(payload, list):
        items = cast("list[Any]", payload)
        taken = [take_out(item, found) for item in items]
        same = all(one is other for one, other in zip(items, taken, strict=True))
        return items if same else taken
    if not isinstance(payload, dict):
        return payload
    table = cast("dict[str, Any]", payload)
    if table.get("kind") == "binary" and isinstance(table.get("data"), str):
        data = _decoded(table["data"])
        if data is not None:
            digest = hashlib.sha256(data).hexdigest()[:16]
            found[f"{digest}{_extension(table.get('media_type'))}"] = data
            return {**table, "data": _PREFIX + digest}
    changed = {name: take_out(item, found) for name, item in table.items()}
    same = all(changed[name] is item for name, item in table.items())
    return table if same else changed


def put_back(payload: Any, read: Callable[[str], bytes | None]) -> Any:
    """Returns a JSON value with the binary content that `take_out` took out of it.

    Args:
        payload: The value; it is not changed.
        read: Returns the content of a digest; None if there is none.
    """
    if isinstance(payload, list):
        return [put_back(item, read) for item in cast("list[Any]", payload)]
    if not isinstance(payload, Mapping):
        return payload
    table = cast("Mapping[str, Any]", payload)
    data = table.get("data")
    if table.get("kind") == "binary" and isinstance(data, str) and data.startswith(_PREFIX):
        content = read(data.removeprefix(_PREFIX))
        if content is not None:
            return {**table, "data": base64.urlsafe_b64encode(content).decode("ascii")}
    return {name: put_back(item, read) for name, item in table.items()}


def _decoded(text: str) -> bytes | None:
    """The bytes of a base64 text as Pydantic AI writes it; None if it is short or another text."""
    if len(text) < _SMALL:
        return None
    try:
        data = base64.urlsafe_b64decode(text)
    except (binascii.Error, ValueError):
        return None
    return data if base64.urlsafe_b64encode(data).decode("ascii") == text else None


def _extension(media_type: object) -> str:
    known = mimetypes.guess_extension(media_type) if isinstance(media_type, str) else None
    # A name that ends in .json would be taken for an entry, one in .out for its output.
    return known if known not in (None, ".json", ".out") else ".bin"
