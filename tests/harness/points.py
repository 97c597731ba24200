"""One point of a sweep: what happens at which storage call, and what must hold afterwards."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import NamedTuple

from .bench import Bench
from .checks import check_completed, check_readable, check_recovery
from .scenarios import Prepared, Scenario
from .worker import Worker

__all__ = ["Point", "check_after", "fault_points", "kill_points", "try_fault", "try_kill"]


class Point(NamedTuple):
    """One thing that is tried.

    Attributes:
        at: The call's number, from 1.
        call: Its name and path.
        action: An action of the shim.
        error: The `errno`, for a call that fails.
        only: A name and a part of a path: `at` counts such calls only.
    """

    at: int
    call: str
    action: str
    error: int = 0
    only: tuple[str, str] = ("", "")


def kill_points(calls: list[str]) -> list[Point]:
    """Returns a kill before each call, and one in the middle of each write."""
    points: list[Point] = []
    for number, call in enumerate(calls, 1):
        points.append(Point(number, call, "kill"))
        if "write" in call.split(" ", 1)[0]:
            points.append(Point(number, call, "tear"))
    return points


def fault_points(calls: list[str]) -> list[Point]:
    """Returns, for each call, an I/O error of it alone, and a disk that is full from it on."""
    points: list[Point] = []
    for number, call in enumerate(calls, 1):
        points.append(Point(number, call, "fail-once", errno.EIO))
        points.append(Point(number, call, "fail-on", errno.ENOSPC))
    return points


def try_kill(
    worker: Worker,
    scenario: Scenario,
    prepared: Prepared,
    root: Path,
    point: Point,
    broken: str | None = None,
) -> tuple[bool, list[str]]:
    """Kills at one point, in a copy at `root`; whether it was reached, and the violations."""
    bench = prepared.bench.copy(root)
    scenario.approach_in(worker, bench, prepared.run)
    shim = {"at": point.at, "action": point.action, "only": point.only, "broken": broken}
    outcome = scenario.perform(worker, bench, prepared.run, shim)
    return outcome.killed, check_after(worker, bench, scenario, prepared)


def try_fault(
    worker: Worker, scenario: Scenario, prepared: Prepared, root: Path, point: Point
) -> tuple[bool, list[str]]:
    """Lets the disk refuse at one point, in a copy at `root`; as `try_kill`.

    Either the action did without the call, or it ends with one `StorageError`.
    """
    bench = prepared.bench.copy(root)
    scenario.approach_in(worker, bench, prepared.run)
    shim = {
        "at": point.at,
        "action": point.action,
        "only": point.only,
        "error": point.error,
    }
    outcome = scenario.perform(worker, bench, prepared.run, shim)
    problems: list[str] = []
    # What the disk refuses to the user's own code is that code's failure, and ends the run; where
    # the journal is replayed, the flow leaves it.
    # Where threads take turns, another call than the one that was counted may have been hit: an
    # error of ours names no file, that of the user's code the one that it wrote.
    users = _is_users(point.call) or (scenario.name == "burst" and "/files/" in outcome.message)
    if {"OSError", "DivergenceError"} & set(outcome.error[:1]) and users:
        return True, _check_resumed(worker, bench, str(prepared.run), prepared)
    if outcome.killed:
        problems.append("the process ended without a word")
    elif outcome.error and not {"StorageError", "KeyboardInterrupt"} & set(outcome.error):
        problems.append(f"{outcome.error[0]} instead of a StorageError: {outcome.message}")
    problems += check_after(worker, bench, scenario, prepared)
    return outcome.calls >= point.at, problems


def check_after(worker: Worker, bench: Bench, scenario: Scenario, prepared: Prepared) -> list[str]:
    """Checks a workspace in which an action ended badly, then completes its run and checks that."""
    if scenario.check is not None:
        return scenario.check(worker, bench, prepared)
    problems: list[str] = []
    run = prepared.run
    if run is None:
        found = worker.run("runs", bench.root).unwrap()
        run = found[0] if found else worker.run("create", bench.root).unwrap()
        if len(found) > 1:
            problems.append(f"more than one run: {found}")
        if not found and bench.acks():
            problems.append("steps were acknowledged, and their run is gone")
    for file in (bench.root / "trips").iterdir():
        file.unlink()
    problems += check_readable(worker, bench, run, prepared.expected)
    problems += check_recovery(worker, bench, run)
    return problems + _check_resumed(worker, bench, run, prepared)


def _check_resumed(worker: Worker, bench: Bench, run: str, prepared: Prepared) -> list[str]:
    before = bench.progress()
    resumed = worker.run("resume", bench.root, run=run)
    if resumed.killed or resumed.error:
        return [f"resume failed: {resumed.message or 'killed'}"]
    return check_completed(bench, run, prepared.expected, resumed.value, before)


def _is_users(call: str) -> bool:
    return "/files/" in f"{call}/" and "/.kitaru-" not in call
