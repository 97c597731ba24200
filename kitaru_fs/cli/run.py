"""`kitaru run`."""

from __future__ import annotations

from pathlib import Path

import click

from kitaru_fs.cli.completing import complete_targets
from kitaru_fs.cli.options import json_option, pass_place
from kitaru_fs.cli.output import say
from kitaru_fs.cli.place import Place


@click.command("run")
@click.argument("target", shell_complete=complete_targets)
@click.argument("args", metavar="[ARG]...", nargs=-1)
@click.option("--input", "given", metavar="JSON|@FILE|-", help="The arguments, as a JSON object.")
@click.option(
    "--files",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Copy DIR into the run's files/; a git work tree comes with its history.",
)
@click.option("--key", help="Start at most one run with this key; show the one that there is.")
@click.option("--detach", is_flag=True, help="Only make the run; `kitaru up` starts it.")
@json_option
@pass_place
def command(
    place: Place,
    target: str,
    args: tuple[str, ...],
    given: str | None,
    files: Path | None,
    key: str | None,
    detach: bool,
    as_json: bool,
) -> int:
    """Start a run of TARGET: path.py:name, module:name, or the bare name of a flow in agents/.

    ARG is name=value, with a value in JSON or plain text; for a bare Pydantic AI agent it is the
    prompt. The result goes to stdout, with --detach the run's id. Ctrl-C stops the run in order;
    `kitaru resume` goes on.
    """
    from kitaru_fs.cli.arguments import read_arguments
    from kitaru_fs.cli.driving import drive, prints_to_stderr, show_state, surrounded
    from kitaru_fs.cli.supervised import show_queued
    from kitaru_fs.engine.runner import drive_run
    from kitaru_fs.errors import StorageError, UsageError
    from kitaru_fs.git.safe import check_git_version
    from kitaru_fs.run import Run

    if key == "":
        raise UsageError("--key is empty", hint="give it a text that is the same on every try")
    with surrounded(as_json=as_json) as surround:
        check_git_version()
        workspace = place.workspace()
        with prints_to_stderr():
            flow, found = workspace.load(target, cwd=Path.cwd())
        recorded = read_arguments(
            flow.name, flow.function, args, given, is_agent=found.kind == "agent"
        )
        try:
            path, is_new = workspace.create_once(
                flow,
                recorded,
                files=files.expanduser().absolute() if files else None,
                key=key,
                target=found,
                detached=detach,
            )
        except StorageError as error:
            error.exit_status = 2  # nothing had begun
            raise
        run = Run(path, workspace)
        if not is_new:
            if not as_json:
                say(f"the key {key!r} has this run already; none is started")
            return show_state(run, as_json=as_json)
        if detach:
            return show_queued(run, workspace, as_json=as_json)
        if not as_json:
            say(f"run {run.id}")
        return drive(
            run,
            lambda listener, on_open: drive_run(
                path,
                flow,
                workspace.options(purpose="run", target=found, listener=listener, on_open=on_open),
            ),
            surround,
            as_json=as_json,
        )
