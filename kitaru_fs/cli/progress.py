"""Progress on stderr while a run is driven: live on a terminal, else a plain line an event."""

from __future__ import annotations

import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from kitaru_fs.cli import words
from kitaru_fs.quoting import printable

if TYPE_CHECKING:
    from kitaru_fs.engine.events import Event, Listener

__all__ = ["open_progress"]

_BEGINS = "dim"


@contextmanager
def open_progress(run: str, *, quiet: bool) -> Generator[Listener | None]:
    """Shows what happens while it is entered.

    Args:
        run: The id of the run; events of its child runs are marked as theirs.
        quiet: Show nothing.
    """
    if quiet:
        yield None
    elif sys.stderr.isatty():
        with _live() as show:
            yield _Teller(run, show)
    else:
        yield _Teller(run, _Plain())


class _Line(NamedTuple):
    """What to show of an event: its mark and style on a terminal, and its text."""

    mark: str
    style: str
    text: str


class _Plain:
    """Plain lines."""

    def line(self, line: _Line) -> None:
        print(line.text, file=sys.stderr, flush=True)

    def running(self, names: list[str]) -> None:
        pass


class _Teller:
    """The listener. It never raises: a terminal that is gone must not end a run."""

    def __init__(self, run: str, show: Any) -> None:
        self._run = run
        self._show: Any = show
        self._gone = False
        self._guard = threading.Lock()
        self._running: list[tuple[str, str]] = []

    def __call__(self, event: Event) -> None:
        with self._guard:
            if self._gone:
                return
            try:
                self._tell(event)
            except (OSError, ValueError):
                self._gone = True

    def _tell(self, event: Event) -> None:
        child = "" if event.run == self._run else f"[{event.run.split('-', 3)[-1]}] "
        call = (event.run, event.name)
        if event.kind == "started":
            self._running.append(call)
        elif event.kind in ("committed", "failed") and call in self._running:
            self._running.remove(call)
        line = _describe(event)
        if line is not None:
            self._show.line(line._replace(text=child + line.text))
        self._show.running([name for _, name in self._running])


def _describe(event: Event) -> _Line | None:
    name = printable(event.name, 200)
    again = f" (attempt {event.attempt})" if event.attempt > 1 else ""
    match event.kind:
        case "started":
            return _Line("…", _BEGINS, f"begins {name}{again}")
        case "committed" if name.startswith(("end: ", "start: ")):
            return None
        case "committed" if name.startswith("resume: "):
            return _Line("↻", "cyan", f"step {event.step}: taken up {name[len('resume: ') :]}")
        case "committed":
            return _Line("✓", "green", f"step {event.step}: {name}{again}{_figures(event)}")
        case "intent":
            text = f"step {event.step}: {name}{again}: {printable(event.text, 300)}"
            return _Line("→", "magenta", text)
        case "failed":
            what = printable(event.text, 300) or "failed"
            return _Line("✗", "red", f"step {event.step}: {name} failed{again}: {what}")
        case "retry":
            what = f"{name} is tried" if name else "tried"
            return _Line("↻", "yellow", f"{what} again in {words.duration(event.duration)}")
        case "kept":
            how = f"kitaru git {event.run} -- show {event.text}"
            return _Line("!", "yellow", f"set aside: {name} ({how})")
        case "replayed":
            took = words.duration(event.duration)
            return _Line("↻", "cyan", f"{words.count(event.step, 'step')} replayed in {took}")
        case _:
            return _Line("!", "yellow", name) if name else None


def _figures(event: Event) -> str:
    parts = [words.duration(event.duration)] if event.duration else []
    if event.files:
        parts.append(words.count(event.files, "file"))
    if spent := words.spent(event.usage):
        parts.append(f"{spent} tokens")
    return f" ({', '.join(parts)})" if parts else ""


@contextmanager
def _live() -> Generator[Any]:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.spinner import Spinner
    from rich.text import Text

    console = Console(stderr=True, highlight=False, soft_wrap=True)

    class Show:
        def line(self, line: _Line) -> None:
            if line.style == _BEGINS:
                return  # the spinner says so
            console.print(Text.assemble((line.mark, line.style), " ", line.text))

        def running(self, names: list[str]) -> None:
            rows = [spinners.setdefault(name, new_spinner(name)) for name in names[:8]]
            more = [Text(f"  and {len(names) - 8} more")] if len(names) > 8 else []
            live.update(Group(*rows, *more))

    def new_spinner(name: str) -> Spinner:
        return Spinner("dots", Text(printable(name, 100)), style="cyan")

    spinners: dict[str, Spinner] = {}
    with Live(console=console, transient=True, refresh_per_second=8) as live:
        yield Show()
