"""Time and identity: the only module that asks the machine for either."""

from __future__ import annotations

import os
import random as _random
import re
import secrets
import time
import uuid
from datetime import UTC, datetime

from kitaru_fs.quoting import slug

__all__ = [
    "is_run_id",
    "monotonic",
    "new_run_id",
    "nonce",
    "now_ns",
    "parse_stamp",
    "random",
    "run_created",
    "seconds",
    "stamp",
    "utc_now",
    "uuid4",
]

_BASE32 = "abcdefghijklmnopqrstuvwxyz234567"
_RUN_ID = re.compile(r"^(\d{8})-(\d{6})-(\d{3})-(.+)-([a-z2-7]{4})$")


def utc_now() -> datetime:
    """Returns the time, with the UTC zone."""
    return datetime.now(UTC)


def now_ns() -> int:
    """Returns the time in nanoseconds since the epoch, as file systems have it."""
    return time.time_ns()


def monotonic() -> float:
    """Returns a clock that only goes forward, in seconds, for deadlines within a process."""
    return time.monotonic()


def seconds() -> float:
    """Returns a clock that only goes forward, in seconds, for durations."""
    return time.perf_counter()


def stamp(moment: datetime | None = None) -> str:
    """Returns a time as ISO 8601 in UTC with milliseconds (`2026-11-22T21:49:01.482Z`)."""
    moment = moment or utc_now()
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_stamp(text: str) -> datetime:
    """Returns the time that `stamp` wrote."""
    return datetime.fromisoformat(text)


def new_run_id(flow: str) -> str:
    """Returns a run's id: UTC start time with milliseconds, flow's name, 4 random characters."""
    now = utc_now()
    tail = "".join(secrets.choice(_BASE32) for _ in range(4))
    return f"{now:%Y%m%d-%H%M%S}-{now.microsecond // 1000:03d}-{slug(flow)}-{tail}"


def is_run_id(name: str) -> bool:
    """Says whether a name is a run's id, which begins with a time."""
    return _RUN_ID.match(name) is not None


def run_created(run_id: str) -> datetime | None:
    """Returns the time that a run's id begins with; None for a directory of another name."""
    match = _RUN_ID.match(run_id)
    if match is None:
        return None
    try:
        moment = datetime.strptime(match[1] + match[2], "%Y%m%d%H%M%S")
    except ValueError:
        return None
    return moment.replace(microsecond=int(match[3]) * 1000, tzinfo=UTC)


def nonce() -> str:
    """Returns 16 random hexadecimal characters."""
    return os.urandom(8).hex()


def uuid4() -> uuid.UUID:
    """Returns a random UUID."""
    return uuid.uuid4()


def random() -> float:
    """Returns a random number from 0 up to, but not including, 1."""
    return _random.SystemRandom().random()
