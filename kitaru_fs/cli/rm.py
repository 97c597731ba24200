"""`kitaru rm`."""

from __future__ import annotations

import click

from kitaru_fs.cli.options import json_option, pass_place, run_argument
from kitaru_fs.cli.output import result_json, say
from kitaru_fs.cli.place import Place


@click.command("rm")
@run_argument
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@json_option
@pass_place
def command(place: Place, run: str | None, dry_run: bool, as_json: bool) -> None:
    """Move RUN to the trash, with its history and its files."""
    found = place.find_run(run, needed=True)
    where = found.path if dry_run else place.workspace().remove(found)
    if as_json:
        result_json({"run": found.id, "path": str(where), "dry_run": dry_run})
        return
    click.echo(f"run {found.id}: {'would go' if dry_run else 'in the trash'}")
    if not dry_run:
        say("`kitaru gc` drops it for good. To undo it:")
        say(f"  mv {where} {found.path}")
