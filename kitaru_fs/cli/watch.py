"""`kitaru watch`."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import click

from kitaru_fs.cli import words
from kitaru_fs.cli.completing import complete_runs
from kitaru_fs.cli.options import json_option, pass_place
from kitaru_fs.cli.output import say
from kitaru_fs.cli.place import Place
from kitaru_fs.quoting import printable

if TYPE_CHECKING:
    from kitaru_fs.watching import Change, Watch

_INTERVAL = 0.1


@click.command("watch")
@click.argument("run", required=False, shell_complete=complete_runs)
@json_option
@pass_place
def command(place: Place, run: str | None, as_json: bool) -> int:
    """Show what happens to RUN, or to all runs and in the supervisor, as it does.

    With RUN it ends when that is at rest, with the run's exit status: it has ended, or nobody
    will go on with it (no process drives it, and no supervisor runs or it is held). Without RUN
    it ends by Ctrl-C. With --json each change is a line: a commit (`entry`), how a run stands
    after it (`run`), what the supervisor does (`supervisor`). Nothing is written.
    """
    found = place.find_run(run, quiet=as_json) if run or place.in_run() else None
    watch = found.watch() if found is not None else place.workspace().watch()
    try:
        with _ended_by_sigterm(), _screen(watch, found.id if found else None, as_json) as screen:
            while True:
                for change in watch.look():
                    screen.tell(change)
                screen.update()
                if watch.is_at_rest:
                    break
                time.sleep(_INTERVAL)
    except KeyboardInterrupt:
        return 130
    assert found is not None
    return _end(watch.states.get(found.id), as_json=as_json)


def _end(state: dict[str, Any] | None, *, as_json: bool) -> int:
    from kitaru_fs.cli.driving import STATUS_EXITS
    from kitaru_fs.rundir.status import ENDED

    if state is None:
        return 1
    if not as_json and "held" in state:
        say(f"held: {state['held']}; kitaru resume {state['run']} goes on")
    elif not as_json and state["status"] not in ENDED:
        say("no supervisor runs in this workspace, so nobody goes on with it:")
        say(f"  kitaru resume {state['run']}, or kitaru up")
    return STATUS_EXITS.get(state["status"], 1)


class _Screen(Protocol):
    def tell(self, change: Change) -> None: ...

    def update(self) -> None: ...


@contextmanager
def _screen(watch: Watch, run: str | None, as_json: bool) -> Generator[_Screen]:
    if as_json:
        yield _Lines()
    elif sys.stdout.isatty():
        from kitaru_fs.cli.liveview import live_view

        with live_view(watch, run) as view:
            yield view
    else:
        yield _Plain()


class _Lines:
    """A JSON object a line."""

    def tell(self, change: Change) -> None:
        line = json.dumps(change.to_json(), ensure_ascii=False) + "\n"
        sys.stdout.buffer.write(line.encode("utf-8", "backslashreplace"))

    def update(self) -> None:
        sys.stdout.buffer.flush()


class _Plain:
    """A line for each change."""

    def tell(self, change: Change) -> None:
        click.echo(" ".join(filter(None, [change.at, change.run, _described(change)])))

    def update(self) -> None:
        sys.stdout.flush()


def _described(change: Change) -> str:
    from kitaru_fs.cli.liveview import describe_entry, describe_supervisor

    content = change.content
    match change.kind:
        case "entry":
            number = "" if content["step"] is None else f"step {content['step']}: "
            return number + describe_entry(content)
        case "supervisor":
            return describe_supervisor(content["supervisor"])
        case "damaged":
            return f"cannot be read: {printable(content['error']['message'], 300)}"
        case "gone":
            return "is gone"
        case _:
            return _status(content)


def _status(state: dict[str, Any]) -> str:
    more = [f"waits for {printable(wait['name'], 80)}" for wait in state["waits"]]
    more += [f"waits for a message on {printable(topic, 80)}" for topic in state.get("topics", ())]
    if "until" in state:
        more.append(f"until {state['until']}")
    if "held" in state:
        more.append(f"held: {printable(state['held'], 200)}")
    more += filter(None, [words.tokens(state["usage"]), words.cost(state["usage"])])
    return ", ".join([state["status"], *more])


@contextmanager
def _ended_by_sigterm() -> Generator[None]:
    def end(number: int, _: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    # In order: the terminal has its cursor back.
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
