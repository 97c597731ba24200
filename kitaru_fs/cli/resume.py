"""`kitaru resume`."""

from __future__ import annotations

import click

from kitaru_fs.cli.options import json_option, pass_place, run_argument
from kitaru_fs.cli.place import Place


@click.command("resume")
@run_argument
@click.option(
    "--keep-files",
    is_flag=True,
    help="After a crash: what is in files/ is your edit, not the torn step's.",
)
@click.option(
    "--recorded-code", is_flag=True, help="Use the code that the run recorded, not the workspace's."
)
@click.option("--supervised", is_flag=True, hidden=True)
@json_option
@pass_place
def command(
    place: Place,
    run: str | None,
    keep_files: bool,
    recorded_code: bool,
    supervised: bool,
    as_json: bool,
) -> int:
    """Go on from where RUN stands, wherever git has put it.

    Journaled steps return what they returned; the first that is not journaled runs, on exactly the
    files of the last commit. What a torn step left is set aside, never deleted.
    """
    from kitaru_fs.cli.driving import resume_run, resume_unseen
    from kitaru_fs.git.safe import check_git_version

    check_git_version()
    if supervised:
        return resume_unseen(place.find_run(run, quiet=True))
    return resume_run(
        place.find_run(run, quiet=as_json),
        keep_files=keep_files,
        recorded_code=recorded_code,
        as_json=as_json,
    )
