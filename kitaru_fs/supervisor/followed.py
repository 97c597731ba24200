"""Processes that drive runs and that somebody else started: noticing their ends."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket

from kitaru_fs.holding.lock import Holder
from kitaru_fs.processtable import pid_namespace, start_time

__all__ = ["Followed"]

_WITH_FILE = tuple(
    getattr(selectors, name)
    for name in ("EpollSelector", "KqueueSelector")
    if hasattr(selectors, name)
)


class Followed:
    """The holders of runs, by the runs.

    Where the system gives no handle on a process, its end is found when its run is looked at.

    Args:
        ready: Is told where to listen for the ends.

    Attributes:
        supervised: The runs whose holders an earlier supervisor started.
    """

    def __init__(self, ready: selectors.BaseSelector) -> None:
        self._ends = selectors.DefaultSelector()
        if isinstance(self._ends, _WITH_FILE):
            ready.register(self._ends.fileno(), selectors.EVENT_READ)
        self._holders: dict[str, Holder] = {}
        self._handles: dict[str, int] = {}
        self.supervised: set[str] = set()

    def follow(self, name: str, holder: Holder | None) -> None:
        """Follows a run's holder; None if nobody holds it."""
        if self._holders.get(name) == holder:
            return
        self._drop(name)
        if holder is None:
            return
        self._holders[name] = holder
        if holder.purpose == "up":
            self.supervised.add(name)
        handle = _handle(holder)
        if handle is not None:
            self._handles[name] = handle
            self._ends.register(handle, selectors.EVENT_READ, name)

    def ended(self) -> list[str]:
        """Returns the runs whose holders have ended."""
        names = [str(key.data) for key, _ in self._ends.select(0)] if self._handles else []
        for name in names:
            self._drop(name)
        return names

    def close(self) -> None:
        """Follows nobody any more."""
        for name in list(self._holders):
            self._drop(name)
        self._ends.close()

    def _drop(self, name: str) -> None:
        self._holders.pop(name, None)
        self.supervised.discard(name)
        handle = self._handles.pop(name, None)
        if handle is not None:
            self._ends.unregister(handle)
            os.close(handle)


def _handle(holder: Holder) -> int | None:
    """A descriptor that is readable once a process has ended."""
    if not hasattr(os, "pidfd_open") or holder.host != socket.gethostname():
        return None
    if holder.namespace != pid_namespace():
        return None
    with contextlib.suppress(OSError):
        handle = os.pidfd_open(holder.pid)
        if start_time(holder.pid) == holder.start:
            return handle
        os.close(handle)
    return None
