"""`kitaru diff`."""

from __future__ import annotations

import sys

import click

from kitaru_fs.cli.completing import complete_ats
from kitaru_fs.cli.options import at_argument, json_option, pass_place
from kitaru_fs.cli.output import printable_lines, result, result_json, say
from kitaru_fs.cli.place import Place

_COLORS = {"+": "green", "-": "red", "@": "cyan"}


@click.command("diff")
@at_argument
@click.argument("other", metavar="[AT]", required=False, shell_complete=complete_ats)
@json_option
@pass_place
def command(place: Place, at: str, other: str | None, as_json: bool) -> None:
    """Show how files/ differ between two steps, of one run or of two; by default, from AT to the
    last step of its run.

    What git has no words for (modes, empty directories, a nested repository's own state) follows
    the diff, a line each."""
    run, step = place.find_at(at, quiet=as_json)
    second, until = place.find_at(other, quiet=as_json) if other is not None else (run, None)
    found = run.compare(step, until, run=second)
    if as_json:
        sides = [
            {"run": side.id, "commit": side.resolve(name).commit.hex()}
            for side, name in ((run, step), (second, until))
        ]
        result_json({"from": sides[0], "to": sides[1], "diff": found.diff, "beside": found.beside})
    else:
        result_diff(found.diff)
        for line in found.beside:
            result(f"# {line}")
        if not (found.diff or found.beside):
            say("no difference in files/")


def result_diff(diff: str) -> None:
    """Writes a diff as git shows it: on a terminal printable, and in colours."""
    if not sys.stdout.isatty():
        sys.stdout.write(diff)
        return
    for line in printable_lines(diff.removesuffix("\n")).split("\n"):
        if line.startswith(("diff --git", "--- ", "+++ ")):
            click.secho(line, bold=True)
        else:
            click.secho(line, fg=_COLORS.get(line[:1]))
