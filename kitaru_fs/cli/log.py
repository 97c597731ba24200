"""`kitaru log`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from kitaru_fs.cli import words
from kitaru_fs.cli.lanes import draw_lanes, where_it_left
from kitaru_fs.cli.options import json_option, pass_place, run_argument
from kitaru_fs.cli.output import result_json_list, result_rows, say
from kitaru_fs.cli.place import Place

if TYPE_CHECKING:
    from kitaru_fs.run import Run
    from kitaru_fs.rundir.history import LogLine

_STYLES = {"failed": "red", "resume": "cyan", "edit": "magenta", "human": "magenta", "wait": "cyan"}


@click.command("log")
@run_argument
@click.option("--all", "every", is_flag=True, help="Every branch's, not only those up to HEAD.")
@json_option
@pass_place
def command(place: Place, run: str | None, every: bool, as_json: bool) -> None:
    """List RUN's entries, oldest first: a commit each."""
    found = place.find_run(run, quiet=as_json)
    lines = found.iter_log(all=every)
    if as_json:
        result_json_list(line.to_json() for line in lines)
        return
    columns = [" step", "commit", "what", " took", " files", "tokens"]
    kept: list[LogLine] = []

    def rows() -> Iterator[tuple[list[str], str]]:
        for line in lines:
            if line.kept:
                kept.append(line)
            yield _row(line), _STYLES.get(line.kind, "")

    if every:
        lines = list(lines)
        _show_branches(found, lines, columns, list(rows()))
    else:
        result_rows(columns, rows())
    for line in kept:
        how = f"kitaru git {found.id} -- show {line.kept}"
        say(f"step {line.step} left files, set aside: {how}")


def _show_branches(
    run: Run, lines: list[LogLine], columns: list[str], rows: list[tuple[list[str], str]]
) -> None:
    """Shows every branch, and where it left."""
    left = where_it_left(lines)
    columns[2:2] = ["branch"]
    shown: set[str] = set()
    for line, (row, _) in zip(lines, rows, strict=True):
        if line.branch in left and line.branch not in shown:
            before = left[line.branch]
            where = f"step {before.step}" if before.step is not None else before.commit[:10]
            row[2] += f"  (leaves {before.branch} after {where})"
        shown.add(line.branch)
        row[2:2] = [line.branch]
    if sys.stdout.isatty() and len(shown) > 1:
        columns[0:0] = [""]
        for lane, (row, _) in zip(draw_lanes(lines), rows, strict=True):
            row[0:0] = [lane]
    result_rows(columns, rows, drawn=True)
    at = {line.commit: line for line in lines}
    for branch, commit in run.branches().items():
        if branch not in shown and commit in at:
            say(f"{branch} is at step {at[commit].step} of {at[commit].branch}")


def _row(line: LogLine) -> list[str]:
    what = line.subject
    if line.step is not None:
        # The number has a column of its own.
        what = what.replace(f" {line.step}: ", ": ", 1).removeprefix("step: ")
    if line.attempt > 1:
        what += f" (attempt {line.attempt})"
    return [
        "" if line.step is None else str(line.step),
        line.commit[:10],
        what if line.kind != "human" else f"{what} (by {line.name})",
        words.duration(line.duration) if line.duration else "",
        str(len(line.files)) if line.files else "",
        words.spent(line.usage),
    ]
