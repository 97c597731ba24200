"""A started run, seen from the process that runs it."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

__all__ = ["RunHandle"]


class RunHandle:
    """A run that goes on in the background; awaited, it gives the flow's result.

    Attributes:
        id: The run's id.
        path: The run's directory. That of a run that a flow started is made a moment later.
        task: What runs an async flow.
        delivered: Somebody was given its result, or what it raised.
    """

    def __init__(self, path: Path) -> None:
        self.id = path.name
        self.path = path
        self.task: asyncio.Task[Any] | None = None
        self.delivered = False
        self._future: Future[Any] | None = None

    @classmethod
    def in_task(cls, path: Path, running: Coroutine[Any, Any, Any]) -> RunHandle:
        """Runs an async flow as a task of the running loop."""
        handle = cls(path)
        handle.task = asyncio.get_running_loop().create_task(running, name=path.name)
        return handle

    @classmethod
    def in_thread(cls, path: Path, run: Callable[[], Any]) -> RunHandle:
        """Runs a plain flow in a thread."""
        handle = cls(path)
        future: Future[Any] = Future()
        handle._future = future

        def work() -> None:
            try:
                future.set_result(contextvars.copy_context().run(run))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=work, name=path.name).start()
        return handle

    async def result(self) -> Any:
        """Waits for the run's end; returns the flow's result.

        Raises:
            Exception: What the flow raised.
        """
        running = self.task
        if running is None:
            assert self._future is not None
            running = asyncio.wrap_future(self._future)
        try:
            return await asyncio.shield(running)
        finally:
            self.delivered = self.delivered or running.done()

    def __await__(self) -> Generator[Any, None, Any]:
        return self.result().__await__()
