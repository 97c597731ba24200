"""`kitaru gc`."""

from __future__ import annotations

import click

from kitaru_fs.cli import words
from kitaru_fs.cli.options import json_option, pass_place, run_argument
from kitaru_fs.cli.output import result_json, say
from kitaru_fs.cli.place import Place


@click.command("gc")
@run_argument
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@json_option
@pass_place
def command(place: Place, run: str | None, dry_run: bool, as_json: bool) -> None:
    """Make room: drop what is in the trash, pack RUN's history tightly (every run's by default).

    Of a run that stays nothing is dropped.
    """
    workspace = place.workspace()
    chosen = [place.find_run(run)] if run is not None else None
    done = workspace.collect(chosen, dry_run=dry_run)
    if as_json:
        result_json({**done._asdict(), "dry_run": dry_run})
        return
    will = "would go" if dry_run else "dropped"
    for name in done.dropped:
        click.echo(f"trash: {name} {will}, for good")
    if done.dropped:
        click.echo(f"trash: {words.size(done.room)} {'would be ' if dry_run else ''}freed")
    for name, (before, after) in done.packed.items():
        if after is None:
            click.echo(f"run {name}: {words.size(before)} would be packed anew")
        elif after < before:
            click.echo(f"run {name}: {words.size(before)} -> {words.size(after)}")
    for name, why in done.skipped.items():
        say(f"run {name}: left alone, {why}")
    if not done.dropped and not done.packed and not done.skipped:
        say("nothing to do")
