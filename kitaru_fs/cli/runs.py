"""`kitaru runs`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from kitaru_fs.cli import words
from kitaru_fs.cli.options import json_option, pass_place
from kitaru_fs.cli.output import result_json_list, result_rows, say
from kitaru_fs.cli.place import Place
from kitaru_fs.errors import KitaruError

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
    moment = words.since(since) if since else None
    damaged: list[KitaruError] = []
    seen = 0

    def states() -> Iterator[dict[str, Any]]:
        nonlocal seen
        for found in workspace.states(status=status, flow=flow, since=moment, limit=limit):
            if isinstance(found, KitaruError):
                damaged.append(found)
            else:
                seen += 1
                yield found

    if as_json:
        result_json_list(states())
    else:
        columns = ("run", "status", " step", "updated", " tokens", " cost")
        result_rows(
            columns, ((_row(state), _STYLES.get(state["status"], "")) for state in states())
        )
    for error in damaged:
        say(f"kitaru: a run cannot be read: {error.message}")
    if not as_json and not seen and not damaged:
        narrowed = since or status or flow or workspace.runs(limit=1)
        none = "no run fits" if narrowed else f"no runs yet in {workspace.runs_dir}"
        say(none + ("" if narrowed else "\n  kitaru run TARGET starts one"))


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
