"""`kitaru path`."""

from __future__ import annotations

import click

from kitaru_fs.cli.options import json_option, pass_place, run_argument
from kitaru_fs.cli.output import result_json
from kitaru_fs.cli.place import Place


@click.command("path")
@run_argument
@json_option
@pass_place
def command(place: Place, run: str | None, as_json: bool) -> None:
    """Print RUN's directory: cd "$(kitaru path last)"."""
    found = place.find_run(run, quiet=True)
    if as_json:
        result_json({"run": found.id, "path": str(found.path)})
    else:
        click.echo(str(found.path))
