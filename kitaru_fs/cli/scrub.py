"""`kitaru scrub`."""

from __future__ import annotations

import click

from kitaru_fs.cli import words
from kitaru_fs.cli.options import json_option, pass_place, run_argument
from kitaru_fs.cli.output import result, result_json, say
from kitaru_fs.cli.place import Place


@click.command("scrub")
@run_argument
@click.option(
    "--no-vault",
    is_flag=True,
    help="Do not keep what was taken out beside the copy: to hand over its directory.",
)
@json_option
@pass_place
def command(place: Place, run: str | None, no_vault: bool, as_json: bool) -> None:
    """Make a copy of RUN, all branches and files, without the secrets in its history.

    RUN itself stays until you remove it. `kitaru doctor --secrets` shows what would be taken out.
    """
    found = place.find_run(run, quiet=as_json)
    scrubbed = found.scrub(with_vault=not no_vault)
    path = scrubbed.path
    if as_json:
        result_json(
            {
                "run": path.name if path else None,
                "path": str(path) if path else None,
                "of": found.id,
                "objects": scrubbed.objects,
                "left_out": scrubbed.left_out,
            }
        )
        return
    if path is None:
        result(f"run {found.id}: no secret was found in its history, so there is no copy")
        return
    result(f"run {path.name}")
    say(f"  a copy of {found.id} without the secrets in {words.count(scrubbed.objects, 'object')}")
    for name in scrubbed.left_out:
        say(f"  left out: {name}")
    say(f"  {path}")
    say(f"The old run still has them: kitaru rm {found.id}, and change what has leaked")
