"""`kitaru logs`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from kitaru_fs.cli.completing import complete_ats
from kitaru_fs.cli.options import json_option, pass_place
from kitaru_fs.cli.output import result_json
from kitaru_fs.cli.place import Place
from kitaru_fs.quoting import printable

if TYPE_CHECKING:
    from kitaru_fs.logs.reading import Printed


@click.command("logs")
@click.argument("run", metavar="[RUN|AT]", required=False, shell_complete=complete_ats)
@click.option("-f", "--follow", is_flag=True, help="Go on until the run has ended.")
@click.option(
    "--replayed", is_flag=True, help="Also what was printed again while the journal was replayed."
)
@json_option
@pass_place
def command(place: Place, run: str | None, follow: bool, replayed: bool, as_json: bool) -> None:
    """Show what RUN's flow, its tools and what they started printed; for AT, only in that step.

    What is kept is bounded ([logs] max_size); the oldest goes. It lies in the run's .git, in no
    commit.
    """
    from kitaru_fs.errors import UsageError

    found, step = place.find_at(run, quiet=as_json) if run else (place.find_run(None), None)
    if follow and step is not None:
        raise UsageError("a step is not followed, only a run", hint=f"kitaru logs -f {found.id}")
    if as_json and not follow:
        result_json([_object(piece) for piece in found.logs(step, replayed=replayed)])
        return
    teller = _Teller(headings=step is None)
    pieces = found.follow_logs(replayed=replayed) if follow else found.logs(step, replayed=replayed)
    for piece in pieces:
        if as_json:
            sys.stdout.write(json.dumps(_object(piece), ensure_ascii=False) + "\n")
        else:
            teller.show(piece)
        if follow:
            sys.stdout.flush()
    teller.end()


def _object(piece: Printed) -> dict[str, Any]:
    return piece._asdict()


class _Teller:
    """Shows pieces of text, with a heading where another step prints."""

    def __init__(self, *, headings: bool) -> None:
        self._headings = headings
        self._heading = ""
        self._begun = ""
        self._is_terminal = sys.stdout.isatty()

    def show(self, piece: Printed) -> None:
        heading = _heading(piece)
        if self._headings and heading != self._heading:
            self.end()
            self._heading = heading
            click.secho(f"==> {heading} <==", dim=True)
        *lines, self._begun = (self._begun + piece.text).split("\n")
        for line in lines:
            self._line(line)

    def end(self) -> None:
        """Ends a line that was only begun."""
        if self._begun:
            self._line(self._begun)
            self._begun = ""

    def _line(self, line: str) -> None:
        # What went back to the beginning of its line, as progress bars do, was written over.
        last = line.rstrip("\r").rpartition("\r")[2]
        sys.stdout.write((printable(last.expandtabs()) if self._is_terminal else last) + "\n")


def _heading(piece: Printed) -> str:
    if not piece.name:
        heading = "the flow"
    elif piece.step is None:
        heading = printable(piece.name, 100)
    else:
        heading = f"step {piece.step}: {printable(piece.name, 100)}"
    more = [f"attempt {piece.attempt}"] if piece.attempt > 1 else []
    more += ["replayed"] if piece.replayed else []
    return f"{heading} ({', '.join(more)})" if more else heading
