"""Durations, ages, tokens and files as people read them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from kitaru_fs.errors import UsageError

if TYPE_CHECKING:
    from kitaru_fs.entry import Usage

__all__ = [
    "ago",
    "cost",
    "count",
    "duration",
    "moment",
    "since",
    "size",
    "spent",
    "tokens",
    "until",
]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def count(number: int, noun: str) -> str:
    """`1 file`, `2 files`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def duration(seconds: float) -> str:
    """Seconds as `12 ms`, `1.2 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 0.00995:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def tokens(usage: Mapping[str, Any]) -> str:
    """What a usage, as JSON, spent: `812 in, 164 out`; empty for none."""
    into, out = usage.get("input_tokens", 0), usage.get("output_tokens", 0)
    return f"{into:,} in, {out:,} out" if into or out else ""


def spent(usage: Usage | None) -> str:
    """What an entry's usage spent, as `tokens` says it."""
    if usage is None:
        return ""
    return tokens({"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens})


def cost(usage: Mapping[str, Any]) -> str:
    """What a usage's JSON cost, as `0.0031 USD`; empty where that is not known."""
    amount = usage.get("cost")
    return "" if amount is None else f"{amount:.4g} {usage.get('currency') or 'USD'}"


def moment(iso: str) -> datetime:
    """The time that an ISO text of ours says."""
    return datetime.fromisoformat(iso)


def ago(then: datetime) -> str:
    """How long ago a time is, as `5 min ago`."""
    seconds = max(0, int((datetime.now(UTC) - then).total_seconds()))
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {name} ago"
    return f"{seconds} s ago"


def until(then: datetime) -> str:
    """How long it is until a time, as `in 5 min`; `over` once it is past."""
    seconds = int((then - datetime.now(UTC)).total_seconds())
    if seconds < 0:
        return "over"
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"in {seconds // size} {name}"
    return f"in {seconds} s"


def size(number: int) -> str:
    """Bytes as `812 B`, `1.2 kB`, `3.4 MB`."""
    amount, unit = float(number), "B"
    for larger in ("kB", "MB", "GB"):
        if amount < 1000:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.4g} {unit}"


def since(text: str, option: str = "--since") -> datetime:
    """The time that an option means: `2h`, `3d`, or an ISO date or time (local, without an offset).

    Raises:
        UsageError: It is none of these.
    """
    match = re.fullmatch(r"(\d+)\s*([smhdw])", text.strip())
    try:
        if match:
            return datetime.now(UTC) - timedelta(seconds=int(match[1]) * _UNITS[match[2]])
        return datetime.fromisoformat(text.strip()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise UsageError(
            f"{option} {text!r} is no time", hint="write 90m, 2h, 3d, 1w, or 2026-11-22 (T14:30)"
        ) from None
