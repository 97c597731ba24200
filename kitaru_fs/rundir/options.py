"""How a run is driven."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kitaru_fs.entry import Usage
from kitaru_fs.holding.requests import Asked
from kitaru_fs.redaction.credentials import Credentials
from kitaru_fs.redaction.finder import Known
from kitaru_fs.rundir.creation import CodeFile
from kitaru_fs.rundir.events import Listener
from kitaru_fs.rundir.repository import COMMITTER
from kitaru_fs.snapshot.exclude import Exclude

if TYPE_CHECKING:
    from kitaru_fs.engine.execution import Execution
    from kitaru_fs.entry import Entry

__all__ = ["Asker", "DrivenRun", "Identity", "Options"]

Identity = tuple[str, str]
"""A human's name and address."""


class Asker(Protocol):
    """Who puts a run's questions to a human while the process stays."""

    @property
    def is_asking(self) -> bool:
        """Whether a question is before the human, who has time."""
        ...

    def ask(self, path: Path, question: Entry) -> None:
        """Takes a question of the run in a directory."""
        ...

    def over(self, path: Path, question: Entry) -> None:
        """Takes a question back: it was answered otherwise, or is asked no more."""
        ...


class DrivenRun(Protocol):
    """A run that this process drives, as whoever surrounds the process sees it."""

    @property
    def path(self) -> Path:
        """The run's directory."""
        ...

    @property
    def nonce(self) -> str:
        """Marks what this process starts."""
        ...

    @property
    def replays(self) -> bool:
        """Whether a journal is replayed before anything new happens."""
        ...

    @property
    def secrets(self) -> Sequence[Known]:
        """What of the environment's, and of what the run used before, nobody may see."""
        ...

    def ask_by(self, asker: Asker) -> None:
        """Has its questions put to a human, and those of the runs that it calls."""
        ...

    def is_asked(self, what: Asked) -> bool:
        """Says whether somebody asked this process to pause or to cancel the run."""
        ...

    def stopping(self) -> None:
        """From a signal handler: what is cancelled from here on, its flow did not give up."""
        ...

    def interrupt(self, error: BaseException) -> None:
        """From a signal handler: raises now, or as soon as what is being committed is done."""
        ...


class Budget(Protocol):
    """What runs may spend on models."""

    @property
    def limits(self) -> tuple[str, ...]:
        """The names of the limits."""
        ...

    def reached(self, limit: str, spent: Usage, allowed: int) -> bool:
        """Says whether a limit is reached, if a human allowed as much again so often."""
        ...

    def question(self, limit: str, allowed: int) -> str:
        """Returns what a human is asked when it is."""
        ...


class Options:
    """How a run is driven.

    Args:
        exclude: What is left out of every commit.
        max_file: The largest file that is recorded, in bytes.
        watch: Whether the kernel may be asked which files changed (`[files] scan = "auto"`).
        durable: Whether commits wait for the disk.
        keep_files: After a crash, commit what is on disk as a human's edit, and set nothing aside.
        unmoved: Refuse a run whose HEAD or files a human moved since it was left.
        identity: The human's name and address, for their edits.
        code: The agents' modules that run now.
        listener: Told what happens.
        purpose: What the process takes the run up for (`run`, `resume`).
        on_open: Called with the run when the run was taken up, before the flow runs.
        credentials: What is kept out of every commit; the environment's by default.
        budget: What the run may spend.
        models: The user's names for models, and what they stand for.
        linger: How long the process stays for what may come from outside, in seconds.
        find_identity: Finds the human's name and address where they are needed and not given.
        caller: The execution whose flow called this run's.
        unpause: Taking the run up ends its pause.
    """

    def __init__(
        self,
        *,
        exclude: Exclude,
        max_file: int,
        watch: bool = True,
        durable: bool = True,
        keep_files: bool = False,
        unmoved: bool = False,
        identity: Identity | None = None,
        code: Sequence[CodeFile] = (),
        listener: Listener | None = None,
        purpose: str = "resume",
        on_open: Callable[[DrivenRun], None] | None = None,
        credentials: Credentials | None = None,
        models: Mapping[str, str] | None = None,
        budget: Budget | None = None,
        linger: float = 0.0,
        find_identity: Callable[[], Identity | None] | None = None,
        caller: Execution | None = None,
        unpause: bool = False,
    ) -> None:
        self.exclude = exclude
        self.max_file = max_file
        self.watch = watch
        self.durable = durable
        self.keep_files = keep_files
        self.unmoved = unmoved
        self.identity = identity
        self.code = tuple(code)
        self.listener = listener
        self.purpose = purpose
        self.on_open = on_open
        self.credentials = credentials
        self.models = dict(models or {})
        self.budget = budget
        self.linger = linger
        self.caller = caller
        self.unpause = unpause
        self._find_identity = find_identity

    def human(self) -> Identity:
        """Returns the name and address for what a human did who did not say who they are."""
        if self.identity is None and self._find_identity is not None:
            self.identity = self._find_identity()
        return self.identity or COMMITTER

    def for_child(self, caller: Execution | None = None) -> Options:
        """Returns how a child run is driven: as its parent, but for what is the parent's alone.

        Args:
            caller: The parent, if its flow calls the child's.
        """
        return Options(
            exclude=self.exclude,
            max_file=self.max_file,
            watch=self.watch,
            durable=self.durable,
            identity=self.identity,
            code=self.code,
            listener=self.listener,
            purpose="child",
            credentials=self.credentials,
            models=self.models,
            budget=self.budget,
            linger=self.linger,
            find_identity=self._find_identity,
            caller=caller,
        )
