"""Saying how a flow left its journal."""

from __future__ import annotations

import json
from typing import Any, cast

import msgspec

from kitaru_fs.entry import Entry
from kitaru_fs.errors import DivergenceError
from kitaru_fs.replay import Call

__all__ = ["divergence"]


def divergence(run: str, expected: Entry | None, came: Call | None, what: str) -> DivergenceError:
    if expected is None:
        message = f"the flow of run {run} left its journal ({what})"
        return DivergenceError(message, run=run)
    wanted = f"step {expected.step}: {expected.name}({_arguments(expected.input)})"
    if came is None:
        got = what or "the flow ended"
    elif came.name == expected.name:
        got = f"{came.name} with other arguments: ({_arguments(came.input)})"
    else:
        got = f"{came.name}({_arguments(came.input)})"
    return DivergenceError(
        f"the flow does not make the calls that its journal holds: expected {wanted}, came {got}",
        hint=(
            'the flow\'s code or input changed: put it back, guard the change with `patched("id")`,'
            f" use the code that ran (kitaru resume {run} --recorded-code), or rewind to before it:"
            f" git -C {run} checkout COMMIT; nothing was written"
        ),
        run=run,
        step=expected.step,
    )


def _arguments(recorded: Any) -> str:
    if isinstance(recorded, msgspec.Raw):
        recorded = msgspec.json.decode(recorded)
    if not isinstance(recorded, dict):
        return ""
    arguments = cast("dict[str, Any]", recorded)
    text = ", ".join(f"{name}={json.dumps(value)}" for name, value in arguments.items())
    return text if len(text) <= 200 else text[:199] + "…"
