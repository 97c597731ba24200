"""A disk that refuses at every storage call of a run: `python -m tests.campaigns.faults`.

For each point a copy of a prepared workspace is acted on; the N-th storage call below `runs/` fails
with EIO, or it and every later one that needs room fails with ENOSPC. Then must hold: the action
did without the call, or ended with one `StorageError`; what the kill sweep checks holds as well:
nothing is there by half, and a `resume` with a disk that works completes exactly.
"""

from __future__ import annotations

import sys

from tests.harness.points import fault_points, try_fault

from .sweep import arguments, sweep


def main() -> int:
    """Runs the sweep; returns the exit status."""
    return sweep(arguments(__doc__ or "").parse_args(), fault_points, try_fault)


if __name__ == "__main__":
    sys.exit(main())
