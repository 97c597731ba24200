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
    from kitaru_fs.engine.lobby import Lobby

__all__ = ["attend", "dismiss"]

# Milliseconds between two looks for events, which the watching thread makes; it is told to stop so.
_STEP = 20
_BLIND = 0.5


class _Porter:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lobbies: set[Lobby] = set()
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._watch: Any = None
        self._watched: list[str] = []

    def attend(self, lobby: Lobby) -> None:
        with self._lock:
            self._lobbies.add(lobby)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name="kitaru-porter", daemon=True
                )
                self._thread.start()
        self._wake.set()

    def dismiss(self, lobby: Lobby) -> None:
        with self._lock:
            self._lobbies.discard(lobby)
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
            delay = min(lobby.look() for lobby in lobbies)
            self._wait(delay)

    def _watch_over(self, lobbies: list[Lobby]) -> None:
        wanted = sorted({place for lobby in lobbies for place in lobby.directories()})
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


_porter = _Porter()


def attend(lobby: Lobby) -> None:
    """Looks after a lobby from here on."""
    _porter.attend(lobby)


def dismiss(lobby: Lobby) -> None:
    """Looks after a lobby no longer."""
    _porter.dismiss(lobby)


def _forget_after_fork() -> None:
    """In a forked child: the thread is the parent's."""
    global _porter
    _porter = _Porter()


os.register_at_fork(after_in_child=_forget_after_fork)
