"""`kitaru send`."""

from __future__ import annotations

import os

import click

from kitaru_fs.cli.completing import complete_runs
from kitaru_fs.cli.options import json_option, pass_place
from kitaru_fs.cli.output import result, result_json
from kitaru_fs.cli.place import Place


@click.command("send")
@click.argument("run", shell_complete=complete_runs)
@click.argument("topic")
@click.argument("value")
@json_option
@pass_place
def command(place: Place, run: str, topic: str, value: str, as_json: bool) -> None:
    """Send RUN a message on TOPIC; the flow receives it with `receive(TOPIC)`.

    VALUE is JSON, or else plain text. Messages are received once each, in the order sent, and kept
    until then.
    """
    from kitaru_fs.cli.progress import open_progress
    from kitaru_fs.cli.supervised import say_who_goes_on
    from kitaru_fs.git.safe import check_git_version, user_identity

    check_git_version()
    found = place.find_run(run, quiet=as_json)
    with open_progress(found.id, quiet=as_json) as listener:
        delivered = found.send_text(
            topic, value, identity=user_identity(os.environ), listener=listener
        )
    now = found.refresh()
    if as_json:
        result_json(now.state())
    elif delivered.step is None:
        result(f"run {found.id}: the message is in its inbox, to be taken in")
    else:
        result(f"run {found.id}: message {delivered.step} on {topic}")
        if now.status == "queued":
            say_who_goes_on(found, place.workspace(found.path))
