"""What was found when a run was taken up, and how it becomes the state that live steps start from.

While the flow replays nothing is decided for good: no branch gets a commit, and if the flow leaves
its journal, `files/` are put back as they were found. `settle` is called once replay has agreed.
"""

from __future__ import annotations

from kitaru_fs.clock import stamp, utc_now
from kitaru_fs.entry import Entry
from kitaru_fs.errors import MovedError
from kitaru_fs.holding.lock import Holder
from kitaru_fs.rundir.aside import keep_if_lost
from kitaru_fs.rundir.creation import mask_code, put_code, show_code
from kitaru_fs.rundir.inbox import Inbox
from kitaru_fs.rundir.leaving import forget_clone, forget_driven, lost_since
from kitaru_fs.rundir.oplog import PUT_BACK, Operation, Place, branch_moved, stage_operation
from kitaru_fs.rundir.options import Options
from kitaru_fs.rundir.recovery import Standing
from kitaru_fs.rundir.repository import COMMITTER, HEADS, TIPS, Repository, agent_author
from kitaru_fs.rundir.showing import remove_state
from kitaru_fs.rundir.workfiles import WorkFiles
from kitaru_fs.rundir.writer import Writer
from kitaru_fs.snapshot.filetree import DirRef, diff
from kitaru_fs.storage.objects import Person
from kitaru_fs.storage.store import storage_error

__all__ = ["MOVES", "Takeover"]

MOVES = ("rewind", "undo", "redo")
"""What a run is taken up for that only moves it: no step of it is running then."""


class Takeover:
    """One taking-up of a run that was begun before.

    Args:
        repository: The run.
        standing: Where it stands.
        options: How it is driven.
        writer: Adds to its branch.
        files: Its directory.
        flow: The flow's name.

    Attributes:
        edited: The paths that a human's edit was committed for.
    """

    def __init__(
        self,
        repository: Repository,
        standing: Standing,
        options: Options,
        writer: Writer,
        files: WorkFiles,
        flow: str,
    ) -> None:
        self._repository = repository
        self._standing = standing
        self._options = options
        self._writer = writer
        self._files = files
        self._flow = flow
        self._points: dict[int, DirRef] | None = None
        self._kept = False
        self._at: int | None = None
        self._found = self._target = standing.base.files
        self.edited: list[str] = []

    @property
    def crashed(self) -> bool:
        """Whether the last process that drove the run died, or the power was cut after it."""
        return self._standing.crashed

    def look(self) -> None:
        """Looks at `files/`, and keeps what no commit holds before anything can overwrite it.

        Raises:
            StorageError: The disk refused.
            MovedError: A human moved the run, and who takes it up wanted it as it was left.
        """
        standing = self._standing
        found = self._found = self._files.scan()
        clean = self._committed()
        standing = self._standing = self._after_power_cut(found, clean)
        if self._options.unmoved:
            edited = not standing.crashed and not self._files.same(found, clean)
            self._refuse_moved(edited)
        self._target = clean
        if standing.crashed and self._options.keep_files:
            self._target = found
        elif standing.crashed:
            if not self._files.same(found, clean):
                moved = standing.died_in in MOVES
                torn = f"a {standing.died_in} that was cut off" if moved else "a torn step"
                self._keep_found(f"what {torn} left")
        elif standing.fresh or standing.moved:
            merge = self._files.after_clone if standing.fresh else self._files.after_checkout
            self._target = merge(found, clean)
            if not self._files.same(found, self._target):
                self._keep_found("files before state/ was applied")
        elif not self._files.same(found, clean):
            self._target = found

    def _after_power_cut(self, found: DirRef, clean: DirRef) -> Standing:
        """Returns where the run stands, as one that crashed where a power cut changed its files."""
        standing = self._standing
        if standing.crashed or standing.fresh or standing.moved or found == clean:
            return standing
        differing = (change.path for change in diff(self._repository.store, clean, found))
        if not lost_since(self._repository, differing):
            return standing
        return standing._replace(crashed=True)

    def _refuse_moved(self, edited: bool) -> None:
        standing, run = self._standing, self._repository.path.name
        if standing.fresh or standing.by_hand or edited:
            what = "cloned" if standing.fresh else "moved" if standing.by_hand else "edited"
            raise MovedError(
                f"the run {run} was {what} by hand",
                hint=f"kitaru resume {run} goes on from there",
                run=run,
            )

    def put_at(self, step: int) -> None:
        """Puts `files/` to what they were after a step.

        Raises:
            KitaruError: They could not be put there.
        """
        if self._at == step:
            return
        if self._points is None:
            self._points = self._read_points()
        if not self._kept and not self._files.same(self._found, self._standing.base.files):
            self._keep_found("files as found")
        self._files.put(self._points[step])
        self._at = step

    def put_as_found(self) -> None:
        """Puts `files/` as they were when the run was taken up.

        Raises:
            KitaruError: They could not be put there.
        """
        self._files.put(self._found)
        if not self._standing.crashed:
            try:
                forget_driven(self._repository)
            except OSError as error:
                raise storage_error(error, "letting the run go") from error

    def settle(self, holder: Holder) -> None:
        """Settles what was found, and commits the take-over.

        Raises:
            KitaruError: The disk refused, or something keeps writing in `files/`.
        """
        self.settle_files()
        self._commit_resume(holder)

    def settle_files(self) -> None:
        """Sets the branch up, sets files right, and commits a human's edits.

        Raises:
            KitaruError: The disk refused, or something keeps writing in `files/`.
        """
        try:
            self._take_branch()
            for moved in remove_state(self._repository, self._standing.base.root):
                self._files.tell("notice", f"set aside: {moved}", "")
            self._release_taken()
        except OSError as error:
            raise storage_error(error, "taking up the run") from error
        self._files.put(self._target)
        if not self._files.same(self._target, self._standing.base.files):
            self._commit_edit()
        if self._standing.fresh:
            try:
                forget_clone(self._repository)
            except OSError as error:
                raise storage_error(error, "taking up the clone") from error

    def _committed(self) -> DirRef:
        standing = self._standing
        if standing.head == standing.base.sha:
            return standing.base.files
        # A human's own commit: git carried its files, our state/ is that of the commit before.
        files = self._repository.point(standing.head).root.get(b"files")
        return DirRef(files.sha if files else None, standing.base.files.state)

    def _keep_found(self, why: str) -> None:
        self._files.keep_now(self._found, why, self._flow)
        self._kept = True

    def _read_points(self) -> dict[int, DirRef]:
        points: dict[int, DirRef] = {}
        for sha in self._repository.ancestors(self._standing.base.sha):
            point = self._repository.point(sha)
            if point.step >= 0:
                points.setdefault(point.step, point.files)
        return points

    def _take_branch(self) -> None:
        standing, refs = self._standing, self._repository.refs
        moved = self._moved_by_git()
        names: list[str] = []
        if standing.create:
            names = [HEADS + standing.branch, TIPS + standing.branch]
            for name in names:
                refs.write(name, standing.head)
        # HEAD first: a crash before the branches are put back must not lose the human's move.
        refs.set_head(HEADS + standing.branch)
        for name, sha in standing.put_back.items():
            if kept := keep_if_lost(self._repository, HEADS + name, sha):
                self._files.tell(
                    "notice", f"put back {name}: the commit that git had put it on is {kept}", ""
                )
            refs.write(HEADS + name, sha)
            names.append(HEADS + name)
        if names:
            refs.sync(names)
        for operation in moved:
            staged = stage_operation(self._repository, operation, self._options.identity)
            self._repository.store.commit(staged)

    def _release_taken(self) -> None:
        """Removes from what was claimed of the inbox what a killed process had committed."""
        inbox = Inbox(self._repository.path)
        for word, place in inbox.claimed():
            if self._writer.holds_delivery(word):
                inbox.release(place)

    def _moved_by_git(self) -> list[Operation]:
        """What a human's git did since kitaru left the run, as the log of operations has it."""
        standing, refs = self._standing, self._repository.refs
        left = standing.left_at
        found: list[Operation] = []
        if left is None:
            return found
        # A process that died had gone on from where it began.
        tip = refs.read(TIPS + left.branch) if left.branch else None
        before = Place(left.branch, tip.hex()) if tip is not None else left
        after = Place(standing.branch, standing.head.hex())
        if (standing.create or standing.by_hand) and before != after:
            why = f"step {standing.base.step}, by git"
            found.append(Operation(kind="checkout", why=why, before=before, after=after))
        for name, sha in standing.put_back.items():
            at = refs.read(HEADS + name)
            if name != left.branch and at != sha:
                why = f"{name} was {'moved' if at is not None else 'deleted'} by git"
                found.append(branch_moved(PUT_BACK, name, at, sha, why))
        return found

    def _commit_edit(self) -> None:
        changed = self.edited = self._files.changed(self._target)
        count = len(changed)
        entry = Entry(
            step=0,
            key="edit",
            name=f"{count} file{'' if count == 1 else 's'}",
            kind="edit",
            started=stamp(),
            files=changed,
        )
        name, email = self._options.identity or COMMITTER
        author = Person(name, email, int(utc_now().timestamp()))
        # An edit after the end does not open the run again; a resume does.
        self._writer.add(
            entry, files=self._target, status=self._standing.base.status, author=author
        )

    def _commit_resume(self, holder: Holder) -> None:
        code, changed = self._options.code, False
        if code:
            code = mask_code(self._repository.secrets, code)
            tree = put_code(self._repository.store, code)
            recorded = self._standing.base.root.get(b"code")
            if recorded is None or recorded.sha != tree:
                self._writer.set_code(tree)
                changed = True
        entry = Entry(
            step=0,
            key="resume",
            name=self._reason(),
            kind="resume",
            started=stamp(),
            holder={
                "pid": holder.pid,
                "host": holder.host,
                "since": holder.since,
                "nonce": holder.nonce,
            },
        )
        author = agent_author(self._flow, int(utc_now().timestamp()))
        self._writer.add(entry, files=self._writer.files, status=None, author=author)
        # After the commit: what stands on disk is always some commit's.
        if changed:
            show_code(self._repository.path, code)

    def _reason(self) -> str:
        standing = self._standing
        if standing.fresh:
            return "cloned"
        if standing.crashed:
            return "after a crash"
        if standing.moved or standing.create:
            return "moved by hand"
        if standing.left_at is None and standing.base.step == 0:
            return "queued"
        return "after failed" if standing.base.status == "failed" else "asked"
