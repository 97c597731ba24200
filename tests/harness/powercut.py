"""A power cut at a storage call of a scenario, and what must hold afterwards."""

from __future__ import annotations

import random
import re
import shutil
from pathlib import Path
from typing import NamedTuple

from .bench import Bench
from .disk import Disk
from .points import check_after
from .scenarios import SCENARIOS, SMALL, Prepared, Scenario
from .worker import Outcome, Worker

__all__ = ["CUTS", "Cut", "choose", "try_cut"]

# What tells a trial what happened is on another disk.
_OUTSIDE = ("acks", "effects", "spawned", "trips")

WHOLE = Scenario(
    "whole run",
    "making a run and driving it to its end",
    SMALL,
    lambda *_: None,
    "start",
    fire=True,
)
CUTS = [WHOLE, *SCENARIOS]


class Cut(NamedTuple):
    """One power cut.

    Attributes:
        at: The storage call before which it comes, from 1; one more than there are: after the
            last, when the action had returned.
        call: The call's name and path.
        later: The file system's journal was written once more before the cut, the files' content
            was not.
        only: A name and a part of a path: `at` counts such calls only.
    """

    at: int
    call: str
    later: bool
    only: tuple[str, str] = ("", "")


def choose(calls: list[str], dice: random.Random) -> Cut:
    """Chooses where an action's power is cut; every third time when it has returned."""
    at = dice.randrange(len(calls)) if dice.random() < 0.67 else len(calls)
    call = calls[at] if at < len(calls) else "the end"
    return Cut(at + 1, call, dice.random() < 0.5)


def try_cut(
    worker: Worker,
    scenario: Scenario,
    prepared: Prepared,
    disk: Disk,
    outside: Path,
    cut: Cut,
    broken: str | None = None,
) -> list[str]:
    """Cuts the power at one point, in a copy on a disk; returns the violations.

    Args:
        worker: A worker with the shim.
        scenario: What is done.
        prepared: Where it begins.
        disk: A fresh disk.
        outside: A fresh directory on another one.
        cut: When.
        broken: A protection that is taken out (`breaks`).
    """
    bench = prepared.bench.copy(disk.root / "bench")
    _keep_outside(bench, outside)
    disk.make_durable()
    scenario.approach_in(worker, bench, prepared.run)
    shim = {"at": cut.at, "action": "kill", "only": cut.only, "broken": broken}
    outcome = scenario.perform(worker, bench, prepared.run, shim)
    if "KeyboardInterrupt" not in outcome.error and not outcome.killed:
        outcome.unwrap()
    if cut.later:
        disk.commit_metadata()
    disk.cut_power()
    _start_anew(bench)
    problems = _lost(worker, bench, scenario, prepared, outcome)
    if scenario.act == "fork":
        # A command that takes it up comes before plain git.
        for run in worker.run("runs", bench.root).unwrap():
            worker.run("settle", bench.root, run=run).unwrap()
    return problems + check_after(worker, bench, scenario, prepared)


def _keep_outside(bench: Bench, outside: Path) -> None:
    for name in _OUTSIDE:
        here = bench.root / name
        if here.exists():
            shutil.move(here, outside / name)
        here.symlink_to(outside / name)


def _start_anew(bench: Bench) -> None:
    """Lets notes of this boot of the machine be of another one."""
    for name in ("left.json", "made.json"):
        for note in bench.root.glob(f"runs/*/.git/kitaru/{name}"):
            note.write_text(re.sub('"boot":"[^"]*"', '"boot":"an earlier one"', note.read_text()))


def _lost(
    worker: Worker, bench: Bench, scenario: Scenario, prepared: Prepared, outcome: Outcome
) -> list[str]:
    """What a command that returned had done, and the disk has not."""
    if outcome.killed:
        return []
    if scenario.act in ("create", "fork"):
        made = worker.run("runs", bench.root).unwrap()
        return [] if outcome.value in made else [f"the run that {scenario.act} made is gone"]
    if scenario.act in ("rewind", "undo", "redo"):
        head = worker.run("where", bench.root, run=prepared.run).unwrap()["head"]
        return [] if head == outcome.value[1] else [f"the {scenario.act} that returned is gone"]
    return []
