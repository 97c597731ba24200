"""`kitaru fork`."""

from __future__ import annotations

import os
from typing import Any

import click

from kitaru_fs.cli.options import at_argument, json_option, pass_place
from kitaru_fs.cli.output import result, result_json, say
from kitaru_fs.cli.place import Place
from kitaru_fs.errors import StorageError, UsageError


@click.command("fork")
@at_argument
@click.option(
    "--set",
    "replaced",
    metavar="NAME=JSON",
    multiple=True,
    help="Replace the output of a step up to AT; what follows the earliest is live.",
)
@click.option("--input", "given", metavar="JSON|@FILE|-", help="Arguments that change, as JSON.")
@click.option("--run", "go_on", is_flag=True, help="Run it at once.")
@json_option
@pass_place
def command(
    place: Place, at: str, replaced: tuple[str, ...], given: str | None, go_on: bool, as_json: bool
) -> int:
    """Make a new run out of AT: the commits before it, then AT and all after it live.

    The run that it is made from is only read, and stays as it is. The new run's id goes to stdout;
    with --run, its result.
    """
    from kitaru_fs.cli.arguments import read_input_json
    from kitaru_fs.cli.driving import prints_to_stderr, resume_run
    from kitaru_fs.git.safe import check_git_version, user_identity

    check_git_version()
    run, step = place.find_at(at, quiet=as_json)
    outputs = _outputs(replaced)
    arguments = read_input_json(given) if given is not None else None
    identity = user_identity(os.environ)
    try:
        with prints_to_stderr():
            made = run.fork(step, set=outputs, input=arguments, identity=identity)
    except StorageError as error:
        error.exit_status = 2  # nothing had begun
        raise
    if go_on:
        if not as_json:
            say(f"run {made.id}")
        return resume_run(made, as_json=as_json)
    if as_json:
        result_json(made.state())
    else:
        result(made.id)
        say(f"  {made.path}")
        say(f"  kitaru resume {made.id}")
    return 0


def _outputs(words: tuple[str, ...]) -> dict[str, Any]:
    from kitaru_fs.replacing import AsText

    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name or not equals:
            raise UsageError(
                f"--set {word!r} is not NAME=JSON",
                hint="""write for instance --set 'search=["x"]'""",
            )
        if name in found:
            raise UsageError(f"--set: {name!r} is given twice", hint="give it once")
        found[name] = AsText(value)
    return found
