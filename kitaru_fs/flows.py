"""`@flow`: a function whose execution is a run, a directory of its own."""

from __future__ import annotations

import asyncio
import functools
import inspect
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar, cast, overload

from kitaru_fs.clock import new_run_id, stamp
from kitaru_fs.engine.aside import aside
from kitaru_fs.engine.context import current_attempt, current_execution
from kitaru_fs.engine.execution import Execution, drives_any
from kitaru_fs.engine.protocol import Policy
from kitaru_fs.engine.replay import Call
from kitaru_fs.engine.runner import run_to_end, run_to_end_async
from kitaru_fs.engine.started import note_started
from kitaru_fs.errors import UsageError
from kitaru_fs.handle import RunHandle
from kitaru_fs.rundir.creation import create_run
from kitaru_fs.rundir.options import Options
from kitaru_fs.rundir.repository import Request
from kitaru_fs.steps import call_step, call_step_async
from kitaru_fs.values import Codec, codec_for
from kitaru_fs.values.signatures import annotations_of, bind_input, record_arguments

__all__ = ["Flow", "flow", "flows_named"]

P = ParamSpec("P")
R = TypeVar("R")

_ONCE = Policy()


_known: dict[str, weakref.WeakSet[Flow[Any, Any]]] = {}


def flows_named(name: str) -> list[Flow[Any, Any]]:
    """Returns the flows of a name in the modules that are loaded."""
    return list(_known.get(name, ()))


class Flow(Generic[P, R]):
    """A function made durable by `@flow`. Called as the function is.

    Outside a flow a call is a durable run in the workspace of the current directory; in a flow it
    is a child run; in a step it is the plain function.
    """

    def __init__(self, function: Callable[P, R], *, name: str | None) -> None:
        functools.update_wrapper(self, function)
        self.function: Callable[..., Any] = function
        self.name = name or function.__name__
        self.__kitaru_flow__ = self.name
        self.is_async = inspect.iscoroutinefunction(function)
        _known.setdefault(self.name, weakref.WeakSet()).add(self)

    @property
    def codec(self) -> Codec:
        """Writes and reads its result."""
        return codec_for(annotations_of(self.function).get("return", Any))

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        execution = current_execution()
        if execution is None:
            return cast("R", self._run(args, kwargs))
        if current_attempt() is not None:
            return cast("R", self.function(*args, **kwargs))
        return cast("R", self._child(execution, args, kwargs))

    def start(self, *args: P.args, **kwargs: P.kwargs) -> RunHandle:
        """Starts a run of the flow and returns at once.

        An async flow runs as a task of the running loop, a plain one in a thread. Started in an
        async flow it is a child run, as one that is called; the flow that started it ends after it,
        and with what it raised, if nobody awaited it.

        Returns:
            The run's handle: `id`, `path`, `await handle`.

        Raises:
            UsageError: The arguments do not fit, there is no workspace, or it is called in a step
                or in a plain flow.
        """
        from kitaru_fs.workspace import Workspace

        execution = current_execution()
        if execution is not None:
            return self._start_child(execution, args, kwargs)
        workspace = Workspace.current()
        recorded = bind_input(self.name, self.function, args, kwargs)
        options = workspace.options(purpose="run", target=self)
        path = workspace.create(self, recorded, code=options.code)
        if self.is_async:
            return RunHandle.in_task(path, run_to_end_async(path, self, options))
        return RunHandle.in_thread(path, functools.partial(run_to_end, path, self, options))

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        from kitaru_fs.workspace import Workspace

        workspace = Workspace.current()
        recorded = bind_input(self.name, self.function, args, kwargs)
        options = workspace.options(purpose="run", target=self)

        def make() -> Path:
            return workspace.create(self, recorded, code=options.code)

        if not self.is_async:
            return run_to_end(make(), self, options)

        async def run() -> Any:
            # Made here: a call that is never awaited makes no run, as it runs no function.
            # Where runs are driven, they go on while the disk is waited for.
            path = await aside(make) if drives_any() else make()
            return await run_to_end_async(path, self, options)

        return run()

    def _start_child(
        self, execution: Execution, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> RunHandle:
        if current_attempt() is not None:
            raise UsageError(
                f"{self.name}.start() was called in a step",
                hint="call the flow, as part of the step; or start it in the flow itself",
            )
        if execution.loop is None or not _runs_in(execution.loop):
            raise UsageError(
                f"{self.name}.start() was called in plain code of a flow, where no loop runs it",
                hint="start it in an `async def` flow; or call it, as a child run",
            )
        child = self._child_call(execution, args, kwargs)
        # Known at once, and the same on replay: the flow may say it to its steps.
        run = execution.observations.observe(f"run of {child.call.key}", self._new_run_id)
        child = child._replace(run=_recorded_child(execution, child.call.key) or run)
        running = (
            self._run_child_async(child)
            if self.is_async
            else asyncio.to_thread(self._run_child, child)
        )
        handle = RunHandle.in_task(execution.path.parent / child.run, running)
        note_started(execution, handle)
        return handle

    def _child(self, execution: Execution, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        child = self._child_call(execution, args, kwargs)
        return self._run_child_async(child) if self.is_async else self._run_child(child)

    def _child_call(
        self, execution: Execution, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> _Child:
        recorded = bind_input(self.name, self.function, args, kwargs)
        annotations = annotations_of(self.function)
        bound = inspect.signature(self.function).bind(*args, **kwargs)
        arguments = record_arguments(bound.arguments, annotations, execution.secrecy.mask)
        key = execution.secrecy.call_key(self.name, arguments)
        call = Call(key, self.name, "child", arguments)
        return _Child(execution, call, recorded, execution.options.for_child(execution))

    def _run_child(self, child: _Child) -> Any:
        def body() -> Any:
            return run_to_end(self._child_path(child), self, child.options)

        return call_step(child.execution, child.call, self.codec, body, _ONCE)

    def _run_child_async(self, child: _Child) -> Coroutine[Any, Any, Any]:
        async def body() -> Any:
            return await run_to_end_async(self._child_path(child), self, child.options)

        return call_step_async(child.execution, child.call, self.codec, body, _ONCE)

    def _new_run_id(self) -> str:
        return new_run_id(self.name)

    def _child_path(self, child: _Child) -> Path:
        from kitaru_fs.targets.target import target_of

        execution, call = child.execution, child.call
        runs = execution.path.parent
        run = _recorded_child(execution, call.key)
        if run is None or call.key not in execution.replay.open:
            run = run or child.run or self._new_run_id()
            execution.steps.begin_child(call, run)
        path = runs / run
        if not path.exists():
            request = Request(
                run=run,
                flow=self.name,
                target=target_of(runs.parent, self).spec,
                created=stamp(),
                input=child.recorded,
                parent={"run": execution.run, "key": call.key},
            )
            options = execution.options.for_child()
            create_run(
                runs,
                request,
                code=options.code,
                exclude=options.exclude,
                max_file=options.max_file,
                durable=options.durable,
                credentials=options.credentials,
            )
        return path


class _Child(NamedTuple):
    """A call of a flow in a flow.

    Attributes:
        execution: The run that calls.
        call: The call, as it is journaled.
        recorded: The arguments, as the child records them.
        options: How it is driven.
        run: The child's id, where that is known before it begins.
    """

    execution: Execution
    call: Call
    recorded: dict[str, Any]
    options: Options
    run: str = ""


def _runs_in(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def _recorded_child(execution: Execution, key: str) -> str | None:
    """The child that the journal names for a call; None if there is none, or it is another's."""
    run = execution.replay.children.get(key)
    if run is None or not _belongs(execution.path.parent / run, execution.run, key):
        return None
    return run


def _belongs(path: Path, parent: str, key: str) -> bool:
    """Says whether a recorded child is this run's: a copy of a run has children of its own."""
    if not path.exists():
        return True
    from kitaru_fs.rundir.repository import decode_request

    request = decode_request((path / "run.json").read_bytes(), path / "run.json")
    return request.parent == {"run": parent, "key": key}


@overload
def flow(function: Callable[P, R], /) -> Flow[P, R]: ...
@overload
def flow(*, name: str | None = None) -> Callable[[Callable[P, R]], Flow[P, R]]: ...
def flow(function: Callable[P, R] | None = None, /, *, name: str | None = None) -> Any:
    """Makes a function a flow: the unit that is run, resumed and rewound.

    Args:
        function: The function, `def` or `async def`; its arguments and its result have JSON forms.
        name: The flow's name; the function's own by default.

    Raises:
        UsageError: The function is a generator.
    """

    def decorate(function: Callable[P, R]) -> Flow[P, R]:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise UsageError(
                f"@flow: {function.__name__} is a generator, whose result cannot be journaled",
                hint="return a list instead of yielding",
            )
        return Flow(function, name=name)

    return decorate if function is None else decorate(function)
