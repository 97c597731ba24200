"""Watching runs from outside: what changes in them, as it is found in their directories.

Nothing is written, and nobody is asked: some `stat`s tell which runs are to be read again.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from kitaru_fs.clock import monotonic, now_ns, stamp, utc_now
from kitaru_fs.errors import KitaruError
from kitaru_fs.run import Home, Run
from kitaru_fs.rundir.history import open_run, read_log, read_new
from kitaru_fs.rundir.status import ENDED
from kitaru_fs.states import StateCache
from kitaru_fs.supervisor.bulletin import read_bulletin

__all__ = ["Change", "Watch"]

_INTERVAL = 0.1
# Seconds between two looks at all runs, and so many seconds more for each.
_CHECK = 0.5
_CHECK_OF_EACH = 0.0005
# Two changes within a tick of the file system's clock look like one.
_TICK_NS = 50_000_000
# Seconds that new runs are looked at before the others are again.
_LOOKING = 0.2
# What every step changes is told by its entry.
_BY_STEP = frozenset({"step", "head", "updated", "usage"})

Kind = Literal["run", "entry", "gone", "damaged", "supervisor"]
_Mark = tuple[int, ...]


class Change(NamedTuple):
    """Something that was seen to change.

    Attributes:
        kind: `run` (`content` is its status object: at first, and when more changed than another
            step changes), `entry` (a commit of it, as `kitaru log --json` has them), `gone`,
            `damaged` (it cannot be read; `content` has the `error`), `supervisor` (`content` has
            what that does, or None, under that name).
        run: The run's id; empty for the supervisor.
        at: When it was seen; UTC, ISO 8601.
    """

    kind: Kind
    run: str
    at: str
    content: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Returns it as a line of `kitaru watch --json`."""
        named = {"run": self.run} if self.run else {}
        return {"event": self.kind, "at": self.at, **named, **self.content}


class Watch:
    """The runs of a workspace, or one of them, as they change.

    Iterating yields the changes as they come. Of one run: all its entries and how it stands first,
    until it is at rest. Of a workspace: those that are not over first, and without an end. How a
    run stands comes after the entries that made it so.

    Args:
        runs: Where the runs are.
        home: The workspace.
        only: The one run that is watched; all by default.

    Attributes:
        states: The status objects of the runs that are not over, and of those that ended since.
        supervisor: What the supervisor does; None if there is none.
    """

    def __init__(self, runs: Path, home: Home, only: Run | None = None) -> None:
        self._place = runs
        self._home = home
        self._only = only
        self._since = 0.0 if only is not None else float(int(utc_now().timestamp()))
        self._watched: dict[str, _Watched] = {}
        # Those that were not looked at yet, the newest last; and those that were there at first.
        self._new: list[str] = [only.id] if only is not None else []
        self._first: set[str] = set()
        self._cache = StateCache(home.path / ".kitaru", runs)
        self._listing = -1
        self._check_at = 0.0
        self._was_told = False
        self.states: dict[str, dict[str, Any]] = {}
        self.supervisor: dict[str, Any] | None = None

    def __iter__(self) -> Iterator[Change]:
        while True:
            yield from self.look()
            if self.is_at_rest:
                return
            time.sleep(_INTERVAL)

    @property
    def counts(self) -> Mapping[str, int]:
        """How many runs there are of each status."""
        return Counter(one.status for one in self._watched.values() if one.status)

    @property
    def is_at_rest(self) -> bool:
        """Whether the one run that is watched is over, or stands and nobody will go on with it.

        Where a supervisor runs, that goes on with a run that waits, or whose process died, unless
        it is held.
        """
        if self._only is None:
            return False
        state = self.states.get(self._only.id)
        if state is None:
            return True
        if state["holder"] is not None:
            return False
        return state["status"] in ENDED or self.supervisor is None or "held" in state

    def look(self) -> Iterator[Change]:
        """Yields what has changed since the last look, as it is read.

        Where there are very many runs the first looks take them in turn, the newest first.
        """
        # Before the runs: what it has let go is not taken for what nobody goes on with.
        yield from self._look_at_supervisor()
        is_check = monotonic() >= self._check_at
        if self._only is None:
            self._list(is_check)
        known = self._watched if is_check else [*filter(self._is_driven, self.states)]
        for name in list(known):
            yield from self._look_at(name, self._watched[name])
        until = monotonic() + _LOOKING
        while self._new and monotonic() < until:
            name = self._new.pop()
            watched = _Watched(self._only or Run(self._place / name, self._home), self._since)
            self._watched[name] = watched
            if name not in self._first or not self._is_over(name, watched):
                yield from self._look_at(name, watched)
        if self._first and not self._new:
            self._first.clear()
            self._cache.save()
        if is_check:
            self._check_at = monotonic() + _CHECK + _CHECK_OF_EACH * len(self._watched)

    def _look_at_supervisor(self) -> Iterator[Change]:
        found = read_bulletin(self._home.path)
        if found != self.supervisor or not self._was_told:
            self.supervisor, self._was_told = found, True
            yield Change("supervisor", "", stamp(), {"supervisor": found})

    def _list(self, is_check: bool) -> None:
        """Finds the runs that are new."""
        is_first = self._listing < 0
        listing = _mtime(str(self._place))
        if not is_check and listing == self._listing:
            return
        self._listing = listing
        new = set(self._names()) - self._watched.keys() - set(self._new)
        self._new += sorted(new)
        if is_first:
            self._first = new

    def _is_driven(self, name: str) -> bool:
        return self.states[name]["holder"] is not None

    def _is_over(self, name: str, watched: _Watched) -> bool:
        """Says of a run that was there at first whether it is over; it is not told then."""
        known = self._cache.get(name)
        if known is not None and watched.begin(known):
            return True
        watched.skip_past()
        return False

    def _look_at(self, name: str, watched: _Watched) -> Iterator[Change]:
        yield from watched.look()
        if watched.state is None:
            self.states.pop(name, None)
            if watched.is_gone:
                del self._watched[name]
        elif watched.was_told:
            self.states[name] = watched.state
        elif name in self._first:
            self._cache.put(name, watched.state)

    def _names(self) -> list[str]:
        try:
            with os.scandir(self._place) as listing:
                return [entry.name for entry in listing if not entry.name.startswith(".")]
        except FileNotFoundError:
            return []


class _Watched:
    """One run.

    Args:
        run: The run.
        since: Entries that are older are not told; in seconds since the epoch.
    """

    def __init__(self, run: Run, since: float) -> None:
        self._run = run
        self._since = since
        self._seen: set[bytes] = set()
        self._mark: _Mark | None = None
        self._runs: list[Path] = [run.path]
        self._told: dict[str, Any] | None = None
        self._error = ""
        self._skips = False
        self.status = ""
        self.state: dict[str, Any] | None = None
        self.is_gone = False

    @property
    def was_told(self) -> bool:
        """Whether its state was ever told."""
        return self._told is not None

    def begin(self, state: dict[str, Any]) -> bool:
        """Begins with a state that is known to be true; returns whether that is all to be done."""
        if state["status"] not in ENDED:
            return False
        self.status = state["status"]
        self._seen.add(bytes.fromhex(state["head"]))
        self._mark = self._take_mark()
        return True

    def skip_past(self) -> None:
        """What is there at the first look is not told, nor a run that is over by then."""
        self._skips = True

    def look(self) -> Iterator[Change]:
        """Yields what has changed."""
        mark = self._take_mark()
        if mark is None:
            self.is_gone, self.state, self.status = True, None, ""
            if self._told is not None:
                yield Change("gone", self._run.id, stamp(), {})
            return
        if mark == self._mark and not self._was_let_go():
            return
        # What is written in the same tick of the clock is found at the next look.
        self._mark = mark if max(mark) + _TICK_NS < now_ns() else None
        run = self._run = self._run.refresh()
        try:
            state = run.state()
            self._runs = run.wake.runs or [run.path]
            lines = self._new_lines(state)
        except (KitaruError, OSError) as error:
            yield from self._cannot_be_read(error)
            return
        self.state, self.status, self._error = state, state["status"], ""
        is_over = self._skips and self.status in ENDED
        self._skips = False
        telling = {key: value for key, value in state.items() if key not in _BY_STEP}
        if self.status in ENDED:
            del telling["holder"]  # it leaves a moment later
        for line in lines:
            yield Change("entry", run.id, stamp(), line)
        if telling != self._told and not is_over:
            self._told = telling
            yield Change("run", run.id, stamp(), state)

    def _new_lines(self, state: dict[str, Any]) -> list[dict[str, Any]]:
        if self._skips:
            self._seen.add(bytes.fromhex(state["head"]))
            return []
        with open_run(self._run.path) as opened:
            if self._seen or self._since:
                lines = read_new(opened, self._seen, self._since)
            else:
                lines = list(read_log(opened))
        self._seen.update(bytes.fromhex(line.commit) for line in lines)
        return [line.to_json() for line in lines]

    def _cannot_be_read(self, error: KitaruError | OSError) -> Iterator[Change]:
        # Read again at the next look: a pack may just have been put in another's place.
        self.state, self.status, self._mark = None, "damaged", None
        known = error if isinstance(error, KitaruError) else KitaruError(str(error))
        if known.message != self._error:
            self._error = known.message
            content = {
                "type": type(known).__name__,
                "message": known.message,
                "hint": known.hint,
            }
            yield Change("damaged", self._run.id, stamp(), {"error": content})

    def _was_let_go(self) -> bool:
        """Says whether the process that held it holds it no more: a kill leaves no trace."""
        if self.state is None or self.state["holder"] is None:
            return False
        holder = self._run.holder
        return holder is None or holder.alive is False or holder.pid != self.state["holder"]["pid"]

    def _take_mark(self) -> _Mark | None:
        """What changes when the run, or one that it waits for, does; None if it is gone."""
        git_dir = f"{self._run.path}/.git"
        if not os.path.isdir(git_dir):
            return None
        trouble = f"{self._run.path.parents[1]}/.kitaru/up/{self._run.id}.json"
        mark: _Mark = (_mtime(trouble), _mtime(f"{git_dir}/refs/heads"))
        for path in self._runs:
            for name in (".git/kitaru", ".git/kitaru/wal", ".git/HEAD", "inbox"):
                mark += (_mtime(f"{path}/{name}"),)
        return mark


def _mtime(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0
