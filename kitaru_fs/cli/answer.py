"""`kitaru answer`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from kitaru_fs.cli.options import json_option, pass_place
from kitaru_fs.cli.output import result, result_json
from kitaru_fs.cli.place import Place
from kitaru_fs.errors import AmbiguousError, NotFoundError, UsageError

if TYPE_CHECKING:
    from kitaru_fs.run import Run


@click.command("answer")
@click.argument("words", metavar="[RUN] VALUE", nargs=-1)
@click.option("--wait", metavar="NAME", help="Which wait, by its name or by the step that asked.")
@click.option("--reject", is_flag=True, help="Refuse to answer; VALUE is the reason, if any.")
@click.option("--resume", is_flag=True, help="Go on with the run at once.")
@json_option
@pass_place
def command(
    place: Place,
    words: tuple[str, ...],
    wait: str | None,
    reject: bool,
    resume: bool,
    as_json: bool,
) -> int:
    """Reply to what RUN waits for.

    VALUE is JSON, or plain text where a text is asked for (yes or no, where that is). `kitaru
    waits` lists what is open. A run that a process drives goes on by itself; any other with
    `kitaru resume`.
    """
    from kitaru_fs.cli.driving import resume_run
    from kitaru_fs.cli.progress import open_progress
    from kitaru_fs.cli.supervised import say_who_goes_on
    from kitaru_fs.git.safe import check_git_version, user_identity

    check_git_version()
    reference, value = _split(place, words, reject)
    run = place.find_run(reference, quiet=as_json)
    with open_progress(run.id, quiet=as_json) as listener:
        delivered = run.answer_text(
            None if reject else value,
            wait=wait,
            reason=value or "" if reject else "",
            identity=user_identity(os.environ),
            listener=listener,
        )
    if resume and delivered.holder is None and run.refresh().status != "running":
        return resume_run(run, as_json=as_json)
    if as_json:
        result_json(run.refresh().state())
        return 0
    if delivered.step is None:
        holder = delivered.holder
        who = f"process {holder.pid}" if holder is not None else "whoever resumes it"
        result(f"run {delivered.run}: the reply is in its inbox; {who} takes it in")
        return 0
    result(f"run {delivered.run}: answered at step {delivered.step}")
    if run.refresh().holder is None:
        say_who_goes_on(run, place.workspace(run.path))
    return 0


def _split(place: Place, words: tuple[str, ...], reject: bool) -> tuple[str | None, str | None]:
    """RUN and VALUE; either may be left out, VALUE only where the answer is to refuse."""
    if len(words) > 2:
        raise UsageError(
            f"{' '.join(words[2:])!r} is too much: answer takes RUN and VALUE",
            hint='put the value in quotes: kitaru answer RUN "..."',
        )
    if len(words) == 2:
        return words[0], words[1]
    if not words:
        if reject:
            return None, None
        raise UsageError("answer needs a VALUE", hint="kitaru waits lists what is asked for")
    if not reject:
        return None, words[0]
    return (words[0], None) if _is_run(place, words[0]) else (None, words[0])


def _is_run(place: Place, word: str) -> bool:
    """Says whether the one word beside --reject is RUN, and not the reason.

    Raises:
        UsageError: It may be either.
    """
    if word == "last":
        return True
    try:
        run: Run = place.find_run(word, quiet=True)
    except AmbiguousError:
        pass
    except NotFoundError:
        return False
    else:
        if run.id == word or os.sep in word:
            return True
    raise UsageError(
        f"{word!r} may be the RUN or the reason",
        hint=f"give both: kitaru answer RUN {word!r} --reject",
    )
