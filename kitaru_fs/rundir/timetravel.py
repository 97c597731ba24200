"""Moving a stopped run: rewind, undo, redo. Nothing is lost: branches stay, each move is logged.

The order of a move: `files/`, what stands beside them, the log entry and the new branch in one
commit, then HEAD. Where the disk refuses, all of it is taken back. Killed before HEAD moved, the
run stands where it stood, and the next command puts the files back; killed after, it completes.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from kitaru_fs.errors import ConflictError, KitaruError
from kitaru_fs.quoting import quote_path
from kitaru_fs.rundir.charge import take_charge
from kitaru_fs.rundir.effects import Effect, effects_undone
from kitaru_fs.rundir.held import Held, hold, rest
from kitaru_fs.rundir.history import At, OpenRun, open_run, resolve
from kitaru_fs.rundir.oplog import Operation, Place, operations, stage_operation
from kitaru_fs.rundir.options import Options
from kitaru_fs.rundir.recovery import next_branch
from kitaru_fs.rundir.repository import HEADS, TIPS, Point
from kitaru_fs.rundir.showing import put_right
from kitaru_fs.rundir.workfiles import changed_paths
from kitaru_fs.snapshot.filetree import left_out_below
from kitaru_fs.snapshot.scanner import Scanner
from kitaru_fs.storage.objects import TreeEntry

__all__ = ["Move", "plan_rewind", "redo", "rewind", "undo"]


class Move(NamedTuple):
    """What a move does, or would do.

    Attributes:
        run: The run's id.
        before: Where HEAD stood; `commit` holds a human's edits, if there were any.
        after: Where it stands now.
        step: The step that the run stands at now.
        new_branch: Whether the branch was made for this.
        changed: The paths under `files/` that change on disk.
        stays: The paths that no commit holds: they stay as they are.
        cannot_undo: What steps that are left behind did outside of the run.
        edited: The paths that a human had changed, now in an edit of theirs.
    """

    run: str
    before: Place
    after: Place
    step: int
    new_branch: bool
    changed: list[str]
    stays: list[str]
    cannot_undo: list[Effect]
    edited: list[str]


def plan_rewind(path: Path, options: Options, step: str) -> Move:
    """Says what a rewind would do; writes nothing.

    Raises:
        NotFoundError: There is no such step.
        ConflictError: The run stands there already.
    """
    with open_run(path, credentials=options.credentials) as opened:
        target = _target(opened, resolve(opened, step))
        repository = opened.repository
        scanner = Scanner(
            repository.files_dir,
            repository.store,
            options.exclude,
            options.max_file,
            known=opened.point.files,
            secrets=repository.secrets,
        )
        scanner.load(repository.seen_file)
        found = scanner.scan()
        before = Place(opened.branch or "", opened.head.hex())
        switch = _branch_with_tip(opened, target.sha)
        return Move(
            run=path.name,
            before=before,
            after=Place(switch or next_branch(repository.refs), target.sha.hex()),
            step=target.step,
            new_branch=switch is None,
            changed=changed_paths(repository, found, target.files),
            stays=[quote_path(name) for name, _ in left_out_below(repository.store, found)],
            cannot_undo=effects_undone(repository, opened.head, target.sha),
            edited=changed_paths(repository, opened.point.files, found),
        )


def rewind(path: Path, options: Options, step: str) -> Move:
    """Puts a stopped run's files and journal to a step, on a new branch.

    Args:
        path: The run's directory.
        options: How it is taken up.
        step: A STEP.

    Raises:
        NotFoundError: There is no such step.
        ConflictError: The run stands there already.
        HeldError: A process drives the run.
    """
    with open_run(path) as opened:
        # Before anything is written: an unknown step changes nothing.
        at = resolve(opened, step)
        wanted = _target(opened, at)
    with hold(path, options) as held:
        return _move(held, options, wanted, "rewind", f"to {step}")


def undo(path: Path, options: Options) -> Move:
    """Takes the last rewind, edit, unused answer or cancel back.

    Raises:
        ConflictError: There is nothing to take back.
        HeldError: A process drives the run.
    """
    with hold(path, options) as held:
        repository, writer = held.repository, held.writer
        here = Place(writer.branch, writer.tip.hex())
        # Whoever moved the run to a commit did so after that commit was made.
        last = _last_undoable(held, here)
        if last is not None:
            target = repository.point(bytes.fromhex(last.before.commit))
            return _move(held, options, target, "undo", f"{last.kind} {last.why}", of=last.id)
        tip = repository.point(writer.tip)
        kind, name = tip.trailers.get("Kitaru-Kind"), tip.trailers.get("Kitaru-Name")
        # A reply that is the last commit was not used: whoever takes a run up says so first.
        if kind in ("edit", "reply") or (kind == "end" and name == "cancelled"):
            parent = repository.read_commit(tip.sha).parents[0]
            what = f"{kind} {tip.step}"
            target = repository.nearest_point(parent)
            return _move(held, options, target, "undo", what, of=tip.sha.hex())
        raise ConflictError(
            f"nothing to undo in run {path.name}: its last commit is {_subject(tip)!r}",
            hint="undo takes a rewind, an edit, an unused answer or a cancel back; rewind goes to"
            " a step",
        )


def redo(path: Path, options: Options) -> Move:
    """Does again what the last undo took back.

    Raises:
        ConflictError: Nothing was undone, or the run has gone on since.
        HeldError: A process drives the run.
    """
    with hold(path, options) as held:
        here = Place(held.writer.branch, held.writer.tip.hex())
        done_again: set[str] = set()
        for operation in operations(held.repository, here):
            if operation.kind == "redo" and operation.of:
                done_again.add(operation.of)
            elif operation.kind == "undo" and operation.id not in done_again:
                if operation.after.commit == here.commit:
                    target = held.repository.point(bytes.fromhex(operation.before.commit))
                    return _move(held, options, target, "redo", operation.why, of=operation.id)
                break
        raise ConflictError(
            f"nothing to redo in run {path.name}",
            hint="redo follows an undo, as long as the run has not gone on",
        )


def _last_undoable(held: Held, here: Place) -> Operation | None:
    log = list(operations(held.repository, here))
    redone = {operation.of for operation in log if operation.kind == "redo"}
    undone = {
        operation.of for operation in log if operation.kind == "undo" and operation.id not in redone
    }
    for operation in log:
        if operation.kind in ("rewind", "checkout") and operation.id not in undone:
            return operation if operation.after.commit == here.commit else None
    return None


def _move(
    held: Held,
    options: Options,
    target: Point,
    kind: str,
    why: str,
    of: str | None = None,
) -> Move:
    repository, writer = held.repository, held.writer
    before = Place(writer.branch, writer.tip.hex())
    if target.sha == writer.tip:
        raise ConflictError(
            f"run {repository.path.name} stands at step {target.step} already",
            hint="`kitaru resume` goes on from there",
        )
    changed = changed_paths(repository, writer.files, target.files)
    stays = [quote_path(name) for name, _ in left_out_below(repository.store, held.files.scan())]
    with open_run(repository.path) as opened:
        switch = _branch_with_tip(opened, target.sha)
    branch = switch or next_branch(repository.refs)
    after = Place(branch, target.sha.hex())
    refs = {HEADS + branch: target.sha, TIPS + branch: target.sha} if switch is None else {}
    operation = Operation(kind=kind, why=why, before=before, after=after, of=of)
    with _taken_back_on_error(held, before):
        held.files.put(target.files)
        _show(held, target.root)
        staged = stage_operation(repository, operation, options.identity)
        repository.store.commit({**refs, **staged})
        repository.refs.sync([HEADS + branch, TIPS + branch])
        repository.refs.set_head(HEADS + branch)
        repository.refs.sync([])
        take_charge(repository.git_dir, kind)
        rest(repository, target.root, held.files.scanner, held.lock)
    return Move(
        run=repository.path.name,
        before=before,
        after=after,
        step=target.step,
        new_branch=switch is None,
        changed=changed,
        stays=stays,
        cannot_undo=effects_undone(repository, bytes.fromhex(before.commit), target.sha),
        edited=held.takeover.edited,
    )


@contextmanager
def _taken_back_on_error(held: Held, before: Place) -> Generator[None]:
    """Puts a run back to where it stood if its move fails, as far as the disk lets it.

    What is not put back is put right by the next command.
    """
    repository = held.repository
    try:
        yield
    except BaseException:
        with suppress(OSError, KitaruError):
            repository.refs.set_head(HEADS + before.branch)
            held.files.put(held.writer.files)
            _show(held, held.writer.root)
            rest(repository, held.writer.root, held.files.scanner, held.lock)
        raise


def _show(held: Held, root: dict[bytes, TreeEntry]) -> None:
    for moved in put_right(held.repository, root):
        held.tell("notice", f"set aside: {moved}", "")


def _target(opened: OpenRun, at: At) -> Point:
    point = opened.repository.point(at.commit)
    if point.step < 0:
        raise ConflictError(
            f"{at.commit.hex()[:12]} is a commit that a human made",
            hint="rewind to a step; or git checkout it, then `kitaru resume`",
        )
    if point.sha == opened.head:
        found = opened.repository.path.name
        raise ConflictError(
            f"run {found} stands at step {point.step} already", hint="`kitaru log` lists its steps"
        )
    return point


def _branch_with_tip(opened: OpenRun, commit: bytes) -> str | None:
    for branch in opened.branches():
        if opened.tip(branch) == commit:
            return branch
    return None


def _subject(point: Point) -> str:
    return point.message.partition("\n")[0]
