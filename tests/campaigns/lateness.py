"""How late a sleep ends under a supervisor: `python -m tests.campaigns.lateness`.

Runs that sleep are left to `kitaru up`, at most some of them at a time, so that their ends meet.
None may end before its time. It says how late they ended, to the commit, by the time of day, and
fails where one was later than the `sleep` of the contract may be under `up`.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from kitaru_fs import Run, Workspace, flow, sleep, step

_ROOT = Path(__file__).parents[2]
_PATIENCE = 60.0
_ALLOWED = 1.0


@step
async def after() -> None: ...


@flow
async def sleeper(seconds: float) -> None:
    await sleep(seconds)
    await after()


def main() -> int:
    """Runs the campaign; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60.0, help="the longest sleep")
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--linger", default="2s")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    dice = random.Random(options.seed)
    root = Path(tempfile.mkdtemp(prefix="kitaru-late-")).resolve()
    (root / "agents").mkdir()
    (root / "agents" / "w.py").write_text(
        "from tests.campaigns.lateness import sleeper  # noqa: F401\n"
    )
    (root / "kitaru.toml").write_text(
        f'linger = "{options.linger}"\n[limits]\nconcurrency = {options.concurrency}\n'
    )
    workspace = Workspace(root)
    asked: dict[str, float] = {}
    for _ in range(options.runs):
        seconds = options.seconds * dice.uniform(0.3, 1.0)
        given = {"seconds": msgspec.Raw(msgspec.json.encode(seconds))}
        asked[workspace.create(sleeper, given, detached=True).name] = seconds
    up = subprocess.Popen(
        [sys.executable, "-m", "kitaru_fs", "up"],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(_ROOT)},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + options.seconds + _PATIENCE
        runs = workspace.runs()
        while any(run.refresh().status != "completed" for run in runs):
            if time.monotonic() > deadline:
                print(f"not all ended; {root} is kept")
                return 1
            time.sleep(1.0)
    finally:
        up.terminate()
        up.wait()
    late = sorted(_slept(run) - asked[run.id] for run in runs)
    print(
        f"{len(late)} sleeps, linger {options.linger}: late by {statistics.median(late):.3f} s in"
        f" the median, {late[int(len(late) * 0.99)]:.3f} s at the 99th percentile, {late[-1]:.3f} s"
        f" at most; the first {late[0]:.3f} s"
    )
    shutil.rmtree(root)
    # Entries have times in milliseconds.
    return 0 if late[0] > -0.002 and late[-1] <= _ALLOWED else 1


def _slept(run: Run) -> float:
    """Seconds from the commit that began the sleep to the one that ended it."""
    [line] = [line for line in run.log() if line.kind == "sleep" and line.status == "ok"]
    assert line.duration is not None
    return line.duration


if __name__ == "__main__":
    sys.exit(main())
