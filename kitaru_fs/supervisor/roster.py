"""The runs of a workspace as they were seen last, and which are to be looked at.

    .kitaru/up/roster    what was seen, for the next supervisor: what is as it was is not read again

Deleting the file costs time alone.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import msgspec

from kitaru_fs.clock import seconds
from kitaru_fs.errors import KitaruError
from kitaru_fs.supervisor.glance import Glance, glance

__all__ = ["Roster", "Seen"]

_VERSION = 1
# The disk is asked by so many threads, for so many runs at a time: one after the other, what it has
# to read for a run is waited for each time.
_THREADS = 16
_CHUNK = 50
# Two changes within a tick of the file system's clock look like one.
_TICK_NS = 50_000_000

Signature = tuple[int, ...]
_Known = tuple[Signature, Glance]


class Seen(NamedTuple):
    """A run that was looked at.

    Attributes:
        glance: How it stands; None if it is gone, or cannot be read.
        error: Why it cannot be read.
    """

    name: str
    glance: Glance | None
    error: KitaruError | None = None


class Roster:
    """What is known of the runs. Looking costs; so it is done in the order asked, in slices.

    Args:
        workspace: The workspace's directory.
    """

    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace
        self._runs = workspace / "runs"
        self._file = workspace / ".kitaru" / "up" / "roster"
        self._known: dict[str, _Known | None] = {}
        self._before: dict[str, _Known] = {}
        self._ahead: dict[str, Future[dict[str, Signature | None]]] = {}
        self._is_new = False
        self._glances: dict[str, Glance] = {}
        # As sets that keep their order: a change is looked at before what a listing finds.
        self._soon: dict[str, None] = {}
        self._later: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._known)

    @property
    def glances(self) -> Mapping[str, Glance]:
        """How those runs stand that a supervisor has to do with."""
        return self._glances

    @property
    def is_looked_at(self) -> bool:
        """Whether no look is due."""
        return not (self._soon or self._later)

    # What a supervisor before has seen

    def load(self) -> None:
        """Takes over what the last supervisor saw."""
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            version, known = msgspec.msgpack.decode(
                self._file.read_bytes(), type=tuple[int, dict[str, _Known]]
            )
            if version == _VERSION:
                self._before = known

    def save(self) -> None:
        """Leaves to the next supervisor what was seen, if that is new."""
        if not self._is_new:
            return
        kept = {
            name: known
            for name, known in self._known.items()
            if known is not None and known[1].need in ("nothing", "wait")
        }
        new = self._file.with_suffix(".new")
        with contextlib.suppress(OSError):
            new.write_bytes(msgspec.msgpack.encode((_VERSION, kept)))
            os.rename(new, self._file)
            self._is_new = False

    # Who is to be looked at

    def look_at(self, names: Iterable[str]) -> None:
        """Asks for a look at runs that may have changed."""
        for name in names:
            self._later.pop(name, None)
            self._soon[name] = None

    def list(self) -> None:
        """Asks for a look at the runs that are new, and at those that are gone."""
        try:
            with os.scandir(self._runs) as listing:
                names = {entry.name for entry in listing if not entry.name.startswith(".")}
        except FileNotFoundError:
            names = set[str]()
        known = self._known.keys()
        self.look_at(known - names)
        new = sorted(names - known - self._later.keys() - self._soon.keys(), reverse=True)
        if known:
            self.look_at(new)
        else:
            self._later.update(dict.fromkeys(new))
            self._look_ahead([name for name in new if name in self._before])

    def check(self) -> None:
        """Asks for a look at every run that has changed in any way."""
        self.list()
        self.look_at(
            [
                name
                for name, known in self._known.items()
                if known is None or self._signature(name, known[1]) != known[0]
            ]
        )

    # Looking

    def look_now(self, name: str, now: float) -> Seen:
        """Looks at a run at once.

        Args:
            name: The run.
            now: Times up to this one have come; in seconds since the epoch.
        """
        self._soon.pop(name, None)
        self._later.pop(name, None)
        return self._look(name, now)

    def look(self, now: float, budget: float) -> Iterator[Seen]:
        """Looks at runs, as many as `budget` seconds allow, at least at one.

        Args:
            now: Times up to this one have come; in seconds since the epoch.
            budget: Seconds.
        """
        until = seconds() + budget
        while not self.is_looked_at:
            due = self._soon or self._later
            name = next(iter(due))
            del due[name]
            yield self._look(name, now)
            if seconds() >= until:
                return

    def _look(self, name: str, now: float) -> Seen:
        before = self._before.pop(name, None)
        if before is not None and self._is_as_before(name, before, now):
            self._note(name, before[0], before[1])
            return Seen(name, before[1])
        # Before it is read: what changes meanwhile is looked at again.
        started = time.time_ns()
        signature = self._signature(name)
        if signature is None:
            self._known.pop(name, None)
            self._glances.pop(name, None)
            return Seen(name, None)
        self._is_new = True
        try:
            found = glance(self._runs / name, self._workspace, now)
        except KitaruError as error:
            self._known[name] = signature, Glance("", "damaged")
            self._glances.pop(name, None)
            return Seen(name, None, error)
        signature = self._signature(name, found) or signature
        self._note(name, signature if max(signature) + _TICK_NS < started else None, found)
        return Seen(name, found)

    def _look_ahead(self, names: list[str]) -> None:
        """Asks the disk for the signatures of runs that were seen before."""
        if not names:
            return
        pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="kitaru-roster")
        for start in range(0, len(names), _CHUNK):
            chunk = names[start : start + _CHUNK]
            found = pool.submit(self._signatures, {name: self._before[name][1] for name in chunk})
            self._ahead.update(dict.fromkeys(chunk, found))
        pool.shutdown(wait=False)

    def _signatures(self, seen: Mapping[str, Glance]) -> dict[str, Signature | None]:
        return {name: self._signature(name, found) for name, found in seen.items()}

    def _note(self, name: str, signature: Signature | None, found: Glance) -> None:
        """Notes what was seen; without a signature, that it is to be looked at again."""
        told = found._replace(holder=None)
        self._known[name] = (signature, told) if signature is not None else None
        if found.need == "nothing":
            self._glances.pop(name, None)
        else:
            self._glances[name] = found

    def _is_as_before(self, name: str, before: _Known, now: float) -> bool:
        signature, found = before
        ahead = self._ahead.pop(name, None)
        if found.status == "damaged" or (found.at is not None and found.at <= now):
            return False
        now_there = ahead.result()[name] if ahead is not None else self._signature(name, found)
        return now_there == signature

    def _signature(self, name: str, found: Glance | None = None) -> Signature | None:
        """What changes when a run, or one that it called, is taken up, let go, moved or written to.

        None if it is gone.
        """
        own = _mtimes(f"{self._runs}/{name}")
        if own is None or found is None or len(found.runs) < 2:
            return own
        for child in found.runs[1:]:
            own += _mtimes(f"{self._runs}/{child}") or (0,)
        return own


def _mtimes(run: str) -> Signature | None:
    try:
        private = os.stat(f"{run}/.git/kitaru").st_mtime_ns
    except OSError:
        return None
    return private, _mtime(f"{run}/inbox"), _mtime(f"{run}/.git/HEAD")


def _mtime(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0
