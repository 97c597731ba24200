"""`kitaru rewind`."""

from __future__ import annotations

import os

import click

from kitaru_fs.cli.moves import show_move
from kitaru_fs.cli.options import at_argument, json_option, pass_place
from kitaru_fs.cli.place import Place
from kitaru_fs.cli.progress import open_progress
from kitaru_fs.errors import UsageError


@click.command("rewind")
@at_argument
@click.option("--dry-run", is_flag=True, help="Only say what would change.")
@json_option
@pass_place
def command(place: Place, at: str, dry_run: bool, as_json: bool) -> None:
    """Put the files and the journal to AT, on a new branch. The old branch stays.

    Files that you changed are committed as your edit first; files that no commit holds stay.
    """
    from kitaru_fs.git.safe import user_identity

    run, step = place.find_at(at, quiet=as_json)
    if step is None:
        raise UsageError(f"{at!r} names no step", hint=f"for instance: kitaru rewind {run.id}@3")
    with open_progress(run.id, quiet=as_json) as listener:
        move = run.rewind(
            step, dry_run=dry_run, identity=user_identity(os.environ), listener=listener
        )
    show_move(move, planned=dry_run, as_json=as_json)
