"""SIGKILL at every storage call of a run: `python -m tests.campaigns.kill_sweep`.

For each point a copy of a prepared workspace is acted on, its process group is killed before the
N-th storage call below `runs/` (and, for a write, once more with half of it written), and then must
hold: the run can be read, reading writes nothing, every acknowledged step is there, none is there
by half; recovering twice changes nothing; `resume` completes with the result and the files of an
uninterrupted run, without executing an acknowledged step again; `git fsck --strict` and
`git status` are clean.

`--break NAME` takes a protection out, to see the sweep find it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.harness import Bench, Worker, check_completed, check_readable, check_recovery

from .scenarios import Prepared, Scenario
from .sweep import Point, arguments, sweep


def main() -> int:
    """Runs the sweep; returns the exit status."""
    from tests.harness.breaks import BREAKS

    parser = arguments(__doc__ or "")
    parser.add_argument("--break", dest="broken", choices=sorted(BREAKS), metavar="NAME")
    options = parser.parse_args()

    def attempt(
        worker: Worker, scenario: Scenario, prepared: Prepared, root: Path, point: Point
    ) -> tuple[bool, list[str]]:
        return try_point(worker, scenario, prepared, root, point, options.broken)

    return sweep(options, kill_points, attempt, broken=options.broken)


def kill_points(calls: list[str]) -> list[Point]:
    """Returns a kill before each call, and one in the middle of each write."""
    points: list[Point] = []
    for number, call in enumerate(calls, 1):
        points.append(Point(number, call, "kill"))
        if "write" in call.split(" ", 1)[0]:
            points.append(Point(number, call, "tear"))
    return points


def try_point(
    worker: Worker,
    scenario: Scenario,
    prepared: Prepared,
    root: Path,
    point: Point,
    broken: str | None = None,
) -> tuple[bool, list[str]]:
    """Kills at one point, and checks all that must hold."""
    bench = prepared.bench.copy(root)
    run = prepared.run
    if scenario.approach is not None and run is not None:
        scenario.approach(worker, bench, run)
    shim = {"at": point.at, "action": point.action, "broken": broken}
    outcome = scenario.perform(worker, bench, run, shim)
    return outcome.killed, check_after(worker, bench, run, prepared)


def check_after(worker: Worker, bench: Bench, run: str | None, prepared: Prepared) -> list[str]:
    """Checks a workspace in which a process died, then completes its run and checks that."""
    problems: list[str] = []
    if run is None:
        found = worker.run("runs", bench.root).unwrap()
        run = found[0] if found else worker.run("create", bench.root).unwrap()
        if len(found) > 1:
            problems.append(f"more than one run: {found}")
    for file in (bench.root / "trips").iterdir():
        file.unlink()
    problems += check_readable(worker, bench, run, prepared.expected)
    problems += check_recovery(worker, bench, run)
    before = bench.progress()
    resumed = worker.run("resume", bench.root, run=run)
    if resumed.killed or resumed.error:
        return [*problems, f"resume failed: {resumed.message or 'killed'}"]
    return problems + check_completed(bench, run, prepared.expected, resumed.value, before)


if __name__ == "__main__":
    sys.exit(main())
