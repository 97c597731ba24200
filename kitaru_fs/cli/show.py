"""`kitaru show`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import click

from kitaru_fs.cli import words
from kitaru_fs.cli.diff import result_diff
from kitaru_fs.cli.options import at_argument, json_option, pass_place
from kitaru_fs.cli.output import printable_lines, result, result_json
from kitaru_fs.cli.place import Place

if TYPE_CHECKING:
    from kitaru_fs.run import Shown

_Table = dict[str, Any]


@click.command("show")
@at_argument
@json_option
@pass_place
def command(place: Place, at: str, as_json: bool) -> None:
    """Show the entry of AT, and what its step changed in files/."""
    run, step = place.find_at(at, quiet=as_json)
    shown = run.show(step)
    if as_json:
        from kitaru_fs.entry import encode_entry

        entry: dict[str, Any] = json.loads(encode_entry(shown.entry))
        # A large output stands beside its entry; here it is where a small one is.
        entry["output"] = shown.output
        found = {"commit": shown.commit, "diff": shown.diff, "beside": shown.beside}
        result_json({**entry, **found})
        return
    for name, text in _lines(shown):
        result(f"{name:<9} {text}")
    if shown.diff or shown.beside:
        result("")
        result_diff(shown.diff)
        for line in shown.beside:
            result(f"# {line}")


def _lines(shown: Shown) -> list[tuple[str, str]]:
    entry = shown.entry
    lines = [
        ("step", f"{entry.step}: {entry.name} ({entry.kind})"),
        ("status", entry.status + (f", attempt {entry.attempt}" if entry.attempt > 1 else "")),
        ("commit", shown.commit),
        ("started", f"{entry.started}, took {words.duration(entry.duration)}"),
    ]
    if spent := words.spent(entry.usage):
        lines.append(("tokens", spent))
    if entry.effect:
        lines.append(("effect", entry.effect))
    if entry.source:
        at = f"{entry.source.get('run')}@{entry.source.get('step')}"
        said = f"by hand; {at} returned something else"
        lines.append(("from", at) if entry.kind == "fork" else ("set", said))
    if entry.overlap:
        lines.append(("overlap", ", ".join(entry.overlap)))
    if entry.input not in (None, {}):
        lines.append(("input", _indented(entry.input)))
    if shown.output is not None:
        output = _telling(shown.output) if entry.kind == "model" else shown.output
        lines.append(("output", _indented(output)))
    if entry.metadata:
        lines.append(("notes", _indented(entry.metadata)))
    if entry.error:
        text = str(entry.error.get("traceback") or entry.error.get("message") or "")
        lines.append(("error", _indented(text.rstrip("\n"))))
    if entry.kept:
        lines.append(("kept", entry.kept))
    if entry.left_out:
        shown_out = [f"{one.get('path')} ({one.get('reason')})" for one in entry.left_out]
        lines.append(("left out", "\n          ".join(shown_out)))
    if entry.files:
        lines.append(("files", "\n          ".join(entry.files)))
    return lines


def _telling(response: Any) -> Any:
    """A model's response without the fields that say nothing; what was said is as it is."""
    if not isinstance(response, dict):
        return response
    told = _without(cast("_Table", response), lambda value: value is None)
    if isinstance(usage := told.get("usage"), dict):
        told["usage"] = _without(cast("_Table", usage), lambda value: not value)
    if isinstance(parts := told.get("parts"), list):
        told["parts"] = [
            _without(cast("_Table", part), lambda value: value is None)
            if isinstance(part, dict)
            else part
            for part in cast("list[Any]", parts)
        ]
    return told


def _without(table: _Table, is_silent: Callable[[Any], bool]) -> _Table:
    return {name: value for name, value in table.items() if not is_silent(value)}


def _indented(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
    return printable_lines(text).replace("\n", "\n" + " " * 10)
