"""The live view of `kitaru watch` on a terminal."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kitaru_fs.cli import words
from kitaru_fs.cli.asked import how_to_answer
from kitaru_fs.quoting import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

    from kitaru_fs.watching import Change, Watch

__all__ = ["describe_entry", "describe_supervisor", "live_view"]

_STYLES = {
    "running": "green",
    "waiting": "cyan",
    "queued": "magenta",
    "interrupted": "yellow",
    "failed": "red",
    "damaged": "red",
    "cancelled": "dim",
    "completed": "dim",
}
# What is shown first where there is not room for all.
_ORDER = ("running", "queued", "interrupted", "waiting", "failed", "cancelled", "completed")
_WAITS = 5
_HELD = 5
_FILES = 3
_KEPT = 200
# What has ended is shown for so many seconds.
_ENDED = 60.0


def describe_entry(entry: Mapping[str, Any]) -> str:
    """Returns an entry, as `kitaru log --json` has it, in a line."""
    kind, name = entry["kind"], printable(entry["name"], 100)
    if entry["status"] == "failed" and kind != "end":
        kind = "failed"
    text = name if kind == "step" else f"{kind}: {name}"
    if entry["attempt"] > 1:
        text += f" (attempt {entry['attempt']})"
    figures = [words.duration(entry["duration"])] if entry["duration"] else []
    if entry["files"]:
        figures.append(words.count(len(entry["files"]), "file"))
    if entry["usage"] and (spent := words.tokens(entry["usage"])):
        figures.append(f"{spent} tokens")
    return f"{text} ({', '.join(figures)})" if figures else text


def describe_supervisor(found: Mapping[str, Any] | None) -> str:
    """Returns what a supervisor does in a line."""
    if found is None:
        return "no supervisor runs"
    parts = [f"{len(found['driven'])} of {found['concurrency']} driven"]
    parts += [f"{found['queued']} queued"] if found["queued"] else []
    parts += [f"{len(found['held'])} held"] if found["held"] else []
    if found["schedules"]:
        first = found["schedules"][0]
        parts.append(f"{printable(first['flow'], 60)} at {first['at']}")
    return f"supervisor (pid {found['pid']}): {', '.join(parts)}"


@contextmanager
def live_view(watch: Watch, run: str | None) -> Generator[_View]:
    """Shows a watch while it is entered; what it shows last stays.

    Args:
        watch: The watch.
        run: The one run that it is on; None for all.
    """
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False, markup=False)
    view = _View(watch, run, console)
    with Live(view, console=console, auto_refresh=False, vertical_overflow="crop") as live:
        view.refresh = live.refresh
        yield view


class _View:
    def __init__(self, watch: Watch, run: str | None, console: Console) -> None:
        self._watch = watch
        self._run = run
        self._console = console
        self._entries: deque[dict[str, Any]] = deque(maxlen=_KEPT)
        self._last: dict[str, dict[str, Any]] = {}
        self._ended: dict[str, float] = {}
        self._errors: dict[str, str] = {}
        self.refresh: Any = None

    def tell(self, change: Change) -> None:
        if change.kind == "entry":
            self._entries.append(change.content)
            self._last[change.run] = change.content
        elif change.kind == "damaged":
            self._errors[change.run] = printable(change.content["error"]["message"], 300)
        else:
            self._errors.pop(change.run, None)

    def update(self) -> None:
        self.refresh()

    def __rich__(self) -> RenderableType:
        from rich.console import Group

        state = self._watch.states.get(self._run) if self._run else None
        if self._run and state is None:
            return Group(self._errors.get(self._run, f"{self._run} is gone"))
        height = max(8, self._console.height - 1)
        if state is not None:
            head, foot = self._head(state), self._foot([state])
            body = self._steps(height - len(head) - len(foot) - 2)
        else:
            states = list(self._watch.states.values())
            head, foot = self._overview(), self._foot(states)
            body = self._runs(states, height - len(head) - len(foot) - 2)
        return Group(*head, body, *foot)

    # One run

    def _head(self, state: dict[str, Any]) -> list[Text]:
        from rich.text import Text

        title = Text.assemble(
            (state["run"], "bold"), "  ", (state["status"], _STYLES.get(state["status"], ""))
        )
        if holder := state["holder"]:
            since = words.moment(holder["since"])
            took = words.duration((datetime.now(UTC) - since).total_seconds())
            title.append(f"  pid {holder['pid']} on {holder['host']}, for {took}", "dim")
        spent = [words.count(state["step"], "step")]
        spent += filter(None, [words.tokens(state["usage"]), words.cost(state["usage"])])
        lines = [title, Text("  ".join(spent), "dim")]
        if self._watch.supervisor is not None:
            lines.append(Text(describe_supervisor(self._watch.supervisor), "dim"))
        return [_line(one) for one in lines]

    def _steps(self, room: int) -> Table:
        table = _table((" step", "what", " took", " files", "changed"))
        for entry in list(self._entries)[-max(1, room) :]:
            files = entry["files"]
            names = " ".join(files[:_FILES]) + (" …" if len(files) > _FILES else "")
            what = describe_entry({**entry, "duration": 0, "files": ()})
            table.add_row(
                "" if entry["step"] is None else str(entry["step"]),
                _text(what, "red" if entry["status"] == "failed" else ""),
                words.duration(entry["duration"]) if entry["duration"] else "",
                str(len(files)) if files else "",
                _text(printable(names, 200), "dim"),
            )
        return table

    # All runs

    def _overview(self) -> list[Text]:
        from rich.text import Text

        counts = self._watch.counts
        known = [name for name in (*_ORDER, "damaged") if counts.get(name)]
        line = Text("  ").join(
            Text(f"{counts[name]} {name}", _STYLES.get(name, "")) for name in known
        )
        lines = [Text(describe_supervisor(self._watch.supervisor)), line or Text("no runs yet")]
        if (found := self._watch.supervisor) and found["queue"]:
            names = [printable(one["run"], 60) for one in found["queue"][:_HELD]]
            lines.append(Text(f"next: {', '.join(names)}", "dim"))
        return [_line(one) for one in lines]

    def _runs(self, states: list[dict[str, Any]], room: int) -> Table:
        now = datetime.now(UTC).timestamp()
        shown: list[dict[str, Any]] = []
        for state in states:
            if state["status"] in ("completed", "failed", "cancelled"):
                ended = self._ended.setdefault(state["run"], now)
                if now - ended > _ENDED:
                    continue
            else:
                self._ended.pop(state["run"], None)
            shown.append(state)
        # The newest of each status first.
        shown.sort(key=lambda state: state["run"], reverse=True)
        shown.sort(key=lambda state: _ORDER.index(state["status"]))
        table = _table(("run", "status", " step", "last", " tokens", " cost"))
        for state in shown[: max(1, room)]:
            last = self._last.get(state["run"])
            usage = state["usage"]
            spent = usage.get("input_tokens", 0) + usage.get("output_tokens", 0)
            table.add_row(
                state["run"],
                _text(state["status"], _STYLES.get(state["status"], "")),
                str(state["step"]),
                _text(_standing(state) or (describe_entry(last) if last else "")),
                f"{spent:,}" if spent else "",
                words.cost(usage),
            )
        if len(shown) > max(1, room):
            table.add_row(_text(f"and {len(shown) - max(1, room)} more", "dim"))
        return table

    # Both

    def _foot(self, states: list[dict[str, Any]]) -> list[Text]:
        from rich.text import Text

        lines: list[Text] = []
        # Those of a run that another called are shown with its own.
        own = [
            (wait, state["waits"])
            for state in states
            for wait in state["waits"]
            if self._run or wait["run"] == state["run"]
        ]
        for wait, among in own[:_WAITS]:
            question = printable(wait["question"], 200) or printable(wait["name"], 80)
            lines.append(Text.assemble(("? ", "cyan"), question))
            lines.append(Text(f"  {how_to_answer(wait, among)}", "dim"))
        if len(own) > _WAITS:
            lines.append(Text(f"  and {len(own) - _WAITS} more: kitaru waits", "dim"))
        for state in states:
            if self._run and state.get("topics"):
                topics = ", ".join(printable(topic, 80) for topic in state["topics"])
                lines.append(Text(f"waits for a message on {topics}", "cyan"))
        held = [state for state in states if "held" in state]
        for state in held[:_HELD]:
            what = f"held: {printable(state['held'], 200)}"
            lines.append(Text(what if self._run else f"{state['run']} {what}", "yellow"))
        lines += [Text(f"{run}: {why}", "red") for run, why in list(self._errors.items())[:_HELD]]
        return [_line(one) for one in lines]


def _standing(state: Mapping[str, Any]) -> str:
    if state["status"] == "failed" and state["error"]:
        return printable(str(state["error"].get("message", "")), 100)
    if state["waits"]:
        return "waits for " + ", ".join(printable(wait["name"], 40) for wait in state["waits"][:3])
    if state.get("topics"):
        return "waits for a message on " + printable(state["topics"][0], 60)
    if "until" in state:
        return "sleeps, " + words.until(words.moment(state["until"]))
    return ""


def _table(columns: tuple[str, ...]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        number = column.startswith(" ")
        table.add_column(
            column.strip(),
            justify="right" if number else "left",
            no_wrap=True,
            overflow="ellipsis",
        )
    return table


def _text(text: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(text, style=style)


def _line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text
