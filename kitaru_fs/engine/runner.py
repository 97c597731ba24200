"""Running a flow to its end: its result is the run's end, its exception the run's failure."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from kitaru_fs.engine.aside import aside
from kitaru_fs.engine.context import in_execution
from kitaru_fs.engine.execution import Execution, drives_any
from kitaru_fs.engine.guard import deferring_interrupts
from kitaru_fs.engine.pending import Left
from kitaru_fs.engine.started import await_started, started_tasks
from kitaru_fs.engine.tasks import own_task
from kitaru_fs.errors import KitaruError, OutputError, RunCancelled
from kitaru_fs.rundir.options import Options
from kitaru_fs.values import NoJsonForm, ValueSchemaError, codec_for
from kitaru_fs.values.failures import capture
from kitaru_fs.values.signatures import annotations_of, read_input

__all__ = ["Runnable", "drive_run", "run_to_end", "run_to_end_async"]


class Runnable(Protocol):
    """A flow: its name and its function."""

    @property
    def name(self) -> str: ...
    @property
    def function(self) -> Callable[..., Any]: ...


class _Result:
    value: Any = None


def run_to_end(path: Path, flow: Runnable, options: Options) -> Any:
    """Takes a run up and runs its flow, a `def`, to its end.

    Returns:
        The flow's result; the recorded one if the run is completed already.

    Raises:
        RunCancelled: The run was cancelled.
        KitaruError: The run cannot go on.
        Exception: What the flow raised.
    """
    with deferring_interrupts():
        execution = Execution.open(path, options)
        if execution.ended:
            return _recorded(execution, flow)
        with _driving(execution, flow) as result:
            bound = _prepare(execution, flow)
            with in_execution(execution), execution.callers.runs():
                result.value = flow.function(*bound.args, **bound.kwargs)
        return result.value


def drive_run(path: Path, flow: Runnable, options: Options) -> Any:
    """Runs a flow to its end in plain code, whether it is async or not."""
    if inspect.iscoroutinefunction(flow.function):
        return asyncio.run(run_to_end_async(path, flow, options))
    return run_to_end(path, flow, options)


async def run_to_end_async(path: Path, flow: Runnable, options: Options) -> Any:
    """Takes a run up and runs its flow, an `async def`, to its end; otherwise as `run_to_end`."""
    if drives_any():
        execution = await aside(lambda: Execution.open(path, options))
    else:
        execution = Execution.open(path, options)
    if execution.ended:
        return _recorded(execution, flow)
    execution.loop = asyncio.get_running_loop()
    execution.flow_task = asyncio.current_task()
    owner = own_task(execution)
    execution.callers.loop_thread = threading.get_ident()
    execution.other_tasks = set(asyncio.all_tasks()) - {asyncio.current_task()}
    try:
        with _ending(execution, flow) as result:
            bound = _prepare(execution, flow)
            with in_execution(execution):
                try:
                    result.value = await flow.function(*bound.args, **bound.kwargs)
                    await await_started(execution)
                finally:
                    execution.flow_task = None
                    await _cancel_left(execution)
                    own_task(owner)
    finally:
        if drives_any(besides=execution):
            await aside(lambda: _close(execution))
        else:
            _close(execution)
    return result.value


async def _cancel_left(execution: Execution) -> None:
    """Cancels steps that go on after their flow: what they would write belongs to no step."""
    left = {attempt.task for attempt in execution.steps.in_flight() if attempt.task is not None}
    if execution.has_mailbox:
        left |= {one.task for one in execution.mailbox.pendings.values() if one.task is not None}
    left |= started_tasks(execution)
    left.discard(asyncio.current_task())
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


def _prepare(execution: Execution, flow: Runnable) -> inspect.BoundArguments:
    bound = read_input(flow.name, flow.function, execution.input())
    if execution.options.on_open is not None:
        execution.options.on_open(execution)
    execution.ready()
    return bound


def _recorded(execution: Execution, flow: Runnable) -> Any:
    try:
        if execution.status == "cancelled":
            raise RunCancelled(
                f"the run {execution.run} was cancelled",
                hint="rewind it to before that, or start another run",
                run=execution.run,
            )
        return _codec(flow).decode(execution.end_output())
    except ValueSchemaError as error:
        raise OutputError(
            f"the recorded result of run {execution.run} does not fit the return type of flow"
            f" {flow.name!r} any more: {error}",
            hint="put the return type back",
            run=execution.run,
        ) from error
    finally:
        execution.close()


@contextmanager
def _driving(execution: Execution, flow: Runnable) -> Generator[_Result]:
    try:
        with _ending(execution, flow) as result:
            yield result
    finally:
        _close(execution)


@contextmanager
def _ending(execution: Execution, flow: Runnable) -> Generator[_Result]:
    result = _Result()
    try:
        yield result
        execution.ending.complete(_encode(execution, flow, result.value))
    except BaseException as error:
        raised = _ended_by(execution, error)
        if raised is error:
            raise
        raise raised from error


def _close(execution: Execution) -> None:
    # After an error in writing, the run is left as a crash would leave it: nothing more is written,
    # and the next `resume` recovers.
    execution.close(orderly=not execution.damaged)


def _ended_by(execution: Execution, error: BaseException) -> BaseException:
    """Records how a flow ended that raised; returns what its caller gets."""
    if execution.halted is None and isinstance(error, Exception):
        try:
            execution.ending.fail(error, capture(error, execution.secrecy.cut).record())
            return error
        except KitaruError as other:
            if execution.halted is None:
                return other
    if execution.halted is None:
        # Ctrl-C, SIGTERM, a cancelled task: an orderly stop, the run can be resumed.
        execution.ending.stop(type(error).__name__)
        return error
    if not execution.damaged:
        execution.ending.stop(execution.halted.message)
    if execution.leaving == "along" and isinstance(error, asyncio.CancelledError | Left):
        return error  # the flow that called this one is left as well
    if execution.cancelled and _is_cancelled_besides():
        return error
    # Whatever the flow made of it: grouped, wrapped, or swallowed.
    return execution.halted


def _is_cancelled_besides() -> bool:
    """Takes our cancelling of the running task back; says whether anybody else cancelled it."""
    task = asyncio.current_task()
    return task is not None and task.uncancel() > 0


def _codec(flow: Runnable) -> Any:
    return codec_for(annotations_of(flow.function).get("return", Any))


def _encode(execution: Execution, flow: Runnable, value: Any) -> bytes:
    try:
        return bytes(_codec(flow).encode(value))
    except NoJsonForm as error:
        raise OutputError(
            f"the result of flow {flow.name!r} cannot be journaled: {error.finding}",
            hint=error.advice,
            run=execution.run,
        ) from error
