"""`kitaru cancel`."""

from __future__ import annotations

import click

from kitaru_fs.cli.options import json_option, pass_place, run_argument
from kitaru_fs.cli.output import result_json, say
from kitaru_fs.cli.place import Place


@click.command("cancel")
@run_argument
@json_option
@pass_place
def command(place: Place, run: str | None, as_json: bool) -> None:
    """End RUN for good: `resume` does not go on. Its journal and its files stay."""
    found = place.find_run(run, needed=True)
    before = found.state()["head"]
    found.cancel()
    if as_json:
        result_json(found.refresh().state())
        return
    click.echo(f"run {found.id}: cancelled")
    say(f"Its journal and files are kept: {found.path}")
    say("To undo it, go on from the commit before:")
    say(f"  kitaru git {found.id} -- checkout {before[:12]} && kitaru resume {found.id}")
