"""`kitaru runs`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from kitaru_fs.cli import words
from kitaru_fs.cli.options import json_option, pass_place
from kitaru_fs.cli.output import result_json, result_table, say
from kitaru_fs.cli.place import Place
from kitaru_fs.errors import KitaruError

if TYPE_CHECKING:
    from kitaru_fs.run import Run

_STATUSES = ("running", "waiting", "completed", "failed", "cancelled", "interrupted", "queued")
_STYLES = {"failed": "red", "interrupted": "yellow", "waiting": "cyan", "running": "green"}


@click.command("runs")
@click.option("--status", type=click.Choice(_STATUSES), help="Only those of this status.")
@click.option("--flow", help="Only those of this flow.")
@click.option("--since", metavar="TIME", help="Only newer ones: 90m, 2h, 3d, or an ISO date.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many.")
@json_option
@pass_place
def command(
    place: Place,
    status: str | None,
    flow: str | None,
    since: str | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """List the runs, newest first."""
    workspace = place.workspace()
    runs = workspace.runs(since=words.since(since) if since else None)
    damaged: list[str] = []
    states: list[dict[str, Any]] = []
    for state in _states(runs, damaged):
        if status in (None, state["status"]) and flow in (None, state["flow"]):
            states.append(state)
        if len(states) == limit:
            break
    if as_json:
        result_json(states)
    elif states:
        result_table(
            ("run", "status", " step", "updated", " tokens", " cost"),
            [_row(state) for state in states],
            styles=[_STYLES.get(state["status"], "") for state in states],
        )
    elif not damaged:
        narrowed = runs or since or status or flow
        none = "no run fits" if narrowed else f"no runs yet in {workspace.runs_dir}"
        say(none + ("" if narrowed else "\n  kitaru run TARGET starts one"))
    for sentence in damaged:
        say(sentence)


def _states(runs: list[Run], damaged: list[str]) -> Iterator[dict[str, Any]]:
    for run in runs:
        try:
            yield run.state()
        except KitaruError as error:
            damaged.append(f"kitaru: {run.id} cannot be read: {error.message}")


def _row(state: dict[str, Any]) -> tuple[str, ...]:
    usage = state["usage"]
    spent = usage.get("input_tokens", 0) + usage.get("output_tokens", 0)
    return (
        state["run"],
        state["status"],
        str(state["step"]),
        words.ago(words.moment(state["updated"])),
        f"{spent:,}" if spent else "",
        words.cost(usage),
    )
