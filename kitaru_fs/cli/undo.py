"""`kitaru undo`."""

from __future__ import annotations

import os

import click

from kitaru_fs.cli.moves import show_move
from kitaru_fs.cli.options import json_option, pass_place, run_argument
from kitaru_fs.cli.place import Place
from kitaru_fs.cli.progress import open_progress


@click.command("undo")
@run_argument
@json_option
@pass_place
def command(place: Place, run: str | None, as_json: bool) -> None:
    """Take the last rewind, edit, unused answer or cancel of RUN back.

    Changed files are committed as your edit first, so nothing is lost."""
    from kitaru_fs.git.safe import user_identity

    found = place.find_run(run, quiet=as_json)
    with open_progress(found.id, quiet=as_json) as listener:
        move = found.undo(identity=user_identity(os.environ), listener=listener)
    show_move(move, planned=False, as_json=as_json)
