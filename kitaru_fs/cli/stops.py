"""Ctrl-C, SIGTERM and SIGHUP: the first is an orderly stop, a Ctrl-C after it a hard one.

So is `kitaru cancel` of the run, which is looked for as long as a step may take.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import threading
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from kitaru_fs.engine.guard import interrupt

if TYPE_CHECKING:
    from kitaru_fs.rundir.options import DrivenRun

__all__ = ["Stops"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# An event loop that has not reacted after so many seconds is blocked by plain code.
_PATIENCE = 0.5
# How often somebody may have asked for the run to be cancelled, in seconds.
_LOOK = 0.5
# What the handler writes into the pipe that gets a signal's number when it arrives.
_HEARD = b"\0"
_ATTEMPTS = 5


class Stops:
    """While it is entered, signals stop the run that it follows.

    A plain flow gets a `KeyboardInterrupt` where it is, except in the middle of a commit: then
    after it. An async flow's main task is cancelled; if plain code blocks the event loop, it gets
    the `KeyboardInterrupt` too.

    Attributes:
        asked: The name of the signal that asked for the stop; empty if none did.
    """

    def __init__(self) -> None:
        self.asked = ""
        self._pid = os.getpid()
        self._before: dict[signal.Signals, Any] = {}
        self._run: DrivenRun | None = None
        self._task: asyncio.Task[Any] | None = None
        self._taken_up = threading.Event()
        self._flow_ended = threading.Event()
        self._released = threading.Event()
        self._nudged = False
        self._rousing = 0
        self._wake = -1
        self._wake_before = -1

    def __enter__(self) -> Stops:
        reading, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        self._wake_before = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        threading.Thread(
            target=self._watch,
            args=(reading, threading.get_ident()),
            name="kitaru-stops",
            daemon=True,
        ).start()
        for number in _SIGNALS:
            before = signal.getsignal(number)
            # Ignored by who started us (`nohup`, a job in the background): it stays so.
            if before is not signal.SIG_IGN:
                self._before[number] = before
                signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
        for number, before in self._before.items():
            signal.signal(number, before)
        signal.set_wakeup_fd(self._wake_before)
        os.close(self._wake)

    def follow(self, run: DrivenRun) -> None:
        """Stops the flow that is about to run where this is called: its task, if it is async."""
        self._run = run
        threading.Thread(
            target=self._heed, args=(run, threading.get_ident()), name="kitaru-heed", daemon=True
        ).start()
        try:
            self._task = asyncio.current_task()
        except RuntimeError:
            return
        assert self._task is not None
        self._task.add_done_callback(lambda _: self._flow_ended.set())

    def release(self) -> None:
        """Follows the run no longer: it is at rest."""
        self._taken_up.set()
        self._flow_ended.set()
        self._released.set()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            _die(number)  # a process that a step forked: the signal is its own
        if number == self._rousing:
            self._rousing = 0
            return
        if self._nudged:
            self._nudged = False
            os.write(self._wake, _HEARD)
            if not self._released.is_set():
                interrupt(KeyboardInterrupt())
        elif not self.asked:
            self.asked = signal.Signals(number).name
            self._stop()
        elif number == signal.SIGINT:
            os.write(2, b"\nkitaru: stopped at once; `kitaru resume` sets things right\n")
            _die(number)

    def _stop(self) -> None:
        # No lock may be taken in a handler, so the watching thread is told through its pipe.
        os.write(self._wake, _HEARD)
        if self._run is not None:
            self._run.stopping()
        task = self._task
        if task is None or task.done():
            interrupt(KeyboardInterrupt())
            return
        task.get_loop().call_soon_threadsafe(self._cancel, task)

    def _cancel(self, task: asyncio.Task[Any]) -> None:
        self._taken_up.set()
        task.cancel()

    def _watch(self, reading: int, main: int) -> None:
        with os.fdopen(reading, "rb", buffering=0) as told:
            while number := told.read(1):
                is_heard = number == _HEARD or self._rouse(told.fileno(), number[0], main)
                if is_heard and self.asked:
                    break
            if self._task is not None and self.asked:
                self._insist(main)
            # Whoever writes into a pipe that nobody reads fails.
            while told.read(64):
                pass

    def _insist(self, main: int) -> None:
        if not self._taken_up.wait(_PATIENCE):
            self._nudge(main)
        # The run is at rest, but asyncio waits for threads, however long those take.
        self._flow_ended.wait()
        if not self._released.wait(_PATIENCE):
            self._nudge(main)

    def _rouse(self, told: int, number: int, main: int) -> bool:
        """Sees to it that a signal that has arrived is handled; whether it was.

        One that arrives as the main thread is about to wait in a system call does not end that
        wait, and Python handles it only afterwards.
        """
        for _ in range(_ATTEMPTS):
            if select.select([told], [], [], _PATIENCE)[0]:
                heard = os.read(told, 1)
                if heard in (_HEARD, b""):
                    return True
                continue
            self._rousing = signal.SIGTERM if number == signal.SIGINT else signal.SIGINT
            signal.pthread_kill(main, self._rousing)
        return False

    def _heed(self, run: DrivenRun, main: int) -> None:
        while not self._released.wait(_LOOK):
            if not run.is_asked("cancel"):
                continue
            if not self.asked:
                self.asked = "cancel"
                if self._task is None:
                    self._nudge(main)
                else:
                    self._stop()
            return

    def _nudge(self, main: int) -> None:
        self._nudged = True
        signal.pthread_kill(main, signal.SIGINT)


def _die(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
