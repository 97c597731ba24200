"""Asking the user on a terminal what a run that it drives waits for.

A thread reads the terminal, so the run goes on beside; the reply goes the way of every other one.
Ctrl-D leaves a question open.
"""

from __future__ import annotations

import os
import select
import sys
import threading
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kitaru_fs.cli.asked import wait_lines
from kitaru_fs.errors import KitaruError
from kitaru_fs.quoting import printable

if TYPE_CHECKING:
    from kitaru_fs.entry import Entry
    from kitaru_fs.run import Run
    from kitaru_fs.rundir.events import Listener

__all__ = ["Prompter", "prompting"]


class _Question(NamedTuple):
    path: Path
    entry: Entry


class Prompter:
    """Asks the questions that are open, one after the other.

    Args:
        run: The run that this process drives.
        listener: Told what to show.
    """

    def __init__(self, run: Run, listener: Listener) -> None:
        self._run = run
        self._listener = listener
        self._open: deque[_Question] = deque()
        self._state = threading.Condition(threading.Lock())
        self._closed = False
        self._waking, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._work, name="kitaru-prompt", daemon=True)
        self._thread.start()

    # What the run says, from any thread

    @property
    def is_asking(self) -> bool:
        """Whether a question is before the user, who has time."""
        return bool(self._open)

    def ask(self, path: Path, question: Entry) -> None:
        """Takes a question."""
        with self._state:
            self._open.append(_Question(path, question))
            self._state.notify()

    def over(self, path: Path, question: Entry) -> None:
        """Takes a question back: it was answered otherwise, or is asked no more."""
        with self._state:
            kept = [one for one in self._open if one.entry is not question]
            if len(kept) < len(self._open):
                self._open = deque(kept)
                os.write(self._wake, b".")

    def close(self) -> None:
        """Asks no more."""
        with self._state:
            self._closed = True
            self._open.clear()
            self._state.notify()
            os.write(self._wake, b".")
        self._thread.join()
        os.close(self._waking)
        os.close(self._wake)

    # Asking, in a thread

    def _work(self) -> None:
        while True:
            with self._state:
                while not self._open and not self._closed:
                    self._state.wait()
                if self._closed:
                    return
                question = self._open[0]
            self._put(question)

    def _put(self, question: _Question) -> None:
        """Asks one question until it is answered, left open, or over."""
        from kitaru_fs.awaited import OpenWait
        from kitaru_fs.rundir.delivery import deliver_reply

        wait = OpenWait(question.path, question.entry, [])
        lines = [printable(question.entry.name, 80), *wait_lines(wait.to_json())]
        self._show("prompt", "\n  ".join(lines))
        while (text := self._read(question)) is not None:
            try:
                raw = wait.read_text(text)
                options = self._run.workspace.options(purpose="answer")
                deliver_reply(question.path, options, question.entry, raw)
                break
            except KitaruError as error:
                self._show("prompt", f"{error.message.rpartition(': ')[2]}; once more, please")
        self._show("prompted", "")
        with self._state:
            if self._open and self._open[0] is question:
                self._open.popleft()

    def _read(self, question: _Question) -> str | None:
        """Returns a line that the user wrote; None if they leave it open, or it is over."""
        while self._open and self._open[0] is question:
            ready, _, _ = select.select([0, self._waking], [], [])
            if self._waking in ready:
                os.read(self._waking, 1)
            elif line := os.read(0, 1 << 16):
                return line.decode("utf-8", "replace").rstrip("\r\n")
            else:
                return None
        return None

    def _show(self, kind: str, text: str) -> None:
        from kitaru_fs.rundir.events import Event

        self._listener(Event(kind=kind, run=self._run.id, name="", text=text))


@contextmanager
def prompting(run: Run, listener: Listener | None, *, wanted: bool) -> Generator[Prompter | None]:
    """Yields who asks the user, where there is a terminal with one at it.

    Args:
        run: The run that this process drives.
        listener: Told what to show.
        wanted: Whether they are to be asked at all.
    """
    if not wanted or listener is None or not _has_user():
        yield None
        return
    prompter = Prompter(run, listener)
    try:
        yield prompter
    finally:
        prompter.close()


def _has_user() -> bool:
    try:
        # A job in the background would be stopped if it read.
        return sys.stdin.isatty() and os.tcgetpgrp(0) == os.getpgrp()
    except (OSError, ValueError):
        return False
