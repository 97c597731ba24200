"""`kitaru prune`."""

from __future__ import annotations

import click

from kitaru_fs.cli import words
from kitaru_fs.cli.options import json_option, pass_place
from kitaru_fs.cli.output import result_json, say
from kitaru_fs.cli.place import Place


@click.command("prune")
@click.option(
    "--older-than", required=True, metavar="D", help="Runs last moved before: 30d, 12h, a date."
)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@json_option
@pass_place
def command(place: Place, older_than: str, dry_run: bool, as_json: bool) -> None:
    """Move old runs to the trash: completed, failed and cancelled ones, with their children."""
    workspace = place.workspace()
    before = words.since(older_than, "--older-than")
    gone: list[str] = []
    for run in workspace.prunable(before):
        if not dry_run:
            workspace.remove(run)
        gone.append(run.id)
        if not as_json:
            click.echo(f"run {run.id}: {'would go' if dry_run else 'in the trash'}")
    if as_json:
        result_json({"runs": gone, "dry_run": dry_run})
    elif gone and not dry_run:
        say(f"`kitaru gc` drops {words.count(len(gone), 'run')} for good. To undo it, before that:")
        say(f"  mv {workspace.runs_dir}/.trash/RUN {workspace.runs_dir}/")
    elif not gone:
        say("no run is that old and over")
