"""MCP servers that end or cannot be reached: a failure of the step, never an answer to the model.

Pydantic AI tells the model of a closed connection as of any error of a tool, so that it may try
something else. Journaled like that, no resume could ever ask a new server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, cast

from pydantic_ai.durable_exec import (
    DurableOperationId,
    ToolsetCallToolId,
    ToolsetGetInstructionsId,
    ToolsetGetToolsId,
)
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool, WrapperToolset

from kitaru_fs.errors import KitaruError, ToolServerError

__all__ = ["watch_server"]

_CONNECTION_CLOSED = -32000
_PATIENCE = 10.0


async def watch_server(
    operation_id: DurableOperationId,
    cache_key: Sequence[object],
    body: Callable[[], Awaitable[object]],
) -> object:
    """Runs an operation's body; for one of an MCP server, sees that the server is still there.

    Raises:
        ToolServerError: The server has ended, or cannot be reached.
        Exception: What the body raised.
    """
    match operation_id:
        case ToolsetCallToolId(toolset_kind="mcp", toolset_id=server):
            what = f"while its tool {cache_key[0]!r} was called"
        case ToolsetGetToolsId(toolset_kind="mcp", toolset_id=server):
            what = "when it was asked for its tools"
        case ToolsetGetInstructionsId(toolset_id=server):
            what = "when it was asked for its instructions"
        case _:
            return await body()
    try:
        payload = await body()
    except KitaruError:
        raise
    except Exception as error:
        if not isinstance(operation_id, ToolsetCallToolId) or not await _answers(cache_key):
            raise _lost(server, what, error) from error
        raise
    result = cast("dict[str, Any]", payload if isinstance(payload, dict) else {})
    if result.get("kind") == "model_retry" and not await _answers(cache_key):
        raise _lost(server, what, result.get("message"))
    return cast("object", payload)


async def _answers(cache_key: Sequence[object]) -> bool:
    """Says whether the server of a tool call answers anything at all."""
    client = _client(cache_key)
    if client is None:
        return True
    try:
        await asyncio.wait_for(client.ping(), _PATIENCE)
    except Exception as error:
        # An answer that says no is an answer: a server need not know `ping`.
        code = getattr(getattr(error, "error", None), "code", None)
        if code is None or code == _CONNECTION_CLOSED:
            await _reconnect(client)
            return False
    return True


async def _reconnect(client: Any) -> None:
    """Begins a new session, so that a further attempt has one; else its step says what is wrong."""
    # A session that is closed says once more that it broke.
    with suppress(Exception):
        await asyncio.wait_for(client.close(), _PATIENCE)
    try:
        await asyncio.wait_for(client.__aenter__(), _PATIENCE)
    except Exception:
        with suppress(Exception):
            await asyncio.wait_for(client.close(), _PATIENCE)


def _client(cache_key: Sequence[object]) -> Any:
    for one in cache_key:
        if isinstance(one, ToolsetTool):
            toolset: AbstractToolset[Any] = cast("ToolsetTool[Any]", one).toolset
            while isinstance(toolset, WrapperToolset):
                toolset = toolset.wrapped
            return getattr(toolset, "client", None)
    return None


def _lost(server: str, what: str, why: object) -> ToolServerError:
    return ToolServerError(
        f"the MCP server {server!r} ended or could not be reached {what}: {why}",
        hint="see to the server; `kitaru resume` connects anew and calls it again",
    )
