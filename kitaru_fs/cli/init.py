"""`kitaru init`."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from kitaru_fs.cli.options import json_option
from kitaru_fs.cli.output import result_json, say


@click.command("init")
@click.argument("directory", metavar="[DIR]", default=".", type=click.Path())
@click.option("--force", is_flag=True, help="Also in your home directory or /.")
@json_option
def command(directory: str, force: bool, as_json: bool) -> None:
    """Make a workspace in DIR, by default here.

    In an existing project it adds kitaru.toml, runs/, example agents where there is no agents/,
    and two lines to .gitignore; it overwrites nothing.
    """
    from kitaru_fs.workspace import Workspace

    done = Workspace.init(Path(directory).expanduser(), force=force)
    if as_json:
        result_json(
            {
                "workspace": str(done.workspace),
                "created": done.created,
                "kept": done.kept,
                "notes": done.notes,
            }
        )
        return
    click.echo(str(done.workspace))
    for name in done.created:
        say(f"  + {name}")
    for name in done.kept:
        say(f"  = {name} (kept as it was)")
    for note in done.notes:
        say(note)
    say("To undo it, remove what has a + above.")
    if done.workspace != Path.cwd():
        say(f"  cd {shlex.quote(str(directory))}")
    if any(name.startswith("agents/hello") for name in done.created):
        say("  kitaru run hello name=Ada")
