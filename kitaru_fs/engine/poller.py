"""The one thread of a process that looks after what its runs wait for.

It is there while something waits. It is woken by changes in the inboxes, which are a hint: each
time it looks into all that changed, and once a second at the clock, it looks at what is really
there. Where nothing can be watched (a file system that does not tell, a limit on watches) it looks
twice a second.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kitaru_fs.engine.runtree import RunTree

__all__ = ["attend", "dismiss"]

# Milliseconds between two looks for events, which the watching thread makes; it is told to stop so.
_STEP = 20
_BLIND = 0.5


class _Poller:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lobbies: set[RunTree] = set()
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._watch: Any = None
        self._watched: list[str] = []

    def attend(self, tree: RunTree) -> None:
        with self._lock:
            self._lobbies.add(tree)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name="kitaru-poller", daemon=True
                )
                self._thread.start()
        self._wake.set()

    def dismiss(self, tree: RunTree) -> None:
        with self._lock:
            self._lobbies.discard(tree)
        self._wake.set()

    def _work(self) -> None:
        while True:
            # Before it looks: what enters meanwhile wakes it again.
            self._wake.clear()
            with self._lock:
                lobbies = list(self._lobbies)
                if not lobbies:
                    self._close_watch()
                    self._thread = None
                    return
            self._watch_over(lobbies)
            delay = min(tree.look() for tree in lobbies)
            self._wait(delay)

    def _watch_over(self, lobbies: list[RunTree]) -> None:
        wanted = sorted({place for tree in lobbies for place in tree.directories()})
        wanted = [place for place in wanted if not os.path.islink(place) and os.path.isdir(place)]
        if wanted == self._watched:
            return
        self._close_watch()
        if wanted:
            from watchfiles import _rust_notify

            # Where it cannot be watched, it is looked at.
            with suppress(OSError, _rust_notify.WatchfilesRustInternalError):
                self._watch = _rust_notify.RustNotify(wanted, False, False, 300, False, True)
        self._watched = wanted

    def _wait(self, delay: float) -> None:
        if self._wake.is_set():
            return
        if self._watch is None:
            self._wake.wait(min(delay, _BLIND) if self._watched else delay)
        elif delay > 0:
            self._watch.watch(1, _STEP, max(1, int(delay * 1000)), self._wake)

    def _close_watch(self) -> None:
        watch, self._watch, self._watched = self._watch, None, []
        if watch is not None:
            watch.close()


_poller = _Poller()


def attend(tree: RunTree) -> None:
    """Looks after a tree from here on."""
    _poller.attend(tree)


def dismiss(tree: RunTree) -> None:
    """Looks after a tree no longer."""
    _poller.dismiss(tree)


def _forget_after_fork() -> None:
    """In a forked child: the thread is the parent's."""
    global _poller
    _poller = _Poller()


os.register_at_fork(after_in_child=_forget_after_fork)
