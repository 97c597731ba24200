"""`[[schedule]]`: flows that a supervisor starts by the clock."""

from __future__ import annotations

import json
import shutil
import signal
import time
from datetime import UTC, datetime, timedelta

import pytest
from cli_program import PATIENCE, Program
from hypothesis import given
from hypothesis import strategies as st

from kitaru_fs import Workspace
from kitaru_fs.config.settings import ScheduleSettings, UpSettings, load_settings
from kitaru_fs.supervisor.schedules import Schedules

FLOWS = """
from kitaru_fs import flow, step


@step
def work(name: str) -> str:
    return name


@flow
def report(name: str = "nobody") -> str:
    return work(name)
"""
SCHEDULE = """
durability = "process"

[[schedule]]
flow = "report"
cron = "0 * * * *"
input = { name = "Ada" }
"""
DAY = 86400.0


@pytest.fixture
def kitaru(tmp_path):
    program = Program(tmp_path)
    (program.workspace / "agents" / "reports.py").write_text(FLOWS)
    (program.workspace / "kitaru.toml").write_text(SCHEDULE)
    return program


def once(kitaru):
    done = kitaru("up", "--once")
    assert done.status == 0, done
    return done.err


def set_back(kitaru, seconds):
    """As if the last supervisor had run so long ago."""
    file = kitaru.workspace / ".kitaru" / "up" / "schedules.json"
    known = json.loads(file.read_text())
    file.write_text(json.dumps({id: time.time() - seconds for id in known}))
    return known


def runs(kitaru):
    return Workspace(kitaru.workspace).runs()


def test_a_new_one_begins_with_its_next_tick_and_a_gap_makes_one_run(kitaru):
    assert "scheduled" not in once(kitaru)
    assert kitaru.runs == []
    set_back(kitaru, 30 * DAY)

    before = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    said = once(kitaru)
    [run] = runs(kitaru)
    ticks = [before, before + timedelta(hours=1)]  # an hour may have begun meanwhile
    assert any(f"scheduled {run.id} for {tick:%Y-%m-%dT%H:%M:%S.000Z}" in said for tick in ticks), (
        said
    )
    assert (run.status, run.output) == ("completed", "Ada")
    assert "scheduled" not in once(kitaru)


def test_a_tick_has_one_run_whatever_becomes_of_the_caches(kitaru):
    once(kitaru)
    set_back(kitaru, DAY)
    once(kitaru)
    set_back(kitaru, DAY)  # as one that was killed before it wrote
    once(kitaru)
    assert len(kitaru.runs) == 1
    shutil.rmtree(kitaru.workspace / ".kitaru")
    once(kitaru)
    once(kitaru)
    assert len(kitaru.runs) == 1


def test_caches_that_were_deleted_do_not_hide_a_gap(kitaru):
    once(kitaru)
    set_back(kitaru, DAY)
    once(kitaru)
    [run] = kitaru.runs
    request = json.loads((run / "run.json").read_text())
    kind, schedule, tick = request["key"].split()
    request["key"] = f"{kind} {schedule} {int(tick) - 7200}"
    (run / "run.json").write_text(json.dumps(request))
    shutil.rmtree(kitaru.workspace / ".kitaru")

    assert "scheduled" in once(kitaru)
    assert len(kitaru.runs) == 2


def test_one_that_was_removed_and_comes_again_is_new(kitaru):
    once(kitaru)
    set_back(kitaru, DAY)
    (kitaru.workspace / "kitaru.toml").write_text("")
    once(kitaru)
    (kitaru.workspace / "kitaru.toml").write_text(SCHEDULE)

    assert "scheduled" not in once(kitaru)


def test_one_that_cannot_be_started_keeps_no_other_from_it(kitaru):
    settings = kitaru.workspace / "kitaru.toml"
    wrong = '\n[[schedule]]\nflow = "reprt"\ncron = "@daily"\n'
    wrong += '\n[[schedule]]\nflow = "report"\ncron = "@daily"\ninput = { nam = 1 }\n'
    settings.write_text(SCHEDULE + wrong)
    once(kitaru)
    set_back(kitaru, 3 * DAY)

    said = once(kitaru)
    lines = said.splitlines()
    assert len([line for line in lines if "backoff the schedule of 'reprt' for" in line]) == 1
    assert len([line for line in lines if "backoff the schedule of 'report' for" in line]) == 1
    assert "'nam'" in said
    assert [run.output for run in runs(kitaru)] == ["Ada"]
    # It is not given up.
    (kitaru.workspace / "agents" / "more.py").write_text(
        FLOWS.replace("def report", "def reprt").replace("nobody", "late")
    )
    once(kitaru)
    assert sorted(run.output for run in runs(kitaru)) == ["Ada", "late"]


def test_one_that_makes_no_sense_is_told_by_file_line_and_key(kitaru):
    settings = kitaru.workspace / "kitaru.toml"
    settings.write_text(SCHEDULE.replace("0 * * * *", "0 25 * * *"))
    refused = kitaru("up", "--once")
    assert refused.status == 2
    assert "kitaru.toml:6: schedule[0].cron has '25' as its hour" in refused.err

    settings.write_text(SCHEDULE)
    up = kitaru.start("up")
    workspace = Workspace(kitaru.workspace)
    wait_until(lambda: (workspace.supervision or {}).get("schedules"))
    with settings.open("w") as file:
        # An editor that has emptied it, and takes its time.
        time.sleep(0.1)
        file.write(SCHEDULE.replace("0 * * * *", "0 25 * * *"))
    said = next(line for line in up.process.stderr if "kitaru.toml:6: schedule[0].cron" in line)
    assert "the last good settings stay in force" in said
    assert (kitaru.workspace / ".kitaru" / "up" / "settings.toml").read_text() == SCHEDULE
    wait_until(lambda: (workspace.supervision or {}).get("schedules"))
    found = workspace.supervision or {}
    assert [one["cron"] for one in found["schedules"]] == ["0 * * * *"]
    up.signal(signal.SIGTERM)
    assert up.end().status == 0


def wait_until(condition):
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


# When they are due


def schedule(tmp_path, text):
    path = tmp_path / "kitaru.toml"
    path.write_text("[[schedule]]\nflow = 'f'\n" + text)
    return load_settings(path, {}).schedule


class Clock:
    """Schedules under a clock that a test sets; notes the ticks that runs were made for."""

    def __init__(self, root, schedules: tuple[ScheduleSettings, ...], now: datetime) -> None:
        self._root = root
        self._schedules = schedules
        self.made: list[datetime] = []
        self._keys: set[str] = set()
        self.now = now
        self.restart()

    def restart(self) -> None:
        self._all = Schedules(self._root, self._root)
        self._all.follow(self._schedules, self.now.timestamp())

    def look(self, now: datetime) -> None:
        self.now = now
        due = self._all.due(now.timestamp())
        for one in due:
            self._all.begin(one)
            assert self._all.due(now.timestamp()) == []
            if one.key not in self._keys:  # else the run is there already
                self.made.append(datetime.fromtimestamp(one.tick, UTC))
                self._keys.add(one.key)
            self._all.made(one)
        assert self._all.due(now.timestamp()) == []
        assert self._all.next(now.timestamp()) > now.timestamp()


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def walk(clock: Clock, end: datetime, step: timedelta) -> None:
    while clock.now < end:
        clock.look(clock.now + step)


@pytest.mark.parametrize(
    ("cron", "start", "wanted"),
    [
        # What the night leaves out comes after it.
        ("30 2 * * *", "2026-03-28T12:00", ["2026-03-29T01:00", "2026-03-30T00:30"]),
        # What it has twice comes once.
        ("30 2 * * *", "2026-10-24T12:00", ["2026-10-25T00:30", "2026-10-26T01:30"]),
        ("0 9 * * *", "2026-10-24T12:00", ["2026-10-25T08:00", "2026-10-26T08:00"]),
    ],
)
def test_a_night_in_which_the_clock_is_set(tmp_path, cron, start, wanted):
    clock = Clock(
        tmp_path,
        schedule(tmp_path, f"cron = '{cron}'\ntimezone = 'Europe/Berlin'\n"),
        at(start),
    )
    walk(clock, at(start) + timedelta(hours=46), timedelta(minutes=7))
    assert clock.made == [at(one) for one in wanted]


def test_every_hour_is_every_hour_in_such_a_night_too(tmp_path):
    one = schedule(tmp_path, "cron = '@hourly'\ntimezone = 'Europe/Berlin'\n")
    for start in ("2026-03-28T20:30", "2026-10-24T20:30"):
        (tmp_path / "schedules.json").unlink(missing_ok=True)
        clock = Clock(tmp_path, one, at(start))
        walk(clock, at(start) + timedelta(hours=8), timedelta(minutes=5))
        first = at(start) + timedelta(minutes=30)
        assert clock.made == [first + timedelta(hours=number) for number in range(8)]


def test_a_clock_that_was_years_ahead_is_not_waited_for(tmp_path):
    clock = Clock(tmp_path, schedule(tmp_path, "cron = '@hourly'\n"), at("2026-01-01T00:30"))
    clock.look(at("2036-01-01T00:30"))
    clock.restart()
    clock.look(at("2026-01-01T00:31"))
    clock.look(at("2026-01-01T01:00"))
    assert clock.made == [at("2036-01-01T00:00"), at("2026-01-01T01:00")]


def test_what_fails_is_tried_again_later_and_later(tmp_path):
    one = schedule(tmp_path, "cron = '@hourly'\n")
    schedules = Schedules(tmp_path, tmp_path)
    now = at("2026-01-01T00:30").timestamp()
    schedules.follow(one, now)
    now += 1800
    waits = []
    for _ in range(10):
        [due] = schedules.due(now)
        schedules.begin(due)
        waits.append(schedules.failed(due, now, UpSettings()))
        assert schedules.due(now) == []
        assert schedules.next(now) == now + waits[-1]
        now += waits[-1]
    assert waits[:4] == [1, 2, 4, 8]
    assert waits[-1] == 300
    # A clock that was set back must not make it wait for longer.
    assert schedules.next(now - 400) <= now - 400 + 300


MINUTE = timedelta(minutes=1)
# Each with what says of a minute whether it is one.
CRONS = {
    "* * * * *": lambda tick: True,
    "*/15 * * * *": lambda tick: tick.minute % 15 == 0,
    "7 3,4 * * *": lambda tick: tick.minute == 7 and tick.hour in (3, 4),
    "0 0 1 * *": lambda tick: (tick.minute, tick.hour, tick.day) == (0, 0, 1),
    "0 12 * * mon-fri": lambda tick: (tick.minute, tick.hour) == (0, 12) and tick.weekday() < 5,
}
MOVES = st.one_of(
    st.tuples(st.just("on"), st.integers(1, 90 * 60)),
    st.tuples(st.just("gap"), st.integers(1, 3 * 86400)),
    st.tuples(st.just("back"), st.integers(1, 2 * 86400)),
    st.tuples(st.just("restart"), st.just(0)),
)


@given(cron=st.sampled_from(sorted(CRONS)), moves=st.lists(MOVES, max_size=12))
def test_however_the_clock_moves_a_tick_has_one_run_and_a_gap_the_last(
    tmp_path_factory, cron, moves
):
    root = tmp_path_factory.mktemp("schedules")
    clock = Clock(root, schedule(root, f"cron = '{cron}'\n"), at("2026-02-27T22:59:30"))
    furthest = clock.now
    for move, seconds in moves:
        if move == "restart":
            clock.restart()
            continue
        moved = timedelta(seconds=-seconds if move == "back" else seconds)
        before, end, made = clock.now, clock.now + moved, len(clock.made)
        clock.look(end)
        passed = _last(CRONS[cron], end, before) if moved > timedelta() else None
        if passed is not None and passed > furthest:
            assert clock.made[made:] == [passed]
        assert len(clock.made) - made <= 1
        furthest = max(furthest, end)
    assert len(set(clock.made)) == len(clock.made)


def _last(fits, end, start):
    """The last minute after start, up to end, that fits."""
    tick = end.replace(second=0, microsecond=0)
    while tick > start:
        if fits(tick):
            return tick
        tick -= MINUTE
    return None
