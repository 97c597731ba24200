"""What-if: a new run out of an earlier point of another, with outputs or arguments replaced."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from kitaru_fs import __version__
from kitaru_fs.clock import new_run_id, stamp
from kitaru_fs.engine.runner import Runnable
from kitaru_fs.replacing import read_output
from kitaru_fs.rundir.fork import make_fork, plan_fork
from kitaru_fs.rundir.history import open_run
from kitaru_fs.rundir.masking import input_of
from kitaru_fs.rundir.options import Options
from kitaru_fs.rundir.repository import Request
from kitaru_fs.targets.launching import as_flow
from kitaru_fs.targets.target import load_target
from kitaru_fs.values.signatures import bind_input, read_input

__all__ = ["fork_run"]


def fork_run(
    path: Path,
    workspace: Path,
    at: str | None,
    replaced: Mapping[str, Any],
    arguments: Mapping[str, Any] | None,
    options: Options,
) -> Path:
    """Makes the fork of a run; see `Run.fork`.

    Args:
        path: The run's directory.
        workspace: The workspace, whose code says what fits, and which gets the new run.
        at: The STEP that is the first live one; None keeps all that the run has.
        replaced: Outputs by STEP, as Python or JSON has them; or `replacing.AsText`.
        arguments: The flow's arguments that change, by name.
        options: How the new run is driven.

    Returns:
        The new run's directory.

    Raises:
        UsageError: A value does not fit; nothing was made.
        KitaruError: As for `plan_fork` and `make_fork`.
    """
    with open_run(path) as opened:
        plan = plan_fork(opened, at, list(replaced))
        asked = opened.repository.request(plan.base)
        given = input_of(opened.repository.secrets, asked)
        if replaced or arguments:
            # Its steps are known once its modules are loaded.
            flow = as_flow(load_target(workspace, asked.target))
            if arguments:
                given = _bound(flow, {**given, **arguments})
        values = {step: replaced[name] for name, step in plan.named.items()}
        outputs = [read_output(one.entry, values[one.point.step]) for one in plan.replaced]
        request = Request(
            run=new_run_id(asked.flow),
            flow=asked.flow,
            target=asked.target,
            created=stamp(),
            version=__version__,
            input=given,
            source=asked.source,
            fork={"run": path.name, "step": plan.step, "commit": plan.tip.hex()},
        )
        return make_fork(opened, plan, workspace / "runs", request, outputs, options)


def _bound(flow: Runnable, arguments: Mapping[str, Any]) -> dict[str, Any]:
    bound = read_input(flow.name, flow.function, arguments)
    recorded = bind_input(flow.name, flow.function, bound.args, bound.kwargs)
    return {name: msgspec.json.decode(raw) for name, raw in recorded.items()}
