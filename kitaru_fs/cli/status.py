"""`kitaru status`."""

from __future__ import annotations

import json
from typing import Any

import click

from kitaru_fs.cli import words
from kitaru_fs.cli.asked import how_to_answer, wait_lines
from kitaru_fs.cli.options import json_option, pass_place, run_argument
from kitaru_fs.cli.output import printable_lines, result, result_json, say
from kitaru_fs.cli.place import Place

_SHOWN = 5
_NEXT = {
    "completed": "kitaru log {run} · kitaru show {run}",
    "failed": "kitaru resume {run}  (tries the step that failed again)",
    "interrupted": "kitaru resume {run}",
    "queued": "kitaru up takes it up; kitaru resume {run} runs it here and now",
}


@click.command("status")
@run_argument
@json_option
@pass_place
def command(place: Place, run: str | None, as_json: bool) -> None:
    """Show where RUN stands."""
    found = place.find_run(run, quiet=True)
    state = found.state()
    left_out, kept = found.left_out(), found.kept()
    if as_json:
        beside = {
            "left_out": [{"path": path, "reason": why} for path, why in left_out],
            "kept": [{"ref": one.ref, "commit": one.commit, "why": one.why} for one in kept],
        }
        result_json({**state, **beside})
        return
    lines = _lines(state)
    lines += _few("left out", [f"{path} ({why})" for path, why in left_out])
    lines += _few("kept", [f"{one.why}, {words.ago(one.when)}: {one.ref}" for one in kept])
    for name, text in lines:
        result(f"{name:<9} {text}")
    if kept:
        say(f"kitaru git {found.id} -- show {kept[0].ref}")
    for wait in state["waits"]:
        say(how_to_answer(wait, state["waits"]))
    if following := _NEXT.get(state["status"]):
        say(following.format(run=found.id))


def _lines(state: dict[str, Any]) -> list[tuple[str, str]]:
    lines = [
        ("run", state["run"]),
        ("flow", state["flow"]),
        ("status", state["status"]),
        ("step", f"{state['step']} ({state['head'][:10]} on {_branch(state)})"),
        ("path", state["path"]),
        ("created", _moment(state["created"])),
        ("updated", _moment(state["updated"])),
    ]
    if holder := state["holder"]:
        lines.append(
            ("holder", f"pid {holder['pid']} on {holder['host']}, since {holder['since']}")
        )
    if paused := state.get("paused"):
        lines.append(("paused", f"by {paused['by']}, {_moment(paused['since'])}"))
    lines += [
        ("wait", _indented("\n".join([wait["name"], *wait_lines(wait)]))) for wait in state["waits"]
    ]
    lines += [("receives", topic) for topic in state.get("topics", ())]
    if "until" in state:
        lines.append(("until", f"{state['until']} ({words.until(words.moment(state['until']))})"))
    if held := state.get("held"):
        lines.append(("held", f"{held}; kitaru resume goes on"))
    if spent := ", ".join(filter(None, [words.tokens(state["usage"]), words.cost(state["usage"])])):
        lines.append(("usage", spent))
    if state["status"] == "completed":
        output = state["output"]
        text = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
        lines.append(("output", _indented(text)))
    if error := state["error"]:
        kind = str(error.get("type", "")).rpartition(":")[2]
        lines.append(("error", _indented(f"{kind}: {error.get('message', '')}")))
    return lines


def _few(name: str, items: list[str]) -> list[tuple[str, str]]:
    more = [f"and {len(items) - _SHOWN} more"] if len(items) > _SHOWN else []
    return [(name, item) for item in items[:_SHOWN] + more]


def _branch(state: dict[str, Any]) -> str:
    return state["branch"] or "no branch: HEAD is detached"


def _moment(iso: str) -> str:
    return f"{iso} ({words.ago(words.moment(iso))})"


def _indented(text: str) -> str:
    return printable_lines(text).replace("\n", "\n" + " " * 10)
