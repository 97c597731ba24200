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

from tests.harness import Worker
from tests.harness.breaks import BREAKS
from tests.harness.points import Point, kill_points, try_kill
from tests.harness.scenarios import Prepared, Scenario

from .sweep import arguments, sweep


def main() -> int:
    """Runs the sweep; returns the exit status."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--break", dest="broken", choices=sorted(BREAKS), metavar="NAME")
    options = parser.parse_args()

    def attempt(
        worker: Worker, scenario: Scenario, prepared: Prepared, root: Path, point: Point
    ) -> tuple[bool, list[str]]:
        return try_kill(worker, scenario, prepared, root, point, options.broken)

    return sweep(options, kill_points, attempt, broken=options.broken)


if __name__ == "__main__":
    sys.exit(main())
