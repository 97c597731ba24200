"""`kitaru pause`."""

from __future__ import annotations

import os

import click

from kitaru_fs.cli.options import json_option, pass_place, run_argument
from kitaru_fs.cli.output import result, result_json, say
from kitaru_fs.cli.place import Place


@click.command("pause")
@run_argument
@json_option
@pass_place
def command(place: Place, run: str | None, as_json: bool) -> None:
    """Stop RUN after its current step, until `kitaru resume`."""
    from kitaru_fs.git.safe import user_identity

    found = place.find_run(run, quiet=as_json)
    at_rest = found.pause(identity=user_identity(os.environ))
    if as_json:
        result_json(found.refresh().state())
        return
    if at_rest:
        result(f"run {found.id}: paused")
    else:
        holder = found.holder
        who = f"process {holder.pid}" if holder is not None else "the process that drives it"
        result(f"run {found.id}: {who} stops after the current step")
    say(f"  kitaru resume {found.id} goes on")
