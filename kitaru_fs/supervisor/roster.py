"""The runs of a workspace as they were seen last, and which are to be looked at."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from kitaru_fs.clock import seconds
from kitaru_fs.errors import KitaruError
from kitaru_fs.run import Home, Run
from kitaru_fs.supervisor.glance import Glance, Signature, glance, signature

__all__ = ["Roster", "Seen"]


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
        runs: The workspace's `runs/`.
    """

    def __init__(self, runs: Path) -> None:
        self._runs = runs
        self._signatures: dict[str, Signature] = {}
        self._glances: dict[str, Glance] = {}
        # As sets that keep their order: a change is looked at before what a listing finds.
        self._soon: dict[str, None] = {}
        self._later: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._signatures)

    @property
    def glances(self) -> Mapping[str, Glance]:
        """How those runs stand that a supervisor has to do with."""
        return self._glances

    @property
    def is_looked_at(self) -> bool:
        """Whether no look is due."""
        return not (self._soon or self._later)

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
        known = self._signatures.keys()
        self.look_at(known - names)
        # The newest first: who has just started one waits for it.
        for name in sorted(names - known, reverse=True):
            if name not in self._soon:
                self._later[name] = None

    def check(self) -> None:
        """Asks for a look at every run that has changed in any way."""
        self.list()
        changed = [
            name
            for name, before in self._signatures.items()
            if signature(self._runs / name) != before
        ]
        self.look_at(changed)

    def look_now(self, name: str, home: Home, now: float) -> Seen:
        """Looks at a run at once; arguments as for `look`."""
        self._soon.pop(name, None)
        self._later.pop(name, None)
        return self._look(name, home, now)

    def look(self, home: Home, now: float, budget: float) -> Iterator[Seen]:
        """Looks at runs, as many as `budget` seconds allow, at least at one.

        Args:
            home: The workspace.
            now: Times up to this one have come; in seconds since the epoch.
            budget: Seconds.
        """
        until = seconds() + budget
        while not self.is_looked_at:
            due = self._soon or self._later
            name = next(iter(due))
            del due[name]
            yield self._look(name, home, now)
            if seconds() >= until:
                return

    def _look(self, name: str, home: Home, now: float) -> Seen:
        path = self._runs / name
        # Before it is read: what changes meanwhile is looked at again.
        found = signature(path)
        if found is None:
            self._forget(name)
            return Seen(name, None)
        self._signatures[name] = found
        try:
            seen = glance(Run(path, home), now)
        except KitaruError as error:
            self._glances.pop(name, None)
            return Seen(name, None, error)
        if seen.need == "nothing":
            self._glances.pop(name, None)
        else:
            self._glances[name] = seen
        return Seen(name, seen)

    def _forget(self, name: str) -> None:
        self._signatures.pop(name, None)
        self._glances.pop(name, None)
