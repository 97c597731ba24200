"""Options and arguments that several commands take."""

from __future__ import annotations

import click

from kitaru_fs.cli.completing import complete_ats, complete_runs
from kitaru_fs.cli.place import Place

__all__ = ["at_argument", "json_option", "pass_place", "run_argument"]

pass_place = click.make_pass_decorator(Place)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
run_argument = click.argument("run", required=False, shell_complete=complete_runs)
at_argument = click.argument("at", shell_complete=complete_ats)
