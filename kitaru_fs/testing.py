"""For tests of your own flows: run one, kill it at a step, replay it, compare two runs.

    from kitaru_fs.testing import assert_replays, assert_same, crash, run_flow, temporary_workspace

    def test_digest():
        with temporary_workspace() as workspace:
            whole = run_flow(workspace, digest, chapters=3)
            assert whole.status == "completed"
            assert_replays(whole, digest)

            killed = crash(workspace, digest, chapters=3, at=2)
            assert_same(whole, resume(killed, digest))

Nothing here needs pytest; what does not hold is an `AssertionError`. Call it from plain functions:
`crash` forks the process, which must not have an event loop running.
"""

from __future__ import annotations

import os
import signal
import tempfile
import warnings
from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import msgspec

from kitaru_fs.engine.runner import Runnable, drive_run
from kitaru_fs.errors import KitaruError, UsageError
from kitaru_fs.run import Run
from kitaru_fs.rundir.events import Event, Listener
from kitaru_fs.values.signatures import bind_input
from kitaru_fs.workspace import Workspace

__all__ = [
    "VOLATILE",
    "assert_replays",
    "assert_same",
    "crash",
    "die",
    "differences",
    "resume",
    "run_flow",
    "temporary_workspace",
]

VOLATILE = frozenset(
    {"timestamp", "run_id", "conversation_id", "tool_call_id", "provider_response_id", "after"}
)
"""Keys of outputs and arguments that two runs of one flow need not have in common."""

_DOES = frozenset({"step", "model", "tool", "child", "wait", "sleep", "failed", "intent"})
_dying = False


@contextmanager
def temporary_workspace(settings: str = "") -> Generator[Workspace]:
    """Makes a workspace that is gone afterwards; meanwhile it is the one that flows run in.

    Args:
        settings: What its `kitaru.toml` holds. Unless it says otherwise, steps are not flushed to
            the disk one by one: a test's power does not fail.
    """
    if "durability" not in settings:
        settings = f'durability = "process"\n{settings}'
    before = os.environ.get("KITARU_WORKSPACE")
    with tempfile.TemporaryDirectory(prefix="kitaru-", ignore_cleanup_errors=True) as place:
        (Path(place) / "kitaru.toml").write_text(settings)
        os.environ["KITARU_WORKSPACE"] = place
        try:
            yield Workspace(place)
        finally:
            if before is None:
                del os.environ["KITARU_WORKSPACE"]
            else:
                os.environ["KITARU_WORKSPACE"] = before


def run_flow(workspace: Workspace, flow: Any, /, *args: Any, **kwargs: Any) -> Run:
    """Runs a flow to its end, or to where it waits.

    Args:
        workspace: Where.
        flow: The flow, async or not.
        args: Its arguments.

    Returns:
        The run: see its `status`, `output`, `error` and `log()`. What the flow raised is not raised
        here.

    Raises:
        UsageError: The arguments do not fit.
        KitaruError: The run cannot go on (it diverged, say).
    """
    path = workspace.create(flow, bind_input(flow.name, flow.function, args, kwargs))
    return resume(Run(path, workspace), flow)


def resume(run: Run, flow: Any) -> Run:
    """Goes on with a run, to its end or to where it waits; otherwise as `run_flow`."""
    _drive(run, flow, None)
    return Run(run.path, run.workspace)


def crash(workspace: Workspace, flow: Any, /, *args: Any, at: int | str, **kwargs: Any) -> Run:
    """Runs a flow in a process of its own that is killed with SIGKILL, as by a power cut.

    Args:
        workspace: Where.
        flow: The flow, async or not.
        args: Its arguments.
        at: A step's number, or its name: killed when it begins. A step that is to be killed in the
            middle calls `die()`; with `at="die"` nothing else kills.

    Returns:
        The run, which can be resumed.

    Raises:
        AssertionError: The flow ended before.
    """
    path = workspace.create(flow, bind_input(flow.name, flow.function, args, kwargs))
    run = Run(path, workspace)
    _in_child(lambda: _drive(run, flow, _killer(at)), f"the flow ended before {at!r}")
    return Run(path, workspace)


def die() -> None:
    """Kills this process, if it is one of `crash`; anywhere else nothing happens."""
    if _dying:
        os.kill(os.getpid(), signal.SIGKILL)


def assert_replays(run: Run, flow: Any) -> None:
    """Replays a completed run, in a copy of it, and sees that nothing is executed.

    Args:
        run: The run.
        flow: Its flow.

    Raises:
        AssertionError: A step was executed, or the result is another one.
    """
    if run.status != "completed":
        raise AssertionError(f"the run {run.id} is {run.status}, so its replay cannot be whole")
    end = run.log()[-1]
    copy = run.fork(str(end.step))
    kept = len(copy.log())
    again = resume(copy, flow)
    done = [line.subject for line in again.log()[kept:] if line.kind in _DOES]
    if done:
        raise AssertionError(f"the replay of {run.id} executed: {', '.join(done)}")
    if again.status != "completed":
        raise AssertionError(f"the replay of {run.id} is {again.status}: {again.error}")
    if _steady(again.output, VOLATILE) != _steady(run.output, VOLATILE):
        raise AssertionError(
            f"the replay of {run.id} returned {again.output!r}, and not {run.output!r}"
        )


def assert_same(one: Run, other: Run, *, ignore: Collection[str] = VOLATILE) -> None:
    """Sees that two runs did the same; see `differences`.

    Raises:
        AssertionError: They did not; it lists the differences.
    """
    found = differences(one, other, ignore=ignore)
    if found:
        raise AssertionError(f"{one.id} and {other.id} differ:\n  " + "\n  ".join(found))


def differences(one: Run, other: Run, *, ignore: Collection[str] = VOLATILE) -> list[str]:
    """Returns how two runs differ, a sentence each: status, output, cost, files, and their steps.

    Steps are compared by name, whatever finished first; attempts that failed, resumes and how long
    anything took do not count.

    Args:
        one: A run.
        other: Another, of the same flow.
        ignore: Keys of outputs and arguments that do not count, at any depth.
    """
    left, right = _Seen(one, ignore), _Seen(other, ignore)
    found: list[str] = []
    for what in ("status", "output", "usage"):
        mine, yours = getattr(left, what), getattr(right, what)
        if mine != yours:
            found.append(f"{what}: {_short(mine)} and {_short(yours)}")
    for name in sorted(left.files.keys() | right.files.keys()):
        if left.files.get(name) != right.files.get(name):
            found.append(f"files/{name}: {_short(left.files.get(name))} and"
                         f" {_short(right.files.get(name))}")  # fmt: skip
    for name in sorted(left.steps.keys() | right.steps.keys()):
        mine, yours = left.steps.get(name, []), right.steps.get(name, [])
        if len(mine) != len(yours):
            found.append(f"{name}: {len(mine)} times and {len(yours)} times")
        else:
            found += [
                f"{name}#{number}: {_short(step)} and {_short(match)}"
                for number, (step, match) in enumerate(zip(mine, yours, strict=True), 1)
                if step != match
            ]
    return found


class _Seen:
    """What of a run is compared."""

    def __init__(self, run: Run, ignore: Collection[str]) -> None:
        self.status = run.status
        self.output = _steady(run.output, ignore)
        self.usage = run.state()["usage"]
        self.files = dict(_contents(run.path / "files"))
        self.steps: dict[str, list[str]] = {}
        for line in run.log():
            if line.kind in _DOES - {"failed", "intent"} and line.step is not None:
                shown = run.show(str(line.step))
                given = _steady(msgspec.to_builtins(shown.entry.input), ignore)
                step = {"input": given, "output": _steady(shown.output, ignore)}
                text = msgspec.json.encode(step, order="sorted").decode()
                self.steps.setdefault(line.name, []).append(text)
        for steps in self.steps.values():
            steps.sort()


def _contents(files: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(files.rglob("*")):
        name = str(path.relative_to(files))
        if path.is_symlink():
            yield name, f"-> {os.readlink(path)}"
        elif path.is_file():
            yield name, path.read_bytes().decode("utf-8", "backslashreplace")


def _steady(value: Any, ignore: Collection[str]) -> Any:
    if isinstance(value, Mapping):
        table = cast("Mapping[str, Any]", value)
        return {name: _steady(item, ignore) for name, item in table.items() if name not in ignore}
    if isinstance(value, list):
        return [_steady(item, ignore) for item in cast("list[Any]", value)]
    return value


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 300 else f"{text[:300]}…"


def _drive(run: Run, flow: Runnable, listener: Listener | None) -> None:
    options = run.workspace.options(purpose="run", listener=listener, code=())
    try:
        drive_run(run.path, flow, options)
    except UsageError:
        raise
    except KitaruError:
        if Run(run.path, run.workspace).status not in ("failed", "waiting", "cancelled"):
            raise
    except Exception:
        # It is the flow's own: the run tells.
        if Run(run.path, run.workspace).status != "failed":
            raise


def _killer(at: int | str) -> Listener:
    last = 0

    def listen(event: Event) -> None:
        nonlocal last
        last = max(last, event.step)
        if event.kind == "started" and at in (event.name, last + 1):
            die()

    return listen


def _in_child(action: Any, otherwise: str) -> None:
    with warnings.catch_warnings():
        # The test runner's own threads hold nothing that the child needs.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        global _dying
        _dying = True
        os.setsid()
        try:
            action()
        finally:
            os._exit(17)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        raise AssertionError(otherwise)
