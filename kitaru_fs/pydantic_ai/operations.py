"""What the journal says of a durable operation: its name, its kind, its arguments.

An operation that is not known here is journaled like any other, under the name that Pydantic AI
gives it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import msgspec
from pydantic_ai import RunContext
from pydantic_ai.durable_exec import (
    CapabilityOperationId,
    DurableOperationId,
    EventStreamHandlerId,
    ModelCancelSuspendedResponseId,
    ModelCompactMessagesId,
    ModelRequestId,
    ToolsetCallToolId,
    ToolsetGetInstructionsId,
    ToolsetGetToolsId,
    ToolsetValidateToolArgumentsId,
    WorkspaceCall,
)
from pydantic_ai.messages import ModelMessage, ModelRequest
from pydantic_ai.models import ModelRequestContext

from kitaru_fs.pydantic_ai.messages import (
    conversation_digest,
    digest_of,
    excerpt,
    instructions_of,
    news,
    text_of,
)
from kitaru_fs.quoting import printable
from kitaru_fs.values import encode_arguments

__all__ = ["Operation", "describe", "scope_of"]

_PROMPT = 400
_INSTRUCTIONS = 120
_ARGUMENT = 200


class Operation(NamedTuple):
    """One call of a durable operation.

    Attributes:
        name: The step's name.
        kind: The entry's kind: `model`, `tool` or `step`.
        input: What the entry shows; small, and enough to tell a changed call.
        identity: What tells equal calls apart besides: a tool call's id.
        body: What the commit's message says of it.
        context: The agent run that it belongs to, where that is known.
    """

    name: str
    kind: str
    input: dict[str, Any]
    identity: str = ""
    body: str = ""
    context: RunContext[Any] | None = None


def describe(
    agent: str, operation_id: DurableOperationId, name: str, cache_key: Sequence[object]
) -> Operation:
    """Returns what the journal says of a call.

    Args:
        agent: The agent's name.
        operation_id: Which operation it is.
        name: The name that Pydantic AI gives it.
        cache_key: What it is called with.
    """
    context: RunContext[Any] | None = None
    for one in cache_key:
        if isinstance(one, RunContext):
            context = cast("RunContext[Any]", one)
    found = _describe(agent, operation_id, cast("Sequence[Any]", cache_key), context)
    if found is None:
        # Pydantic AI's names are AGENT__OPERATION.
        short = name.removeprefix(f"{agent}__") or name
        found = Operation(f"{agent}.{short}", "step", {})
    return found._replace(context=context)


def _describe(
    agent: str,
    operation_id: DurableOperationId,
    cache_key: Sequence[Any],
    context: RunContext[Any] | None,
) -> Operation | None:
    match operation_id:
        case ModelRequestId(model_name=model, streaming=streaming):
            return _request(f"{agent}.model", model, cache_key[1], streaming=streaming)
        case ModelCompactMessagesId(model_name=model):
            request: ModelRequestContext = cache_key[1]
            return _request(f"{agent}.compact", model, request.messages)
        case ModelCancelSuspendedResponseId(model_name=model):
            shown = {"model": model, "response": digest_of(cache_key[1])}
            return Operation(f"{agent}.cancel", "step", shown)
        case ToolsetCallToolId():
            return _tool(cache_key[0], cache_key[1], context)
        case ToolsetValidateToolArgumentsId():
            call = _tool(cache_key[0], cache_key[1], context)
            return call._replace(name=f"{call.name}.validate", kind="step")
        case ToolsetGetToolsId(toolset_id=toolset):
            return Operation(f"{toolset}.tools", "step", {})
        case ToolsetGetInstructionsId(toolset_id=toolset):
            return Operation(f"{toolset}.instructions", "step", {})
        case EventStreamHandlerId():
            event = cache_key[0]
            kind = str(getattr(event, "event_kind", type(event).__name__))
            shown = {"event": kind, "digest": digest_of(event)}
            return Operation(f"{agent}.event", "step", shown)
        case CapabilityOperationId(capability_id=capability, operation=operation):
            called = cache_key[0]
            if isinstance(called, WorkspaceCall):
                return _workspace_call(called)
            return Operation(f"{capability}.{operation}", "step", _arguments(cache_key[1]))
        case _:
            # The union of identifiers grows in minor releases.
            return None


def scope_of(agent: str, context: RunContext[Any]) -> str:
    """Returns what an agent run is told apart by: its agent, its prompt, its history."""
    history = list(context.messages)
    while history and isinstance(history[-1], ModelRequest):
        # The request that is being made: it may still be added to.
        history.pop()
    return f"{agent}@{digest_of(context.prompt, conversation_digest(history))[:8]}"


def _request(
    name: str, model: str, messages: Sequence[ModelMessage], *, streaming: bool = False
) -> Operation:
    asked = news(messages)
    shown: dict[str, Any] = {
        "prompt": excerpt(asked, _PROMPT),
        "model": model,
        "messages": len(messages),
    }
    if instructions := instructions_of(messages):
        shown["instructions"] = excerpt(instructions, _INSTRUCTIONS)
    if streaming:
        shown["stream"] = True
    shown["digest"] = conversation_digest(messages)
    return Operation(name, "model", shown, body=excerpt(asked, _PROMPT))


def _tool(name: str, arguments: Mapping[str, Any], context: RunContext[Any] | None) -> Operation:
    shown = _arguments(arguments)
    lines = [f"{key}: {printable(text_of(value), _ARGUMENT)}" for key, value in shown.items()]
    call = (context.tool_call_id if context is not None else None) or ""
    return Operation(name, "tool", shown, identity=call, body="\n".join(lines))


def _workspace_call(call: WorkspaceCall) -> Operation:
    names = ("path", "command", "shell", "cwd", "env", "timeout", "data")
    given = {name: value for name in names if (value := getattr(call, name))}
    return Operation(f"workspace.{call.method}", "step", _arguments(given))


def _arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    # A run context among them is no argument: it is the run itself.
    kept = {name: item for name, item in arguments.items() if not isinstance(item, RunContext)}
    raw = msgspec.json.encode(encode_arguments(kept))
    return cast("dict[str, Any]", msgspec.json.decode(raw))
