"""Which threads run plain code of a flow, and which of them wait for its replay.

Where all that could make a call wait, no call will come: then the flow has left its journal.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

__all__ = ["Callers"]


class Callers:
    """The threads that make calls in one execution.

    Attributes:
        waiting: How many of them wait for an outcome.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._known: set[int] = set()
        self.waiting = 0

    @contextmanager
    def runs(self) -> Generator[None]:
        """While it is entered, this thread runs plain code of the flow."""
        thread = threading.get_ident()
        if thread in self._known:
            yield
            return
        self._known.add(thread)
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)
            self._known.discard(thread)

    @contextmanager
    def waits(self, *, of_a_task: bool) -> Generator[None]:
        """While it is entered, this thread waits for an outcome.

        Args:
            of_a_task: A task of the flow waits for the thread: `all_wait` is told of it.
        """
        # One that the flow's own code started, unknown to us until now.
        strange = not of_a_task and threading.get_ident() not in self._known
        self._count(int(strange), waiting=1)
        try:
            yield
        finally:
            self._count(-int(strange), waiting=-1)

    @contextmanager
    def fan_out(self, calls: int, threads: int) -> Generator[Callable[[], None]]:
        """While it is entered, this thread waits for others that make so many calls.

        Yields:
            To be called as each call has ended.
        """
        left = calls
        over = False

        def ended() -> None:
            nonlocal left
            with self._lock:
                if not over:
                    # A thread that is done takes the next call, if there is one.
                    self._running -= min(threads, left) - min(threads, left - 1)
                    left -= 1

        self._count(min(threads, calls) - 1)
        try:
            yield ended
        finally:
            with self._lock:
                over = True
                self._running += 1 - min(threads, left)

    def all_wait(self, of_tasks: int = 0) -> bool:
        """Says whether every thread waits, those that so many tasks wait for included."""
        with self._lock:
            return self.waiting >= self._running + of_tasks

    def _count(self, running: int, *, waiting: int = 0) -> None:
        with self._lock:
            self._running += running
            self.waiting += waiting
