"""Driving a run from the command line, for `run` and `resume`: the process belongs to the run.

While the flow runs, the working directory is the run's `files/`, the environment marks what its
steps start, signals stop it in order, and what it prints goes to stderr: stdout is for the result.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from kitaru_fs.cli import problems, words
from kitaru_fs.cli.output import printable_lines, result, result_json, say
from kitaru_fs.cli.progress import open_screen
from kitaru_fs.cli.prompting import Prompter, prompting
from kitaru_fs.cli.stops import Stops
from kitaru_fs.errors import KitaruError, RunCancelled, RunInterrupted, RunWaiting, StorageError
from kitaru_fs.quoting import printable

if TYPE_CHECKING:
    from kitaru_fs.logs.capture import Capture
    from kitaru_fs.logs.keeper import Screen
    from kitaru_fs.run import Run
    from kitaru_fs.rundir.events import Listener
    from kitaru_fs.rundir.options import DrivenRun

__all__ = [
    "STATUS_EXITS",
    "Act",
    "Surround",
    "drive",
    "prints_to_stderr",
    "resume_run",
    "resume_unseen",
    "show_state",
    "surrounded",
]

Act = Callable[["Listener | None", "Callable[[DrivenRun], None]"], Any]
"""Drives a run, given who is told what happens and who is told that the run was taken up."""

STATUS_EXITS = {
    "completed": 0,
    "queued": 0,
    "failed": 1,
    "cancelled": 1,
    "waiting": 3,
    "running": 4,
    "interrupted": 130,
}
_STOPPED = (KeyboardInterrupt, asyncio.CancelledError, SystemExit, GeneratorExit, RunInterrupted)


class Surround(NamedTuple):
    """What is made ready before a run is driven.

    Attributes:
        stops: Signals stop the run in order.
        capture: What it prints is kept.
        has_terminal: What happens is shown on a terminal.
    """

    stops: Stops
    capture: Capture
    has_terminal: bool


class _Surroundings:
    """The process's working directory and environment, as the run has them."""

    def __init__(self, stops: Stops, capture: Capture, prompter: Prompter | None) -> None:
        self._stops = stops
        self._capture = capture
        self._prompter = prompter
        self._leave: list[Callable[[], object]] = []

    def enter(self, execution: DrivenRun) -> None:
        """Makes the process the run's."""
        from kitaru_fs.holding.processes import enter_environment

        before = os.getcwd()
        os.chdir(execution.path / "files")
        self._leave.append(lambda: os.chdir(before))
        self._leave.append(enter_environment(os.environ, execution.path, execution.nonce))
        self._capture.driving(replays=execution.replays, secrets=execution.secrets)
        self._stops.follow(execution)
        if self._prompter is not None:
            execution.ask_by(self._prompter)

    def leave(self) -> None:
        """Puts the process back."""
        while self._leave:
            self._leave.pop()()


@contextmanager
def surrounded(*, as_json: bool, unseen: bool = False) -> Generator[Surround]:
    """Makes ready for driving a run: signals stop it, what it prints is kept.

    Args:
        as_json: Show no progress.
        unseen: Show nothing, not even what it prints.
    """
    from kitaru_fs.logs.capture import Capture

    def screen(run: str) -> AbstractContextManager[Screen]:
        return open_screen(run, quiet=as_json)

    # Asked here: what is printed goes through a pipe from here on.
    has_terminal = not as_json and not unseen and sys.stderr.isatty()
    with Stops() as stops, Capture(None if unseen else screen) as capture:
        yield Surround(stops, capture, has_terminal)


def drive(run: Run, act: Act, surround: Surround, *, as_json: bool) -> int:
    """Drives a run to its end, shows how it went, and returns the exit status.

    Args:
        run: The run.
        act: Drives it.
        surround: What is made ready.
        as_json: Give the status object as the result.
    """
    before = _head(run)
    error = _driven(run, act, surround)
    stops = surround.stops
    if error is None:
        return _show_end(run.refresh(), as_json=as_json)
    if isinstance(error, RunCancelled) and run.refresh().status == "cancelled":
        return _show_end(run.refresh(), as_json=as_json)
    if isinstance(error, RunWaiting):
        return _show_waiting(run.refresh(), as_json=as_json)
    if isinstance(error, _STOPPED):
        return _show_stop(run.refresh(), stops.asked or type(error).__name__, as_json=as_json)
    now = run.refresh()
    if before is not None and _failed_since(now, before):
        return _show_failure(now, as_json=as_json)
    if isinstance(error, StorageError):
        error.hint = "; ".join(filter(None, [error.hint, f"then `kitaru resume {run.id}`"]))
    if isinstance(error, KitaruError):
        return problems.show(error, as_json=as_json)
    return problems.show_bug(error, as_json=as_json)


def resume_run(
    run: Run, *, as_json: bool, keep_files: bool = False, recorded_code: bool = False
) -> int:
    """Goes on with a run as `kitaru resume` does; returns the exit status.

    Args:
        run: The run.
        as_json: Show no progress, and the status object as the result.
        keep_files: After a crash: what is in `files/` is the human's edit.
        recorded_code: Use the code that the run recorded.
    """
    from kitaru_fs.git.safe import user_identity

    with surrounded(as_json=as_json) as surround:
        return drive(
            run,
            lambda listener, on_open: run.resume(
                keep_files=keep_files,
                recorded_code=recorded_code,
                identity=user_identity(os.environ),
                listener=listener,
                on_open=on_open,
            ),
            surround,
            as_json=as_json,
        )


def resume_unseen(run: Run) -> int:
    """Goes on with a run for a supervisor, which looks itself how it stands.

    What went wrong goes to stderr as JSON.

    Returns:
        The exit status.
    """
    with surrounded(as_json=True, unseen=True) as surround:
        error = _driven(
            run,
            lambda listener, on_open: run.resume(
                supervised=True, listener=listener, on_open=on_open
            ),
            surround,
        )
    if error is None:
        return 0
    if isinstance(error, RunWaiting):
        return STATUS_EXITS["waiting"]
    if isinstance(error, _STOPPED):
        return STATUS_EXITS["interrupted"]
    if isinstance(error, KitaruError):
        return problems.show(error, as_json=True)
    problems.show_error(type(error).__name__, str(error), "", as_json=True)
    return 1


def _driven(run: Run, act: Act, surround: Surround) -> BaseException | None:
    stops, capture, has_terminal = surround
    workspace = run.workspace
    limit = workspace.settings.logs.max_size
    with (
        capture.keeping(run.path, limit, workspace.credentials) as listener,
        prompting(run, listener, wanted=has_terminal) as prompter,
    ):
        surroundings = _Surroundings(stops, capture, prompter)
        try:
            act(listener, surroundings.enter)
        except BaseException as error:
            return error
        finally:
            stops.release()
            surroundings.leave()
    return None


def show_state(run: Run, *, as_json: bool) -> int:
    """Shows a run as it stands, as its result; returns the exit status that its status means."""
    state = run.state()
    match state["status"]:
        case "completed":
            return _show_end(run, as_json=as_json)
        case "failed":
            return _show_failure(run, as_json=as_json)
        case "waiting":
            return _show_waiting(run, as_json=as_json)
        case status:
            if as_json:
                result_json(state)
            else:
                say(f"run {run.id}: {status}")
                say(f"  {run.path}")
                say(f"  kitaru status {run.id}")
            return STATUS_EXITS.get(status, 1)


@contextmanager
def prints_to_stderr() -> Generator[None]:
    """While it is entered, what this process and its children write to stdout goes to stderr."""
    try:
        sys.stdout.flush()
        kept = os.dup(1)
        os.dup2(2, 1)
    except (OSError, ValueError):
        yield  # one of them is closed
        return
    buffered: Any = sys.stdout
    by_line = buffered.line_buffering
    buffered.reconfigure(line_buffering=True)
    try:
        yield
    finally:
        try:
            buffered.flush()
        except BrokenPipeError:
            pass  # stderr's reader is gone: nothing is lost that anybody wants
        finally:
            os.dup2(kept, 1)
            os.close(kept)
            buffered.reconfigure(line_buffering=by_line)


def _head(run: Run) -> str | None:
    try:
        return run.refresh().state()["head"]
    except KitaruError:
        return None


def _failed_since(run: Run, head: str) -> bool:
    try:
        state = run.state()
    except KitaruError:
        return False
    return bool(state["status"] == "failed" and state["head"] != head)


def _show_end(run: Run, *, as_json: bool) -> int:
    state = run.state()
    if as_json:
        result_json(state)
        return STATUS_EXITS.get(state["status"], 1)
    if state["status"] == "completed":
        output = state["output"]
        if isinstance(output, str):
            result(output)
        else:
            result_json(output)
    sys.stdout.flush()
    say(f"run {run.id}: {state['status']}")
    say(f"  {run.path}")
    say(f"  kitaru log {run.id}")
    say(f"  kitaru diff {run.id}@0")
    return STATUS_EXITS.get(state["status"], 1)


def _show_failure(run: Run, *, as_json: bool) -> int:
    state = run.state()
    error: dict[str, Any] = state["error"] or {}
    module, _, kind = str(error.get("type") or "Exception").rpartition(":")
    message = str(error.get("message") or "")
    first, _, more = message.partition("\n")
    is_ours = module.startswith("kitaru_fs.")
    hint = f"fix it, then `kitaru resume {run.id}`: the steps before the failure are not run again"
    if is_ours and more:
        hint = f"{more}\n{hint}"
    if as_json:
        result_json(state)
        problems.show_error(kind, first if is_ours else message, hint, as_json=True)
        return 1
    trace = str(error.get("traceback") or "").rstrip("\n")
    said = f": {message}"
    if trace.endswith(said) and (is_ours or not more):
        # The last line says it once more.
        trace = trace[: -len(said)].rpartition("\n")[0]
    if trace:
        say(printable_lines(trace))
    summary = f"{kind}: {first}".rstrip(": ")
    problems.show_error(kind, f"the flow {state['flow']!r} failed: {summary}", hint, as_json=False)
    say(f"  {run.path}")
    return 1


def _show_waiting(run: Run, *, as_json: bool) -> int:
    from kitaru_fs.cli.asked import how_to_answer, wait_lines

    state = run.state()
    if as_json:
        result_json(state)
        return STATUS_EXITS["waiting"]
    say(f"run {run.id} waits:")
    for wait in state["waits"]:
        say(f"  {printable(wait['name'], 80)}")
        for line in wait_lines(wait):
            say(f"    {line}")
        say(f"    {how_to_answer(wait, state['waits'])}")
    for topic in state.get("topics", ()):
        say(f"  for a message: kitaru send {run.id} {printable(topic, 80)} VALUE")
    if "until" in state:
        left = words.until(words.moment(state["until"]))
        say(f"  until {state['until']} ({left})")
    say(f"  {run.path}")
    say(f"  kitaru resume {run.id} goes on, once that has come")
    return STATUS_EXITS["waiting"]


def _show_stop(run: Run, why: str, *, as_json: bool) -> int:
    hint = f"kitaru resume {run.id} goes on"
    try:
        state = run.state()
    except KitaruError as error:
        return problems.show(error, as_json=as_json)
    if state["status"] in ("completed", "failed", "cancelled"):
        return show_state(run, as_json=as_json)
    if as_json:
        result_json(state)
        problems.show_error("RunInterrupted", f"interrupted ({why})", hint, as_json=True)
    elif "paused" in state:
        say(f"paused; {hint}")
        say(f"  {run.path}")
    else:
        say(f"interrupted ({why}); {hint}")
        say(f"  {run.path}")
    return 130
