"""A bare agent as a flow: what `kitaru run agents/helper.py:agent "the prompt"` runs."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from types import FunctionType, MethodType
from typing import Any, Union, cast

from pydantic_ai import NativeOutput, PromptedOutput, TextOutput, ToolOutput
from pydantic_ai.agent import AbstractAgent
from pydantic_ai.exceptions import UserError

from kitaru_fs.errors import UsageError
from kitaru_fs.flows import Flow
from kitaru_fs.pydantic_ai.durability import KitaruDurability
from kitaru_fs.values.signatures import annotations_of

__all__ = ["agent_flow"]


def agent_flow(agent: AbstractAgent[Any, Any], name: str) -> Flow[[str], Coroutine[Any, Any, Any]]:
    """Returns a flow that runs an agent on a prompt; its result is the agent's output.

    Args:
        agent: The agent. It is made durable with `KitaruDurability()` where it is not already.
        name: The flow's name.

    Raises:
        UsageError: The agent has no name, needs dependencies, or cannot be made durable.
    """
    if not agent.name:
        raise UsageError(
            f"the agent {name!r} has no name",
            hint=f'its steps are known by its name: Agent(..., name="{name}")',
        )
    if agent.deps_type not in (object, type(None)):
        raise UsageError(
            f"the agent {agent.name!r} needs dependencies ({agent.deps_type.__name__}), and a bare"
            " agent is run without any",
            hint="write a function marked @flow that calls agent.run(prompt, deps=...); run that",
        )
    added: list[KitaruDurability[Any]] = []
    try:
        if KitaruDurability.from_agent(agent) is None:
            added.append(KitaruDurability())
            # Tried here, so that an agent that does not allow it is refused before a run exists.
            added[0].for_agent(agent)
    except UserError as error:
        raise UsageError(f"the agent {agent.name!r} cannot be made durable: {error}") from error

    async def run(prompt: str) -> Any:
        result = await agent.run(prompt, capabilities=added)
        return result.output

    run.__name__ = run.__qualname__ = name
    run.__doc__ = agent.description or f"Runs the agent {agent.name!r} on a prompt."
    run.__annotations__["return"] = _annotation(agent.output_type)
    return Flow(run, name=name)


def _annotation(spec: Any) -> Any:
    """The type of an agent's output, for the journal; `Any` where it cannot be told."""
    if isinstance(spec, ToolOutput):
        return _annotation(cast("ToolOutput[Any]", spec).output)
    if isinstance(spec, NativeOutput | PromptedOutput):
        return _annotation(cast("NativeOutput[Any]", spec).outputs)
    if isinstance(spec, TextOutput):
        return _annotation(cast("TextOutput[Any]", spec).output_function)
    if isinstance(spec, FunctionType | MethodType):
        return annotations_of(cast("Callable[..., Any]", spec)).get("return", Any)
    if isinstance(spec, Sequence) and not isinstance(spec, str):
        members = [_annotation(one) for one in cast("Sequence[Any]", spec)]
        if not members or Any in members:
            return Any
        return Union[tuple(members)]  # noqa: UP007
    return spec
