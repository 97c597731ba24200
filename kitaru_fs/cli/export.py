"""`kitaru export`."""

from __future__ import annotations

from pathlib import Path

import click

from kitaru_fs.cli import words
from kitaru_fs.cli.options import at_argument, pass_place
from kitaru_fs.cli.output import result_bytes, say
from kitaru_fs.cli.place import Place
from kitaru_fs.errors import UsageError


@click.command("export")
@at_argument
@click.option("--patch", is_flag=True, help="Write what changed since the start to stdout.")
@click.option(
    "--into",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Write the files into DIR, which must be new or empty.",
)
@pass_place
def command(place: Place, at: str, patch: bool, into: Path | None) -> None:
    """Get the files of AT out: as a patch that `git apply` takes, or into a directory.

    The patch fits where `run --files` took the files from:

      kitaru export last --patch | git apply
    """
    if patch == (into is not None):
        raise UsageError(
            "export takes one of --patch and --into DIR",
            hint=f"kitaru export {at} --patch | git apply",
        )
    run, step = place.find_at(at)
    if into is None:
        data = run.export_patch(step)
        result_bytes(data)
        if not data:
            say("nothing changed since the start: the patch is empty")
        return
    target = into.expanduser().absolute()
    number = run.export_into(target, step)
    click.echo(str(target))
    say(f"{words.count(number, 'file')} written; the run is as it was. To undo it, remove {target}")
