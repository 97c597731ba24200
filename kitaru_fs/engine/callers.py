"""Which threads run plain code of a flow, and which of them wait for its replay.

Where all that could make a call wait, no call will come: then the flow has left its journal.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from typing import Any

__all__ = ["Callers"]

Work = AbstractContextManager[None]


class Callers:
    """The threads that make calls in one execution.

    Attributes:
        running: How many there are.
        loop_thread: The thread of an async flow's loop.
        block_loop: It is in plain code: no task can go on.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.running = 0
        self._known: set[int] = set()
        self._tickets: list[Future[Any]] = []
        self.loop_thread: int | None = None
        self.block_loop = False

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
    def plain_code(self) -> Generator[None]:
        """While it is entered, this thread is in plain code of the flow, and not yet waiting."""
        if threading.get_ident() != self.loop_thread:
            yield
            return
        outer, self.block_loop = self.block_loop, True
        try:
            with self.runs():
                yield
        finally:
            self.block_loop = outer

    @contextmanager
    def waits(self, ticket: Future[Any], *, of_a_task: bool) -> Generator[None]:
        """While it is entered, this thread waits for what fulfils a ticket.

        Args:
            ticket: The ticket. A thread whose ticket is fulfilled does not wait any more, though
                it has not had its turn yet.
            of_a_task: A task of the flow waits for the thread: `all_wait` is told of it.
        """
        # One that the flow's own code started, unknown to us until now.
        strange = not of_a_task and threading.get_ident() not in self._known
        self._count(int(strange))
        self._tickets.append(ticket)
        try:
            yield
        finally:
            self._tickets.remove(ticket)
            self._count(-int(strange))

    @property
    def waiting(self) -> int:
        """How many threads wait."""
        return sum(not ticket.done() for ticket in list(self._tickets))

    @contextmanager
    def fan_out(self, calls: int, threads: int) -> Generator[Callable[[], Work]]:
        """While it is entered, this thread waits for others that make so many calls.

        Yields:
            What each of those threads enters for each of the calls.
        """
        left = calls
        over = False

        @contextmanager
        def work() -> Generator[None]:
            nonlocal left
            thread = threading.get_ident()
            self._known.add(thread)
            try:
                yield
            finally:
                self._known.discard(thread)
                with self._lock:
                    if not over:
                        # A thread that is done takes the next call, if there is one.
                        self.running -= min(threads, left) - min(threads, left - 1)
                        left -= 1

        self._count(min(threads, calls) - 1)
        try:
            yield work
        finally:
            with self._lock:
                over = True
                self.running += 1 - min(threads, left)

    def all_wait(self, of_tasks: int = 0) -> bool:
        """Says whether every thread waits, those that so many tasks wait for included."""
        with self._lock:
            return self.waiting >= self.running + of_tasks

    def _count(self, running: int) -> None:
        with self._lock:
            self.running += running
