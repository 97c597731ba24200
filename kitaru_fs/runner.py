"""Running a flow to its end: its result is the run's end, its exception the run's failure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from kitaru_fs.context import in_execution
from kitaru_fs.errors import (
    DivergenceError,
    HeldError,
    OutputError,
    RunCancelled,
    RunInterrupted,
    StorageError,
)
from kitaru_fs.execution import Execution
from kitaru_fs.failures import capture
from kitaru_fs.options import Options
from kitaru_fs.signatures import annotations_of, read_input
from kitaru_fs.values import NoJsonForm, codec_for

__all__ = ["Runnable", "run_to_end", "run_to_end_async"]


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
    execution = Execution.open(path, options)
    if execution.ended:
        return _recorded(execution, flow)
    with _driving(execution, flow) as result:
        bound = read_input(flow.name, flow.function, execution.request.input)
        _prepare(execution)
        with in_execution(execution):
            result.value = flow.function(*bound.args, **bound.kwargs)
    return result.value


async def run_to_end_async(path: Path, flow: Runnable, options: Options) -> Any:
    """Takes a run up and runs its flow, an `async def`, to its end; otherwise as `run_to_end`."""
    execution = Execution.open(path, options)
    if execution.ended:
        return _recorded(execution, flow)
    execution.other_tasks = set(asyncio.all_tasks()) - {asyncio.current_task()}
    with _driving(execution, flow) as result:
        bound = read_input(flow.name, flow.function, execution.request.input)
        _prepare(execution)
        with in_execution(execution):
            result.value = await flow.function(*bound.args, **bound.kwargs)
    return result.value


def _prepare(execution: Execution) -> None:
    if execution.on_open is not None:
        execution.on_open(execution)
    execution.ready()


def _recorded(execution: Execution, flow: Runnable) -> Any:
    try:
        if execution.status == "cancelled":
            raise RunCancelled(
                f"the run {execution.run} was cancelled",
                hint="rewind it to before that, or start another run",
                run=execution.run,
            )
        return _codec(flow).decode(execution.end_output())
    finally:
        execution.close()


@contextmanager
def _driving(execution: Execution, flow: Runnable) -> Generator[_Result]:
    result = _Result()
    # A disk that refused, or a lock that was lost, leaves the run as a crash would: nothing more
    # is written, and the next `resume` recovers.
    orderly = False
    try:
        try:
            yield result
            execution.complete(_encode(execution, flow, result.value))
            orderly = True
        except (StorageError, HeldError):
            raise
        except (DivergenceError, RunInterrupted) as error:
            execution.stop(error.message)
            orderly = True
            raise
        except Exception as error:
            _fail(execution, error)
            orderly = True
            raise
        except BaseException as error:
            # Ctrl-C, SIGTERM, a cancelled task: an orderly stop, the run can be resumed.
            execution.stop(type(error).__name__)
            orderly = True
            raise
    finally:
        execution.close(orderly=orderly)


def _fail(execution: Execution, error: Exception) -> None:
    if not execution.replay.finished:
        what = f"the flow raised {type(error).__name__}: {error}"
        divergence = execution.diverge(None, what)
        execution.stop("divergence")
        raise divergence from error
    execution.fail_run(capture(error).record(), execution.cause_of(error))


def _codec(flow: Runnable) -> Any:
    return codec_for(annotations_of(flow.function).get("return", Any))


def _encode(execution: Execution, flow: Runnable, value: Any) -> bytes:
    try:
        return bytes(_codec(flow).encode(value))
    except NoJsonForm as error:
        raise OutputError(
            f"the result of flow {flow.name!r} cannot be journaled: {error}",
            run=execution.run,
        ) from error
