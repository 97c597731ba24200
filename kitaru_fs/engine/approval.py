"""Approving a call before it is executed: what is approved is this call, on these files."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import msgspec

from kitaru_fs.engine.asking import answered
from kitaru_fs.engine.divergence import shown_call
from kitaru_fs.engine.effects import Effect, replayed
from kitaru_fs.engine.execution import Execution
from kitaru_fs.engine.pending import Question
from kitaru_fs.engine.replay import Call, asked_key
from kitaru_fs.errors import WaitRejected
from kitaru_fs.rundir.arrivals import asked_of
from kitaru_fs.values import codec_for, digest
from kitaru_fs.values.schema import json_schema

__all__ = ["Approval", "approving", "is_asked_for", "still_holds"]

Approval = str | None
"""A digest of what was approved; None where a human set the answer in a fork."""


def is_asked_for(execution: Execution, call: Call) -> bool:
    """Says whether a call is approved, live or in the journal.

    One that was executed before its step had to be approved is not.
    """
    replay = execution.replay
    if replay.recorded(call.key) is None:
        return True
    keys = (call.approval, asked_key(call.approval))
    return any(replay.recorded(key) is not None for key in keys)


def approving(execution: Execution, call: Call) -> Generator[Effect, Any, Approval]:
    """Yields what to do to have a call approved; returns what was approved.

    Raises:
        WaitRejected: A human refused.
        KitaruError: The run cannot go on.
    """
    codec = codec_for(bool)
    asking = Call(call.approval, call.name, "wait", {})

    def ask() -> Question:
        about = _about(execution, call)
        recorded: dict[str, Any] = {
            "question": f"Run {shown_call(call.name, about['arguments'])}?",
            "schema": json_schema(bool),
            "call": about,
            "digest": digest(msgspec.json.encode(about)),
        }
        return Question(asking._replace(input=recorded), codec, digest=recorded["digest"])

    opening, outcome = yield from answered(execution, asking, ask, is_settled=True)
    if replayed(execution, outcome, codec):
        return asked_of(opening)["digest"] if opening is not None else None
    error = WaitRejected(
        f"the call of {call.name!r} in run {execution.run} was not approved", run=execution.run
    )
    execution.causes.remember(error, outcome.step)
    raise error


def still_holds(execution: Execution, call: Call, approved: Approval) -> bool:
    """Says whether what was approved is what would be executed now."""
    return approved is None or approved == digest(msgspec.json.encode(_about(execution, call)))


def _about(execution: Execution, call: Call) -> dict[str, Any]:
    arguments = msgspec.json.decode(msgspec.json.encode(call.input))
    return {"name": call.name, "arguments": arguments, "files": execution.steps.files_seen()}
