"""One process driving one run: replaying its journal, then committing each live step.

A call's way: `claim` -> an outcome of the journal, or leave to execute -> `begin` -> the step runs
-> `succeed` or `fail` -> one commit. Everything here is synchronous and may be called from any
thread; `protocol` drives it from plain and from async code.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from kitaru_fs.clock import seconds, stamp, utc_now
from kitaru_fs.divergence import divergence
from kitaru_fs.entry import Entry, Usage
from kitaru_fs.errors import DivergenceError, RunInterrupted
from kitaru_fs.events import Event
from kitaru_fs.filetree import DirRef
from kitaru_fs.guard import Guard
from kitaru_fs.lock import RunLock
from kitaru_fs.options import Options
from kitaru_fs.processes import descendants_marked, end
from kitaru_fs.recovery import Standing, record_left, take_up
from kitaru_fs.replay import CANCELLED, Call, Outcome, Replay, Ticket
from kitaru_fs.repository import Repository, agent_author
from kitaru_fs.runindex import write_run_index
from kitaru_fs.snapshot import Scanner
from kitaru_fs.store import storage_error
from kitaru_fs.takeover import Takeover
from kitaru_fs.workfiles import WorkFiles
from kitaru_fs.writer import Writer

__all__ = ["Attempt", "Execution", "Options"]


class Attempt:
    """One execution of a step that is in flight."""

    def __init__(self, call: Call, number: int, before: DirRef | None) -> None:
        self.call = call
        self.number = number
        self.before = before
        self.started = utc_now()
        self.clock = seconds()
        self.overlap: set[str] = set()
        self.metadata: dict[str, Any] = {}
        self.usage: Usage | None = None
        self.body = ""
        self.author = ""


class Execution:
    """An open, held run. Made by `open`; ended by `complete`, `fail_run` or `stop`, then `close`.

    Attributes:
        request: What was asked of the run.
        run: The run's id.
        replay: What is left of the journal to be replayed.
        thread: The thread that took the run up.
        workers: How many threads of `map` run steps of the flow now.
        other_tasks: Tasks of the event loop that were there before the flow.
    """

    def __init__(
        self, lock: RunLock, repository: Repository, standing: Standing, options: Options
    ) -> None:
        base = standing.base
        self._guard = Guard()
        self._lock = lock
        self._repository = repository
        self._options = options
        self._base = base
        self._in_flight: dict[int, Attempt] = {}
        self._observed: dict[str, list[Any]] = {}
        self._notes: dict[str, Any] = {}
        self._failures: deque[tuple[BaseException, int]] = deque(maxlen=256)
        self._patches: dict[str, bool] = {}
        self._over = ""
        self._live = False
        self._opened = seconds()
        self.thread = threading.get_ident()
        self.workers = 0
        self.other_tasks: Set[object] = set()
        self.request = repository.request(base)
        self.run = repository.path.name
        self._journal = repository.journal(base)
        self.replay = Replay(self._journal.entries())
        self._writer = Writer(
            repository,
            branch=standing.branch,
            tip=standing.head,
            base=base,
            run=self.run,
            flow=self.request.flow,
        )
        scanner = Scanner(
            repository.files_dir,
            repository.store,
            options.exclude,
            options.max_file,
            known=base.files,
        )
        self._files = WorkFiles(repository, scanner, self._writer, self._tell_notice)
        begun = base.step > 0 or (repository.private_dir / "left.json").exists()
        self._takeover = (
            Takeover(repository, standing, options, self._writer, self._files, self.request.flow)
            if begun
            else None
        )
        for note in standing.notes:
            self._tell("notice", note)

    @classmethod
    def open(cls, path: Path, options: Options) -> Execution:
        """Takes a run up, ready to replay.

        Raises:
            HeldError: Another process drives it.
            KitaruError: It is damaged, of another format, or the disk refused.
        """
        taken = take_up(path, purpose=options.purpose, durable=options.durable)
        try:
            execution = cls(taken.lock, taken.repository, taken.standing, options)
            if not execution.ended:
                if execution._takeover is not None:
                    execution._takeover.look()
                record_left(taken.repository, orderly=False)
            return execution
        except OSError as error:
            taken.repository.close()
            taken.lock.release()
            raise storage_error(error, f"taking up the run {path.name}") from error
        except BaseException:
            taken.repository.close()
            taken.lock.release()
            raise

    # What the run is

    @property
    def path(self) -> Path:
        """The run's directory."""
        return self._repository.path

    @property
    def ended(self) -> bool:
        """Whether the run is completed or cancelled where HEAD stands."""
        return self._base.status in ("completed", "cancelled")

    @property
    def status(self) -> str:
        """The run's status after the last commit."""
        return self._writer.status

    @property
    def step(self) -> int:
        """The number of the last commit."""
        return self._writer.step

    @property
    def branch(self) -> str:
        """The branch that the run goes on on."""
        return self._writer.branch

    @property
    def nonce(self) -> str:
        """The holder's nonce: it marks what this process starts."""
        return self._lock.holder.nonce

    @property
    def on_open(self) -> Callable[[Execution], None] | None:
        """Whom to call before the flow runs."""
        return self._options.on_open

    @property
    def child_options(self) -> Options:
        """How a child run of this one is driven."""
        return self._options.for_child()

    def end_output(self) -> bytes:
        """Returns the result of a completed run, as JSON."""
        return self._journal.output(self._journal.read(self._base.step))

    # Replay

    def ready(self) -> None:
        """Ends the replay at once if there is nothing to replay: called before the flow runs."""
        with self._guard:
            if self.replay.finished:
                self.go_live()

    def claim(self, call: Call) -> Outcome | Ticket:
        """Returns a call's outcome, `LIVE`, or a ticket for one of them.

        Raises:
            DivergenceError: The flow left its journal before.
            RunInterrupted: The run is being stopped.
        """
        with self._guard:
            self._refuse_when_over()
            outcome = self.replay.claim(call)
            # Before the flow's own code runs on: what it writes from here on must stay.
            if self.replay.finished:
                self.go_live()
            return outcome

    def key(self, base: str) -> str:
        """Returns the key of the next call with this name and arguments."""
        with self._guard:
            return self.replay.key(base)

    def output_of(self, entry: Entry) -> bytes:
        """Returns the recorded output of a journaled step, as JSON."""
        return self._journal.output(entry)

    def withdraw(self, ticket: Ticket) -> None:
        """Forgets a call that its caller gave up."""
        with self._guard:
            self.replay.withdraw(ticket)

    def diverge(self, came: Call | None, what: str = "") -> DivergenceError:
        """Ends the replay with the error that says what was expected and what came."""
        with self._guard:
            error = divergence(self.run, self.replay.expected, came, what)
            self.replay.diverge(error)
            return error

    def files_dir(self) -> Path:
        """Returns `files/`, put to the point that replay has reached.

        Raises:
            KitaruError: The files could not be put there.
        """
        with self._guard:
            expected = self.replay.expected
            if expected is not None and self._takeover is not None:
                self._takeover.put_at(expected.step - 1)
            return self._repository.files_dir

    def observe(self, name: str, produce: Callable[[], Any]) -> Any:
        """Returns the recorded value of a read of the outside world (a time, a random number), or
        a new one, which the next commit records."""
        with self._guard:
            recorded = self.replay.observed.get(name)
            if recorded:
                return recorded.popleft()
            value = produce()
            self._observed.setdefault(name, []).append(value)
            return value

    def patched(self, change: str) -> bool:
        """Says whether the run goes the way of changed code; see `context.patched`."""
        with self._guard:
            if change not in self._patches:
                recorded = change in self.replay.patches
                self._patches[change] = recorded or self.replay.finished
                if self._patches[change] and not recorded:
                    self._observed.setdefault("patched", []).append(change)
            return self._patches[change]

    def note(self, attempt: Attempt | None, metadata: dict[str, Any]) -> None:
        """Adds metadata to an attempt's entry, or, in the flow itself, to the next one."""
        with self._guard:
            (self._notes if attempt is None else attempt.metadata).update(metadata)

    def remember_failure(self, error: BaseException, step: int) -> None:
        """Notes which step an exception came from, in case it ends the run."""
        self._failures.append((error, step))

    def cause_of(self, error: BaseException) -> int | None:
        """Returns the step whose failure an exception is, or stems from."""
        steps = {id(known): step for known, step in self._failures}
        queue: list[BaseException | None] = [error]
        seen: set[int] = set()
        while queue:
            one = queue.pop(0)
            if one is None or id(one) in seen:
                continue
            seen.add(id(one))
            if id(one) in steps:
                return steps[id(one)]
            if isinstance(one, BaseExceptionGroup):
                group = cast("BaseExceptionGroup[BaseException]", one)
                queue += group.exceptions
            queue += [one.__cause__, one.__context__]
        return None

    def wait_to_retry(self, seconds: float) -> None:
        """Tells the listener that the next attempt waits."""
        self._tell("retry", "", duration=seconds)

    def interrupt(self, error: BaseException) -> None:
        """From a signal handler: raises now, or as soon as what is being committed is done."""
        self._guard.interrupt(error)

    @contextmanager
    def working(self, threads: int) -> Generator[None]:
        """Notes that so many threads run steps of the flow."""
        with self._guard:
            self.workers += threads
        try:
            yield
        finally:
            with self._guard:
                self.workers -= threads

    # Live

    def go_live(self) -> None:
        """Ends the replay: what was found becomes the state that live steps start from."""
        with self._guard:
            if self._live:
                return
            self._live = True
            if self._takeover is None:
                return
            self._tell("replayed", "", step=self.replay.replayed, duration=seconds() - self._opened)
            self._takeover.settle(self._lock.holder)
            self._lock.forget_previous()

    def begin(self, call: Call) -> Attempt:
        """Begins an attempt of a live step.

        Raises:
            StorageError: `files/` cannot be read.
            RunInterrupted: The run is being stopped.
        """
        with self._guard:
            self._refuse_when_over()
            self.go_live()
            alone = not self._in_flight
            number = self.replay.failed_attempts[call.key] + 1
            attempt = Attempt(call, number, self._files.scan() if alone else None)
            for other in self._in_flight.values():
                other.overlap.add(call.name)
                attempt.overlap.add(other.call.name)
            self._in_flight[id(attempt)] = attempt
            self._tell("started", call.name, attempt=number)
            return attempt

    def succeed(self, attempt: Attempt, output: bytes | None) -> Entry:
        """Commits an attempt's output with what it did to `files/`.

        Raises:
            StorageError: The disk refused; the step is not acknowledged.
        """
        with self._guard:
            self._refuse_when_over()
            self._in_flight.pop(id(attempt), None)
            entry = self._entry(attempt, attempt.call.kind)
            self._add(entry, self._files.scan(), output=output, attempt=attempt)
            return entry

    def fail(self, attempt: Attempt, error: dict[str, Any], *, retry: bool) -> Entry:
        """Commits a failed attempt: what it left in `files/` is kept aside and put back.

        Args:
            attempt: The attempt.
            error: `type`, `args`, `message`, `traceback`.
            retry: Whether another attempt follows.

        Raises:
            StorageError: The disk refused.
        """
        with self._guard:
            self._refuse_when_over()
            self._in_flight.pop(id(attempt), None)
            entry = self._entry(attempt, "failed")
            entry.status, entry.error, entry.retry = "failed", error, retry or None
            also: dict[str, bytes] = {}
            good = self._writer.files
            left = None
            if not self._in_flight and attempt.before is not None:
                good, left = attempt.before, self._files.scan()
                if not self._files.same(left, good):
                    why = f"what attempt {attempt.number} of {entry.name} left"
                    also = self._files.keep(left, why, self.request.flow)
                    entry.kept = next(iter(also))
            attempt.body = attempt.body or f"{error.get('type')}: {error.get('message')}"
            self._add(entry, good, attempt=attempt, also=also, trees=left[:2] if left else ())
            if also:
                self._files.put(good)
            self.replay.failed_attempts[attempt.call.key] += 1
            return entry

    def cancel(self, attempt: Attempt) -> None:
        """Records that the flow itself gave a step up; nothing is recorded while the run stops."""
        with self._guard:
            if self._over or id(attempt) not in self._in_flight:
                self._in_flight.pop(id(attempt), None)
                return
            error = {"type": CANCELLED, "args": None, "message": "the flow cancelled this step"}
            self.fail(attempt, error, retry=False)
            self.replay.failed_attempts[attempt.call.key] -= 1

    def begin_child(self, call: Call, run: str) -> None:
        """Commits that a child run begins, before it does."""
        with self._guard:
            self._refuse_when_over()
            self.go_live()
            entry = Entry(
                step=0,
                key=call.key,
                name=call.name,
                kind="child",
                status="waiting",
                started=stamp(),
                input=call.input,
                metadata={"run": run},
            )
            self._add(entry, self._files.scan())

    # The end

    def complete(self, output: bytes | None) -> None:
        """Commits the run's end.

        Raises:
            DivergenceError: The journal holds calls that the flow did not make.
            StorageError: The disk refused.
        """
        with self._guard:
            if not self.replay.finished:
                raise self.diverge(None, "the flow returned")
            self._end("completed", output=output)

    def fail_run(self, error: dict[str, Any], cause: int | None) -> None:
        """Commits the run's failure; `cause` is the step whose failure the flow did not handle."""
        with self._guard:
            self._end("failed", error=error, cause=cause)

    def cancel_run(self) -> None:
        """Commits the run's end for good, with `files/` as the last commit left them."""
        with self._guard:
            self._end("cancelled")

    def stop(self, reason: str) -> None:
        """Ends an orderly stop: what steps in flight left is kept aside, `files/` are put back."""
        with self._guard:
            if self._over:
                return
            self._over = reason
            self._in_flight.clear()
            # What an interrupted step started must not write into the files that are put back.
            end(descendants_marked(self.nonce))
            if not self._live and self._takeover is not None:
                self._takeover.put_as_found()
                return
            left = self._files.scan()
            if not self._files.same(left, self._writer.files):
                self._files.keep_now(left, f"what was unfinished: {reason}", self.request.flow)
                self._files.put(self._writer.files)

    def close(self, *, orderly: bool = True) -> None:
        """Brings the repository to rest (packed, index fresh) and releases the run."""
        with self._guard:
            self._over = self._over or "it has ended"
            try:
                if orderly:
                    self._rest()
            finally:
                self._repository.close()
                self._lock.release()

    # Inside

    def _rest(self) -> None:
        settled = self._live or self.ended
        try:
            self._repository.store.checkpoint()
            if settled:
                write_run_index(self._repository, self._writer.root, self._files.scanner)
                record_left(self._repository, orderly=True)
                self._lock.forget_previous()
        except OSError as error:
            raise storage_error(error, f"bringing the run {self.run} to rest") from error

    def _refuse_when_over(self) -> None:
        if self._over:
            raise RunInterrupted(
                f"the run {self.run} is over for this process: {self._over}",
                hint=f"kitaru resume {self.run}",
                run=self.run,
            )

    def _end(
        self,
        status: str,
        *,
        output: bytes | None = None,
        error: dict[str, Any] | None = None,
        cause: int | None = None,
    ) -> None:
        self.go_live()
        entry = Entry(
            step=0,
            key="end",
            name=status,
            kind="end",
            status="failed" if status == "failed" else "ok",
            started=stamp(),
            error=error,
            cause=cause,
            overlap=sorted({attempt.call.name for attempt in self._in_flight.values()}),
        )
        self._in_flight.clear()
        self._add(entry, self._files.scan(), output=output, status=status)
        self._over = f"it is {status}"

    def _entry(self, attempt: Attempt, kind: str) -> Entry:
        return Entry(
            step=0,
            key=attempt.call.key,
            name=attempt.call.name,
            kind=kind,
            attempt=attempt.number,
            started=stamp(attempt.started),
            duration=round(seconds() - attempt.clock, 6),
            input=attempt.call.input,
            overlap=sorted(attempt.overlap),
            usage=attempt.usage,
            metadata=attempt.metadata or None,
        )

    def _add(
        self,
        entry: Entry,
        files: DirRef,
        *,
        output: bytes | None = None,
        status: str = "running",
        attempt: Attempt | None = None,
        also: dict[str, bytes] | None = None,
        trees: tuple[bytes | None, ...] = (),
    ) -> None:
        self._lock.verify()
        entry.files = self._files.changed(files)
        entry.left_out = self._files.left_out(files) or None
        self._files.notice_bulk(entry.files)
        if self._notes:
            entry.metadata = {**(entry.metadata or {}), **self._notes}
            self._notes = {}
        if self._observed:
            entry.metadata = {**(entry.metadata or {}), "observed": self._observed}
            self._observed = {}
        name = (attempt.author if attempt else "") or self.request.flow
        self._writer.add(
            entry,
            files=files,
            status=status,
            author=agent_author(name, int(utc_now().timestamp())),
            output=output,
            body=attempt.body if attempt else "",
            also=also,
            trees=trees,
            # A step in flight may yet need what a scan found: its files before it began.
            forget_staged=not self._in_flight and self._files.is_current(files),
        )
        self._tell(
            "failed" if entry.kind == "failed" else "committed",
            entry.name if entry.kind != "end" else f"end: {entry.name}",
            step=entry.step,
            attempt=entry.attempt,
            duration=entry.duration,
            files=len(entry.files),
            usage=entry.usage,
            text=str((entry.error or {}).get("message") or ""),
        )

    def _tell_notice(self, kind: str, name: str, text: str) -> None:
        self._tell(kind, name, text=text)

    def _tell(self, kind: str, name: str, **more: Any) -> None:
        if self._options.listener is not None:
            self._options.listener(Event(kind=kind, run=self.run, name=name, **more))
