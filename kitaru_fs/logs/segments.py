"""What a run printed, on disk: `.git/kitaru/log/`, in no commit; it goes where the directory goes.

    000001.jsonl, 000002.jsonl, ...    the newest is added to; the oldest go

Each line is one JSON object; a line that is none was torn by a crash. `by` tells processes apart.

    {"by", "at", "text", "name", "key", "attempt"}    printed in an attempt of a step
    {"by", "at", "text"}                              by the flow itself, or by what it started
    {"by", "at", "text", "among": [names]}            by what one of several steps started
    {"by", "at", "key", "attempt", "step", "commit"}  that attempt became this commit
    {"by", "at", "lost": BYTES}                       so much could not be kept: the disk refused

`"replayed": true` marks what was printed while the journal was replayed, so not for the first
time. `text` is as it was printed, without escape sequences, redacted; pieces follow each other
without anything between.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import msgspec

from kitaru_fs.clock import nonce, stamp

__all__ = ["SegmentWriter", "log_dir", "segments"]

_PARTS = 8
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC


def log_dir(run: Path) -> Path:
    """Where a run's segments are."""
    return run / ".git" / "kitaru" / "log"


def segments(run: Path) -> list[Path]:
    """Returns a run's segments, oldest first."""
    folder = log_dir(run)
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return [folder / name for name in sorted(names) if name.endswith(".jsonl")]


class SegmentWriter:
    """Adds to a run's segments. A disk that refuses is noted, and tried again.

    Args:
        run: The run's directory.
        limit: How many bytes its segments may have together.
    """

    def __init__(self, run: Path, limit: int) -> None:
        self._run = run
        self._part = max(1, limit // _PARTS)
        self._limit = limit
        self._by = nonce()[:6]
        self._lost = 0
        # What a killed process tore ends here.
        self._torn = True
        self._encoder = msgspec.json.Encoder()

    def add(self, records: list[dict[str, Any]]) -> None:
        """Writes records."""
        if self._lost:
            records = [{"at": stamp(), "lost": self._lost}, *records]
        lines = [self._encoder.encode({"by": self._by, **record}) + b"\n" for record in records]
        try:
            while lines:
                del lines[: self._append(lines)]
            self._lost = 0
        except OSError:
            self._lost += sum(len(record.get("text", "")) for record in records[-len(lines) :])

    def _append(self, lines: list[bytes]) -> int:
        """Writes as many lines as the newest segment takes, at least one; returns how many."""
        # Not kept open: many runs may be written at a time, one for each child.
        descriptor, size = self._open(len(lines[0]))
        try:
            count, data = 1, (b"\n" if self._torn else b"") + lines[0]
            while count < len(lines) and size + len(data) + len(lines[count]) <= self._part:
                data += lines[count]
                count += 1
            self._torn = True
            if os.write(descriptor, data) != len(data):
                raise OSError("the disk is full")
            self._torn = False
            return count
        finally:
            os.close(descriptor)

    def _open(self, length: int) -> tuple[int, int]:
        """Opens the segment that a line goes to; returns also how many bytes it has."""
        found = segments(self._run)
        if found:
            descriptor = os.open(found[-1], _FLAGS)
            size = os.fstat(descriptor).st_size
            if size == 0 or size + length < self._part:
                return descriptor, size
            os.close(descriptor)
            self._make_room(found, length)
        else:
            log_dir(self._run).mkdir(mode=0o700, exist_ok=True)
        number = int(found[-1].stem) + 1 if found and found[-1].stem.isdigit() else 1
        path = log_dir(self._run) / f"{number:06d}.jsonl"
        return os.open(path, _FLAGS | os.O_CREAT, 0o600), 0

    def _make_room(self, found: list[Path], length: int) -> None:
        sizes = [path.lstat().st_size for path in found]
        total = sum(sizes)
        for path, size in zip(found, sizes, strict=True):
            if total + max(self._part, length) <= self._limit:
                return
            with contextlib.suppress(OSError):
                path.unlink()
            total -= size
