"""How a run ends in a process: with the commit of its end, or put in order, to be resumed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kitaru_fs.errors import HeldError, KitaruError
from kitaru_fs.holding.processes import descendants_marked, end
from kitaru_fs.holding.requests import ask, withdraw

if TYPE_CHECKING:
    from kitaru_fs.engine.execution import Execution

__all__ = ["Ending"]


class Ending:
    """The end of a run, or of driving it.

    Args:
        execution: The run.
    """

    def __init__(self, execution: Execution) -> None:
        self._run = execution

    def complete(self, output: bytes | None) -> None:
        """Commits the run's end.

        Raises:
            DivergenceError: The journal holds calls that the flow did not make.
            StorageError: The disk refused.
        """
        with self._run.guard:
            self._refuse_what_is_left("the flow returned")
            self._commit("completed", output=output)

    def fail(self, error: BaseException, record: dict[str, Any]) -> None:
        """Commits the run's failure, and the step that it stems from, which `resume` tries again.

        Args:
            error: What the flow raised.
            record: The same as JSON.

        Raises:
            KitaruError: As for `complete`.
        """
        with self._run.guard:
            self._refuse_what_is_left(f"the flow raised {type(error).__name__}: {error}")
            self._commit("failed", error=record, cause=self._run.causes.find(error))

    def cancel(self) -> None:
        """Commits the run's end for good, with `files/` as the last commit left them.

        The runs that it called, and that have not ended, are cancelled first.
        """
        run = self._run
        with run.guard:
            called = [*run.replay.children.values()]
            called += [one.child for one in run.writer.open.values() if one.child is not None]
            for child in dict.fromkeys(called):
                self._cancel_child(child)
            self._commit("cancelled")
            withdraw(run.repository.git_dir, "cancel")

    def stop(self, reason: str) -> None:
        """Ends an orderly stop: what steps in flight left is kept aside, `files/` are put back.

        If it was asked for, the run is cancelled.

        Raises:
            KitaruError: The disk refused, or something keeps writing in `files/`.
        """
        run = self._run
        with run.guard:
            if run.over:
                return
            if run.is_asked("cancel"):
                end(descendants_marked(run.nonce))
                run.halted, halted = None, run.halted
                try:
                    self.cancel()
                finally:
                    run.halted = halted
                return
            waits = run.live and bool(run.writer.open)
            run.torn = run.torn or run.steps.any_in_flight() or not waits
            run.over = reason
            # What an interrupted step started must not write into the files that are put back.
            end(descendants_marked(run.nonce))
            try:
                self._put_in_order(reason)
            except KitaruError as error:
                # No orderly stop: what is in the files is the torn step's, as after a crash.
                run.halted, run.damaged = run.halted or error, True
                raise

    def _put_in_order(self, reason: str) -> None:
        run = self._run
        if not run.live and run.takeover is not None:
            run.takeover.put_as_found()
            return
        run.ledger.put_back(f"what was unfinished: {reason}")
        if not run.torn and run.writer.status != "waiting":
            run.ledger.note_waiting()

    def _refuse_what_is_left(self, what: str) -> None:
        run = self._run
        if run.halted is None and not run.replay.finished:
            run.diverge(None, what)
        if run.halted is not None:
            raise run.halted

    def _commit(self, status: str, **more: Any) -> None:
        run = self._run
        run.go_live()
        with run.writing():
            run.ledger.end(status, **more)
        run.over = f"it is {status}"

    def _cancel_child(self, name: str) -> None:
        """Cancels a run that this one called; one that has ended, or is not there, is left alone.

        Raises:
            KitaruError: It cannot be taken up.
        """
        path = self._run.path.parent / name
        if not (path / ".git").is_dir():
            return
        options = self._run.options.for_child()
        try:
            child = self._run.open(path, options)
        except HeldError:
            ask(path / ".git", "cancel", options.human())
            return
        try:
            if not child.ended and child.status != "failed":
                child.ending.cancel()
        finally:
            child.close()
