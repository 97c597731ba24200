"""A run as its directory has it: what it is, how it stands, what it did. Reading writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import msgspec

from kitaru_fs.awaited import Awaited, Wake, awaited
from kitaru_fs.clock import run_created
from kitaru_fs.config.settings import Settings
from kitaru_fs.entry import Entry, Usage
from kitaru_fs.errors import NotFoundError
from kitaru_fs.holding.lock import Holder, read_holder
from kitaru_fs.holding.requests import who_asked
from kitaru_fs.redaction.credentials import Credentials
from kitaru_fs.rundir.events import Listener
from kitaru_fs.rundir.history import At, LogLine, open_run, read_log, resolve
from kitaru_fs.rundir.options import DrivenRun, Options
from kitaru_fs.rundir.status import ENDED, called_by, status_of
from kitaru_fs.supervisor.held import why_held

if TYPE_CHECKING:
    from kitaru_fs.logs.reading import Printed
    from kitaru_fs.rundir.costs import Cost
    from kitaru_fs.rundir.creation import CodeFile
    from kitaru_fs.rundir.diffs import Comparison
    from kitaru_fs.rundir.history import OpenRun
    from kitaru_fs.rundir.keeping import Kept
    from kitaru_fs.rundir.leaks import Leak
    from kitaru_fs.spending import By, Spending

__all__ = ["Home", "RecordedRun", "Shown"]


class Home(Protocol):
    """The workspace that a run is in, as far as the run needs it."""

    path: Path
    settings: Settings

    @property
    def credentials(self) -> Credentials:
        """What is kept out of the history of its runs."""
        ...

    def options(
        self,
        *,
        purpose: str,
        keep_files: bool = False,
        unmoved: bool = False,
        identity: tuple[str, str] | None = None,
        listener: Listener | None = None,
        code: Sequence[CodeFile] | None = None,
        on_open: Callable[[DrivenRun], None] | None = None,
        unpause: bool = False,
    ) -> Options:
        """Returns how its runs are driven."""
        ...


class Shown(NamedTuple):
    """One entry with its commit, output and diff.

    Attributes:
        commit: 40 hexadecimal digits.
        entry: The journal entry.
        output: The step's output; None if it has none.
        message: The commit's message.
        diff: What the step changed under `files/`, as git shows it.
        beside: What it changed there that git has no words for, a line each.
    """

    commit: str
    entry: Entry
    output: Any
    message: str
    diff: str
    beside: list[str]


class _State(NamedTuple):
    flow: str
    status: str
    step: int
    head: str
    branch: str | None
    created: datetime
    updated: datetime
    output: Any
    error: dict[str, Any] | None
    usage: Usage


class RecordedRun:
    """A run as its directory has it. It is read once, then anew at each use of `refresh`.

    Args:
        path: The run's directory.
        workspace: The workspace that it is in.
    """

    def __init__(self, path: Path, workspace: Home) -> None:
        self.path = path
        self.workspace = workspace

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"

    @property
    def id(self) -> str:
        """The run's id: its directory's name."""
        return self.path.name

    def refresh(self) -> Self:
        """Returns the run as it is on disk now."""
        return type(self)(self.path, self.workspace)

    @contextmanager
    def _opened(self) -> Generator[OpenRun]:
        with open_run(self.path) as opened:
            yield opened

    @cached_property
    def _state(self) -> _State:
        with self._opened() as opened:
            return self._state_in(opened)

    def _state_in(self, opened: OpenRun) -> _State:
        point, holder = opened.point, self.holder
        request = opened.repository.request(point)
        journal = opened.repository.journal(point)
        entry = journal.read(point.step)
        output: Any = None
        error = None
        end = journal.last_end(point.step)
        if end is not None:
            output = msgspec.json.decode(journal.output(end))
            error = end.error
        created = run_created(self.id) or datetime.fromisoformat(request.created)
        updated = datetime.fromisoformat(entry.started) + timedelta(seconds=entry.duration)
        return _State(
            request.flow,
            status_of(opened, request, holder),
            point.step,
            opened.head.hex(),
            opened.branch,
            created,
            updated,
            output,
            error,
            opened.usage(),
        )

    @property
    def flow(self) -> str:
        """The flow's name."""
        return self._state.flow

    @property
    def status(self) -> str:
        """`running`, `waiting`, `completed`, `failed`, `cancelled`, `interrupted` or `queued`."""
        return self._state.status

    @cached_property
    def _awaited(self) -> Awaited:
        with self._opened() as opened:
            return awaited(self.path, opened)

    @property
    def is_over(self) -> bool:
        """Whether the run has ended, and no process drives it on."""
        holder = self.holder
        return self.status in ENDED and not (holder is not None and holder.alive)

    @property
    def held(self) -> str:
        """Why a supervisor leaves the run to a human; empty if it does not, or has no need to."""
        holder = self.holder
        if holder is not None and holder.alive:
            return ""
        return why_held(self.path, self.workspace.path, self.status)

    @property
    def waits(self) -> list[dict[str, Any]]:
        """The questions that wait for a reply, those of the runs that it called included.

        Each has `name`, `question`, `schema` (JSON schema), `until`, and which `run` asked at which
        `step`; `offered` lists what was replied to it on other branches.
        """
        return [one.to_json() for one in self._awaited.waits]

    @property
    def wake(self) -> Wake:
        """What would wake the run, if it waits: whether something has come, when its time is, on
        which topics."""
        return self._awaited.wake

    @property
    def children(self) -> list[Self]:
        """The runs that it called, in the order called; those that were moved away left out."""
        with self._opened() as opened:
            paths = [self.path.parent / name for name in called_by(opened)]
        return [type(self)(path, self.workspace) for path in paths if (path / ".git").is_dir()]

    @property
    def output(self) -> Any:
        """The flow's result as JSON; None before the run is completed."""
        return self._state.output

    @property
    def error(self) -> dict[str, Any] | None:
        """`type`, `message` and `traceback` of what the run failed with."""
        return self._state.error

    @property
    def created(self) -> datetime:
        """When the run was made."""
        named = run_created(self.id)
        return named if named is not None else self._state.created

    @property
    def holder(self) -> Holder | None:
        """Who drives the run now, or died driving it."""
        return read_holder(self.path / ".git")

    @property
    def paused(self) -> dict[str, Any] | None:
        """Who paused the run (`by`, `since`); None if it is not paused."""
        return who_asked(self.path / ".git", "pause")

    def state(self) -> dict[str, Any]:
        """Returns the status object of the command line's `--json`.

        Raises:
            RunDamagedError: The run cannot be read.
        """
        if not {"_state", "_awaited"} & self.__dict__.keys():
            # Opened once for both: this is what lists of very many runs are made of.
            with self._opened() as opened:
                self._state, self._awaited = self._state_in(opened), awaited(self.path, opened)
        state, holder = self._state, self.holder
        alive = holder is not None and holder.alive is not False
        wakes: dict[str, Any] = {}
        if (paused := self.paused) is not None:
            wakes["paused"] = paused
        if self.wake.at is not None:
            wakes["until"] = _iso(self.wake.at)
        if self.wake.topics:
            wakes["topics"] = self.wake.topics
        found = {
            "run": self.id,
            "flow": state.flow,
            "path": str(self.path),
            "status": state.status,
            "step": state.step,
            "head": state.head,
            "branch": state.branch,
            "created": _iso(state.created),
            "updated": _iso(state.updated),
            "holder": {"pid": holder.pid, "host": holder.host, "since": holder.since}
            if holder is not None and alive
            else None,
            "waits": self.waits,
            "output": state.output,
            "error": state.error,
            "usage": msgspec.to_builtins(state.usage),
            # There only where the run waits for them, or is paused.
            **wakes,
        }
        return found | ({"held": held} if (held := self.held) else {})

    # Reading

    def log(self, *, all: bool = False) -> list[LogLine]:
        """Returns the run's entries, oldest first.

        Args:
            all: Every branch's, not only those that led to where HEAD is.
        """
        return list(self.iter_log(all=all))

    def iter_log(self, *, all: bool = False) -> Iterator[LogLine]:
        """Yields what `log` returns, each entry as soon as it was read."""
        with self._opened() as opened:
            yield from read_log(opened, every_branch=all)

    def branches(self) -> dict[str, str]:
        """Returns every branch's last commit, by its name; the one that HEAD is on first."""
        with self._opened() as opened:
            tips = {name: opened.tip(name) for name in opened.branches()}
            return {name: tip.hex() for name, tip in tips.items() if tip is not None}

    def left_out(self) -> list[tuple[str, str]]:
        """Returns what was on disk at the last commit and in none: the path, quoted, and why."""
        from kitaru_fs.quoting import quote_path
        from kitaru_fs.snapshot.filetree import left_out_below

        with self._opened() as opened:
            found = left_out_below(opened.repository.store, opened.point.files)
            return [(quote_path(path), why.reason) for path, why in found]

    def kept(self) -> list[Kept]:
        """Returns what was set aside when files were put back, newest first."""
        from kitaru_fs.rundir.keeping import kept

        with self._opened() as opened:
            return kept(opened.repository)

    def resolve(self, step: str | None) -> At:
        """Returns the commit that a STEP names (a number, a name, `NAME#K`, a commit).

        Raises:
            NotFoundError: None fits.
            AmbiguousError: More than one fits; the message lists them.
        """
        with self._opened() as opened:
            return resolve(opened, step)

    def show(self, step: str | None = None) -> Shown:
        """Returns one entry with its diff; the last one by default."""
        from kitaru_fs.rundir.diffs import compare_step

        with self._opened() as opened:
            at = resolve(opened, step)
            point = opened.repository.point(at.commit)
            if point.step < 0:
                raise NotFoundError(
                    f"{at.commit.hex()[:12]} is a commit that a human made; it has no entry",
                    hint=f"kitaru git {self.id} -- show {at.commit.hex()[:12]}",
                )
            journal = opened.repository.journal(point)
            entry = journal.read(point.step)
            output = msgspec.json.decode(journal.output(entry))
            return Shown(
                at.commit.hex(), entry, output, point.message, *compare_step(opened, at.commit)
            )

    def read(self, path: str, at: str | None = None) -> bytes:
        """Returns a file of the agent's, as a step left it.

        Args:
            path: Relative to `files/`.
            at: The STEP; the last one by default.

        Raises:
            NotFoundError: The commit holds no such file.
        """
        from kitaru_fs.rundir.history import read_file

        with self._opened() as opened:
            return read_file(opened, resolve(opened, at).commit, path)

    def compare(
        self, step: str | None, other: str | None = None, *, run: RecordedRun | None = None
    ) -> Comparison:
        """Returns how `files/` differ between two steps, of one run or of two.

        Args:
            step: The first STEP; the last one by default.
            other: The second; the last one by default.
            run: The run that `other` is of; this one by default.
        """
        from kitaru_fs.rundir.diffs import compare

        with self._opened() as opened:
            first = resolve(opened, step).commit
            if run is None or run.path == self.path:
                return compare(opened, first, opened, resolve(opened, other).commit)
            with open_run(run.path) as second:
                return compare(opened, first, second, resolve(second, other).commit)

    def diff(self, step: str, other: str | None = None, *, run: RecordedRun | None = None) -> str:
        """Returns how `files/` differ between two steps, as git shows it; see `compare`."""
        return self.compare(step, other, run=run).diff

    def export_patch(self, at: str | None = None) -> bytes:
        """Returns what the run changed since its first commit, as a patch for `git apply`.

        The patch is relative to `files/`, so it applies where `--files` came from.
        """
        from kitaru_fs.rundir.export import make_patch

        with self._opened() as opened:
            return make_patch(opened, resolve(opened, at).commit)

    def export_into(self, directory: Path, at: str | None = None) -> int:
        """Writes the files of a step into a new or empty directory; returns how many.

        Raises:
            ConflictError: The directory holds something.
        """
        from kitaru_fs.rundir.export import write_into

        with self._opened() as opened:
            return write_into(opened, resolve(opened, at).commit, directory)

    def logs(self, at: str | None = None, *, replayed: bool = False) -> list[Printed]:
        """Returns what the run printed, oldest first, as far as it is kept.

        Args:
            at: A STEP: only what was printed in it; all by default.
            replayed: Also what was printed again while the journal was replayed.
        """
        from kitaru_fs.logs.reading import read_printed

        commit = self.resolve(at).commit.hex() if at is not None else None
        return [
            piece
            for piece in read_printed(self.path)
            if (replayed or not piece.replayed) and commit in (None, piece.commit)
        ]

    def follow_logs(self, *, replayed: bool = False) -> Iterator[Printed]:
        """Yields what the run printed, then what it prints, until it has ended.

        Args:
            replayed: Also what is printed again while the journal is replayed.
        """
        from kitaru_fs.logs.reading import follow_printed

        for piece in follow_printed(self.path, lambda: self.refresh().is_over):
            if replayed or not piece.replayed:
                yield piece

    def costs(self, by: By = "step") -> list[Spending]:
        """Returns what the run cost, on all its branches, the dearest first.

        Args:
            by: What it is summed by.
        """
        from kitaru_fs.spending import sum_up

        return sum_up(self.cost_items(by))

    def cost_items(self, by: By) -> list[tuple[str, Cost]]:
        """Returns what each entry cost, with the name that it is summed by."""
        from kitaru_fs.rundir.costs import costs_of

        with self._opened() as opened:
            flow = opened.repository.request(opened.point).flow
            whole = {"flow": flow, "run": self.id}
            names = {"model": "model", "step": "name", "day": "day"}
            return [
                (whole[by] if by in whole else str(getattr(cost, names[by])) or "(unknown)", cost)
                for cost in costs_of(opened)
            ]

    def leaks(self) -> list[Leak]:
        """Looks through the run's whole history for secrets that slipped into it.

        Known are the credentials of the environment and of the run's vault, tokens of well-known
        shapes, and what `[redact] patterns` match.

        Raises:
            RunDamagedError: The run cannot be read.
        """
        from kitaru_fs.rundir.leaks import find_leaks

        with open_run(self.path, credentials=self.workspace.credentials) as opened:
            return list(find_leaks(opened.repository, opened.tips().values()))

    def _forget(self) -> None:
        for name in ("_state", "_awaited"):
            self.__dict__.pop(name, None)


def _iso(moment: datetime) -> str:
    from kitaru_fs.clock import stamp

    return stamp(moment)
