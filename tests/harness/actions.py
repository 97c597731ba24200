"""What a worker's child does with a workspace; each is what a user's process would do."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kitaru_fs import Workspace
from kitaru_fs.engine import publishing
from kitaru_fs.rundir.held import hold, rest
from kitaru_fs.rundir.history import open_run
from kitaru_fs.rundir.recovery import take_up
from kitaru_fs.rundir.timetravel import Move
from kitaru_fs.snapshot.filetree import EMPTY, diff

from . import breaks
from .shim import plan_shim

__all__ = ["ACTIONS", "prepare_shim"]

TARGET = "agents/scripted.py:scripted"

# Each commit is published before its step returns, so that the calls of a sweep come in order.
publishing.PAUSE = 0.0


def prepare_shim(root: Path, plan: dict[str, Any] | None) -> ctypes.CDLL | None:
    """Plans the shim for this process; with `fire` it counts at once."""
    if plan is None:
        return None
    breaks.apply(plan.pop("broken", None))
    fire = plan.pop("fire", True)
    trace = plan.pop("trace", None)
    below = root / plan.pop("below", "runs")
    shim = plan_shim(below, trace=Path(trace) if trace else None, **plan)
    if fire:
        shim.shim_fire()
    return shim


def create(root: Path) -> str:
    """Makes a run without running it; returns its id."""
    workspace = Workspace(root)
    flow, target = workspace.load(TARGET)
    return workspace.create(flow, {}, target=target).name


def start(root: Path) -> Any:
    """Runs the flow as a new run, by calling it; returns its result."""
    flow: Any = Workspace(root).load(TARGET)[0]
    return flow()


def resume(
    root: Path, run: str, keep_files: bool = False, identity: list[str] | None = None
) -> Any:
    """Resumes a run; returns the flow's result."""
    who = (identity[0], identity[1]) if identity else None
    return Workspace(root).run(run).resume(keep_files=keep_files, identity=who)


def burst(root: Path, run: str) -> Any:
    """Resumes a run as `resume` does, its quick steps published together a moment later."""
    publishing.PAUSE = 0.002
    return resume(root, run)


def rewind(root: Path, run: str, at: str) -> list[str]:
    """Rewinds a run; returns the commits where it stood and where it stands."""
    return _commits(Workspace(root).run(run).rewind(at))


def undo(root: Path, run: str) -> list[str]:
    """Takes the last move of a run back; as `rewind`."""
    return _commits(Workspace(root).run(run).undo())


def redo(root: Path, run: str) -> list[str]:
    """Does again what was taken back; as `rewind`."""
    return _commits(Workspace(root).run(run).redo())


def _commits(move: Move) -> list[str]:
    return [move.before.commit, move.after.commit]


def fork(root: Path, run: str, at: str, given: dict[str, Any] | None = None) -> str:
    """Forks a run, with some outputs replaced; returns the new run's id."""
    return Workspace(root).run(run).fork(at, set=given).id


def settle(root: Path, run: str) -> None:
    """Does what every command that moves a run begins with, and brings it to rest."""
    options = Workspace(root).options(purpose="check")
    with hold(root / "runs" / run, options) as held:
        rest(held.repository, held.writer.root, held.files.scanner, held.lock)


def where(root: Path, run: str) -> dict[str, Any]:
    """Says where a run stands: its step, branch and commit."""
    state = Workspace(root).run(run).state()
    return {name: state[name] for name in ("step", "branch", "head")}


def every(root: Path, run: str) -> list[str]:
    """Lists the commits of every branch of a run."""
    return [line.commit for line in Workspace(root).run(run).log(all=True)]


def quick(root: Path, run: str) -> Any:
    """Resumes a run as `resume` does; nothing is published before it comes to rest."""
    publishing.PAUSE = publishing.LONGEST = 600.0
    return resume(root, run)


def read(root: Path, run: str) -> dict[str, Any]:
    """Reads a run as the reading commands do.

    Returns:
        `state` and `log`; `outputs` of its steps, by number; `files`, path -> content as hex, as
        its
        last step left them.
    """
    found = Workspace(root).run(run)
    log = found.log()
    outcomes = [line for line in log if line.kind in ("step", "failed")]
    with open_run(found.path) as opened:
        point = opened.repository.point(
            bytes.fromhex(outcomes[-1].commit if outcomes else log[0].commit)
        )
        changes = diff(opened.repository.store, EMPTY, point.files)
        files = {
            change.path.decode(): opened.repository.store.read(change.after.sha).hex()
            for change in changes
            if change.after is not None and change.after.kind == "file"
        }
        journal = opened.repository.journal(opened.point)
        outputs = {
            entry.step: json.loads(journal.output(entry))
            for entry in journal.entries()
            if entry.kind == "step"
        }
    return {
        "state": found.state(),
        "log": [line.to_json() for line in log],
        "outputs": outputs,
        "files": files,
    }


def runs(root: Path) -> list[str]:
    """Lists the runs."""
    return [run.id for run in Workspace(root).runs()]


def recover(root: Path, run: str) -> None:
    """Takes a run up, and lets it go before anything is settled."""
    taken = take_up(root / "runs" / run, purpose="check")
    taken.repository.close()
    taken.lock.release()


ACTIONS: dict[str, Callable[..., Any]] = {
    action.__name__: action
    for action in (
        *(create, start, resume, burst, quick, read, runs, recover),
        *(rewind, undo, redo, fork, settle, where, every),
    )
}
