"""What the tasks of a flow wait for, as far as an event loop tells."""

from __future__ import annotations

import asyncio
import gc
import inspect
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from types import CodeType, FrameType
from typing import Any, NamedTuple, cast

from kitaru_fs.engine.context import current_execution
from kitaru_fs.engine.execution import Execution

__all__ = ["Survey", "concerned", "horizon", "own_task", "survey", "will_wake"]

# How long others may take that could wake a task: threads, and what comes over a socket.
_THREADS_PATIENCE = 30.0
_SOCKETS_PATIENCE = 600.0
_GRACE = 0.05

_MOVES, _STANDS, _OPEN, _THREAD = "moves", "stands", "open", "thread"
_AS_COMPLETED = "_wait_for_one"
# By folder, file and function of the innermost frame; asyncio's own others move by themselves.
_WAITS: dict[tuple[str, str, str], str] = {
    ("asyncio", "taskgroups.py", ""): _STANDS,
    ("asyncio", "tasks.py", "_wait"): _STANDS,
    ("asyncio", "tasks.py", "wait_for"): _STANDS,
    ("asyncio", "tasks.py", _AS_COMPLETED): _STANDS,
    ("asyncio", "locks.py", "acquire"): _STANDS,
    ("asyncio", "locks.py", ""): _OPEN,
    ("asyncio", "queues.py", ""): _OPEN,
    ("asyncio", "threads.py", "to_thread"): _THREAD,
    ("asyncio", "", ""): _MOVES,
    ("_backends", "_asyncio.py", "__aexit__"): _STANDS,
    ("_backends", "_asyncio.py", "run_sync_in_worker_thread"): _THREAD,
}
_PLUMBING = frozenset({"anyio", "asyncio", "concurrent", "contextlib"})
_AGENTS = (("pydantic_ai",), ("pydantic_graph",))
_CLIENTS = (("fastmcp",), ("mcp",))
# The local variable of such a frame that holds what it waits for.
_HOLDS = {"_wait": "fs", "wait_for": "fut"}

_owners: weakref.WeakKeyDictionary[asyncio.Task[Any], Execution] = weakref.WeakKeyDictionary()


class Survey(NamedTuple):
    """What the tasks of a flow wait for.

    Attributes:
        moves: One of them can go on, or something that is under way will wake it; threads aside.
        is_open: One of them waits for what anything may bring: a queue, an event, another's task,
            the timer that cancelled it when the journal was written.
        others_move: As `moves` or `is_open`, leaving out the task that runs now.
        threads: How many of them wait for a thread.
        print: Changes as soon as a task goes on.
    """

    moves: bool
    is_open: bool
    others_move: bool
    threads: int
    print: frozenset[tuple[int, int]]


def own_task(execution: Execution | None) -> Execution | None:
    """Notes whose flow the running task is in; needed before Python 3.12 only.

    Returns:
        Whose it was in before.
    """
    task = asyncio.current_task()
    if task is None:
        return None
    before = _owners.get(task)
    if execution is None:
        _owners.pop(task, None)
    else:
        _owners[task] = execution
    return before


def survey(
    loop: asyncio.AbstractEventLoop,
    executions: Sequence[Execution],
    tickets: Mapping[asyncio.Future[Any], Future[Any]],
    only: set[asyncio.Task[Any]] | None = None,
) -> Survey:
    """Returns what the tasks of executions wait for.

    Args:
        loop: Their loop.
        executions: The executions; those that a run called come after it.
        tickets: The futures that wait for a replay, or for what comes from outside, and what
            fulfils them.
        only: Those of their tasks that are looked at; all by default.
    """
    tasks = _tasks_of(loop, executions) if only is None else only
    running = asyncio.current_task(loop)
    found: list[str] = []
    marks: set[tuple[int, int]] = {(one.replay.replayed, one.callers.waiting) for one in executions}
    for task in tasks:
        waiter: Any = getattr(task, "_fut_waiter", None)
        marks.add((id(task), id(waiter)))
        if task is not running:
            found.append(_state(task, waiter, tasks, tickets))
    threads = found.count(_THREAD)
    is_open = _OPEN in found or any(one.replay.waits_for_cancelled for one in executions)
    others = _MOVES in found or _OPEN in found
    return Survey(_MOVES in found, is_open, others, threads, frozenset(marks))


def concerned(
    loop: asyncio.AbstractEventLoop,
    executions: Sequence[Execution],
    tickets: Mapping[asyncio.Future[Any], Future[Any]],
) -> set[asyncio.Task[Any]]:
    """Returns the tasks on which it depends whether the flows of executions can go on.

    Those are the ones that the flows' own tasks wait for, directly or not: what else a flow has
    started, such as the reader of a connection that it keeps open, goes on for its own sake. Where
    one of them waits for what any task may bring, it depends on all.
    """
    tasks = _tasks_of(loop, executions)
    queue: list[Any] = [one.flow_task for one in executions]
    found: set[asyncio.Task[Any]] = set()
    while queue:
        one = queue.pop()
        if not isinstance(one, asyncio.Task):
            queue += (_inner(one) or ()) if one is not None else ()
            continue
        task = cast("asyncio.Task[Any]", one)
        if task in tasks and task not in found:
            found.add(task)
            awaited = _awaited(task, tickets)
            if awaited is None:
                return tasks
            queue += awaited
    return found


def _awaited(
    task: asyncio.Task[Any], tickets: Mapping[asyncio.Future[Any], Future[Any]]
) -> list[Any] | None:
    """The futures that a task waits for; None where that may be anything."""
    waiter: Any = getattr(task, "_fut_waiter", None)
    if waiter is None or waiter.done() or waiter in tickets:
        return []
    inner = _inner(waiter)
    if inner is not None:
        return inner
    code, frame = _innermost(task.get_coro())
    if code is None or frame is None:
        return None
    held: Any = frame.f_locals.get(_HOLDS.get(code.co_name, ""))
    if held is None:
        held = getattr(frame.f_locals.get("self"), "_tasks", None)  # a task group's
    match _by_frame(code):
        case "stands" if held is not None:
            return list(cast("set[Any]", held)) if isinstance(held, set) else [held]
        case "stands" | "open":
            return [] if _called_by(waiter, "_chain_future") else None
        case _:
            return []


def will_wake(loop: asyncio.AbstractEventLoop, tasks: set[asyncio.Task[Any]]) -> bool:
    """Says whether a timer is set that one of these tasks set for itself: a `wait_for`, say."""
    waiters = {id(getattr(task, "_fut_waiter", None)) for task in tasks}
    timers: Any = getattr(loop, "_scheduled", ())
    for timer in timers:
        if timer.cancelled():
            continue
        scope: Any = getattr(timer._callback, "__self__", None)
        for name in ("_task", "_host_task"):  # of asyncio's timeouts, of anyio's
            if getattr(scope, name, None) in tasks:
                return True
        if any(id(argument) in waiters for argument in timer._args or ()):
            return True
    return False


def _tasks_of(
    loop: asyncio.AbstractEventLoop, executions: Sequence[Execution]
) -> set[asyncio.Task[Any]]:
    found: set[asyncio.Task[Any]] = set()
    first = executions[0]
    for task in asyncio.all_tasks(loop):
        if sys.version_info >= (3, 12):
            owner = current_execution(task.get_context())
        else:
            owner = _owners.get(task, None if task in first.other_tasks else first)
        if owner in executions:
            found.add(task)
    return found


def _state(
    task: asyncio.Task[Any],
    waiter: Any,
    tasks: set[asyncio.Task[Any]],
    tickets: Mapping[asyncio.Future[Any], Future[Any]],
) -> str:
    if waiter is None or waiter.done():
        return _MOVES
    if waiter in tickets:
        return _MOVES if tickets[waiter].done() else _STANDS
    waits_for = _inner(waiter)
    if waits_for is not None:
        return _state_of_all(waits_for, tasks)
    code, frame = _innermost(task.get_coro())
    state = _by_frame(code)
    if code is not None and frame is not None and state is _STANDS and code.co_name in _HOLDS:
        inner: Any = frame.f_locals.get(_HOLDS[code.co_name])
        return _state_of_all(inner if isinstance(inner, set) else [inner], tasks)
    if state is _OPEN and _called_by(waiter, "_chain_future"):
        return _MOVES  # an executor's
    packages = _packages(task.get_coro())
    if packages[:1] in _CLIENTS or (state is _OPEN and packages[-1:] in _AGENTS):
        # It serves what steps ask of it; or others of its agent move it, on events of theirs.
        return _STANDS
    return state


def _packages(awaited: Any) -> tuple[str, ...]:
    """The packages whose coroutines a task is in, from the outermost on, plumbing left out."""
    found: list[str] = []
    while inspect.iscoroutine(awaited):
        if awaited.cr_frame is not None:
            package = str(awaited.cr_frame.f_globals.get("__name__")).partition(".")[0]
            if package not in _PLUMBING:
                found.append(package)
        awaited = awaited.cr_await
    return tuple(found)


def _state_of_all(waits_for: Any, tasks: set[asyncio.Task[Any]]) -> str:
    """The state of who waits for tasks, which have states of their own, and other futures."""
    pending = [one for one in cast("list[asyncio.Future[Any]]", list(waits_for)) if not one.done()]
    if all(one in tasks for one in pending):
        return _STANDS if pending else _MOVES
    others = [one for one in pending if one not in tasks]
    if any(not isinstance(one, asyncio.Task) and _inner(one) is None for one in others):
        return _MOVES if any(_called_by(one, "_chain_future") for one in others) else _OPEN
    return _OPEN


def _inner(waiter: Any) -> list[Any] | None:
    """The futures that a future stands for: a task's own, those of `gather` and `shield`."""
    if isinstance(waiter, asyncio.Task):
        return [cast(Any, waiter)]
    if type(waiter).__name__ == "_GatheringFuture":
        return list(getattr(waiter, "_children", ()))
    callback = _called_by(waiter, "shield.")
    if callback is None:
        return None
    cells = [cell.cell_contents for cell in callback.__closure__ or ()]
    return [one for one in cells if asyncio.isfuture(one) and one is not waiter]


def _called_by(future: Any, name: str) -> Any:
    """The callback of a future whose qualified name begins so, if there is one."""
    for callback, _ in getattr(future, "_callbacks", None) or ():
        if getattr(callback, "__qualname__", "").startswith(name):
            return callback
    return None


def _by_frame(code: CodeType | None) -> str:
    if code is None:
        return _OPEN
    folder, _, name = code.co_filename.replace("\\", "/").rpartition("/")
    folder = folder.rpartition("/")[2]
    for place in ((folder, name, code.co_name), (folder, name, ""), (folder, "", "")):
        if place in _WAITS:
            return _WAITS[place]
    return _OPEN


def _innermost(awaited: Any) -> tuple[CodeType | None, FrameType | None]:
    """The code and frame of the innermost coroutine or generator that a task awaits."""
    code: CodeType | None = None
    frame: FrameType | None = None
    while awaited is not None:
        if inspect.iscoroutine(awaited):
            code, frame, awaited = awaited.cr_code, awaited.cr_frame, awaited.cr_await
            if code.co_name == _AS_COMPLETED:
                break  # it waits in a queue that only its tasks fill
        elif inspect.isasyncgen(awaited):
            code, frame, awaited = awaited.ag_code, awaited.ag_frame, awaited.ag_await
        elif inspect.isgenerator(awaited):
            code, frame, awaited = awaited.gi_code, awaited.gi_frame, awaited.gi_yieldfrom
        else:
            # `__anext__`, `asend` and `athrow` do not say which generator they drive.
            driven = (
                one
                for one in gc.get_referents(awaited)
                if inspect.isasyncgen(one) or inspect.iscoroutine(one)
            )
            awaited = next(driven, None)
    return code, frame


def horizon(loop: asyncio.AbstractEventLoop, executions: Sequence[Execution]) -> float:
    """Returns until when a task may yet be woken that waits for anything, in the loop's time.

    All timers that are set now may have to do with it; so may, for a while, sockets, threads and
    tasks that are not the flow's.
    """
    now = loop.time()
    timers: Any = getattr(loop, "_scheduled", None)
    selector: Any = getattr(loop, "_selector", None)
    if timers is None or selector is None:
        return now + _SOCKETS_PATIENCE
    until = max((timer.when() for timer in timers if not timer.cancelled()), default=now)
    # One file is the loop's own, to be woken by.
    if len(selector.get_map()) > 1:
        until = max(until, now + _SOCKETS_PATIENCE)
    elif _has_threads() or asyncio.all_tasks(loop) - _tasks_of(loop, executions):
        until = max(until, now + _THREADS_PATIENCE)
    return until + _GRACE


def _has_threads() -> bool:
    """Says whether there are threads that may wake a task, ours left out."""
    here = threading.current_thread()
    return any(
        # A worker that is busy has a task that waits for it.
        thread is not here and not thread.name.startswith(("kitaru-", "AnyIO worker"))
        for thread in threading.enumerate()
    )
