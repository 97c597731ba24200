"""Flows that are started by the clock: when a schedule is due.

    .kitaru/up/schedules.json    for each schedule, up to when its ticks were dealt with

The key of a run names its schedule and its tick. So whatever becomes of the file, of the clock or
of the supervisor, a tick makes one run at most; and after a gap the last tick alone makes one.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from kitaru_fs.clock import stamp
from kitaru_fs.config.settings import ScheduleSettings, UpSettings
from kitaru_fs.errors import KitaruError
from kitaru_fs.rundir.repository import decode_request

__all__ = ["Due", "Schedules"]

_KEY = re.compile(r"schedule ([0-9a-f]{16}) (\d+)")


class Due(NamedTuple):
    """A tick of a schedule that no run was started for.

    Attributes:
        id: The schedule's: the same as long as nothing of it is changed.
        schedule: The schedule.
        tick: The time that it names, in seconds since the epoch.
    """

    id: str
    schedule: ScheduleSettings
    tick: int

    @property
    def key(self) -> str:
        """The idempotency key of its run."""
        return f"schedule {self.id} {self.tick}"

    @property
    def at(self) -> str:
        """The tick; UTC, ISO 8601."""
        return stamp(datetime.fromtimestamp(self.tick, UTC))


class _One:
    """A schedule and how far it is.

    Attributes:
        done: Its ticks up to this time were dealt with; in seconds since the epoch.
        until: It is not tried again before this time; in seconds since the epoch.
        wait: For how long it is not, after its run could not be made.
        is_starting: A process makes its run.
    """

    def __init__(self, id: str, schedule: ScheduleSettings, done: float) -> None:
        self.id = id
        self.schedule = schedule
        self.done = done
        self.until = 0.0
        self.wait = 0.0
        self.is_starting = False
        self._next: tuple[float, float] | None = None

    def next(self) -> float:
        """Returns its first tick that was not dealt with; infinity where there is none."""
        if self._next is None or self._next[0] != self.done:
            self._next = self.done, next(self._ticks(self.done), math.inf)
        return self._next[1]

    def due(self, now: float) -> int | None:
        """Returns its last tick that has come and was not dealt with."""
        tick = self.next()
        if tick > now:
            return None
        # From behind, since there may be very many; then forward: an hour may come twice.
        behind = next(self._ticks(now + 1, reverse=True), tick)
        if tick < behind <= now:
            tick = behind
        while (following := next(self._ticks(tick), math.inf)) <= now:
            tick = following
        return int(tick)

    def _ticks(self, start: float, *, reverse: bool = False) -> Iterator[float]:
        from cronsim import CronSim

        zone = ZoneInfo(self.schedule.timezone)
        start_there = datetime.fromtimestamp(math.floor(start), zone)
        for tick in CronSim(self.schedule.cron.fields, start_there, reverse=reverse):
            yield tick.timestamp()


class Schedules:
    """The schedules of a workspace.

    Args:
        workspace: Its directory.
        folder: `.kitaru/up`.
    """

    def __init__(self, workspace: Path, folder: Path) -> None:
        self._runs = workspace / "runs"
        self._file = folder / "schedules.json"
        self._all: dict[str, _One] = {}

    def follow(self, schedules: Iterable[ScheduleSettings], now: float) -> None:
        """Goes by these schedules from now on; one that is new begins with its next tick."""
        wanted = {_id(schedule): schedule for schedule in schedules}
        known = self._read()
        if known is None:
            known = self._ticks_of_runs(wanted.keys())
        before = known.keys() | self._all.keys()
        self._all = {
            id: self._all.get(id) or _One(id, schedule, known.get(id, now))
            for id, schedule in wanted.items()
        }
        if wanted.keys() != before:
            self._save()

    def next(self, now: float) -> float:
        """Returns when there is something to do, in seconds since the epoch."""
        waiting = [one for one in self._all.values() if not one.is_starting]
        return min((max(one.next(), self._until(one, now)) for one in waiting), default=math.inf)

    def due(self, now: float) -> list[Due]:
        """Returns what is to be started."""
        found: list[Due] = []
        for one in self._all.values():
            # The clock was set back: what comes again has its run, by its key.
            one.done = min(one.done, now)
            if one.is_starting or self._until(one, now) > now:
                continue
            tick = one.due(now)
            if tick is not None:
                found.append(Due(one.id, one.schedule, tick))
        return found

    def begin(self, due: Due) -> None:
        """Notes that a process makes the run."""
        self._all[due.id].is_starting = True

    def made(self, due: Due) -> None:
        """Notes that there is the run."""
        one = self._all.get(due.id)
        if one is not None:
            one.is_starting, one.wait, one.until = False, 0.0, 0.0
            one.done = max(one.done, float(due.tick))
            self._save()

    def failed(self, due: Due, now: float, settings: UpSettings) -> float:
        """Notes that the run could not be made; returns in how many seconds it is tried again."""
        one = self._all.get(due.id)
        if one is None:
            return 0.0
        one.is_starting = False
        one.wait = min(max(settings.backoff, one.wait * 2), settings.max_backoff)
        one.until = now + one.wait
        return one.wait

    def upcoming(self) -> list[dict[str, Any]]:
        """Returns what comes next of each schedule, the first first."""
        found = [(one.next(), one) for one in self._all.values()]
        return [
            {
                "flow": one.schedule.flow,
                "cron": str(one.schedule.cron),
                "timezone": str(one.schedule.timezone),
                "at": stamp(datetime.fromtimestamp(at, UTC)),
            }
            for at, one in sorted(found, key=lambda pair: pair[0])
            if at < math.inf
        ]

    def _until(self, one: _One, now: float) -> float:
        # A clock that was set back must not make it wait for longer.
        one.until = min(one.until, now + one.wait)
        return one.until

    def _read(self) -> dict[str, float] | None:
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            return msgspec.json.decode(self._file.read_bytes(), type=dict[str, float])
        return None

    def _save(self) -> None:
        new = self._file.with_suffix(".new")
        # Where that fails the runs themselves tell.
        with contextlib.suppress(OSError):
            new.write_bytes(msgspec.json.encode({one.id: one.done for one in self._all.values()}))
            os.rename(new, self._file)

    def _ticks_of_runs(self, ids: Collection[str]) -> dict[str, float]:
        """Returns the last ticks of schedules that there are runs of: the file was deleted."""
        found: dict[str, float] = {}
        if not ids:
            return found
        with contextlib.suppress(FileNotFoundError), os.scandir(self._runs) as listing:
            for run in listing:
                key = _key_of(Path(run.path) / "run.json")
                match = _KEY.fullmatch(key or "")
                if match is not None and match[1] in ids:
                    found[match[1]] = max(found.get(match[1], 0.0), float(match[2]))
        return found


def _key_of(file: Path) -> str | None:
    with contextlib.suppress(OSError, KitaruError):
        raw = file.read_bytes()
        if b'"schedule ' in raw:
            return decode_request(raw, file).key
    return None


def _id(schedule: ScheduleSettings) -> str:
    what = [schedule.flow, str(schedule.cron), str(schedule.timezone), schedule.input]
    encoded = msgspec.json.encode(what, order="deterministic")
    return hashlib.sha256(encoded).hexdigest()[:16]
