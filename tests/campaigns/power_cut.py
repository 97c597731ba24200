"""Power cuts on a loop-mounted disk: `python -m tests.campaigns.power_cut`, as root on Linux.

Each trial copies a prepared workspace to a fresh file system, acts on it, ends the process at a
storage call (or lets the action return), and shuts the file system down without letting it write
anything more; half of the time its journal is written once more, as it is every few seconds, so
that names and sizes are there and contents are not. Then it is mounted again, and must hold: the
run can be read, every step that was acknowledged is there, none is there by half, a rewind or a
fork that returned has happened; recovering twice changes nothing; `resume` completes with the
result and the files of an uninterrupted run; `git fsck --strict` and `git status` are clean.

`--break NAME` takes a protection out, to see the trials find it: no-directory-sync, no-log-sync.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.harness import Worker
from tests.harness.breaks import BREAKS
from tests.harness.disk import Disk, why_no_disk
from tests.harness.powercut import CUTS, choose, try_cut


def main() -> int:
    """Runs the trials; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0, help="of the first trial")
    parser.add_argument("--fs", choices=["ext4", "xfs"], default="ext4")
    parser.add_argument("--only", metavar="SCENARIO", action="append", help="one of them; again")
    parser.add_argument("--break", dest="broken", choices=sorted(BREAKS), metavar="NAME")
    options = parser.parse_args()
    if (why := why_no_disk(options.fs)) is not None:
        parser.error(why)
    scenarios = [one for one in CUTS if not options.only or one.name in options.only]
    begun = time.perf_counter()
    violations: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="kitaru-power-") as folder, Worker(shim=True) as worker:
        place = Path(folder).resolve()
        ready = {}
        for seed in range(options.seed, options.seed + options.trials):
            scenario = scenarios[seed % len(scenarios)]
            if scenario.name not in ready:
                home = place / scenario.name.replace(" ", "-")
                prepared = scenario.make(worker, home / "base")
                ready[scenario.name] = prepared, scenario.calls(worker, prepared, home / "count")
            prepared, calls = ready[scenario.name]
            cut = choose(calls, random.Random(seed))
            trial = place / f"trial-{seed}"
            (trial / "outside").mkdir(parents=True)
            with Disk(trial, options.fs) as disk:
                try:
                    problems = try_cut(
                        worker, scenario, prepared, disk, trial / "outside", cut, options.broken
                    )
                except AssertionError as error:
                    problems = [str(error).strip().splitlines()[-1]]
            later = ", and the journal was written" if cut.later else ""
            where = f"trial {seed}: {scenario.name} at {cut.at} ({cut.call}{later})"
            for problem in problems:
                violations[scenario.name] += 1
                print(f"{where}: {problem.splitlines()[0][:200]}", flush=True)
    seconds = time.perf_counter() - begun
    print(
        f"{options.trials} trials on {options.fs}, {sum(violations.values())} violations,"
        f" {seconds:.0f} s"
    )
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
