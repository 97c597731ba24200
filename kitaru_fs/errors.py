"""What went wrong, where, and how to go on.

Every error that kitaru-fs raises derives from `KitaruError`. An error knows the exit status of a
command that ends with it, so the command line never has to guess.
"""

from __future__ import annotations

__all__ = [
    "AmbiguousError",
    "BudgetReached",
    "ConflictError",
    "DivergenceError",
    "FlowFailed",
    "FormatError",
    "GitError",
    "HeldError",
    "KitaruError",
    "MessageError",
    "MovedError",
    "NewerFormatError",
    "NotFoundError",
    "OutputError",
    "RunCancelled",
    "RunDamagedError",
    "RunInterrupted",
    "RunPaused",
    "RunWaiting",
    "SecretMissingError",
    "SettingsError",
    "StepFailed",
    "StepTimeout",
    "StorageError",
    "ToolServerError",
    "UsageError",
    "WaitRejected",
    "WaitTimeout",
]


class KitaruError(Exception):
    """Base of every error of ours.

    Args:
        message: One sentence: what happened, and where.
        hint: What to do next; may be empty.
        run: The id of the run that it happened in, if any.
        step: The number of the step that it happened at, if any.
    """

    exit_status = 1

    def __init__(
        self, message: str, *, hint: str = "", run: str | None = None, step: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.run = run
        self.step = step

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UsageError(KitaruError):
    """Wrong use or bad input: nothing was begun and nothing was written."""

    exit_status = 2


class NotFoundError(UsageError):
    """A run, step, flow, target, path or workspace that does not exist."""


class AmbiguousError(UsageError):
    """A name that fits more than one thing; the message lists them."""


class ConflictError(UsageError):
    """The thing exists already, or its state does not allow what was asked."""


class MovedError(ConflictError):
    """A human moved a run's HEAD or its files, and has not said yet that it goes on from there."""


class SettingsError(UsageError):
    """`kitaru.toml` or a `KITARU_*` variable is wrong; names file, line and key."""


class FormatError(UsageError):
    """A run in a format that this version cannot go on with."""


class NewerFormatError(FormatError):
    """What a newer kitaru wrote."""


class RunDamagedError(UsageError):
    """A run whose `.git` is missing or cannot be read."""


class GitError(UsageError):
    """git is missing, too old, or refused what it was asked."""


class StorageError(KitaruError):
    """The disk refused: full, read-only, an I/O error. The last acknowledged step is safe."""


class OutputError(KitaruError):
    """A step's output (or a flow's) has no JSON form; nothing of the step was written."""


class StepFailed(KitaruError):
    """A step failed with an exception that cannot be rebuilt from its JSON arguments.

    Attributes:
        error_type: The qualified name of the original exception's type.
        error_message: What the original exception said.
    """

    def __init__(
        self,
        message: str,
        *,
        error_type: str = "",
        error_message: str = "",
        hint: str = "",
        run: str | None = None,
        step: int | None = None,
    ) -> None:
        super().__init__(message, hint=hint, run=run, step=step)
        self.error_type = error_type
        self.error_message = error_message


class StepTimeout(KitaruError, TimeoutError):
    """A step's attempt took longer than its `timeout`."""


class BudgetReached(KitaruError):
    """A run has spent what it may, and a human did not allow more."""


class ToolServerError(KitaruError):
    """A server of an agent's tools ended, or could not be reached."""


class WaitTimeout(KitaruError, TimeoutError):
    """No reply, and no message, came before a wait's time was over."""


class WaitRejected(KitaruError):
    """A human refused to answer a wait, or to approve a call.

    Attributes:
        reason: What they said; may be empty.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        hint: str = "",
        run: str | None = None,
        step: int | None = None,
    ) -> None:
        super().__init__(message, hint=hint, run=run, step=step)
        self.reason = reason


class MessageError(KitaruError):
    """A message does not fit the schema that its receiver asks for."""


class FlowFailed(KitaruError):
    """A run ended as failed; raised where its result is asked for."""


class RunCancelled(KitaruError):
    """The run was cancelled; it does not go on."""


class RunInterrupted(KitaruError):
    """An orderly stop (Ctrl-C, SIGTERM): the run can be resumed."""

    exit_status = 130


class RunPaused(RunInterrupted):
    """The run was paused; it goes on with `kitaru resume`."""


class RunWaiting(KitaruError):
    """Nothing of the run can go on before a reply, a message or a time comes: its process left."""

    exit_status = 3


class HeldError(KitaruError):
    """Another process drives the run."""

    exit_status = 4


class SecretMissingError(KitaruError):
    """A replayed value holds a secret that neither the environment nor the run's vault has."""

    exit_status = 2


class DivergenceError(KitaruError):
    """The flow does not make the calls that its journal holds. Nothing was written."""

    exit_status = 5
