"""`.git/kitaru/holder.json`: who holds a run's lock, for whoever asks, and after its death.

    {"format": 1, "lock": [DEVICE, INODE], "holder": {..., "previous": {...} or null}}

It is written when the lock is taken and removed when it is given up in order; after a SIGKILL it
tells whose leftovers are to be ended. `previous` is who died holding the run before: it stays
until the holder has recovered from it, so that a recovery that fails or is killed begins anew. A
record that names another lock file's inode came with a copy of the directory: it counts for
nothing.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

__all__ = ["Holder", "iso_time", "read_record", "record_path", "write_record"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds a run's lock, or held it when it died.

    Attributes:
        since: UTC time in ISO format, `2026-11-22T21:49:01.482Z`.
        boot: An id of the machine's boot; pids and start times mean nothing on another.
        start: The process's start time (`processtable.Process.start`).
        namespace: Its pid namespace, where there are such.
        nonce: In the environment of all that it starts.
        pgid: Its process group.
        sid: Its session.
        purpose: What it took the lock for.
        alive: Whether it holds the lock now; None where that cannot be known.
        previous: Who died before it and is not recovered from yet.
    """

    pid: int
    host: str
    since: str
    boot: str = ""
    start: int = 0
    namespace: str = ""
    nonce: str = ""
    pgid: int = 0
    sid: int = 0
    purpose: str = ""
    alive: bool | None = None
    previous: Holder | None = None


def record_path(git_dir: Path) -> Path:
    """Where a run's record is."""
    return git_dir / "kitaru" / "holder.json"


def write_record(git_dir: Path, key: tuple[int, int], holder: Holder | None) -> None:
    """Replaces a run's record, atomically; None removes it.

    Args:
        git_dir: The run's `.git`.
        key: Device and inode of its lock file.
        holder: The holder.

    Raises:
        OSError: The disk refused.
    """
    path = record_path(git_dir)
    if holder is None:
        path.unlink(missing_ok=True)
        return
    new = path.with_suffix(".json.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(new, flags, 0o600), "w", encoding="utf-8") as file:
        json.dump({"format": 1, "lock": key, "holder": asdict(holder)}, file)
    os.rename(new, path)


def read_record(git_dir: Path, inode: int | None = None) -> Holder | None:
    """The holder that a run's record names; None if there is none, or none about this lock file.

    Args:
        git_dir: The run's `.git`.
        inode: The lock file's; device numbers change from boot to boot. None for whatever it was.
    """
    try:
        content = json.loads(record_path(git_dir).read_bytes())
        if inode is None or content["lock"][1] == inode:
            return _decode(content["holder"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        pass  # none, torn by a power cut, or not by us: the lock itself tells the rest
    return None


def _decode(record: dict[str, Any]) -> Holder:
    known = {field.name for field in fields(Holder)} - {"previous"}
    previous = record.get("previous")
    return Holder(
        **{name: value for name, value in record.items() if name in known},
        previous=None if previous is None else _decode(previous),
    )


def iso_time(time: datetime) -> str:
    """A UTC time as `2026-11-22T21:49:01.482Z`."""
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
