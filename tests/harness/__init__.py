"""Running real flows in real processes, killing them anywhere, and checking what must hold.

`Bench` is a workspace with a scripted flow; `Worker` runs actions on it, each in a child that may
be
killed; `checks` say what must hold afterwards; `shim` counts storage calls and kills at the N-th.
"""

from .bench import Bench, Expected, Plan, Progress, expect
from .checks import (
    check_clean,
    check_completed,
    check_readable,
    check_recovery,
    describe,
    git,
    snapshot,
)
from .shim import build_shim
from .worker import Outcome, Worker

__all__ = [
    "Bench",
    "Expected",
    "Outcome",
    "Plan",
    "Progress",
    "Worker",
    "build_shim",
    "check_clean",
    "check_completed",
    "check_readable",
    "check_recovery",
    "describe",
    "expect",
    "git",
    "snapshot",
]
