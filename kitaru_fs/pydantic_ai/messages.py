"""What an agent's messages say: in few words for a reader, as a digest for a key.

A digest holds what the model is sent, and nothing that another execution of the same code makes
anew: times, ids of runs, generated ids. It names the fields that it reads, so that a field that a
later release of Pydantic AI adds changes no key. Secrets are masked in it: it tells nothing of one,
and stays the same when a credential's value changes.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, cast
from weakref import ref

from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    SystemPromptPart,
    ToolReturnPart,
    UserPromptPart,
)

from kitaru_fs.engine.context import current_execution
from kitaru_fs.values import encode_arguments

__all__ = [
    "Conversation",
    "digest_of",
    "excerpt",
    "extended",
    "instructions_of",
    "new_requests",
    "news",
    "plain",
    "set_time",
    "shortened",
    "text_of",
]

_NAMES = ("part_kind", "event_kind", "kind")
_FIELDS = (
    "content",
    "tool_name",
    "args",
    "part",
    "result",
    "data",
    "url",
    "file_id",
    "media_type",
    "signature",
)


def plain(value: Any) -> Any:
    """Returns a message, a part or an event as plain data, without what differs on replay."""
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    if isinstance(value, ModelRequest):
        return {"request": [plain(part) for part in value.parts], "to": value.instructions}
    if isinstance(value, ModelResponse):
        return {"response": [plain(part) for part in value.parts]}
    if isinstance(value, bytes):
        return base64.urlsafe_b64encode(value).decode("ascii")
    if isinstance(value, Mapping):
        table = cast("Mapping[Any, Any]", value)
        return {str(key): plain(item) for key, item in table.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in cast("Sequence[Any]", value)]
    kind = next((found for name in _NAMES if (found := getattr(value, name, None))), None)
    if not isinstance(kind, str):
        return value
    found = {name: item for name in _FIELDS if (item := getattr(value, name, None)) is not None}
    if getattr(value, "tool_name", None):
        # Without a tool's name the id was made up here, and is made up anew on replay.
        found["tool_call_id"] = getattr(value, "tool_call_id", None)
    return {"kind": kind, **{name: plain(item) for name, item in found.items()}}


class Conversation:
    """Messages that are told apart from others by all of them, as they are when first asked.

    Args:
        messages: The messages.
    """

    def __init__(self, messages: Sequence[ModelMessage]) -> None:
        self.messages = messages

    @functools.cached_property
    def beginnings(self) -> list[str]:
        """The digests of its first message, of its first two, and so on."""
        return _prefixes(self.messages)

    def digest(self, *, masked: bool = True) -> str:
        """Returns the digest of all of it."""
        found = self.beginnings if masked else _prefixes(self.messages, masked=False)
        return found[-1] if found else ""


def digest_of(*values: Any, masked: bool = True) -> str:
    """Returns 16 hex digits that are the same for values that `plain` shows the same.

    Args:
        values: The values; a `Conversation` stands for all of its messages.
        masked: With the secrets of the run that this is called in masked.
    """
    execution = current_execution() if masked else None
    mask = execution.secrecy.mask if execution is not None else None
    total = hashlib.sha256()
    for value in values:
        if isinstance(value, Conversation):
            value = value.digest(masked=masked)
        raw = bytes(encode_arguments({"value": plain(value)}, mask=mask)["value"])
        total.update(mask(raw) if mask is not None else raw)
        total.update(b"\0")
    return total.hexdigest()[:16]


def _prefixes(messages: Sequence[ModelMessage], *, masked: bool = True) -> list[str]:
    """Returns the digests of a conversation's beginnings: of its first message, its first two..."""
    found: list[str] = []
    digest = ""
    for message in messages:
        digest = extended(digest, message, masked=masked)
        found.append(digest)
    return found


def extended(digest: str, message: ModelMessage, *, masked: bool = True) -> str:
    """Returns the digest of a conversation that has one message more; "" is that of none."""
    place = (id(message), masked)
    known = _digests.get(place)
    if known is None or known[0]() is not message:
        # One that was digested before is not again.
        own = digest_of(message, masked=masked)
        known = (ref(message, functools.partial(_forget, place)), own)
        _digests[place] = known
    return hashlib.sha256(f"{digest}\0{known[1]}".encode()).hexdigest()[:16]


# Messages are not hashable, and a conversation is digested anew with each of its requests.
_digests: dict[tuple[int, bool], tuple[ref[ModelMessage], str]] = {}


def _forget(place: tuple[int, bool], gone: ref[ModelMessage]) -> None:
    known = _digests.get(place)
    if known is not None and known[0] is gone:
        del _digests[place]


def excerpt(text: str, limit: int) -> str:
    """Returns a text, or its beginning and a short digest of all of it where it is too long."""
    text = text.strip()
    if len(text) <= limit:
        return text
    return f"{shortened(text, limit).rstrip()}… [{digest_of(text)[:8]}]"


def shortened(text: str, limit: int) -> str:
    """Returns the beginning of a text, without a piece of a secret at its end."""
    execution = current_execution()
    return text[: limit if execution is None else execution.secrecy.cut(text, limit)]


def news(messages: Sequence[ModelMessage]) -> str:
    """Returns what a request tells the model that it was not told before, as text."""
    found: list[str] = []
    for part in _new_parts(messages):
        if isinstance(part, UserPromptPart):
            found.append(text_of(part.content))
        elif isinstance(part, ToolReturnPart):
            found.append(f"{part.tool_name}: {text_of(cast('Any', part).content)}")
        elif not isinstance(part, SystemPromptPart):
            content = getattr(part, "content", None)
            found.append(text_of(content) or f"[{part.part_kind}]")
    return "\n".join(text for text in found if text)


def _new_parts(messages: Sequence[ModelMessage]) -> Iterator[Any]:
    first = len(messages)
    while first and isinstance(messages[first - 1], ModelRequest):
        first -= 1
    for message in messages[first:]:
        yield from message.parts


def instructions_of(messages: Sequence[ModelMessage]) -> str:
    """Returns the instructions and system prompts that a request is sent with."""
    found = [
        part.content
        for message in messages
        for part in message.parts
        if isinstance(part, SystemPromptPart)
    ]
    last = next((one for one in reversed(messages) if isinstance(one, ModelRequest)), None)
    if last is not None and last.instructions:
        found.append(last.instructions)
    return "\n".join(found)


def text_of(content: Any) -> str:
    """Returns a prompt or a tool's result as text; an image is `[image/png]`."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list | tuple):
        items = cast("Sequence[Any]", content)
        if any(isinstance(getattr(item, "kind", None), str) for item in items):
            return " ".join(text_of(item) for item in items)
    part = cast("Any", content)
    if isinstance(getattr(part, "kind", None), str):
        inner = getattr(part, "content", None)
        return inner if isinstance(inner, str) else f"[{getattr(part, 'media_type', part.kind)}]"
    raw = encode_arguments({"value": plain(part)})["value"]
    return json.dumps(json.loads(bytes(raw)), ensure_ascii=False)


def new_requests(messages: Sequence[ModelMessage], run_id: str | None) -> list[ModelRequest]:
    """Returns the requests after the last response that a run made, or goes on from."""
    found: list[ModelRequest] = []
    for message in reversed(messages):
        if not isinstance(message, ModelRequest):
            break
        if message.run_id == run_id or not found:
            found.append(message)
    return found


def set_time(requests: Sequence[ModelRequest], run_id: str | None, moment: datetime) -> None:
    """Gives requests one time; their parts too, where the run made them."""
    for request in requests:
        request.timestamp = moment
        for part in request.parts if request.run_id == run_id else ():
            if hasattr(part, "timestamp"):
                cast("Any", part).timestamp = moment
