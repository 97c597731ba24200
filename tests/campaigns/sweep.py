"""Running every point of a scenario, on several workers, and counting violations."""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

from tests.harness import Worker
from tests.harness.points import Point
from tests.harness.scenarios import SCENARIOS, Prepared, Scenario

__all__ = ["Row", "arguments", "report", "sweep"]


@dataclass
class Row:
    """The figures of one scenario."""

    name: str
    calls: int = 0
    points: int = 0
    reached: int = 0
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)


Try = Callable[[Worker, Scenario, Prepared, Path, Point], tuple[bool, list[str]]]


def arguments(description: str) -> argparse.ArgumentParser:
    """Returns the options that every campaign has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "scenario", nargs="*", help="which scenarios: " + ", ".join(s.name for s in SCENARIOS)
    )
    parser.add_argument("--points", type=int, metavar="N", help="at most N points a scenario")
    parser.add_argument("--first", type=int, default=1, help="the first call to try")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--dir", type=Path, help="where to work; a RAM disk, if there is one")
    parser.add_argument("--verbose", action="store_true", help="show every violation")
    return parser


def chosen(names: Sequence[str]) -> list[Scenario]:
    """Returns the scenarios of these names; all, if there are none."""
    unknown = set(names) - {scenario.name for scenario in SCENARIOS}
    if unknown:
        sys.exit(f"no scenario {', '.join(sorted(unknown))}")
    return [scenario for scenario in SCENARIOS if not names or scenario.name in names]


def sweep(
    options: argparse.Namespace,
    points_of: Callable[[list[str]], list[Point]],
    attempt: Try,
    *,
    broken: str | None = None,
) -> int:
    """Tries every point of the chosen scenarios; returns the exit status.

    Args:
        options: The command line's.
        points_of: Given the action's storage calls, what to try.
        attempt: Tries one point in a workspace of its own: whether the point was reached, and the
            violations.
        broken: A protection that is taken out (`harness.breaks`).
    """
    base = options.dir or (Path("/dev/shm") if Path("/dev/shm").is_dir() else None)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=base, prefix="kitaru-sweep-") as folder:
        workers = [Worker(shim=True) for _ in range(options.workers)]
        try:
            for number, scenario in enumerate(chosen(options.scenario)):
                place = Path(folder).resolve() / str(number)
                row = _sweep_one(options, scenario, workers, place, points_of, attempt, broken)
                rows.append(row)
                print(_line(row), flush=True)
                shutil.rmtree(place)
        finally:
            for worker in workers:
                worker.close()
    return report(rows, verbose=options.verbose)


def _sweep_one(
    options: argparse.Namespace,
    scenario: Scenario,
    workers: list[Worker],
    place: Path,
    points_of: Callable[[list[str]], list[Point]],
    attempt: Try,
    broken: str | None,
) -> Row:
    begun = time.perf_counter()
    prepared = scenario.make(workers[0], place / "base")
    calls = scenario.calls(workers[0], prepared, place / "count", broken)
    points = [point for point in points_of(calls) if point.at >= options.first]
    if options.points is not None and len(points) > options.points:
        step = len(points) / options.points
        points = [points[int(index * step)] for index in range(options.points)]
    row = Row(scenario.name, calls=len(calls), points=len(points))
    free: SimpleQueue[Worker] = SimpleQueue()
    for worker in workers:
        free.put(worker)
    numbers = itertools.count()

    def one(point: Point) -> tuple[Point, bool, list[str]]:
        worker, root = free.get(), place / f"point-{next(numbers)}"
        try:
            reached, problems = attempt(worker, scenario, prepared, root, point)
        except AssertionError as error:
            reached, problems = True, [str(error).strip().splitlines()[-1]]
        finally:
            free.put(worker)
        shutil.rmtree(root, ignore_errors=True)
        return point, reached, problems

    with ThreadPoolExecutor(len(workers)) as pool:
        for point, reached, problems in pool.map(one, points):
            row.reached += reached
            where = f"{scenario.name}: {point.action} at {point.at} ({point.call})"
            row.violations += [f"{where}: {problem}" for problem in problems]
    row.seconds = time.perf_counter() - begun
    return row


def _line(row: Row) -> str:
    return (
        f"{row.name:<22}{row.calls:>7} calls {row.points:>6} points {row.reached:>6} reached"
        f" {len(row.violations):>5} violations {row.seconds:>7.1f} s"
    )


def report(rows: list[Row], *, verbose: bool) -> int:
    """Prints the sums and the violations; returns the exit status: 1 for any violation."""
    violations = [violation for row in rows for violation in row.violations]
    total = Row("all", sum(row.calls for row in rows), sum(row.points for row in rows))
    total.reached = sum(row.reached for row in rows)
    total.seconds = sum(row.seconds for row in rows)
    total.violations = violations
    print(_line(total))
    for violation in violations if verbose else violations[:20]:
        print(violation)
    if len(violations) > 20 and not verbose:
        print(f"... {len(violations) - 20} more: --verbose")
    return 1 if violations else 0
