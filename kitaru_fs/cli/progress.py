"""Progress on stderr while a run is driven: live on a terminal, else a plain line an event."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from kitaru_fs.cli import words
from kitaru_fs.quoting import printable

if TYPE_CHECKING:
    from kitaru_fs.logs.keeper import Screen
    from kitaru_fs.rundir.events import Event, Listener

__all__ = ["open_progress", "open_screen"]

_BEGINS = "dim"


@contextmanager
def open_progress(run: str, *, quiet: bool) -> Generator[Listener | None]:
    """Shows what happens while it is entered.

    Args:
        run: The id of the run; events of its child runs are marked as theirs.
        quiet: Show nothing.
    """
    with open_screen(run, quiet=quiet) as screen:
        yield None if quiet else screen.tell


@contextmanager
def open_screen(run: str, *, quiet: bool) -> Generator[Screen]:
    """Shows what happens, and what is printed, while it is entered.

    Args:
        run: The id of the run; events of its child runs are marked as theirs.
        quiet: Show only what is printed.
    """
    if sys.stderr.isatty() and not quiet:
        with _live() as show:
            yield _Teller(run, show)
    else:
        yield _Teller(run, _Plain(quiet))


class _Line(NamedTuple):
    """What to show of an event: its mark and style on a terminal, and its text."""

    mark: str
    style: str
    text: str


class _Plain:
    """Plain lines."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet

    def line(self, line: _Line) -> None:
        if not self._quiet:
            print(line.text, file=sys.stderr, flush=True)

    def print(self, text: bytes) -> None:
        sys.stderr.flush()
        sys.stderr.buffer.write(text)
        sys.stderr.buffer.flush()

    def running(self, names: list[str]) -> None:
        pass

    def prompt(self, text: str | None) -> None:
        if text is not None:
            print(f"{text}\n> ", end="", file=sys.stderr, flush=True)


class _Teller:
    """The screen. It never raises: a terminal that is gone must not end a run."""

    def __init__(self, run: str, show: Any) -> None:
        self._run = run
        self._show: Any = show
        self._gone = False
        self._guard = threading.Lock()
        self._running: list[tuple[str, str]] = []

    def tell(self, event: Event) -> None:
        self._do(lambda: self._tell(event))

    def print(self, text: bytes) -> None:
        self._do(lambda: self._show.print(text))

    def _do(self, act: Callable[[], None]) -> None:
        with self._guard:
            if self._gone:
                return
            try:
                act()
            except (OSError, ValueError):
                self._gone = True

    def _tell(self, event: Event) -> None:
        if event.kind in ("prompt", "prompted"):
            self._show.prompt(event.text if event.kind == "prompt" else None)
            return
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
        case "replayed" if event.step:
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
        def __init__(self) -> None:
            self._rows: list[Any] = []
            self._begun = ""
            self._prompted = False

        def line(self, line: _Line) -> None:
            if line.style == _BEGINS:
                return  # the spinner says so
            console.print(Text.assemble((line.mark, line.style), " ", line.text))
            self._prompt_again()

        def print(self, text: bytes) -> None:
            *lines, begun = (self._begun + text.decode("utf-8", "backslashreplace")).split("\n")
            for line in lines:
                console.print(Text.from_ansi(_last(line)))
            if lines:
                self._prompt_again()
            self._begun = _last(begun)
            self._update()

        def running(self, names: list[str]) -> None:
            rows = [spinners.setdefault(name, new_spinner(name)) for name in names[:8]]
            more = [Text(f"  and {len(names) - 8} more")] if len(names) > 8 else []
            self._rows = [*rows, *more]
            self._update()

        def prompt(self, text: str | None) -> None:
            if text is None:
                self._prompted = False
                live.start()
                return
            live.stop()
            console.print(Text.assemble(("?", "cyan"), " ", text))
            self._prompted = True
            self._prompt_again()

        def _prompt_again(self) -> None:
            if self._prompted:
                console.print("> ", end="")

        def end(self) -> None:
            if self._begun:
                console.print(Text.from_ansi(self._begun))

        def _update(self) -> None:
            begun = [Text.from_ansi(self._begun)] if self._begun else []
            live.update(Group(*begun, *self._rows))

    def new_spinner(name: str) -> Spinner:
        return Spinner("dots", Text(printable(name, 100)), style="cyan")

    spinners: dict[str, Spinner] = {}
    with Live(console=console, transient=True, refresh_per_second=8) as live:
        show = Show()
        try:
            yield show
        finally:
            show.end()


def _last(line: str) -> str:
    """What a terminal shows in the end of a line that goes back to its beginning."""
    return line.rstrip("\r").rpartition("\r")[2]
