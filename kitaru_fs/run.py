"""One run, as a user sees it: what `kitaru` does with a run, it does through this class."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from kitaru_fs.awaited import (
    Awaited,
    OpenWait,
    Wake,
    awaited,
    encode_reply,
    find_open_wait,
    open_waits,
    read_reply,
)
from kitaru_fs.clock import run_created
from kitaru_fs.config.settings import Settings
from kitaru_fs.entry import Entry, Usage
from kitaru_fs.errors import ConflictError, NotFoundError
from kitaru_fs.holding.lock import Holder, read_holder
from kitaru_fs.holding.requests import who_asked
from kitaru_fs.redaction.credentials import Credentials
from kitaru_fs.rundir.codecheck import check_recorded_code
from kitaru_fs.rundir.events import Listener
from kitaru_fs.rundir.history import At, LogLine, open_run, read_log, resolve
from kitaru_fs.rundir.openings import openings
from kitaru_fs.rundir.options import DrivenRun, Options
from kitaru_fs.rundir.status import ENDED, called_by, status_of
from kitaru_fs.supervisor.held import why_held
from kitaru_fs.supervisor.troubles import forget_trouble

if TYPE_CHECKING:
    from kitaru_fs.logs.reading import Printed
    from kitaru_fs.rundir.checkup.doctor import Checkup
    from kitaru_fs.rundir.costs import Cost
    from kitaru_fs.rundir.creation import CodeFile
    from kitaru_fs.rundir.delivery import Delivered
    from kitaru_fs.rundir.diffs import Comparison
    from kitaru_fs.rundir.history import OpenRun
    from kitaru_fs.rundir.keeping import Kept
    from kitaru_fs.rundir.leaks import Leak
    from kitaru_fs.rundir.scrubbing.scrub import Scrubbed
    from kitaru_fs.rundir.timetravel import Move
    from kitaru_fs.spending import By, Spending
    from kitaru_fs.watching import Watch

__all__ = ["Run", "Shown"]


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


class Run:
    """A run on disk. Its properties are read afresh at each use of `refresh`, else once.

    Args:
        path: The run's directory.
        workspace: The workspace that it is in.
    """

    def __init__(self, path: Path, workspace: Home) -> None:
        self.path = path
        self.workspace = workspace

    def __repr__(self) -> str:
        return f"Run({self.id!r})"

    @property
    def id(self) -> str:
        """The run's id: its directory's name."""
        return self.path.name

    def refresh(self) -> Run:
        """Returns the run as it is on disk now."""
        return Run(self.path, self.workspace)

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
    def children(self) -> list[Run]:
        """The runs that it called, in the order called; those that were moved away left out."""
        with self._opened() as opened:
            paths = [self.path.parent / name for name in called_by(opened)]
        return [Run(path, self.workspace) for path in paths if (path / ".git").is_dir()]

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
        self, step: str | None, other: str | None = None, *, run: Run | None = None
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

    def diff(self, step: str, other: str | None = None, *, run: Run | None = None) -> str:
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

    def watch(self) -> Watch:
        """Returns a watch on the run: its entries and how it stands, then what changes.

        Iterating over it ends when the run is at rest.
        """
        from kitaru_fs.watching import Watch

        return Watch(self.path.parent, self.workspace, self)

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

    # Acting

    def resume(
        self,
        *,
        keep_files: bool = False,
        recorded_code: bool = False,
        supervised: bool = False,
        identity: tuple[str, str] | None = None,
        listener: Listener | None = None,
        on_open: Callable[[DrivenRun], None] | None = None,
    ) -> Any:
        """Goes on from where the run stands, to its end; a plain call, for async flows too.

        Args:
            keep_files: After a crash, commit what is on disk as the human's edit.
            recorded_code: Run the code that the run recorded, not the workspace's.
            supervised: It is a supervisor that resumes it: refuse it if a human moved its HEAD or
                its files, or paused it.
            identity: The human's name and address, for their edits.
            listener: Told what happens.
            on_open: Called when the run was taken up, before the flow runs.

        Returns:
            The flow's result.

        Raises:
            HeldError: Another process drives the run.
            MovedError: A human moved the run, and a supervisor was to resume it.
            ConflictError: It is paused, and a supervisor was to resume it.
            DivergenceError: The flow does not make the calls that the journal holds.
            Exception: What the flow raised.
        """
        from kitaru_fs.engine.runner import drive_run

        if not supervised:
            forget_trouble(self.workspace.path, self.id)
        elif self.paused is not None:
            raise ConflictError(
                f"the run {self.id} is paused", hint=f"kitaru resume {self.id} goes on", run=self.id
            )
        flow, code = self._load(recorded_code=recorded_code)
        options = self.workspace.options(
            purpose="up" if supervised else "resume",
            keep_files=keep_files,
            unmoved=supervised,
            identity=identity,
            listener=listener,
            code=code,
            on_open=on_open,
            unpause=not supervised,
        )
        return drive_run(self.path, flow, options)

    def _load(self, *, recorded_code: bool) -> tuple[Any, Any]:
        from kitaru_fs.targets.launching import as_flow, read_code
        from kitaru_fs.targets.target import load_target, load_target_from

        with self._opened() as opened:
            request = opened.repository.request(opened.point)
            if recorded_code:
                check_recorded_code(opened.repository, opened.point)
        root = self.workspace.path
        if recorded_code:
            target = load_target_from(self.path / "code", request.target, workspace_root=root)
            return as_flow(target), ()
        target = load_target(root, request.target)
        return as_flow(target), read_code(target)

    def rewind(
        self,
        at: str,
        *,
        dry_run: bool = False,
        identity: tuple[str, str] | None = None,
        listener: Listener | None = None,
    ) -> Move:
        """Puts a stopped run's files and journal to a step, on a new branch; the old one stays.

        Args:
            at: A STEP: a number, a name, `NAME#K` or a commit.
            dry_run: Only say what would happen.
            identity: The human's name and address: for the log, and for an edit of theirs.
            listener: Told what happens.

        Raises:
            NotFoundError: There is no such step.
            ConflictError: The run stands there already.
            HeldError: A process drives the run.
        """
        from kitaru_fs.rundir.timetravel import plan_rewind, rewind

        options = self.workspace.options(purpose="rewind", identity=identity, listener=listener)
        if dry_run:
            return plan_rewind(self.path, options, at)
        self._forget()
        return rewind(self.path, options, at)

    def fork(
        self,
        at: str | None = None,
        *,
        set: Mapping[str, Any] | None = None,
        input: Mapping[str, Any] | None = None,
        identity: tuple[str, str] | None = None,
    ) -> Run:
        """Makes a new run with the commits before a step; that step and all after it are live.

        This run is only read, and may be driven meanwhile. Nothing of the new run is executed yet:
        `resume` does. It has keys and children of its own.

        Args:
            at: The STEP that is the first live one; None keeps all that the run has.
            set: Outputs that replace those of steps, by STEP: of that step or earlier ones. What
                follows the earliest is live; that one's changes to `files/` stay.
            input: Arguments of the flow that change, by name.
            identity: The human's name and address, for the commits.

        Returns:
            The new run.

        Raises:
            NotFoundError: There is no such step.
            UsageError: A value does not fit the step's type, or the flow's signature.
            StorageError: The disk refused; nothing is left behind.
        """
        from kitaru_fs.forking import fork_run

        options = self.workspace.options(purpose="fork", identity=identity)
        path = fork_run(self.path, self.workspace.path, at, set or {}, input, options)
        return Run(path, self.workspace)

    def undo(
        self, *, identity: tuple[str, str] | None = None, listener: Listener | None = None
    ) -> Move:
        """Takes the last rewind, edit, unused answer or cancel back.

        Raises:
            ConflictError: There is nothing to take back.
            HeldError: A process drives the run.
        """
        from kitaru_fs.rundir.timetravel import undo

        self._forget()
        options = self.workspace.options(purpose="undo", identity=identity, listener=listener)
        return undo(self.path, options)

    def redo(
        self, *, identity: tuple[str, str] | None = None, listener: Listener | None = None
    ) -> Move:
        """Does again what the last undo took back.

        Raises:
            ConflictError: Nothing was undone, or the run has gone on since.
            HeldError: A process drives the run.
        """
        from kitaru_fs.rundir.timetravel import redo

        self._forget()
        options = self.workspace.options(purpose="redo", identity=identity, listener=listener)
        return redo(self.path, options)

    def checkup(self, *, repair: bool = False) -> Checkup:
        """Looks at the run's directory for damage and tampering, and puts right what can be.

        What is replaced is kept; what cannot be explained is not overwritten. A run that a process
        drives is only looked at.

        Args:
            repair: Whether to put anything right; without it nothing is written.

        Raises:
            StorageError: The disk refused.
        """
        from kitaru_fs.rundir.checkup.doctor import check_up

        self._forget()
        return check_up(self.path, self.workspace.options(purpose="doctor"), repair=repair)

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

    def scrub(self, *, with_vault: bool = True) -> Scrubbed:
        """Makes a copy of the run without the secrets that `leaks` finds; this one stays.

        Args:
            with_vault: Whether the copy has a vault: a file in its `.git`, in no commit, with what
                was taken out, so that it can be resumed where the environment has not all of it.

        Raises:
            ConflictError: A secret could not be taken out; there is no copy.
            StorageError: The disk refused; nothing is left behind.
        """
        from kitaru_fs.rundir.scrubbing.scrub import scrub

        options = self.workspace.options(purpose="scrub")
        with open_run(self.path, credentials=self.workspace.credentials) as opened:
            return scrub(opened, self.workspace.path / "runs", options, with_vault=with_vault)

    def answer(
        self,
        value: Any = None,
        *,
        wait: str | None = None,
        reject: bool = False,
        reason: str = "",
        identity: tuple[str, str] | None = None,
        listener: Listener | None = None,
    ) -> Delivered:
        """Replies to an open wait of the run, or of one that it called.

        A run that nobody drives gets the reply at once, and goes on when it is resumed; one that a
        process drives goes on by itself.

        Args:
            value: The reply, of the type that the wait asks for, or as JSON has it.
            wait: The wait's name, or the number of the step that asked; None for the only one.
            reject: Refuse to reply instead.
            reason: Why.
            identity: The human's name and address; by default who runs this process.
            listener: Told what happens.

        Raises:
            NotFoundError: The run does not wait for such a reply.
            AmbiguousError: It waits for several.
            UsageError: The reply does not fit.
            ConflictError: The wait was over.
        """
        found = find_open_wait(self.path, open_waits(self.path), wait)
        raw = None if reject else encode_reply(value)
        return self._reply(found, raw, reason, identity, listener)

    def answer_text(
        self,
        text: str | None,
        *,
        wait: str | None = None,
        reason: str = "",
        identity: tuple[str, str] | None = None,
        listener: Listener | None = None,
    ) -> Delivered:
        """Replies with what a human wrote: JSON, or plain text where a text is asked for.

        Args:
            text: What they wrote; None refuses to reply. Otherwise as `answer`.
        """
        found = find_open_wait(self.path, open_waits(self.path), wait)
        raw = None if text is None else found.read_text(text)
        return self._reply(found, raw, reason, identity, listener)

    def _reply(
        self,
        found: OpenWait,
        raw: bytes | None,
        reason: str,
        identity: tuple[str, str] | None,
        listener: Listener | None,
    ) -> Delivered:
        from kitaru_fs.rundir.delivery import deliver_reply

        options = self.workspace.options(purpose="answer", identity=identity, listener=listener)
        self._forget()
        return deliver_reply(found.path, options, found.entry, raw, reason)

    def send(
        self,
        topic: str,
        value: Any,
        *,
        identity: tuple[str, str] | None = None,
        listener: Listener | None = None,
    ) -> Delivered:
        """Sends the run a message; it is kept until the flow receives it.

        Args:
            topic: The topic.
            value: The message, of the type that is received, or as JSON has it.
            identity: The human's name and address; by default who runs this process.
            listener: Told what happens.

        Raises:
            UsageError: The value does not fit what the run waits to receive.
            ConflictError: The run has ended.
        """
        return self._send(topic, encode_reply(value), identity, listener)

    def send_text(
        self,
        topic: str,
        text: str,
        *,
        identity: tuple[str, str] | None = None,
        listener: Listener | None = None,
    ) -> Delivered:
        """Sends what a human wrote: JSON, or else plain text; otherwise as `send`."""
        with self._opened() as opened:
            schemas = openings(opened).topics.get(topic, [])
        raw = read_reply(text, schemas[0] if schemas else {}, f"what is received on {topic!r}")
        return self._send(topic, raw, identity, listener)

    def _send(
        self,
        topic: str,
        raw: bytes,
        identity: tuple[str, str] | None,
        listener: Listener | None,
    ) -> Delivered:
        from kitaru_fs.rundir.delivery import deliver_message

        options = self.workspace.options(purpose="send", identity=identity, listener=listener)
        self._forget()
        return deliver_message(self.path, options, topic, raw)

    def _forget(self) -> None:
        for name in ("_state", "_awaited"):
            self.__dict__.pop(name, None)

    def cancel(self, *, identity: tuple[str, str] | None = None) -> bool:
        """Ends the run for good, and the runs that it called first. Files and journal stay.

        A process that drives it is asked to, and waited for, for some seconds.

        Args:
            identity: The human's name and address; by default who runs this process.

        Returns:
            Whether it is cancelled; else the process that drives it will do so when it next looks.

        Raises:
            ConflictError: It is completed or cancelled already.
        """
        from kitaru_fs.stopping import cancel

        self._forget()
        return cancel(self.path, self.workspace.options(purpose="cancel", identity=identity))

    def pause(self, *, identity: tuple[str, str] | None = None) -> bool:
        """Stops the run after its current step, until `resume`.

        Args:
            identity: The human's name and address; by default who runs this process.

        Returns:
            Whether no process drives it any more; else the one that does stops when its step ends.

        Raises:
            ConflictError: It has ended.
        """
        from kitaru_fs.stopping import pause

        self._forget()
        return pause(self.path, self.workspace.options(purpose="pause", identity=identity))

    @property
    def paused(self) -> dict[str, Any] | None:
        """Who paused the run (`by`, `since`); None if it is not paused."""
        return who_asked(self.path / ".git", "pause")


def _iso(moment: datetime) -> str:
    from kitaru_fs.clock import stamp

    return stamp(moment)
