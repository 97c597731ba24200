"""A new run out of an earlier point of another, which is only read.

The fork has the other's commits up to that point, hard-linked, then one of kind `fork`, then, where
an output was replaced, the step with the new one. What comes after is live. Files that no commit
holds stay where they are.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from kitaru_fs.clock import stamp, utc_now
from kitaru_fs.entry import Entry, GivenOutput, Usage
from kitaru_fs.errors import ConflictError, UsageError
from kitaru_fs.git.layout import check_layout
from kitaru_fs.rundir.creation import making
from kitaru_fs.rundir.history import OpenRun, read_log, resolve
from kitaru_fs.rundir.leaving import record_left
from kitaru_fs.rundir.masking import mask_request, observed_of
from kitaru_fs.rundir.options import Options
from kitaru_fs.rundir.repository import COMMITTER, Point, Repository, Request
from kitaru_fs.rundir.runindex import write_run_index
from kitaru_fs.rundir.showing import show, show_tree
from kitaru_fs.rundir.workfiles import changed_paths
from kitaru_fs.rundir.writer import Writer
from kitaru_fs.snapshot.filetree import DirRef
from kitaru_fs.snapshot.filling import fill_directory
from kitaru_fs.snapshot.scanner import Scanner
from kitaru_fs.storage.objects import MODE_FILE, ObjectKind, Person, TreeEntry
from kitaru_fs.storage.sharing import share_objects

__all__ = ["ForkPlan", "Replaced", "make_fork", "plan_fork"]

_OUTCOMES = frozenset({"step", "model", "tool", "child", "wait", "reply", "message", "sleep"})


class Replaced(NamedTuple):
    """A step whose output is replaced: its commit, and its entry."""

    point: Point
    entry: Entry


class ForkPlan(NamedTuple):
    """What a fork begins with.

    Attributes:
        tip: The commit that it goes on from.
        base: The nearest commit of ours at or before it.
        step: The first step that is live; None where all that the run has is kept.
        replaced: The steps whose output is replaced, in order.
        named: Which of them each name meant.
    """

    tip: bytes
    base: Point
    step: int | None
    replaced: list[Replaced]
    named: dict[str, int]


def plan_fork(opened: OpenRun, step: str | None, replaced: Sequence[str]) -> ForkPlan:
    """Says what a fork at a STEP begins with; writes nothing.

    Args:
        opened: The run.
        step: The STEP that is the first live one; None keeps all that the run has.
        replaced: The STEPs whose output is replaced.

    Raises:
        NotFoundError: There is no such step.
        AmbiguousError: More than one fits.
        UsageError: What is to be replaced is no step, or is after STEP.
        ConflictError: STEP is a commit that a human made.
    """
    run = opened.repository.path.name
    at = resolve(opened, step)
    if step is not None and at.step is None:
        raise ConflictError(
            f"{at.commit.hex()[:12]} is a commit that a human made, no step",
            hint=f"name the step that is to be live; kitaru log {run} lists them",
        )
    named = {name: _find_replaced(opened, name) for name in replaced}
    found = _in_order(named, at.step if step is not None else None)
    first = found[0].point if found else opened.repository.point(at.commit)
    if step is None and not found:
        tip = _last_open(opened)
        return ForkPlan(tip, opened.repository.nearest_point(tip), None, [], {})
    # Before its first commit a run is nothing: that one stays.
    parents = opened.repository.read_commit(first.sha).parents
    tip = parents[0] if parents else first.sha
    numbers = {name: one.entry.step for name, one in named.items()}
    return ForkPlan(tip, opened.repository.nearest_point(tip), first.step, found, numbers)


def _find_replaced(opened: OpenRun, name: str) -> Replaced:
    point = opened.repository.point(resolve(opened, name).commit)
    entry = opened.repository.journal(point).read(point.step) if point.step >= 0 else None
    if entry is not None and (entry.kind in _OUTCOMES or _is_last_failure(entry)):
        return Replaced(point, entry)
    raise UsageError(
        f"{name!r} is no step that returned something, so its output cannot be replaced",
        hint=f"kitaru log {opened.repository.path.name} lists the steps",
    )


def _is_last_failure(entry: Entry) -> bool:
    return entry.kind == "failed" and not entry.retry


def _in_order(named: Mapping[str, Replaced], last: int | None) -> list[Replaced]:
    """Returns what is replaced, by step, once it is known to make sense together."""
    ordered = sorted(named.values(), key=lambda one: one.entry.step)
    for before, one in pairwise(ordered):
        if before.entry.step == one.entry.step:
            raise UsageError(f"step {one.entry.step} ({one.entry.name}) is replaced twice")
    for one in ordered:
        step, name = one.entry.step, one.entry.name
        if last is not None and step > last:
            raise UsageError(
                f"{name!r} is step {step}, after step {last}: from there on all is live",
                hint=f"fork at step {step} or later, or replace a step up to {last}",
            )
        if one.entry.files and one is not ordered[0]:
            first = ordered[0].entry
            raise UsageError(
                f"step {step} ({name}) changed files, which cannot be done again once step"
                f" {first.step} ({first.name}) is replaced too",
                hint=f"replace {first.name} first, run that fork, then replace {name} in it",
            )
    return ordered


def _last_open(opened: OpenRun) -> bytes:
    """The last commit before the run's end for good; a failure does not end it for good."""
    for sha in opened.repository.ancestors(opened.head):
        point = opened.repository.point(sha)
        if point.status not in ("completed", "cancelled"):
            return sha
    return opened.head


def make_fork(
    opened: OpenRun,
    plan: ForkPlan,
    runs: Path,
    request: Request,
    outputs: Sequence[bytes],
    options: Options,
) -> Path:
    """Makes the new run's directory, whole, or nothing at all; nothing of it is executed yet.

    Args:
        opened: The run that it is made from. It is only read; another process may drive it.
        plan: What it begins with.
        runs: The workspace's `runs/`.
        request: What is asked of the new run; `request.run` is its id.
        outputs: For each replaced step, its new output as JSON.
        options: How the new run is driven.

    Returns:
        The new run's directory.

    Raises:
        RunDamagedError: An object is missing.
        StorageError: The disk refused; nothing is left behind.
    """
    source = opened.repository
    check_layout(source.git_dir)
    with making(runs, request.run, durable=options.durable) as building:
        logged: dict[bytes, tuple[ObjectKind, bytes]] = {}

        def read_log_objects() -> list[bytes]:
            logged.update(source.store.logged_objects())
            return list(logged)

        # Its commits have placeholders that only the other's vault can fill in.
        source.secrets.copy_vault(building / ".git" / "kitaru")
        share_objects(source.git_dir / "objects", building / ".git" / "objects", read_log_objects)
        repository = Repository(building, durable=False, credentials=options.credentials)
        try:
            repository.store.open_log()
            for kind, data in logged.values():
                repository.store.put(kind, data)
            _Fork(opened, plan, repository, request, options).write(outputs)
        finally:
            repository.close()
    return runs / request.run


class _Fork:
    def __init__(
        self,
        opened: OpenRun,
        plan: ForkPlan,
        repository: Repository,
        request: Request,
        options: Options,
    ) -> None:
        self._opened = opened
        self._plan = plan
        self._repository = repository
        self._request = request
        self._options = options
        self._now = utc_now()
        self._writer = Writer(
            repository,
            branch="main",
            tip=plan.tip,
            base=plan.base,
            run=request.run,
            flow=request.flow,
        )
        # What it spends is its own: the other has paid for what it takes over.
        self._writer.total = Usage()

    def write(self, outputs: Sequence[bytes]) -> None:
        repository, writer = self._repository, self._writer
        request = mask_request(repository.secrets, self._request)
        raw = msgspec.json.format(msgspec.json.encode(request), indent=2) + b"\n"
        blob = repository.store.put("blob", raw)
        writer.root[b"run.json"] = TreeEntry(MODE_FILE, blob)
        self._show_earlier(raw)
        self._commit_fork(outputs)
        if self._plan.replaced:
            self._commit_replaced(self._plan.replaced[0], outputs[0])
        began = time.time_ns()
        scanner = Scanner(
            repository.files_dir, repository.store, self._options.exclude, self._options.max_file
        )
        seen = fill_directory(repository.files_dir, repository.store, writer.files)
        scanner.start_from(seen, began)
        writer.rest()
        write_run_index(repository, writer.root, scanner)
        scanner.save(repository.seen_file, writer.files)
        record_left(repository, orderly=True)

    def _show_earlier(self, request: bytes) -> None:
        path, store = self._repository.path, self._repository.store
        show(path, [("run.json", request)])
        for name in ("code", "journal"):
            entry = self._plan.base.root.get(name.encode())
            if entry is not None:
                show_tree(path, name, store, entry.sha, self._opened.repository.path)

    def _commit_fork(self, outputs: Sequence[bytes]) -> None:
        plan = self._plan
        origin = self._opened.repository.path.name
        later = [
            GivenOutput(
                name=one.entry.name,
                nth=self._place(one.entry),
                key=one.entry.key,
                output=msgspec.Raw(output),
                source=self._source(one.point),
            )
            for one, output in zip(plan.replaced[1:], outputs[1:], strict=True)
        ]
        entry = Entry(
            step=0,
            key="fork",
            name=origin,
            kind="fork",
            started=stamp(self._now),
            source=self._request.fork,
            anew=plan.step is not None or None,
            given=later or None,
        )
        self._add(entry, self._writer.files, None)

    def _commit_replaced(self, replaced: Replaced, output: bytes) -> None:
        was = replaced.entry
        entry = Entry(
            step=0,
            key=was.key,
            name=was.name,
            kind="step" if was.kind == "failed" else was.kind,
            attempt=was.attempt,
            started=stamp(self._now),
            input=was.input,
            overlap=was.overlap,
            # What the flow read before it made this call, it reads again.
            observed=observed_of(self._repository.secrets, was),
            dropped=was.dropped,
            child=was.child,
            source=self._source(replaced.point),
        )
        self._add(entry, replaced.point.files, output, masked=("name", "input", "overlap"))

    def _add(
        self,
        entry: Entry,
        files: DirRef,
        output: bytes | None,
        masked: Collection[str] = (),
    ) -> None:
        entry.files = changed_paths(self._repository, self._writer.files, files)
        name, email = self._options.identity or COMMITTER
        author = Person(name, email, int(self._now.timestamp()))
        self._writer.append(
            entry, files=files, status="running", author=author, output=output, masked=masked
        )

    def _source(self, point: Point) -> dict[str, Any]:
        origin = self._opened.repository.path.name
        return {"run": origin, "step": point.step, "commit": point.sha.hex()}

    def _place(self, entry: Entry) -> int:
        """Which outcome of its name a step is; 0 where that depends on who was faster."""
        if entry.name in entry.overlap:
            return 0
        lines = list(read_log(self._opened))
        return sum(
            line.name == entry.name and line.kind in _OUTCOMES and (line.step or 0) <= entry.step
            for line in lines
        )
