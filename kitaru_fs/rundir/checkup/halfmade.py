"""Directories of runs that were being made when kitaru was killed: nobody was told of them."""

from __future__ import annotations

import os
import time
from pathlib import Path

from kitaru_fs.rundir.checkup.doctor import Checkup
from kitaru_fs.rundir.checkup.examination import Examination
from kitaru_fs.snapshot.removal import remove_tree

__all__ = ["check_half_made"]

# A large project that is being copied in may take long.
_OLD_SECONDS = 3600.0


def check_half_made(runs: Path, *, repair: bool) -> list[Checkup]:
    """Looks for runs that were never made to an end, and removes them once they are old.

    Args:
        runs: The workspace's `runs/`.
        repair: Whether to remove them.

    Raises:
        StorageError: The disk refused.
    """
    try:
        names = sorted(name for name in os.listdir(runs) if name.startswith(".new-"))
    except FileNotFoundError:
        return []
    found: list[Checkup] = []
    for name in names:
        place = runs / name
        if time.time() - _changed(place) < _OLD_SECONDS:
            continue
        look = Examination(place, repair=repair)
        look.report(
            "leftovers",
            "a run that was being made when kitaru was killed",
            place,
            mend=lambda place=place: remove_tree(place),
        )
        found.append(Checkup(name, not repair, None, look.findings))
    return found


def _changed(place: Path) -> float:
    latest = 0.0
    for folder, _, names in os.walk(place):
        for name in (".", *names):
            try:
                latest = max(latest, os.lstat(os.path.join(folder, name)).st_mtime)
            except OSError:
                continue
    return latest
