"""`kitaru watch`: what changes in runs, as it happens."""

from __future__ import annotations

import json
import shutil
import signal
import time

import pytest
from cli_program import PATIENCE, Program, Terminal
from flowbench import listing

from kitaru_fs import files, receive, step, wait

FLOWS = """
import os
import time
from pathlib import Path

from kitaru_fs import files, flow, step, wait


@step
def hold(name: str) -> str:
    (files() / f"{name}.md").write_text(name)
    while not (Path(os.environ["TEST_PLACE"]) / f"go-{name}").exists():
        time.sleep(0.01)
    return name


@flow
async def watched() -> str:
    hold("a")
    hold("b")
    await wait("publish", "Publish this?", schema=bool)
    return "done"


@flow
def short(times: int = 2) -> int:
    for number in range(times):
        (files() / f"{number}.md").write_text("x")
        look(number)
    return times


@step
def look(number: int) -> int:
    return number
"""


@pytest.fixture
def kitaru(tmp_path):
    program = Program(tmp_path)
    (program.workspace / "agents" / "watching.py").write_text(FLOWS)
    (program.workspace / "kitaru.toml").write_text('durability = "process"\nlinger = "0"\n')
    program.environment["TEST_PLACE"] = str(tmp_path)
    return program


def lines_until(started, *, event, **wanted):
    """Reads JSON lines until one of an event has these values; returns all that were read."""
    found = []
    for line in started.process.stdout:
        found.append(json.loads(line))
        if found[-1]["event"] == event and wanted.items() <= found[-1].items():
            return found
    raise AssertionError(f"it ended: {found} {started.process.stderr.read()}")


def test_a_run_that_has_ended_is_told_as_a_whole(kitaru):
    kitaru.good("run", "short")
    before = listing(kitaru.runs[0])
    done = kitaru("watch", "last", "--json")
    lines = [json.loads(line) for line in done.out.splitlines()]

    assert (done.status, done.err) == (0, "")
    assert [line["event"] for line in lines] == ["supervisor", *["entry"] * 4, "run"]
    entries = [
        {name: value for name, value in line.items() if name not in ("event", "at", "run")}
        for line in lines[1:-1]
    ]
    assert entries == kitaru("log", "last", "--json").json
    assert lines[0]["supervisor"] is None
    assert lines[-1]["output"] == 2
    assert listing(kitaru.runs[0]) == before


def test_a_run_is_followed_until_nobody_goes_on_with_it(kitaru, tmp_path):
    run = kitaru.start("run", "watched")
    while not kitaru.runs or not (kitaru.runs[0] / "files" / "a.md").exists():
        time.sleep(0.01)
    watch = kitaru.start("watch", "last", "--json")
    assert lines_until(watch, event="run")[-1]["status"] == "running"
    (tmp_path / "go-a").touch()
    [*_, step_a] = lines_until(watch, event="entry", name="hold")
    assert (step_a["step"], step_a["files"]) == (1, ["a.md"])
    (tmp_path / "go-b").touch()

    done = watch.end()
    assert done.status == 3
    last = json.loads(done.out.splitlines()[-1])
    assert last["event"] == "run"
    assert [wait["name"] for wait in last["waits"]] == ["publish"]
    assert last["holder"] is None
    assert run.end().status == 3


def test_plain_lines_and_who_would_go_on(kitaru, tmp_path):
    (tmp_path / "go-a").touch()
    (tmp_path / "go-b").touch()
    assert kitaru("run", "watched").status == 3
    done = kitaru("watch", "last")

    assert done.status == 3
    [name] = [run.name for run in kitaru.runs]
    assert f" {name} step 1: hold (" in done.out
    assert f" {name} waiting, waits for publish" in done.out
    assert f"kitaru resume {name}, or kitaru up" in done.err


def test_a_killed_run_is_at_rest(kitaru):
    run = kitaru.start("run", "watched")
    while not kitaru.runs or not (kitaru.runs[0] / "files" / "a.md").exists():
        time.sleep(0.01)
    watch = kitaru.start("watch", "last", "--json")
    lines_until(watch, event="run", status="running")
    run.signal(signal.SIGKILL)

    done = watch.end()
    assert done.status == 130
    assert json.loads(done.out.splitlines()[-1])["status"] == "interrupted"
    run.end()


def test_a_workspace_is_watched_until_ctrl_c(kitaru):
    kitaru.good("run", "short")
    watch = kitaru.start("watch", "--json")
    assert lines_until(watch, event="supervisor")[-1]["supervisor"] is None
    kitaru.good("run", "short", "times=1")
    lines = lines_until(watch, event="run", status="completed")
    new = kitaru.runs[-1].name
    assert {line["run"] for line in lines} == {new}
    assert [line["name"] for line in lines if line["event"] == "entry"][:1] == ["short"]
    shutil.rmtree(kitaru.runs[-1])
    lines_until(watch, event="gone", run=new)
    watch.signal(signal.SIGINT)

    done = watch.end()
    assert (done.status, done.err) == (130, "")


def test_the_supervisors_queue_is_shown(kitaru, tmp_path):
    (kitaru.workspace / "kitaru.toml").write_text(
        'durability = "process"\nlinger = "0"\n[limits]\nconcurrency = 1\n'
    )
    first = kitaru.good("run", "watched", "--detach").strip()
    second = kitaru.good("run", "short", "--detach").strip()
    watch = kitaru.start("watch", "--json")
    up = kitaru.start("up")
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        found = lines_until(watch, event="supervisor")[-1]["supervisor"]
        if found and found["driven"] and found["queued"]:
            break
    assert found["pid"] == up.process.pid
    assert [one["run"] for one in found["driven"]] == [first]
    assert [one["run"] for one in found["queue"]] == [second]
    (tmp_path / "go-a").touch()
    (tmp_path / "go-b").touch()
    lines_until(watch, event="run", run=second, status="completed")

    followed = kitaru.start("watch", first, "--json")
    lines_until(followed, event="run", status="waiting")
    kitaru.good("answer", first, "yes")
    lines_until(followed, event="run", status="completed")
    assert followed.end().status == 0
    up.signal(signal.SIGTERM)
    assert up.end().status == 0
    assert lines_until(watch, event="supervisor", supervisor=None)
    watch.signal(signal.SIGTERM)
    assert watch.end().status == 128 + signal.SIGTERM


def test_on_a_terminal_one_run_is_shown_to_its_end(kitaru, tmp_path):
    run = kitaru.start("run", "watched")
    while not kitaru.runs or not (kitaru.runs[0] / "files" / "a.md").exists():
        time.sleep(0.01)
    terminal = Terminal(kitaru, "watch", "last")
    terminal.until(r"running.*pid \d+ on")
    (tmp_path / "go-a").touch()
    (tmp_path / "go-b").touch()
    terminal.until(r"1 +hold .*a\.md")
    terminal.until(r"Publish this\?")
    terminal.until(r"kitaru answer \S+ yes\|no")

    assert terminal.end() == 3
    assert "nobody goes on with it" in terminal.seen
    run.end()


def test_on_a_terminal_all_runs_are_shown_until_ctrl_c(kitaru, tmp_path):
    (tmp_path / "go-a").touch()
    (tmp_path / "go-b").touch()
    assert kitaru("run", "watched").status == 3
    kitaru.good("run", "short")
    terminal = Terminal(kitaru, "watch")
    terminal.until("no supervisor runs")
    terminal.until("1 waiting.*1 completed")
    terminal.until(r"waits for publish")
    terminal.type("\x03")

    assert terminal.end() == 130
    assert "Traceback" not in terminal.seen


@step
def note(text: str) -> str:
    (files() / "notes").write_text(text)
    return text


def test_from_python_a_watch_yields_what_changes(bench):
    async def body():
        note("first")
        await receive("numbers", schema=int)
        note("second")
        return await wait("last", schema=str)

    with pytest.raises(Exception, match="waits"):
        bench.start(body)
    watch = bench.workspace.watch()
    kinds = [(one.kind, one.content.get("status")) for one in watch.look()]
    assert kinds == [("supervisor", None), ("run", "waiting")]
    assert watch.counts == {"waiting": 1}
    assert list(watch.look()) == []

    bench.run.send("numbers", 1)
    with pytest.raises(Exception, match="waits"):
        bench.resume()
    found = []
    while not any(change.content.get("name") == "last" for change in found):
        found += watch.look()
    entries = [change.content["commit"] for change in found if change.kind == "entry"]
    assert entries == [line.commit for line in bench.run.log()][-len(entries) :]
    assert next(change.content["kind"] for change in found if change.kind == "entry") == "message"
    bench.run.answer("x")
    assert bench.resume() == "x"
    assert [change.kind for change in bench.run.watch()][-2:] == ["entry", "run"]


def test_a_run_that_cannot_be_read_is_told_once(bench):
    async def body():
        return await wait("last", schema=str)

    with pytest.raises(Exception, match="waits"):
        bench.start(body)
    watch = bench.workspace.watch()
    list(watch.look())
    head = bench.run.path / ".git" / "HEAD"
    head.write_text("nonsense\n")
    found = []
    while not found:
        found = list(watch.look())
    assert [change.kind for change in found] == ["damaged"]
    assert watch.counts == {"damaged": 1}
    head.write_text("ref: refs/heads/main\n")
    while not watch.counts.get("waiting"):
        list(watch.look())
