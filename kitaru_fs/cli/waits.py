"""`kitaru waits`."""

from __future__ import annotations

import click

from kitaru_fs.cli.asked import show_wait
from kitaru_fs.cli.options import json_option, pass_place
from kitaru_fs.cli.output import result_json, say
from kitaru_fs.cli.place import Place
from kitaru_fs.errors import KitaruError


@click.command("waits")
@json_option
@pass_place
def command(place: Place, as_json: bool) -> None:
    """List all that the runs wait to be answered, the oldest first."""
    workspace = place.workspace()
    damaged: list[KitaruError] = []
    waits = workspace.waits(on_error=damaged.append)
    if as_json:
        result_json(waits)
    for wait in waits if not as_json else ():
        show_wait(wait, waits)
    if not waits and not as_json and not damaged:
        say("no run waits for a reply")
    for error in damaged:
        say(f"kitaru: a run cannot be read: {error.message}")
