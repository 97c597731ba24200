"""What the journal says of a durable operation: its name, its kind, its arguments.

An operation that is not known here is journaled like any other, under the name that Pydantic AI
gives it.
"""

from __future__ import annotations

import hashlib
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
from pydantic_ai.messages import ModelMessage, ModelRequest, ToolReturnPart
from pydantic_ai.models import ModelRequestContext

from kitaru_fs.pydantic_ai.binary import take_out
from kitaru_fs.pydantic_ai.known import Known
from kitaru_fs.pydantic_ai.messages import (
    Conversation,
    digest_of,
    excerpt,
    instructions_of,
    news,
    plain,
    shortened,
    text_of,
)
from kitaru_fs.quoting import printable
from kitaru_fs.values import encode_arguments

__all__ = ["Operation", "context_of", "describe", "scope_of"]

_BODY = 400
_ARGUMENT = 200
# A longer text stands beside the entry.
_LONG = 32 * 1024


class Operation(NamedTuple):
    """One call of a durable operation.

    Attributes:
        name: The step's name.
        kind: The entry's kind: `model`, `tool` or `step`.
        input: What the entry shows.
        identity: What tells it from other calls of this name; the same on replay.
        body: What the commit's message says of it.
        context: The agent run that it belongs to, where that is known.
        asked: What a model is asked.
        call: The id of a tool call.
        beside: Files that stand beside its entry, by the ends of their names.
    """

    name: str
    kind: str
    input: dict[str, Any]
    identity: tuple[Any, ...] = ()
    body: str = ""
    context: RunContext[Any] | None = None
    asked: Conversation | None = None
    call: str | None = None
    beside: Mapping[str, bytes] = {}


class _Described(NamedTuple):
    agent: str
    known: Known
    scope: str
    context: RunContext[Any] | None


def context_of(cache_key: Sequence[object]) -> RunContext[Any] | None:
    """Returns the agent run that a call belongs to, where its arguments tell."""
    for one in reversed(cache_key):
        if isinstance(one, RunContext):
            return cast("RunContext[Any]", one)
    return None


def describe(
    agent: str,
    operation_id: DurableOperationId,
    name: str,
    cache_key: Sequence[object],
    known: Known,
    scope: str,
) -> Operation:
    """Returns what the journal says of a call.

    Args:
        agent: The agent's name.
        operation_id: Which operation it is.
        name: The name that Pydantic AI gives it.
        cache_key: What it is called with.
        known: What earlier entries hold.
        scope: What tells this run of the agent from its others.
    """
    context = context_of(cache_key)
    where = _Described(agent, known, scope, context)
    found = _describe(where, operation_id, cast("Sequence[Any]", cache_key))
    if found is None:
        # Pydantic AI's names are AGENT__OPERATION.
        short = name.removeprefix(f"{agent}__") or name
        found = Operation(f"{agent}.{short}", "step", {})
    if not found.identity:
        found = found._replace(identity=(found.input,))
    return found._replace(context=context)


def _describe(
    where: _Described, operation_id: DurableOperationId, cache_key: Sequence[Any]
) -> Operation | None:
    agent, context = where.agent, where.context
    match operation_id:
        case ModelRequestId(model_id=written, model_name=model, streaming=streaming):
            more = {"settings": cache_key[2], "tools": _tools(cache_key[3])}
            return _request(
                where, "model", written or model, cache_key[1], more, streaming=streaming
            )
        case ModelCompactMessagesId(model_id=written, model_name=model):
            request: ModelRequestContext = cache_key[1]
            more = {"compact": cache_key[2], "settings": request.model_settings}
            return _request(where, "compact", written or model, request.messages, more)
        case ModelCancelSuspendedResponseId(model_name=model):
            shown = {"model": model, "response": digest_of(cache_key[1])}
            return Operation(f"{agent}.cancel", "step", shown)
        case ToolsetCallToolId():
            return _tool(cache_key[0], cache_key[1], context)
        case ToolsetValidateToolArgumentsId():
            call = _tool(cache_key[0], cache_key[1], context)
            return call._replace(name=f"{call.name}.validate", kind="step", call=None)
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


def scope_of(agent: str, context: RunContext[Any], *, masked: bool = True) -> str:
    """Returns what an agent run is told apart by: its agent, its prompt, its history.

    Args:
        agent: The agent's name.
        context: The agent run.
        masked: With secrets masked.
    """
    history = list(context.messages)
    while history and isinstance(history[-1], ModelRequest):
        # The request that is being made: it may still be added to.
        history.pop()
    return f"{agent}@{digest_of(context.prompt, Conversation(history), masked=masked)[:8]}"


def _request(
    where: _Described,
    what: str,
    model: str,
    messages: Sequence[ModelMessage],
    more: Mapping[str, Any],
    *,
    streaming: bool = False,
) -> Operation:
    known, scope = where.known, where.scope
    conversation = Conversation(messages)
    before = known.before(conversation)
    beside: dict[str, bytes] = {}
    added = [_told(message, where, beside) for message in messages[before.messages :]]
    shown: dict[str, Any] = {"model": model, "messages": take_out(added, beside)}
    if before.key:
        shown["after"] = before.key
    if streaming:
        shown["stream"] = True
    for name, value in {"instructions": instructions_of(messages), **more}.items():
        if value:
            shown[name] = known.once(scope, name, value)
    return Operation(
        f"{where.agent}.{what}",
        "model",
        _arguments(shown),
        identity=(model, streaming, conversation),
        body=excerpt(news(messages), _BODY),
        asked=conversation,
        beside=beside,
    )


def _told(message: ModelMessage, where: _Described, beside: dict[str, bytes]) -> Any:
    """A message as an entry shows it: what another entry holds is named, long texts are beside."""
    parts: list[Any] = []
    for part in message.parts:
        shown = plain(part)
        content = getattr(part, "content", None)
        if isinstance(part, ToolReturnPart) and where.known.holds(
            where.scope, part.tool_call_id, cast("Any", part).content
        ):
            shown.pop("content", None)
        elif isinstance(content, str) and len(content) > _LONG:
            text = content.encode("utf-8", "backslashreplace")
            digest = hashlib.sha256(text).hexdigest()[:16]
            beside[f"{digest}.txt"] = text
            shown["content"] = f"beside:{digest}"
        parts.append(shown)
    return {message.kind: parts}


def _tools(parameters: Any) -> list[str]:
    named = [*parameters.function_tools, *parameters.output_tools]
    return [tool.name for tool in named]


def _tool(name: str, arguments: Mapping[str, Any], context: RunContext[Any] | None) -> Operation:
    shown = _arguments(arguments)
    texts = {key: shortened(text_of(value), _ARGUMENT) for key, value in shown.items()}
    lines = [f"{key}: {printable(text, _ARGUMENT)}" for key, text in texts.items()]
    call = (context.tool_call_id if context is not None else None) or ""
    return Operation(
        name, "tool", shown, identity=(shown, call), body="\n".join(lines), call=call or None
    )


def _workspace_call(call: WorkspaceCall) -> Operation:
    names = ("path", "command", "shell", "cwd", "env", "timeout", "data")
    given = {name: value for name in names if (value := getattr(call, name, None))}
    return Operation(f"workspace.{call.method}", "step", _arguments(given))


def _arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    # A run context among them is no argument: it is the run itself.
    kept = {name: item for name, item in arguments.items() if not isinstance(item, RunContext)}
    raw = msgspec.json.encode(encode_arguments(kept))
    return cast("dict[str, Any]", msgspec.json.decode(raw))
