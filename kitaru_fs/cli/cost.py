"""`kitaru cost`."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import click

from kitaru_fs.cli import words
from kitaru_fs.cli.options import json_option, pass_place, run_argument
from kitaru_fs.cli.output import result_json, result_table, say
from kitaru_fs.cli.place import Place

if TYPE_CHECKING:
    from kitaru_fs.spending import By, Spending

_BY = ("flow", "run", "model", "step", "day")


@click.command("cost")
@run_argument
@click.option("--by", type=click.Choice(_BY), help="What to sum by: flow; for one run, step.")
@click.option("--since", metavar="TIME", help="Only newer runs: 90m, 2h, 3d, or an ISO date.")
@json_option
@pass_place
def command(
    place: Place, run: str | None, by: str | None, since: str | None, as_json: bool
) -> None:
    """Sum up what runs cost: all of them, or RUN."""
    if run is not None:
        by = by or "step"
        found, unread = place.find_run(run, quiet=True).costs(cast("By", by)), []
    else:
        by = by or "flow"
        newer = words.since(since) if since else None
        found, unread = place.workspace().costs(cast("By", by), since=newer)
    if as_json:
        result_json({"by": by, "rows": [row.to_json() for row in found], "unread": unread})
    elif found:
        rows = [_row(row) for row in found]
        result_table((by, " requests", " tokens in", " out", " cost", ""), rows)
    else:
        say("nothing was spent on models")
    for name in unread:
        say(f"kitaru: {name} cannot be read, and is not counted: kitaru doctor {name}")


def _row(row: Spending) -> list[str]:
    return [
        row.what,
        f"{row.requests:,}",
        f"{row.input_tokens:,}",
        f"{row.output_tokens:,}",
        f"{row.cost:.4f} {row.currency}" if row.currency else "",
        f"{words.count(row.unpriced, 'step')} without a known price" if row.unpriced else "",
    ]
