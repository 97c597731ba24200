"""Letting git see what was committed, a moment later: it is durable, so nobody waits for it.

A loose object is a file, and making files is what a quick step would spend its time on. So commits
go into the log alone, and one thread of the process publishes them once no run of the process has
committed for `PAUSE` seconds, at the latest after `LONGEST`. Steps that talk to a model or a
process are far apart: theirs are published each, before the next one ends.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from time import monotonic

__all__ = ["LONGEST", "PAUSE", "Publication"]

PAUSE = 0.01
LONGEST = 5.0
# A thread that has had nothing to do for so long ends.
_IDLE = 5.0


class Publication:
    """What of one run is to be published.

    Args:
        publish: Publishes all that was committed; never raises.
    """

    def __init__(self, publish: Callable[[], None]) -> None:
        self.publish = publish
        self.since: float | None = None

    def due(self) -> None:
        """Notes that something was committed."""
        if PAUSE > 0:
            _publisher.note(self)
        else:
            self.publish()

    def close(self) -> None:
        """Forgets it: what is left is the caller's to publish."""
        _publisher.forget(self)


class _Publisher:
    def __init__(self) -> None:
        self._state = threading.Condition(threading.Lock())
        self._waiting: dict[Publication, None] = {}
        self._last = 0.0
        self._thread: threading.Thread | None = None

    def note(self, publication: Publication) -> None:
        self._last = monotonic()
        if publication.since is not None:
            return
        with self._state:
            publication.since = self._last
            self._waiting[publication] = None
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="kitaru-publisher", daemon=True
                )
                self._thread.start()
            elif len(self._waiting) == 1:
                self._state.notify()

    def forget(self, publication: Publication) -> None:
        with self._state:
            self._waiting.pop(publication, None)

    def _run(self) -> None:
        while True:
            with self._state:
                due = self._take()
                if not due:
                    if not self._waiting:
                        self._thread = None
                        return
                    continue
            for publication in due:
                publication.publish()

    def _take(self) -> list[Publication]:
        """Waits for what is due; empty if there was nothing for long, or it is to look again."""
        if not self._waiting and not self._state.wait(_IDLE):
            return []
        now = monotonic()
        if now >= self._last + PAUSE:
            due = list(self._waiting)
        else:
            due = [one for one in self._waiting if now >= (one.since or now) + LONGEST]
            if not due:
                self._state.wait(self._last + PAUSE - now)
                return []
        for one in due:
            del self._waiting[one]
            one.since = None
        return due


def _start_anew() -> None:
    global _publisher
    _publisher = _Publisher()


_publisher = _Publisher()
os.register_at_fork(after_in_child=_start_anew)
