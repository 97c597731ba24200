"""Where the time of one step goes: by package, and waiting for the disk apart."""

from __future__ import annotations

import cProfile
import pstats
from collections import defaultdict
from pathlib import Path
from typing import cast

import kitaru_fs
from kitaru_fs.bench.work import profiled, start, workspace
from kitaru_fs.engine.runner import run_to_end

__all__ = ["shares"]

_ROOT = str(Path(kitaru_fs.__file__).parent) + "/"
_DISK = "waiting for the disk"
_SYNCS = ("fdatasync", "fsync")
_DEEP = 20

Function = tuple[str, int, str]
Spent = tuple[int, int, float, float]
Stats = dict[Function, tuple[int, int, float, float, dict[Function, Spent]]]


def shares(place: Path, work: str, steps: int, files: Path) -> dict[str, float]:
    """Returns how the time of steps is shared, largest first.

    What a package calls of Python's own is the package's. The profiler makes calls dearer than they
    are, and the disk cheaper beside them: what is read is how the packages compare.

    Args:
        place: Where the run is made.
        work: What a step does.
        steps: How many are profiled.
        files: What `files/` begin with.

    Returns:
        For each package of `kitaru_fs`, and for the disk, a share of 1.
    """
    home = workspace(place / "profiled")
    path = start(home, profiled, work, steps, files=files)
    profile = cProfile.Profile()
    profile.enable()
    try:
        run_to_end(path, profiled, home.options(purpose="bench", code=()))
    finally:
        profile.disable()
    found: defaultdict[str, float] = defaultdict(float)
    stats = cast("Stats", vars(pstats.Stats(profile))["stats"])
    for function, (_, _, own, _, _) in stats.items():
        for package, share in _owners(function, stats, 0).items():
            found[package] += own * share
    whole = sum(found.values())
    return {
        package: took / whole for package, took in sorted(found.items(), key=lambda item: -item[1])
    }


def _owners(function: Function, stats: Stats, depth: int) -> dict[str, float]:
    """Returns which packages a function works for, and how much of it for each."""
    file, _, name = function
    if any(sync in name for sync in _SYNCS):
        return {_DISK: 1.0}
    if file.startswith(_ROOT):
        return {file.removeprefix(_ROOT).removesuffix(".py").partition("/")[0]: 1.0}
    callers: dict[Function, Spent] = stats[function][4] if function in stats else {}
    whole = sum(spent[2] for spent in callers.values())
    if not callers or whole <= 0 or depth > _DEEP:
        return {"the rest": 1.0}
    found: defaultdict[str, float] = defaultdict(float)
    for caller, spent in callers.items():
        for package, share in _owners(caller, stats, depth + 1).items():
            found[package] += share * spent[2] / whole
    return dict(found)
