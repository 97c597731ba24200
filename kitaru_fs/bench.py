"""`python -m kitaru_fs.bench`: what a durable step costs, beside an fsynced SQLite insert.

Rounds of each row are run in turn, so that a noisy machine is noisy for all; quote the ratios.
"""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from kitaru_fs.engine.context import files
from kitaru_fs.engine.runner import run_to_end
from kitaru_fs.flows import flow
from kitaru_fs.steps import step
from kitaru_fs.values.signatures import bind_input
from kitaru_fs.workspace import Workspace

ROUNDS = 7
STEPS = 200

_timings: list[float] = []


@step
def answer(number: int) -> str:
    return f"{number:0200d}"


@step
def edit(number: int) -> str:
    (files() / "edited.txt").write_text(f"{number}\n" * 2000)
    return f"{number:0200d}"


@flow
def measured(work: str, steps: int) -> int:
    call: Callable[[int], str] = {"answer": answer, "edit": edit}[work]
    _timings.clear()
    for number in range(steps):
        begun = time.perf_counter()
        call(number)
        _timings.append(time.perf_counter() - begun)
    return steps


def _steps(directory: Path, work: str, durability: str) -> float:
    place = directory / durability
    if not place.exists():
        place.mkdir()
        (place / "kitaru.toml").write_text(f'durability = "{durability}"\n')
    workspace = Workspace(place)
    path = workspace.create(measured, bind_input("measured", measured.function, (work, STEPS), {}))
    run_to_end(path, measured, workspace.options(purpose="bench", code=()))
    return statistics.median(_timings) * 1000


def _inserts(directory: Path) -> float:
    connection = sqlite3.connect(directory / "baseline.db", isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE IF NOT EXISTS steps (number INTEGER, output TEXT)")
        timings: list[float] = []
        for number in range(STEPS):
            begun = time.perf_counter()
            connection.execute("INSERT INTO steps VALUES (?, ?)", (number, f"{number:0200d}"))
            timings.append(time.perf_counter() - begun)
        return statistics.median(timings) * 1000
    finally:
        connection.close()


def main() -> int:
    """Measures and prints a table, or JSON with `--json`."""
    rows: dict[str, Callable[[Path], float]] = {
        "fsynced SQLite insert (WAL, FULL)": _inserts,
        "durable step, 200 bytes of output": lambda place: _steps(place, "answer", "fsync"),
        "durable step that edits a 10 KB file": lambda place: _steps(place, "edit", "fsync"),
        'step with durability = "process"': lambda place: _steps(place, "answer", "process"),
    }
    found: dict[str, list[float]] = {name: [] for name in rows}
    with tempfile.TemporaryDirectory(dir=os.environ.get("KITARU_BENCH_DIR")) as name:
        for _ in range(ROUNDS):
            for row, measure in rows.items():
                found[row].append(measure(Path(name)))
    baseline = found[next(iter(rows))]
    report = {
        row: {
            "median_ms": round(statistics.median(values), 3),
            "ratio": round(
                statistics.median(
                    value / base for value, base in zip(values, baseline, strict=True)
                ),
                2,
            ),
        }
        for row, values in found.items()
    }
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    if "--json" in sys.argv[1:]:
        print(json.dumps({"machine": machine, "rounds": ROUNDS, "steps": STEPS, "rows": report}))
        return 0
    print(f"{machine}; {ROUNDS} paired rounds of {STEPS}, medians")
    for row, values in report.items():
        print(f"{row:40} {values['median_ms']:8.3f} ms {values['ratio']:6.2f}x")
    return 0


if __name__ == "__main__":
    sys.exit(main())
