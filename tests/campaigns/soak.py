"""A flow of many steps, killed at random moments: `python -m tests.campaigns.soak`.

Each trial makes a run of 80 steps, kills it 10 times at a random storage call, half of the kills in
the middle of a write, and now and then lets a human's `cp -a` or `git checkout` of an earlier
step come
between. Then must hold: no acknowledged step was executed twice, `files/` and the
result are those of an uninterrupted run, `git fsck --strict` and `git status` are clean.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.harness import Bench, Worker, check_completed, check_readable, expect, git

STEPS, KILLS = 80, 10


def main() -> int:
    """Runs the trials; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the first trial")
    parser.add_argument("--dir", type=Path, help="where to work; a RAM disk, if there is one")
    options = parser.parse_args()
    base = options.dir or (Path("/dev/shm") if Path("/dev/shm").is_dir() else None)
    violations = kills = 0
    begun = time.perf_counter()
    with Worker(shim=True) as worker:
        for seed in range(options.seed, options.seed + options.trials):
            with tempfile.TemporaryDirectory(dir=base, prefix="kitaru-soak-") as folder:
                reached, problems = trial(worker, Path(folder).resolve() / "bench", seed)
            kills += reached
            violations += len(problems)
            for problem in problems:
                print(f"seed {seed}: {problem}", flush=True)
    seconds = time.perf_counter() - begun
    print(f"{options.trials} trials, {kills} kills, {violations} violations, {seconds:.0f} s")
    return 1 if violations else 0


def make_plan(dice: random.Random) -> list[dict[str, Any]]:
    """Returns the steps of a trial: small and large files, modes, links, attempts that fail."""
    plan: list[dict[str, Any]] = []
    for number in range(STEPS):
        do: list[list[Any]] = [["append" if number else "write", "all", f"{number}\n"]]
        kind = dice.randrange(8)
        if kind == 0:
            do.append(["random", f"blob-{number % 5}", dice.randrange(1, 400_000), number])
        elif kind == 1:
            do += [["write", f"d{number % 3}/x", f"{number}"], ["chmod", f"d{number % 3}/x", 0o600]]
        elif kind == 2:
            do.append(["symlink", "link", f"d{number}"])
        elif kind == 3:
            do += [["rmtree", f"d{number % 3}"], ["mkdir", f"empty-{number % 4}"]]
        elif kind == 4:
            do += [["write", "left", "x"], ["fail", dice.randrange(1, 3)]]
        elif kind == 5:
            do = []
        plan.append({"do": do, "flow": [["write", "flow", f"{number}"]] if kind == 6 else []})
    return plan


def trial(worker: Worker, root: Path, seed: int) -> tuple[int, list[str]]:
    """Runs one trial; returns how many kills there were, and the violations."""
    dice = random.Random(seed)
    plan = make_plan(dice)
    expected = expect(plan)
    bench = Bench.make(root, plan)
    run = str(worker.run("create", bench.root).unwrap())
    reached = 0
    problems: list[str] = []
    for _ in range(KILLS):
        shim = {"at": dice.randrange(1, 600), "action": dice.choice(["kill", "tear"])}
        before = bench.progress()
        outcome = worker.run("resume", bench.root, run=run, shim=shim)
        reached += outcome.killed
        if outcome.error:
            problems.append(outcome.trace)
        problems += [
            f"step {number} was acknowledged, and executed again"
            for number in before.acks
            if bench.effects()[number] != before.effects[number]
        ]
        problems += check_readable(worker, bench, run, expected)
        run = _meddle(dice, bench, run)
    before = bench.progress()
    result = worker.run("resume", bench.root, run=run)
    if result.error or result.killed:
        return reached, [*problems, result.trace]
    return reached, problems + check_completed(bench, run, expected, result.value, before)


def _meddle(dice: random.Random, bench: Bench, run: str) -> str:
    """Does with a dead run what a human may do; returns the run to go on with."""
    path = bench.run_path(run)
    what = dice.randrange(8)
    if what == 0:
        subprocess.run(["cp", "-a", path, f"{path}-copy"], check=True)
        return f"{run}-copy"
    if what == 1:
        # The index is as old as the last orderly stop; what no commit holds must not be lost to
        # git.
        commits = git(path, "log", "--first-parent", "--format=%H").split()
        git(path, "checkout", "-q", "--force", dice.choice(commits))
        bench.forget()
    return run


if __name__ == "__main__":
    sys.exit(main())
