"""What a listener is told while a run is driven: the library itself never prints."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from kitaru_fs.entry import Usage

__all__ = ["Event", "Listener"]


class Event(NamedTuple):
    """Something that happened in a run.

    Attributes:
        kind: `started`, `intent` (`text` is the effect that is about to be had), `committed`,
            `failed` (an attempt; `text` is the first line of what it raised), `kept` (set aside;
            `text` is the ref),
            `replayed` (`step` is how many, `duration` since the run was taken up), `retry`
            (`duration` is the wait in seconds), `refused` (a file of the inbox), `notice`;
            `prompt` (`text` is put to the user) and `prompted`, when they have replied.
        name: The step's name, or what is noticed.
        key: The step's key.
        status: The entry's: `waiting` where what was begun goes on, as a child run does.
        commit: The entry's commit.
        duration: Seconds.
        files: How many files changed.
    """

    kind: str
    run: str
    name: str
    step: int = -1
    attempt: int = 1
    duration: float = 0.0
    files: int = 0
    usage: Usage | None = None
    text: str = ""
    key: str = ""
    status: str = "ok"
    commit: str = ""


Listener = Callable[[Event], None]
