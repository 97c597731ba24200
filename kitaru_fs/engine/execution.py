"""One process driving one run: replaying its journal, then committing each live step.

A call's way: `claim` -> an outcome of the journal, or leave to execute -> `begin` -> the step runs
-> `succeed` or `fail` -> one commit. Everything here is synchronous and may be called from any
thread; `protocol` drives it from plain and from async code.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Generator, Sequence, Set
from concurrent.futures import Future
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from kitaru_fs.clock import seconds
from kitaru_fs.engine.attempts import Attempt
from kitaru_fs.engine.beside import Beside
from kitaru_fs.engine.callers import Callers
from kitaru_fs.engine.causes import Causes
from kitaru_fs.engine.divergence import divergence
from kitaru_fs.engine.events import Event
from kitaru_fs.engine.guard import Guard, interrupt
from kitaru_fs.engine.ledger import Ledger
from kitaru_fs.engine.mailbox import Mailbox
from kitaru_fs.engine.observing import Observations
from kitaru_fs.engine.options import Asker, Options
from kitaru_fs.engine.pending import Pending
from kitaru_fs.engine.publishing import Publication
from kitaru_fs.engine.replay import CANCELLED, Call, Outcome, Replay, Ticket
from kitaru_fs.engine.runtree import RunTree
from kitaru_fs.entry import Entry, GivenOutput, Usage
from kitaru_fs.errors import (
    HeldError,
    KitaruError,
    RunInterrupted,
    SecretMissingError,
    StorageError,
)
from kitaru_fs.holding.lock import RunLock
from kitaru_fs.holding.processes import descendants_marked, end
from kitaru_fs.holding.requests import Asked, ask, asked_dir, is_asked, withdraw
from kitaru_fs.redaction.finder import Known
from kitaru_fs.rundir.charge import take_charge
from kitaru_fs.rundir.masking import error_of, fill_for_replay, input_of, output_of
from kitaru_fs.rundir.recovery import Standing, record_left, take_up, was_left
from kitaru_fs.rundir.repository import Repository
from kitaru_fs.rundir.runindex import write_run_index
from kitaru_fs.rundir.takeover import Takeover
from kitaru_fs.rundir.workfiles import WorkFiles
from kitaru_fs.rundir.writer import Writer
from kitaru_fs.snapshot.scanner import Scanner
from kitaru_fs.storage.store import storage_error
from kitaru_fs.values import digest

if TYPE_CHECKING:
    import asyncio

__all__ = ["Attempt", "Execution", "Options", "drives_any"]

# The runs that this process drives.
_driven: set[Execution] = set()
os.register_at_fork(after_in_child=_driven.clear)


def drives_any(besides: Execution | None = None) -> bool:
    """Says whether this process drives a run, another one than that."""
    return any(execution is not besides for execution in _driven)


class Execution:
    """An open, held run. Made by `open`; ended by `complete`, `fail_run` or `stop`, then `close`.

    Attributes:
        options: How it is driven.
        request: What was asked of the run.
        run: The run's id.
        replay: What is left of the journal to be replayed.
        beside: The binary content that steps were given or returned.
        observations: What the flow sees and says beside its steps.
        causes: The failures of steps that were raised in the flow.
        callers: The threads that run plain code of the flow.
        loop: The event loop that an async flow runs in; None for a plain one.
        other_tasks: Tasks of the loop that were there before the flow.
        halted: Why the flow cannot go on in this process, though it may not have ended yet.
        damaged: That reason is an error in writing: nothing more may be written.
        caller: The execution whose flow called this run's.
        tree: What it waits for together with the runs that called it, or that it called.
        flow_task: The task that runs an async flow.
        leaving: The process leaves this run; because of it (`first`), or of one that called it.
        cancelled: Leaving, it cancelled the flow's task.
        has_desk: Something of it has waited for the outside.
    """

    def __init__(
        self, lock: RunLock, repository: Repository, standing: Standing, options: Options
    ) -> None:
        base = standing.base
        self._guard = Guard()
        self._lock = lock
        self._repository = repository
        self.options = options
        self._base = base
        self._over = ""
        self._live = False
        self._opened = seconds()
        self.causes = Causes()
        self.callers = Callers()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.other_tasks: Set[object] = set()
        self.halted: KitaruError | None = None
        self.damaged = False
        self.caller = options.caller
        self.tree = self.caller.tree if self.caller is not None else RunTree(options.linger)
        self.flow_task: asyncio.Task[Any] | None = None
        self.leaving: Literal["", "first", "along"] = ""
        self.cancelled = False
        self.has_desk = False
        self._torn = False
        self._asked = os.fspath(asked_dir(repository.git_dir))
        self.request = repository.request(base)
        self.run = repository.path.name
        self._secrets = repository.secrets
        flow = self.request.flow
        self._writer = Writer(
            repository,
            branch=standing.branch,
            tip=standing.head,
            base=base,
            run=self.run,
            flow=flow,
        )
        self._journal = self._writer.journal
        self.beside = Beside(self._journal, self._secrets)
        self.replay = Replay(map(self._filled, self.beside.noting(self._journal.entries())))
        # By the whole journal: a resume takes up again what a failure had ended.
        self._writer.open = self.replay.open
        self.observations = Observations(self.replay, self._guard)
        scanner = Scanner(
            repository.files_dir,
            repository.store,
            options.exclude,
            options.max_file,
            known=base.files,
            secrets=repository.secrets,
            watch=options.watch,
        )
        scanner.load(repository.seen_file)
        self._files = WorkFiles(repository, scanner, self._writer, self._tell_notice)
        self._publication = Publication(self._publish)
        self._ledger = Ledger(
            self._writer, self._files, self.observations, self._publication, flow, self._tell
        )
        # Whoever makes a run and drives it at once takes nothing up.
        begun = base.step > 0 or options.purpose not in ("run", "child") or standing.fresh
        begun = begun or was_left(repository)
        self._takeover = (
            Takeover(repository, standing, options, self._writer, self._files, flow)
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
        taken = take_up(
            path,
            purpose=options.purpose,
            durable=options.durable,
            credentials=options.credentials,
        )
        try:
            execution = cls(taken.lock, taken.repository, taken.standing, options)
            _driven.add(execution)
            if not execution.ended:
                if execution._takeover is not None:
                    execution._takeover.look()
                record_left(taken.repository, orderly=False)
                if options.unpause:
                    withdraw(taken.repository.git_dir, "pause")
                execution.tree.join(execution)
                take_charge(taken.repository.git_dir, options.purpose)
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
    def spent(self) -> Usage:
        """What the run has spent on models."""
        return self._writer.total

    @property
    def branch(self) -> str:
        """The branch that the run goes on on."""
        return self._writer.branch

    @property
    def nonce(self) -> str:
        """The holder's nonce: it marks what this process starts."""
        return self._lock.holder.nonce

    @property
    def live(self) -> bool:
        """Whether nothing is left to be replayed: what the flow does from here on is new."""
        return self._live

    @property
    def replays(self) -> bool:
        """Whether a journal is replayed before anything new happens."""
        return self._takeover is not None and not self._live

    @property
    def secrets(self) -> Sequence[Known]:
        """The environment's credentials, and those that the run used before."""
        return self._repository.secrets.finder().known

    @property
    def guard(self) -> Guard:
        """Serializes what is done with the run."""
        return self._guard

    @property
    def is_driven(self) -> bool:
        """Whether its flow has replayed the journal and goes on."""
        return self._live and not self._over and self.halted is None

    @property
    def last_commit(self) -> float:
        """When the last commit was made, by the clock that only goes forward."""
        return self._ledger.last

    @cached_property
    def mailbox(self) -> Mailbox:
        """What its calls wait for from outside."""
        mailbox = Mailbox(self, self._ledger, self._writer, self.replay)
        self.has_desk = True
        return mailbox

    def was_called_by(self, other: Execution) -> bool:
        """Says whether a run is this one, or called it, or called one that did."""
        one: Execution | None = self
        while one is not None and one is not other:
            one = one.caller
        return one is not None

    def end_output(self) -> bytes:
        """Returns the result of a completed run, as JSON.

        Raises:
            SecretMissingError: It holds a secret that nothing here has.
        """
        end = self._journal.last_end(self._base.step)
        return self.output_of(end) if end is not None else b"null"

    def input(self) -> dict[str, Any]:
        """Returns the flow's arguments, by name.

        Raises:
            SecretMissingError: One holds a secret that nothing here has.
        """
        return input_of(self._secrets, self.request)

    # Replay

    def ready(self) -> None:
        """Ends the replay at once if there is nothing to replay: called before the flow runs."""
        with self._guard:
            self._go_on()

    def claim(self, call: Call) -> Outcome | Ticket:
        """Returns a call's outcome, `LIVE`, or a ticket for one of them.

        Raises:
            DivergenceError: The flow left its journal before.
            RunInterrupted: The run is being stopped.
        """
        with self._guard:
            self._refuse_when_over()
            outcome = self.replay.claim(call)
            self._go_on()
            return outcome

    def _go_on(self) -> None:
        """Goes live if all is replayed, then lets those go on that waited for an outcome."""
        # In this order: what the flow's own code writes from here on must stay.
        if self.replay.finished:
            try:
                self._go_live()
            except BaseException as error:
                self.replay.abandon(error)
                raise
        self.replay.deliver()

    def key(self, base: str, unmasked: Callable[[], str] | None = None) -> str:
        """Returns the key of the next call that has something in common with others.

        Args:
            base: What they have in common, secrets masked.
            unmasked: Returns the same as it was made before a secret in it was known as one: a
                journal of that time holds that.
        """
        with self._guard:
            return self.replay.key(base, unmasked)

    def call_key(self, name: str, arguments: bytes | msgspec.Raw) -> str:
        """Returns the key of the next call with this name and arguments, as JSON.

        It is made of both with their secrets masked: it tells nothing of a secret, and stays the
        same when a credential's value changes.
        """
        shown, masked = self._secrets.mask_text(name), self.mask(bytes(arguments))
        base = f"{shown}:{digest(masked)[:16]}"
        if shown == name and masked == bytes(arguments):
            return self.key(base)
        return self.key(base, lambda: f"{name}:{digest(arguments)[:16]}")

    def text_key(self, kind: str, text: str) -> str:
        """Returns the key of the next call of a kind that is known by a text, not by arguments."""
        shown = self._secrets.mask_text(text)
        if shown == text:
            return self.key(f"{kind}:{text}")
        return self.key(f"{kind}:{shown}", lambda: f"{kind}:{text}")

    def mask(self, raw: bytes) -> bytes:
        """Returns JSON text with its secrets masked."""
        return self._secrets.mask_json(raw)

    def cut(self, text: str, limit: int) -> int:
        """Returns where to cut a text: at `limit`, or before a secret that lies across it."""
        return self._secrets.cut(text, limit)

    def output_of(self, entry: Entry) -> bytes:
        """Returns the recorded output of a journaled step, as JSON.

        Raises:
            SecretMissingError: It holds a secret that nothing here has.
        """
        if entry.output_file is None:
            return output_of(self._secrets, entry, bytes(entry.output))
        with self._guard:
            return output_of(self._secrets, entry, self._journal.output(entry))

    def error_of(self, entry: Entry) -> dict[str, Any]:
        """Returns the recorded error of a journaled step. Raises as `output_of` does."""
        return error_of(self._secrets, entry)

    def _filled(self, entry: Entry) -> Entry:
        if entry.secrets:
            fill_for_replay(self._secrets, entry)
        return entry

    def withdraw(self, ticket: Ticket) -> None:
        """Forgets a call that its caller gave up."""
        with self._guard:
            given_up = self.replay.withdraw(ticket)
            if given_up is not None:
                self.observations.gave_up(given_up)

    def stalled(self) -> None:
        """Ends the waiting where every call of the flow waits and none is what the journal expects.

        What followed a failure that is now tried again is given up; else the flow has left its
        journal, and each of those calls raises `DivergenceError`.
        """
        with self._guard:
            dropped = self.replay.drop_consequences()
            if dropped:
                self._ledger.dropped += dropped
                self._go_on()
            else:
                self._diverge(self.replay.stuck, "no call: the flow waits for something else")

    def end_replay(self, error: KitaruError) -> KitaruError:
        """Raises an error from every call that waits and from each further one.

        Returns:
            The error; the one before, if the flow cannot go on already.
        """
        with self._guard:
            self.halted = self.halted or error
            self.replay.abandon(self.halted)
            return self.halted

    def files_dir(self) -> Path:
        """Returns `files/`, put to the point that replay has reached.

        Raises:
            KitaruError: The files could not be put there.
        """
        with self._guard:
            reached = self.replay.reached
            if reached >= 0 and self._takeover is not None:
                with self._writing():
                    self._takeover.put_at(reached)
            return self._repository.files_dir

    def wait_to_retry(self, seconds: float) -> None:
        """Tells the listener that the next attempt waits."""
        self._tell("retry", "", duration=seconds)

    def stopping(self) -> None:
        """From a signal handler: what is cancelled from here on, its flow did not give up."""
        self.tree.stopping = True

    def interrupt(self, error: BaseException) -> None:
        """From a signal handler: raises now, or as soon as what is being committed is done."""
        interrupt(error)

    # Live

    def _go_live(self) -> None:
        """Ends the replay: what was found becomes the state that live steps start from."""
        if self._live:
            return
        self._find_secrets()
        if self._takeover is not None:
            self._tell("replayed", "", step=self.replay.replayed, duration=seconds() - self._opened)
            with self._writing():
                self._takeover.settle(self._lock.holder)
                self._lock.forget_previous()
            self.observations.forget_replayed(self.mask)
        self._live = True

    def _find_secrets(self) -> None:
        """Finds out, before anything is written, whether all replayed secrets can be had."""
        try:
            for entry in self.replay.with_secrets:
                if entry.status == "failed":
                    self.error_of(entry)
                else:
                    self.output_of(entry)
        except SecretMissingError as error:
            raise self.end_replay(error) from None
        self.replay.with_secrets.clear()

    def ask_by(self, asker: Asker) -> None:
        """Has its questions put to a human, and those of the runs that it calls."""
        self.tree.asker = asker

    def is_asked(self, what: Asked) -> bool:
        """Says whether somebody asked this process to pause or to cancel the run."""
        return os.path.exists(self._asked) and is_asked(self._repository.git_dir, what)

    def hold_back(self) -> Pending | None:
        """Returns what a call waits for before it begins, if the run is to be paused.

        Raises:
            RunCancelled: It is to be cancelled.
        """
        one: Execution | None = self
        while one is not None:
            if os.path.exists(one._asked):
                return self.tree.heed(one, self)
            one = one.caller
        return None

    def given(self, call: Call) -> GivenOutput | None:
        """Returns the output that a human set for a live call, in place of its execution."""
        with self._guard:
            return self.replay.given.take(call.key, call.name)

    def unknown(self, call: Call) -> Entry | None:
        """Returns the intent of a live call whose last attempt came to no end, if it had one."""
        with self._guard:
            return self.replay.intents.pop(call.key, None)

    def begin(self, call: Call, effect: str = "", intent: Entry | None = None) -> Attempt:
        """Begins an attempt of a live step.

        Args:
            call: The call.
            effect: What it does outside of the run: that is committed before it begins.
            intent: The same of an attempt before, which came to no end: its key is passed on.

        Raises:
            StorageError: `files/` cannot be read, or the disk refused.
            RunInterrupted: The run is being stopped.
        """
        with self._guard, self._writing():
            self._torn = False
            attempt = self._ledger.begin(call, self.replay.failed_attempts[call.key] + 1)
            attempt.effect = effect
            recorded = intent.idempotency_key if intent is not None else None
            attempt.idempotency_key = recorded or self._idempotency_key(call)
            if effect:
                self._ledger.intend(attempt)
            return attempt

    def _idempotency_key(self, call: Call) -> str:
        identity = f"{self.run}\0{self.branch}\0{call.key}"
        return hashlib.sha256(identity.encode()).hexdigest()[:32]

    def succeed(self, attempt: Attempt, output: bytes | None) -> tuple[Entry, int]:
        """Commits an attempt's output with what it did to `files/`. It is not durable yet.

        Returns:
            The entry, and the ticket that `wait` and `later` take; then the step may be
            acknowledged.

        Raises:
            StorageError: The disk refused.
        """
        with self._guard, self._writing():
            entry, ticket = self._ledger.succeed(attempt, output)
            self.beside.note(entry)
            return entry, ticket

    def wait(self, ticket: int) -> None:
        """Waits until a commit is durable.

        Raises:
            StorageError: The disk refused: the run cannot go on.
        """
        try:
            self._repository.store.wait(ticket)
        except StorageError as error:
            with self._guard:
                self.halted, self.damaged = self.halted or error, True
            raise

    def later(self, ticket: int) -> Future[None] | None:
        """Returns what is fulfilled once `wait` would return at once.

        Returns:
            None where nothing else of this process could go on meanwhile: then `wait`.
        """
        if len(_driven) == 1 and not self._ledger.in_flight:
            return None
        return self._repository.store.later(ticket)

    def fail(self, attempt: Attempt, error: dict[str, Any], *, retry: bool) -> Entry:
        """Commits a failed attempt: what it left in `files/` is kept aside and put back.

        Args:
            attempt: The attempt.
            error: `type`, `args`, `message`, `traceback`.
            retry: Whether another attempt follows.

        Raises:
            StorageError: The disk refused.
        """
        with self._guard, self._writing():
            entry = self._ledger.fail(attempt, error, retry=retry)
            self.beside.note(entry)
            self.replay.failed_attempts[attempt.call.key] += 1
            return entry

    def cancel(self, attempt: Attempt) -> None:
        """Records that a step was cancelled; nothing is recorded once the run stops."""
        with self._guard:
            stops = self._over or self.halted is not None or self.tree.stopping
            if stops or id(attempt) not in self._ledger.in_flight:
                self._torn = self._torn or attempt.call.kind != "child"
                self.abandon(attempt)
                return
            if attempt.call.kind == "child":
                # The child goes on where it stands if it is called again.
                self.abandon(attempt)
                self.observations.gave_up(attempt.call.key)
                return
            self._torn = True
            error = {"type": CANCELLED, "args": None, "message": "the step was cancelled"}
            with self._writing():
                self._ledger.fail(attempt, error, retry=False)

    def abandon(self, attempt: Attempt) -> None:
        """Forgets an attempt that ended without an outcome."""
        with self._guard:
            self._ledger.in_flight.pop(id(attempt), None)

    def in_flight(self) -> list[Attempt]:
        """Returns the attempts that have begun and not ended."""
        with self._guard:
            return list(self._ledger.in_flight.values())

    def files_seen(self) -> str | None:
        """Returns what a step that begins now finds in `files/`, as the ids of git trees.

        Returns:
            None while other steps are in flight: what it finds depends on them.
        """
        with self._guard, self._writing():
            return self._ledger.files_seen()

    def steps_in_flight(self) -> bool:
        """Says whether a step is executed; runs that the flow called are none."""
        return any(attempt.call.kind != "child" for attempt in self.in_flight())

    def begin_child(self, call: Call, run: str) -> None:
        """Commits that a child run begins, before it does."""
        with self._guard, self._writing():
            self._ledger.begin_child(call, run)

    @contextmanager
    def writing(self) -> Generator[None]:
        """While it is entered, the run is this thread's, to commit something.

        Raises:
            KitaruError: The run goes on no further.
        """
        with self._guard, self._writing():
            yield

    def cancel_flow(self) -> None:
        """Cancels the task that runs an async flow, from its loop."""
        if self.flow_task is not None and not self.flow_task.done():
            self.cancelled = True
            self.flow_task.cancel()

    # The end

    def complete(self, output: bytes | None) -> None:
        """Commits the run's end.

        Raises:
            DivergenceError: The journal holds calls that the flow did not make.
            StorageError: The disk refused.
        """
        with self._guard:
            if self.halted is None and not self.replay.finished:
                self._diverge(None, "the flow returned")
            if self.halted is not None:
                raise self.halted
            self._end("completed", output=output)

    def fail_run(self, error: BaseException, record: dict[str, Any]) -> None:
        """Commits the run's failure, and the step that it stems from, which `resume` tries again.

        Args:
            error: What the flow raised.
            record: The same as JSON.

        Raises:
            KitaruError: As for `complete`.
        """
        with self._guard:
            if self.halted is None and not self.replay.finished:
                self._diverge(None, f"the flow raised {type(error).__name__}: {error}")
            if self.halted is not None:
                raise self.halted
            self._end("failed", error=record, cause=self.causes.find(error))

    def cancel_run(self) -> None:
        """Commits the run's end for good, with `files/` as the last commit left them.

        The runs that it called, and that have not ended, are cancelled first.
        """
        with self._guard:
            called = [*self.replay.children.values()]
            called += [one.child for one in self._writer.open.values() if one.child is not None]
            for child in dict.fromkeys(called):
                cancel_child(self, child)
            self._end("cancelled")
            withdraw(self._repository.git_dir, "cancel")

    def _end(self, status: str, **more: Any) -> None:
        self._go_live()
        with self._writing():
            self._ledger.end(status, **more)
        self._over = f"it is {status}"

    def stop(self, reason: str) -> None:
        """Ends an orderly stop: what steps in flight left is kept aside, `files/` are put back.

        If it was asked for, the run is cancelled.
        """
        with self._guard:
            if self._over:
                return
            if self.is_asked("cancel"):
                end(descendants_marked(self.nonce))
                self.halted, halted = None, self.halted
                try:
                    self.cancel_run()
                finally:
                    self.halted = halted
                return
            self._torn = self._torn or self.steps_in_flight() or not self._is_waiting()
            self._over = reason
            # What an interrupted step started must not write into the files that are put back.
            end(descendants_marked(self.nonce))
            if not self._live and self._takeover is not None:
                self._takeover.put_as_found()
            else:
                self._ledger.put_back(f"what was unfinished: {reason}")
                if not self._torn and self._writer.status != "waiting":
                    self._ledger.note_waiting()

    def close(self, *, orderly: bool = True) -> None:
        """Brings the repository to rest (packed, index fresh) and releases the run."""
        with self._guard:
            self._over = self._over or "it has ended"
            self._publication.close()
            _driven.discard(self)
            try:
                if orderly:
                    self._rest()
            finally:
                self._files.scanner.close()
                self._repository.close()
                self._lock.release()
        self.tree.part(self)

    # Inside

    def _is_waiting(self) -> bool:
        """Says whether what the flow waits for has to come from outside, or from child runs."""
        return self._live and bool(self._writer.open)

    def _diverge(self, came: tuple[Call, Entry | None] | None, what: str) -> None:
        expected = self.replay.expected
        if expected is not None:
            # What is not known as a secret here is not masked, and so is another call.
            where = f"a call of step {expected.step} ({expected.name})"
            shown = f"{expected.name} {json.dumps(expected.input)}"
            missing = self._secrets.missing(shown, where)
            if missing is not None:
                self.end_replay(missing)
                return
        if came is not None:
            call = came[0]
            shown = msgspec.Raw(self.mask(msgspec.json.encode(call.input)))
            came = call._replace(name=self._secrets.mask_text(call.name), input=shown), came[1]
        self.end_replay(divergence(self.run, expected, came, what))

    def _rest(self) -> None:
        settled = self._live or self.ended
        try:
            self._writer.rest()
            if settled:
                write_run_index(self._repository, self._writer.root, self._files.scanner)
                self._files.scanner.save(self._repository.seen_file, self._writer.files)
                record_left(self._repository, orderly=True, torn=self._torn)
                self._lock.forget_previous()
        except OSError as error:
            raise storage_error(error, f"bringing the run {self.run} to rest") from error

    def _publish(self) -> None:
        with self._guard:
            if self.damaged or self not in _driven:
                return
            try:
                self._writer.publish()
            except StorageError as error:
                # Raised in the flow by whatever it does next: nothing more is written.
                self.halted, self.damaged = self.halted or error, True

    @contextmanager
    def _writing(self) -> Generator[None]:
        """After an error of ours in it, what is on disk is not known: nothing more is written."""
        self._refuse_when_over()
        try:
            self._lock.verify()
            yield
        except KitaruError as error:
            self.halted, self.damaged = self.halted or error, True
            raise

    def _refuse_when_over(self) -> None:
        if self.halted is not None:
            raise self.halted
        if self._over:
            raise RunInterrupted(
                f"the run {self.run} is over for this process: {self._over}",
                hint=f"kitaru resume {self.run}",
                run=self.run,
            )

    def _tell_notice(self, kind: str, name: str, text: str) -> None:
        self._tell(kind, name, text=text)

    def tell(self, kind: str, name: str, text: str = "") -> None:
        """Tells the listener what happens."""
        self._tell(kind, name, text=text)

    def _tell(self, kind: str, name: str, **more: Any) -> None:
        if self.options.listener is not None:
            self.options.listener(Event(kind=kind, run=self.run, name=name, **more))


def cancel_child(execution: Execution, run: str) -> None:
    """Cancels a run that another called; one that has ended, or is not there, is left alone.

    Raises:
        KitaruError: It cannot be taken up.
    """
    path = execution.path.parent / run
    if not (path / ".git").is_dir():
        return
    options = execution.options.for_child()
    try:
        child = Execution.open(path, options)
    except HeldError:
        ask(path / ".git", "cancel", options.human())
        return
    try:
        if not child.ended and child.status != "failed":
            child.cancel_run()
    finally:
        child.close()
