"""What must hold when a rewind, an undo, a redo or a fork ended badly: it happened, or it did not.

In the moves' runs the plan `scenarios.SMALL` is completed: steps 1 to 4, then the end. They go
between the end and step `AT`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .bench import Bench
from .checks import check_clean, check_completed, check_readable, check_recovery, describe
from .worker import Worker

if TYPE_CHECKING:
    from .scenarios import Prepared

__all__ = ["AT", "check_forked", "check_moved"]

AT = "2"
_END = "5"


def check_moved(worker: Worker, bench: Bench, prepared: Prepared) -> list[str]:
    """The run stands where it stood, or where it was to go, with exactly those files.

    From there it goes to the other place and back, and completes.
    """
    run = str(prepared.run)
    problems = check_readable(worker, bench, run, prepared.expected)
    problems += check_recovery(worker, bench, run)
    problems += _act(worker, bench, prepared, "settle")
    problems += _check_place(worker, bench, prepared, None)
    if _step(worker, bench, run) == _END:
        problems += _act(worker, bench, prepared, "rewind", at=AT)
        problems += _check_place(worker, bench, prepared, AT)
        problems += _act(worker, bench, prepared, "undo")
        problems += _check_place(worker, bench, prepared, _END)
        problems += _act(worker, bench, prepared, "redo")
    elif not _act(worker, bench, prepared, "undo"):
        # Only if its being rewound is in the log can that be taken back; here it always is.
        problems += _check_place(worker, bench, prepared, _END)
        problems += _act(worker, bench, prepared, "rewind", at=AT)
    else:
        problems.append("a run that was rewound cannot be put back")
    problems += _check_place(worker, bench, prepared, AT)
    return problems + _complete(worker, bench, prepared, run)


def check_forked(worker: Worker, bench: Bench, prepared: Prepared) -> list[str]:
    """The new run is there and whole, or not there at all; the old one is as it was."""
    run = str(prepared.run)
    problems = check_readable(worker, bench, run, prepared.expected)
    problems += _check_place(worker, bench, prepared, _END)
    made = [name for name in worker.run("runs", bench.root).unwrap() if name != run]
    if not made:
        made = [worker.run("fork", bench.root, run=run, at="4").unwrap()]
    for one in made:
        problems += check_readable(worker, bench, one, prepared.expected)
        problems += check_clean(bench.run_path(one))
        found = describe(prepared.expected.trees[3], bench.files(one))
        problems += [f"files/ of the fork: {found}"] if found else []
        problems += _complete(worker, bench, prepared, one)
    return problems + _check_place(worker, bench, prepared, _END)


def _act(
    worker: Worker, bench: Bench, prepared: Prepared, action: str, **arguments: Any
) -> list[str]:
    outcome = worker.run(action, bench.root, run=prepared.run, **arguments)
    if outcome.killed or outcome.error:
        return [f"then {action} failed: {outcome.message or 'killed'}"]
    return []


def _step(worker: Worker, bench: Bench, run: str) -> str:
    return str(worker.run("where", bench.root, run=run).unwrap()["step"])


def _check_place(
    worker: Worker, bench: Bench, prepared: Prepared, expected: str | None
) -> list[str]:
    """The run stands at a step (None: either), its files are that step's, and git is clean."""
    run = str(prepared.run)
    step = _step(worker, bench, run)
    if step not in (AT, _END) or (expected is not None and step != expected):
        return [f"the run stands at step {step}, not at {expected or f'{AT} or {_END}'}"]
    trees = prepared.expected.trees
    problems = check_clean(bench.run_path(run))
    found = describe(trees[int(AT)] if step == AT else trees[-1], bench.files(run))
    return problems + ([f"files/ at step {step}: {found}"] if found else [])


def _complete(worker: Worker, bench: Bench, prepared: Prepared, run: str) -> list[str]:
    before = bench.progress()
    resumed = worker.run("resume", bench.root, run=run)
    if resumed.killed or resumed.error:
        return [f"resume failed: {resumed.message or 'killed'}"]
    return check_completed(bench, run, prepared.expected, resumed.value, before)
