"""Tool calls that a human approves, or that others execute: waits of the run.

The process ends while nobody has answered. A reply is bound to the very call: its name and its
arguments. Yes and no will do; `--reject REASON` says no with a reason, and an object changes the
arguments: `{"approve": true, "arguments": {...}}`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from datetime import timedelta
from typing import Any, cast

import msgspec
from pydantic_ai import DeferredToolRequests, DeferredToolResults, ToolApproved, ToolDenied
from pydantic_ai.exceptions import ToolFailed
from pydantic_ai.messages import ToolCallPart

from kitaru_fs.engine.asking import asking
from kitaru_fs.engine.execution import Execution
from kitaru_fs.engine.pending import Question
from kitaru_fs.engine.protocol import drive_async
from kitaru_fs.errors import WaitRejected
from kitaru_fs.pydantic_ai.messages import plain
from kitaru_fs.quoting import printable
from kitaru_fs.values import digest, encode_arguments
from kitaru_fs.waiting import NO_DEFAULT, waiting

__all__ = ["Approval", "answer_requests", "ask", "takes_requests"]

_SHOWN = 1000


class Approval(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a human says of a tool call, where yes or no is not enough.

    Attributes:
        approve: Whether it may be made.
        reason: Why not; the model is told.
        arguments: The arguments that it is made with instead.
    """

    approve: bool = True
    reason: str = ""
    arguments: dict[str, Any] | None = None


async def answer_requests(
    execution: Execution, agent: str, requests: DeferredToolRequests
) -> DeferredToolResults:
    """Asks for what tool calls wait for, all at once, and returns the replies.

    Args:
        execution: The run.
        agent: The agent's name.
        requests: The calls.
    """
    # Each key is reserved here, in the order of the calls.
    approvals = [_approve(execution, agent, call) for call in requests.approvals]
    calls = [_execute(execution, agent, call) for call in requests.calls]
    replies = await asyncio.gather(*approvals, *calls)
    results = DeferredToolResults()
    for call, reply in zip(requests.approvals, replies, strict=False):
        results.approvals[call.tool_call_id] = reply
    for call, reply in zip(requests.calls, replies[len(approvals) :], strict=True):
        results.calls[call.tool_call_id] = reply
    return results


def takes_requests(output_type: Any) -> bool:
    """Says whether an agent's output may be its deferred requests: then its flow answers them."""
    if isinstance(output_type, Sequence) and not isinstance(output_type, str):
        return any(takes_requests(one) for one in cast("Sequence[Any]", output_type))
    return output_type is DeferredToolRequests


def ask(
    execution: Execution,
    name: str,
    question: str,
    schema: Any,
    *,
    key: str = "",
    timeout: timedelta | None = None,
    **shown: Any,
) -> tuple[Question, Coroutine[Any, Any, Any]]:
    """Returns a question of an agent's, and what asks it.

    Args:
        execution: The run.
        name: The wait's name.
        question: What is asked.
        schema: The type of the reply.
        key: The wait's key, where its name does not tell it from others.
        timeout: How long it waits.
        shown: What else the entry shows; the reply is bound to it.
    """
    made = waiting(execution, name, question, schema, timeout, NO_DEFAULT)
    recorded = {**made.call.input, **msgspec.json.decode(msgspec.json.encode(shown))}
    recorded.pop("digest")
    what = digest(execution.secrecy.mask(msgspec.json.encode(recorded)))
    call = made.call._replace(input={**recorded, "digest": what}, key=key or made.call.key)
    asked = made._replace(call=call, digest=what)
    return asked, drive_async(execution, asking(execution, asked))


def _ask_about(
    execution: Execution, agent: str, what: str, call: ToolCallPart, schema: Any
) -> Coroutine[Any, Any, Any]:
    arguments = encode_arguments(plain(call.args_as_dict()))
    text = ", ".join(f"{name}={bytes(value).decode()}" for name, value in arguments.items())
    question = f"agent {agent}: {what} {call.tool_name}({printable(text, _SHOWN)})"
    name = f"{what.split()[0]} {call.tool_name}"
    return ask(execution, name, question, schema, tool=call.tool_name, arguments=arguments)[1]


async def _reply(asked: Coroutine[Any, Any, Any]) -> Any:
    reply = await asked
    if isinstance(reply, bool):
        reply = Approval(approve=reply)
    if not reply.approve:
        return ToolDenied(reply.reason or "The tool call was denied.")
    return ToolApproved(override_args=reply.arguments)


def _approve(execution: Execution, agent: str, call: ToolCallPart) -> Coroutine[Any, Any, Any]:
    asked = _ask_about(execution, agent, "approve", call, bool | Approval)

    async def approve() -> Any:
        try:
            return await _reply(asked)
        except WaitRejected as error:
            return ToolDenied(error.reason or "The tool call was denied.")

    return approve()


def _execute(execution: Execution, agent: str, call: ToolCallPart) -> Coroutine[Any, Any, Any]:
    asked = _ask_about(execution, agent, "result of", call, Any)

    async def execute() -> Any:
        try:
            return await asked
        except WaitRejected as error:
            return ToolFailed(error.reason or "The tool call was refused.")

    return execute()
