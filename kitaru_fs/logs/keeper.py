"""Who keeps what a run prints: reads the pipe, shows it, and writes it down by the step it is of.

It is a process of its own, so what was printed last before a crash is kept too, and goes on until
nobody has the pipe open any more: what a step leaves running is kept as well.
"""

from __future__ import annotations

import os
import re
import select
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import msgspec

from kitaru_fs.clock import seconds, stamp
from kitaru_fs.logs.frames import Frame, FrameReader
from kitaru_fs.logs.segments import SegmentWriter
from kitaru_fs.redaction.finder import Finder, Known
from kitaru_fs.redaction.redactor import mask_text
from kitaru_fs.rundir.events import Event

__all__ = ["Keeper", "OpenScreen", "Screen"]

_CHUNK = 1 << 16
# A line that is not ended is written down when so long nothing came, or when it has so many bytes;
# then its end waits, since a secret may lie across it.
_PATIENCE = 0.25
_LONGEST = 1 << 16
_END = 1 << 12

# Colours, cursor moves, titles: of no use to who reads the log later.
_ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])|\x1b", re.ASCII
)


class Screen(Protocol):
    """Where a human sees what happens."""

    def tell(self, event: Event) -> None:
        """Shows an event; never raises."""
        ...

    def print(self, text: bytes) -> None:
        """Shows what was printed; never raises."""
        ...


OpenScreen = Callable[[str], AbstractContextManager[Screen]]
"""Opens the screen, given the run's id."""


class _Source(NamedTuple):
    """Who printed: an attempt of a step; without a key the flow itself."""

    run: str
    key: str = ""
    attempt: int = 1
    name: str = ""
    replayed: bool = False
    among: tuple[str, ...] = ()

    def header(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.key:
            found = {"name": self.name, "key": self.key, "attempt": self.attempt}
        if self.among:
            found["among"] = self.among
        return found | ({"replayed": True} if self.replayed else {})


class Keeper:
    """Reads one process's pipe until nobody writes to it any more.

    Args:
        pipe: Its reading end.
        nonce: Marks its frames.
        stderr: Shows what is printed where no screen is open; not buffered.
        open_screen: Opens what a human sees; None for no more than what is printed.
        answer: Says, when that process asks, that all is shown and written.
        control: A descriptor that ends when that process ends.
    """

    def __init__(
        self,
        pipe: int,
        nonce: str,
        stderr: BinaryIO,
        open_screen: OpenScreen | None,
        answer: Callable[[], object],
        control: int | None = None,
    ) -> None:
        self._pipe = pipe
        self._frames = FrameReader(nonce)
        self._stderr = stderr
        self._open_screen = open_screen
        self._answer = answer
        self._control = control
        self._screen: Screen | None = None
        self._closing = ExitStack()
        self._runs = Path()
        self._run = ""
        self._limit = 0
        self._replays = False
        self._writers: dict[str, SegmentWriter] = {}
        self._flying: dict[tuple[str, str, int], _Source] = {}
        self._texts: dict[_Source, bytearray] = {}
        self._records: dict[str, list[dict[str, Any]]] = {}
        self._last = 0.0
        self._patterns: list[re.Pattern[str]] = []
        self._secrets: list[Known] = []
        self._learning = b""
        self._finder: Finder | None = None

    def keep(self) -> None:
        """Reads, shows and writes until the end."""
        poll = select.poll()
        poll.register(self._pipe, select.POLLIN)
        if self._control is not None:
            poll.register(self._control, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll(self._timeout())}
            if self._pipe in ready:
                data = os.read(self._pipe, _CHUNK)
                if not data:
                    break
                self._take(data)
            elif self._control is not None and self._control in ready:
                # Who drives the run is gone; what it started may still print.
                poll.unregister(self._control)
                self._control = None
                self._close_screen()
            if self._texts and seconds() - self._last >= _PATIENCE:
                self._end_lines()
            self._write()
        self._raw(self._frames.end())
        self._end_lines()
        self._write()
        self._close_screen()

    def _timeout(self) -> int | None:
        if not self._texts:
            return None
        return max(1, int(1000 * (_PATIENCE - (seconds() - self._last))))

    # What comes

    def _take(self, data: bytes) -> None:
        for piece in self._frames.feed(data):
            if isinstance(piece, Frame):
                self._frame(piece)
            else:
                self._raw(piece)

    def _frame(self, frame: Frame) -> None:
        header = frame.header
        match header.pop("kind"):
            case "begin":
                self.begin(**header)
            case "driving":
                self._replays = header["replays"]
            case "learn":
                self._learn(header["name"], frame.text, more=header["more"])
            case "event":
                self._event(msgspec.convert(header["event"], Event))
            case "text":
                self._print(frame.text)
                self._add(_Source(**header), frame.text)
            case "drain":
                self._end_lines()
                self._write()
                self._close_screen()
                self._answer()
            case _:
                pass

    def begin(self, runs: str, run: str, limit: int, replays: bool) -> None:
        """Begins to keep what a run prints.

        Args:
            runs: The directory that its directory is in.
            run: Its id.
            limit: How many bytes are kept of it, and of each of its child runs.
            replays: What is printed now has been printed before.
        """
        self._runs, self._run, self._limit = Path(runs), run, limit
        self._replays = replays
        if self._open_screen is not None:
            self._screen = self._closing.enter_context(self._open_screen(run))

    def _learn(self, name: str, piece: bytes, *, more: bool) -> None:
        """Takes a piece of what must not be kept: of a credential, or without a name a pattern."""
        self._learning += piece
        if more:
            return
        whole = self._learning.decode("utf-8", "surrogateescape")
        self._learning, self._finder = b"", None
        if name:
            self._secrets.append(Known(name, whole))
        else:
            self._patterns.append(re.compile(whole))

    def _raw(self, text: bytes) -> None:
        """Takes what names nobody: it is of the step that is in flight, if that is one."""
        if not text:
            return
        self._print(text)
        flying = list(self._flying.values())
        if len(flying) == 1:
            self._add(flying[0], text)
        else:
            among = tuple(sorted({source.name for source in flying}))
            self._add(_Source(self._run, replayed=self._replays, among=among), text)

    def _event(self, event: Event) -> None:
        if self._screen is not None:
            self._screen.tell(event)
        if event.run == self._run and event.kind in ("started", "committed", "replayed"):
            self._replays = False
        flying = (event.run, event.key, event.attempt)
        if event.kind == "started":
            self._flying[flying] = _Source(event.run, event.key, event.attempt, event.name)
        elif event.kind in ("committed", "failed") and (source := self._flying.pop(flying, None)):
            if event.status == "waiting":
                return  # a child begins: what is printed from now on is the child's
            self._end_line(source)
            number = {"step": event.step, "commit": event.commit}
            self._record(source.run, {"key": source.key, "attempt": source.attempt, **number})

    # What is shown and written

    def _print(self, text: bytes) -> None:
        if self._screen is not None:
            self._screen.print(text)
            return
        with suppress(OSError, ValueError):
            self._stderr.write(text)

    def _close_screen(self) -> None:
        if self._screen is not None:
            self._screen = None
            self._closing.close()

    def _add(self, source: _Source, text: bytes) -> None:
        self._last = seconds()
        waiting = self._texts.setdefault(source, bytearray())
        waiting += text
        end = waiting.rfind(b"\n") + 1
        if not end and len(waiting) >= _LONGEST:
            end = len(waiting) - _END
        if end:
            self._text(source, bytes(waiting[:end]))
            del waiting[:end]
        if not waiting:
            del self._texts[source]

    def _end_lines(self) -> None:
        for source in list(self._texts):
            self._end_line(source)

    def _end_line(self, source: _Source) -> None:
        waiting = self._texts.pop(source, None)
        if waiting:
            self._text(source, bytes(waiting))

    def _text(self, source: _Source, text: bytes) -> None:
        plain = _ESCAPES.sub("", text.decode("utf-8", "backslashreplace"))
        if self._finder is None:
            self._finder = Finder(self._secrets, self._patterns)
        self._record(source.run, {"text": mask_text(self._finder, plain), **source.header()})

    def _record(self, run: str, record: dict[str, Any]) -> None:
        self._records.setdefault(run, []).append({"at": stamp(), **record})

    def _write(self) -> None:
        for run, records in self._records.items():
            if run not in self._writers:
                self._writers[run] = SegmentWriter(self._runs / run, self._limit)
            self._writers[run].add(records)
        self._records = {}
