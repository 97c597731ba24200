"""`kitaru doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kitaru_fs.cli.options import json_option, pass_place, run_argument
from kitaru_fs.cli.output import printable_lines, result, result_json, say
from kitaru_fs.cli.place import Place

if TYPE_CHECKING:
    from kitaru_fs.run import Run
    from kitaru_fs.rundir.checkup.doctor import Checkup
    from kitaru_fs.rundir.leaks import Leak

_VERBS = {"found": "found", "repaired": "repaired", "refused": "left as it is"}


@click.command("doctor")
@run_argument
@click.option("--check", is_flag=True, help="Only look; write nothing.")
@click.option(
    "--secrets", is_flag=True, help="Look through all history for secrets; write nothing."
)
@json_option
@pass_place
def command(place: Place, run: str | None, check: bool, secrets: bool, as_json: bool) -> int:
    """Find what is damaged or tampered with in RUN, and put it right; without RUN, in every run.

    What is replaced is kept in the run's .git/kitaru; what cannot be explained is not overwritten.
    A run that a process drives is only looked at. The exit status is 1 if something is left.
    """
    everywhere = run is None and not place.in_run()
    if secrets:
        runs = place.workspace().runs() if everywhere else [place.find_run(run, quiet=True)]
        return _show_leaks(runs, as_json=as_json)
    if everywhere:
        checkups = place.workspace().checkup(repair=not check)
    else:
        checkups = [place.find_run(run, quiet=True).checkup(repair=not check)]
    if as_json:
        result_json([checkup.to_json() for checkup in checkups])
    else:
        for checkup in checkups:
            _show(checkup)
    return 0 if all(checkup.in_order for checkup in checkups) else 1


def _show(checkup: Checkup) -> None:
    if not checkup.findings:
        result(f"run {checkup.run}: in order")
    else:
        result(f"run {checkup.run}:")
    if checkup.holder is not None:
        say(f"  process {checkup.holder.pid} drives it, so it was only looked at")
    for finding in checkup.findings:
        where = f" ({finding.path})" if finding.path else ""
        result(f"  {_VERBS[finding.state]}: {printable_lines(finding.what + where)}")
        if finding.kept_as:
            say(f"    kept as {finding.kept_as}")
        if finding.hint:
            say(f"    {finding.hint}")


def _show_leaks(runs: list[Run], *, as_json: bool) -> int:
    found = {run.id: run.leaks() for run in runs}
    if as_json:
        result_json([{"run": run, "leaks": [one._asdict() for one in found[run]]} for run in found])
        return 1 if any(found.values()) else 0
    for run, leaks in found.items():
        if not leaks:
            result(f"run {run}: no secret was found in its history")
            continue
        result(f"run {run}:")
        for leak in leaks:
            result(f"  {leak.secret} in {printable_lines(_where(leak))}")
        say(f"  kitaru scrub {run} makes a copy without them; change what has leaked")
    return 1 if any(found.values()) else 0


def _where(leak: Leak) -> str:
    if not leak.commit:
        return f"{leak.path} {leak.object[:12]}".rstrip()
    step = "a commit by hand" if leak.step is None else f"step {leak.step}"
    return f"{step} ({leak.commit[:12]}), {leak.path or 'its message'}"
