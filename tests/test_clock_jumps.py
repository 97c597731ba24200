"""A clock that is set while real processes go by it: nothing comes twice, and nothing never."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from harness.clock import SetClock, can_set_clock
from upbench import UpBench

from kitaru_fs import Run

pytestmark = pytest.mark.skipif(not can_set_clock(), reason="the clock needs a C compiler")

SOON = timedelta(seconds=0.3)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)


@pytest.fixture
def clock(tmp_path):
    return SetClock(tmp_path)


@pytest.fixture
def bench(tmp_path, clock):
    made = UpBench(tmp_path)
    made.kitaru.environment |= clock.environment
    yield made
    made.end()


def ticks(bench: UpBench) -> list[datetime]:
    """The ticks that runs were made for, in order."""
    keys = [json.loads((run.path / "run.json").read_text()).get("key") for run in runs(bench)]
    return [datetime.fromtimestamp(int(key.split()[2]), UTC) for key in keys if key]


def runs(bench: UpBench) -> list[Run]:
    return bench.workspace.runs()[::-1]


def test_a_supervisor_under_a_clock_that_is_set(bench, clock):
    bench.settings(
        'linger = "100ms"\n[[schedule]]\nflow = "quick"\ncron = "* * * * *"\n'
        'input = { name = "by the clock" }\n'
    )
    tick = clock.now.replace(second=0, microsecond=0) + MINUTE
    clock.set(tick - timedelta(seconds=50))
    supervisor = bench.up()
    bench.says(supervisor, "supervising")
    sleeper = bench.detach("sleeps", f"seconds={DAY.total_seconds()}")
    bench.says(supervisor, "ended", sleeper.id, "waiting")

    # A tick comes by itself, while it looks.
    clock.set(tick - SOON)
    said = bench.says(supervisor, "scheduled")
    assert f"for {tick:%Y-%m-%dT%H:%M}:00" in said
    bench.says(supervisor, "ended", "completed")
    [made] = [run for run in runs(bench) if run.id != sleeper.id]
    assert made.created >= tick

    # Back to before it, and past it again.
    clock.set(tick - SOON)
    go_round(bench, supervisor)
    clock.set(tick + timedelta(seconds=1))
    go_round(bench, supervisor)
    assert ticks(bench) == [tick]

    # A year back, and forward to where it was: the sleeper's time has not come.
    clock.set(tick - 365 * DAY)
    go_round(bench, supervisor)
    clock.set(tick + timedelta(seconds=2))
    go_round(bench, supervisor)
    assert ticks(bench) == [tick]
    assert bench.notes.count("work after") == 0

    # Three days forward: the sleeper wakes, and of all ticks that passed the last makes a run.
    later = tick + 3 * DAY
    clock.set(later + timedelta(seconds=5))
    bench.wait_until(lambda: sleeper.refresh().status == "completed" and len(ticks(bench)) == 2)
    go_round(bench, supervisor)
    assert ticks(bench) == [tick, later]
    assert bench.notes.count("work after") == 1
    [slept] = [line for line in sleeper.log() if line.kind == "sleep" and line.status == "ok"]
    assert slept.duration >= DAY.total_seconds()


def go_round(bench: UpBench, supervisor) -> None:
    """Waits until a supervisor has looked at the clock, and all that it does by it is done."""
    run = bench.detach("other")
    bench.says(supervisor, "ended", run.id, "completed")


def test_a_process_that_sleeps_under_a_clock_that_is_set(bench, clock):
    bench.settings('linger = "30d"\n')
    started = bench.kitaru.start("run", "sleeps", "seconds=3600")
    bench.wait_until(lambda: any(line.kind == "sleep" for run in runs(bench) for line in run.log()))
    clock.set(clock.now + timedelta(hours=1))
    assert started.end().status == 0
    assert bench.notes == ["work before", "work after"]
