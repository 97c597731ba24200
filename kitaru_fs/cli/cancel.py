"""`kitaru cancel`."""

from __future__ import annotations

import os

import click

from kitaru_fs.cli.options import json_option, pass_place, run_argument
from kitaru_fs.cli.output import result, result_json, say
from kitaru_fs.cli.place import Place


@click.command("cancel")
@run_argument
@json_option
@pass_place
def command(place: Place, run: str | None, as_json: bool) -> None:
    """End RUN for good: `resume` does not go on. Its journal and its files stay."""
    from kitaru_fs.git.safe import user_identity

    found = place.find_run(run, needed=True)
    is_over = found.cancel(identity=user_identity(os.environ))
    if as_json:
        result_json(found.refresh().state())
        return
    if not is_over:
        holder = found.holder
        who = f"process {holder.pid}" if holder is not None else "the process that drives it"
        result(f"run {found.id}: {who} cancels it when its step ends")
        return
    result(f"run {found.id}: cancelled")
    say(f"Its journal and files are kept: {found.path}")
    say("To take it back, and go on:")
    say(f"  kitaru undo {found.id} && kitaru resume {found.id}")
