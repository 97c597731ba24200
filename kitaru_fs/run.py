"""One run, as a user sees it: what `kitaru` does with a run, it does through this class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from kitaru_fs.awaited import OpenWait, encode_reply, find_open_wait, open_waits, read_reply
from kitaru_fs.errors import ConflictError
from kitaru_fs.recorded import Home, RecordedRun, Shown
from kitaru_fs.rundir.codecheck import check_recorded_code
from kitaru_fs.rundir.events import Listener
from kitaru_fs.rundir.history import open_run
from kitaru_fs.rundir.openings import openings
from kitaru_fs.rundir.options import DrivenRun
from kitaru_fs.supervisor.troubles import forget_trouble

if TYPE_CHECKING:
    from kitaru_fs.rundir.checkup.doctor import Checkup
    from kitaru_fs.rundir.delivery import Delivered
    from kitaru_fs.rundir.scrubbing.scrub import Scrubbed
    from kitaru_fs.rundir.timetravel import Move
    from kitaru_fs.watching import Watch

__all__ = ["Home", "Run", "Shown"]


class Run(RecordedRun):
    """A run on disk: how it stands (see `RecordedRun`), and what can be done with it.

    Args:
        path: The run's directory.
        workspace: The workspace that it is in.
    """

    def watch(self) -> Watch:
        """Returns a watch on the run: its entries and how it stands, then what changes.

        Iterating over it ends when the run is at rest.
        """
        from kitaru_fs.watching import Watch

        return Watch(self.path.parent, self.workspace, self)

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
