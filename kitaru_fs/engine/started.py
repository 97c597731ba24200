"""The runs that a flow started beside itself: it does not end before they do."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Coroutine
from typing import Any, Protocol

from kitaru_fs.engine.execution import Execution

__all__ = ["Started", "await_started", "note_started", "started_tasks"]


class Started(Protocol):
    """A run that a flow started."""

    task: asyncio.Task[Any] | None
    delivered: bool

    def result(self) -> Coroutine[Any, Any, Any]: ...


_started: weakref.WeakKeyDictionary[Execution, list[Started]] = weakref.WeakKeyDictionary()


def note_started(execution: Execution, handle: Started) -> None:
    """Notes that a flow started a run."""
    _started.setdefault(execution, []).append(handle)


async def await_started(execution: Execution) -> None:
    """Waits for the runs that a flow started and did not await, in the order that it started them.

    Raises:
        Exception: What the first of them raised that raised anything.
    """
    for handle in _started.get(execution, ()):
        if not handle.delivered:
            await handle.result()


def started_tasks(execution: Execution) -> set[asyncio.Task[Any]]:
    """Returns what runs the runs that a flow started."""
    tasks = {handle.task for handle in _started.get(execution, ())}
    return {task for task in tasks if task is not None}
