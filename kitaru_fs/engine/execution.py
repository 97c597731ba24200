"""One process driving one run: replaying its journal, then committing each live step.

A call's way: `claim` -> an outcome of the journal, or leave to execute -> `steps.begin` -> the step
runs -> `steps.succeed` or `steps.fail` -> one commit. Everything here is synchronous and may be
called from any thread; `protocol` drives it from plain and from async code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Sequence, Set
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Any, Literal

from kitaru_fs.clock import seconds
from kitaru_fs.engine.attempts import Attempt
from kitaru_fs.engine.beside import Beside
from kitaru_fs.engine.callers import Callers
from kitaru_fs.engine.causes import Causes
from kitaru_fs.engine.divergence import divergence
from kitaru_fs.engine.ending import Ending
from kitaru_fs.engine.guard import Guard, interrupt
from kitaru_fs.engine.ledger import Ledger
from kitaru_fs.engine.mailbox import Mailbox
from kitaru_fs.engine.observing import Observations
from kitaru_fs.engine.pending import Pending
from kitaru_fs.engine.publishing import Publication
from kitaru_fs.engine.recording import Recording
from kitaru_fs.engine.replay import Call, Outcome, Replay, Ticket
from kitaru_fs.engine.runtree import RunTree
from kitaru_fs.engine.secrecy import Secrecy
from kitaru_fs.engine.stepping import Stepping
from kitaru_fs.entry import Entry, Usage
from kitaru_fs.errors import (
    KitaruError,
    RunInterrupted,
    SecretMissingError,
    StorageError,
)
from kitaru_fs.holding.lock import RunLock
from kitaru_fs.holding.requests import Asked, asked_dir, is_asked, withdraw
from kitaru_fs.redaction.finder import Known
from kitaru_fs.rundir.aside import log_displaced
from kitaru_fs.rundir.charge import take_charge
from kitaru_fs.rundir.events import Event
from kitaru_fs.rundir.leaving import record_left, was_cut_off, was_left
from kitaru_fs.rundir.masking import fill_for_replay, input_of
from kitaru_fs.rundir.options import Asker, Options
from kitaru_fs.rundir.recovery import Standing, take_up
from kitaru_fs.rundir.repository import Repository
from kitaru_fs.rundir.runindex import write_run_index
from kitaru_fs.rundir.takeover import Takeover
from kitaru_fs.rundir.workfiles import WorkFiles
from kitaru_fs.rundir.writer import Writer
from kitaru_fs.snapshot.scanner import Scanner
from kitaru_fs.storage.store import storage_error

if TYPE_CHECKING:
    import asyncio

__all__ = ["Attempt", "Execution", "Options", "drives_any"]

# Seconds in which whoever waits for a run's guard gets it.
_BREATH = 0.0002
# The runs that this process drives.
_driven: set[Execution] = set()
os.register_at_fork(after_in_child=_driven.clear)


def drives_any(besides: Execution | None = None) -> bool:
    """Says whether this process drives a run, another one than that."""
    return any(execution is not besides for execution in _driven)


class Execution:
    """An open, held run. Made by `open`; ended by `complete`, `fail_run` or `stop`, then `close`.

    Attributes:
        guard: Serializes what is done with the run.
        lock: What makes this process its one writer.
        repository: Its directory.
        writer: What adds commits to its branch.
        files: Its `files/`.
        ledger: What commits its steps.
        takeover: What was found when it was taken up; None for a new one.
        steps: The attempts of its live steps.
        ending: How it ends.
        secrecy: What keeps secrets out of it.
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
        live: Nothing is left to be replayed: what the flow does from here on is new.
        over: Why it is over for this process; empty while it goes on.
        torn: A step was left unfinished.
        halted: Why the flow cannot go on in this process, though it may not have ended yet.
        damaged: That reason is an error in writing: nothing more may be written.
        caller: The execution whose flow called this run's.
        tree: What it waits for together with the runs that called it, or that it called.
        flow_task: The task that runs an async flow.
        leaving: The process leaves this run; because of it (`first`), or of one that called it.
        cancelled: Leaving, it cancelled the flow's task.
        has_mailbox: Something of it has waited for the outside.
    """

    def __init__(
        self, lock: RunLock, repository: Repository, standing: Standing, options: Options
    ) -> None:
        base = standing.base
        self.guard = Guard()
        self.lock = lock
        self.repository = repository
        self.options = options
        self._base = base
        self.over = ""
        self.live = False
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
        self.has_mailbox = False
        self.torn = False
        self._asked = os.fspath(asked_dir(repository.git_dir))
        self.request = repository.request(base)
        self.run = repository.path.name
        self._secrets = repository.secrets
        flow = self.request.flow
        self.writer = Writer(
            repository,
            branch=standing.branch,
            tip=standing.head,
            base=base,
            run=self.run,
            flow=flow,
        )
        self._journal = self.writer.journal
        self.beside = Beside(self._journal, self._secrets, self.guard)
        recording = Recording(self._journal, self._fill, self.guard)
        self.replay = Replay(self.beside.noting(recording), recording.at)
        self.secrecy = Secrecy(self._secrets, self._journal, self.replay, self.guard)
        # By the whole journal: a resume takes up again what a failure had ended.
        self.writer.open = self.replay.open
        self.observations = Observations(self.replay, self.guard)
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
        self.files = WorkFiles(repository, scanner, self.writer, self.tell)
        self.publication = Publication(self._publish)
        self.ledger = Ledger(
            self.writer, self.files, self.observations, self.publication, flow, self.tell
        )
        self.steps = Stepping(self)
        self.ending = Ending(self)
        # Whoever makes a run and drives it at once takes nothing up.
        begun = base.step > 0 or options.purpose not in ("run", "child") or standing.fresh
        begun = begun or was_left(repository)
        self.takeover = (
            Takeover(repository, standing, options, self.writer, self.files, flow)
            if begun
            else None
        )
        for note in standing.notes:
            self.tell("notice", note)

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
            if execution.ended:
                execution._settle_ended(taken.standing)
            else:
                if execution.takeover is not None:
                    execution.takeover.look()
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

    def _settle_ended(self, standing: Standing) -> None:
        """Sets a run right that had ended when its process died, whose HEAD moved since, or whose
        files a power cut took; a human's edits stay where they are.
        """
        changed = standing.crashed or standing.moved or standing.fresh
        if self.takeover is None or not (changed or was_cut_off(self.repository.git_dir)):
            return
        self.takeover.look()
        if changed or self.takeover.crashed:
            record_left(self.repository, orderly=False)
            self.takeover.settle_files()

    # What the run is

    @property
    def path(self) -> Path:
        """The run's directory."""
        return self.repository.path

    @property
    def ended(self) -> bool:
        """Whether the run is completed or cancelled where HEAD stands."""
        return self._base.status in ("completed", "cancelled")

    @property
    def status(self) -> str:
        """The run's status after the last commit."""
        return self.writer.status

    @property
    def step(self) -> int:
        """The number of the last commit."""
        return self.writer.step

    @property
    def spent(self) -> Usage:
        """What the run has spent on models."""
        return self.writer.total

    @property
    def branch(self) -> str:
        """The branch that the run goes on on."""
        return self.writer.branch

    @property
    def nonce(self) -> str:
        """The holder's nonce: it marks what this process starts."""
        return self.lock.holder.nonce

    @property
    def replays(self) -> bool:
        """Whether a journal is replayed before anything new happens."""
        return self.takeover is not None and not self.live

    @property
    def secrets(self) -> Sequence[Known]:
        """The environment's credentials, and those that the run used before."""
        return self.secrecy.known

    @property
    def is_alone(self) -> bool:
        """Whether this process drives no other run."""
        return len(_driven) == 1

    @property
    def is_driven(self) -> bool:
        """Whether its flow has replayed the journal and goes on."""
        return self.live and not self.over and self.halted is None

    @property
    def last_commit(self) -> float:
        """When the last commit was made, by the clock that only goes forward."""
        return self.ledger.last

    @cached_property
    def mailbox(self) -> Mailbox:
        """What its calls wait for from outside."""
        mailbox = Mailbox(self, self.ledger, self.writer, self.replay)
        self.has_mailbox = True
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
        return self.secrecy.output_of(end) if end is not None else b"null"

    def input(self) -> dict[str, Any]:
        """Returns the flow's arguments, by name.

        Raises:
            SecretMissingError: One holds a secret that nothing here has.
        """
        return input_of(self._secrets, self.request)

    # Replay

    def ready(self) -> None:
        """Ends the replay at once if there is nothing to replay: called before the flow runs."""
        with self.guard:
            self._go_on()

    def claim(self, call: Call) -> Outcome | Ticket:
        """Returns a call's outcome, `LIVE`, or a ticket for one of them.

        Raises:
            DivergenceError: The flow left its journal before.
            RunInterrupted: The run is being stopped.
            KitaruError: The journal cannot be read any more.
        """
        with self.guard:
            self._refuse_when_over()
            try:
                outcome = self.replay.claim(call)
            except KitaruError as error:
                raise self.end_replay(error) from error
            self._go_on()
            return outcome

    def _go_on(self) -> None:
        """Goes live if all is replayed, then lets those go on that waited for an outcome."""
        # In this order: what the flow's own code writes from here on must stay.
        if self.replay.finished:
            try:
                self.go_live()
            except BaseException as error:
                self.replay.abandon(error)
                raise
        self.replay.deliver()

    def _fill(self, entry: Entry) -> None:
        if entry.secrets:
            fill_for_replay(self._secrets, entry)

    def withdraw(self, ticket: Ticket) -> None:
        """Forgets a call that its caller gave up."""
        with self.guard:
            given_up = self.replay.withdraw(ticket)
            if given_up is not None:
                self.observations.gave_up(given_up)

    def stalled(self) -> None:
        """Ends the waiting where every call of the flow waits and none is what the journal expects.

        What followed a failure that is now tried again is given up; else the flow has left its
        journal, and each of those calls raises `DivergenceError`.
        """
        with self.guard:
            dropped = self.replay.drop_consequences()
            if dropped:
                self.ledger.dropped += dropped
                self._go_on()
            else:
                self.diverge(self.replay.stuck, "no call: the flow waits for something else")

    def end_replay(self, error: KitaruError) -> KitaruError:
        """Raises an error from every call that waits and from each further one.

        Returns:
            The error; the one before, if the flow cannot go on already.
        """
        with self.guard:
            self.halted = self.halted or error
            self.replay.abandon(self.halted)
            return self.halted

    def files_dir(self) -> Path:
        """Returns `files/`, put to the point that replay has reached.

        Raises:
            KitaruError: The files could not be put there.
        """
        with self.guard:
            reached = self.replay.reached
            if reached >= 0 and self.takeover is not None:
                with self.writing():
                    self.takeover.put_at(reached)
            return self.repository.files_dir

    def wait_to_retry(self, seconds: float) -> None:
        """Tells the listener that the next attempt waits."""
        self.tell("retry", "", duration=seconds)

    def stopping(self) -> None:
        """From a signal handler: what is cancelled from here on, its flow did not give up."""
        self.tree.stopping = True

    def interrupt(self, error: BaseException) -> None:
        """From a signal handler: raises now, or as soon as what is being committed is done."""
        interrupt(error)

    # Live

    def go_live(self) -> None:
        """Ends the replay: what was found becomes the state that live steps start from."""
        if self.live:
            return
        try:
            # Before anything is written.
            self.secrecy.find_replayed()
        except SecretMissingError as error:
            raise self.end_replay(error) from None
        if self.takeover is not None:
            self.tell("replayed", "", step=self.replay.replayed, duration=seconds() - self._opened)
            with self.writing():
                self.takeover.settle(self.lock.holder)
                self.lock.forget_previous()
            self.observations.forget_replayed(self.secrecy.mask)
        self.live = True

    def ask_by(self, asker: Asker) -> None:
        """Has its questions put to a human, and those of the runs that it calls."""
        self.tree.asker = asker

    def is_asked(self, what: Asked) -> bool:
        """Says whether somebody asked this process to pause or to cancel the run."""
        return os.path.exists(self._asked) and is_asked(self.repository.git_dir, what)

    def hold_back(self) -> Pending | None:
        """Returns what a call waits for before it begins, if the run is to be paused.

        Raises:
            RunCancelled: It is to be cancelled.
        """
        one: Execution | None = self
        while one is not None:
            if os.access(one._asked, os.F_OK):
                return self.tree.heed(one, self)
            one = one.caller
        return None

    def cancel_flow(self) -> None:
        """Cancels the task that runs an async flow, from its loop."""
        if self.flow_task is not None and not self.flow_task.done():
            self.cancelled = True
            self.flow_task.cancel()

    # The end

    def close(self, *, orderly: bool = True) -> None:
        """Brings the repository to rest (packed, index fresh) and releases the run."""
        with self.guard:
            self.over = self.over or "it has ended"
            self.publication.close()
            _driven.discard(self)
            # Whoever takes the run up next is not to find it being written to.
            self.writer.wait_until_shown()
            try:
                if orderly:
                    self._rest()
            finally:
                self.files.scanner.close()
                self.repository.close()
                self.lock.release()
        self.tree.part(self)

    def _rest(self) -> None:
        settled = self.live or self.ended
        try:
            self.writer.rest()
            self._log_displaced()
            if settled:
                write_run_index(self.repository, self.writer.root, self.files.scanner)
                self.files.scanner.save(self.repository.seen_file, self.writer.files)
                record_left(self.repository, orderly=True, torn=self.torn)
                self.lock.forget_previous()
        except OSError as error:
            raise storage_error(error, f"bringing the run {self.run} to rest") from error

    def diverge(self, came: tuple[Call, Entry | None] | None, what: str) -> None:
        """Ends the replay: the flow has left its journal.

        Args:
            came: The call that came in place of the expected one, and the entry that it is like.
            what: What came, if no call did.
        """
        expected = self.replay.expected
        if expected is not None:
            # What is not known as a secret here is not masked, and so is another call.
            where = f"a call of step {expected.step} ({expected.name})"
            shown = f"{expected.name} {json.dumps(expected.input)}"
            missing = self.secrecy.missing(shown, where)
            if missing is not None:
                self.end_replay(missing)
                return
        if came is not None:
            came = self.secrecy.shown(came[0]), came[1]
        self.end_replay(divergence(self.run, expected, came, what))

    def _publish(self) -> None:
        """Publishes what was committed; the flow goes on in between, and while it is shown."""
        try:
            while True:
                with self.guard:
                    if self.damaged or self not in _driven:
                        return
                    show = self.writer.begin_to_publish()
                    self._log_displaced()
                if show is not None:
                    show()
                    return
                # A lock is not fair: without a pause whoever waits for it would not get it.
                sleep(_BREATH)
        except StorageError as error:
            self.damage(error)

    def _log_displaced(self) -> None:
        for said in log_displaced(self.repository, self.options.identity):
            self.tell("notice", said)

    def damage(self, error: KitaruError) -> None:
        """Notes that what is on disk is not known: the flow goes no further, nothing is written.

        Args:
            error: Raised in the flow by whatever it does next.
        """
        with self.guard:
            self.halted, self.damaged = self.halted or error, True

    @contextmanager
    def writing(self) -> Generator[None]:
        """While it is entered, the run is this thread's, to commit something.

        After an error of ours in it, what is on disk is not known: nothing more is written.

        Raises:
            KitaruError: The run goes on no further.
        """
        with self.guard:
            self._refuse_when_over()
            try:
                self.lock.verify()
                yield
            except KitaruError as error:
                self.damage(error)
                raise

    def _refuse_when_over(self) -> None:
        if self.halted is not None:
            raise self.halted
        if self.over:
            raise RunInterrupted(
                f"the run {self.run} is over for this process: {self.over}",
                hint=f"kitaru resume {self.run}",
                run=self.run,
            )

    def tell(self, kind: str, name: str, text: str = "", **more: Any) -> None:
        """Tells the listener what happens: the fields of an `Event`."""
        if self.options.listener is not None:
            self.options.listener(Event(kind, self.run, name, text=text, **more))
