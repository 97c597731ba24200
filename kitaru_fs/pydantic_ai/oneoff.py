"""`llm`: one question to a model, without an agent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, overload

from pydantic_ai import Agent
from pydantic_ai.messages import UserContent
from pydantic_ai.models import Model
from pydantic_ai.output import OutputSpec
from pydantic_ai.settings import ModelSettings

from kitaru_fs.errors import UsageError
from kitaru_fs.pydantic_ai.durability import KitaruDurability
from kitaru_fs.pydantic_ai.models import alias_of

__all__ = ["llm"]

OutputT = TypeVar("OutputT")

DEFAULT = "default"


@overload
async def llm(
    prompt: str | Sequence[UserContent],
    *,
    model: str | Model[Any] | None = None,
    instructions: str | None = None,
    settings: ModelSettings | None = None,
    retries: int = 0,
    timeout: float | None = None,
    backoff: float = 1.0,
    max_backoff: float = 60.0,
) -> str: ...
@overload
async def llm(
    prompt: str | Sequence[UserContent],
    *,
    model: str | Model[Any] | None = None,
    output_type: OutputSpec[OutputT],
    instructions: str | None = None,
    settings: ModelSettings | None = None,
    retries: int = 0,
    timeout: float | None = None,
    backoff: float = 1.0,
    max_backoff: float = 60.0,
) -> OutputT: ...
async def llm(
    prompt: str | Sequence[UserContent],
    *,
    model: str | Model[Any] | None = None,
    output_type: Any = str,
    instructions: str | None = None,
    settings: ModelSettings | None = None,
    retries: int = 0,
    timeout: float | None = None,
    backoff: float = 1.0,
    max_backoff: float = 60.0,
) -> Any:
    """Asks a model one question.

        verdict = await llm(f"Is this spam? {mail}", model="fast", output_type=bool)

    In a flow the request is a step: it is journaled with its tokens and cost, and not made again.
    Outside a flow, and in a step, it is a plain request.

    Args:
        prompt: The question: text, or text with images and the like.
        model: A name of `[models]` in `kitaru.toml`, a name of Pydantic AI's
            (`"openai:gpt-5-mini"`), or a model; by default what `[models]` calls `default`.
        output_type: What the answer is: a type, or whatever Pydantic AI takes as an output type.
        instructions: What the model is told beside the question.
        settings: The request's settings, such as `{"temperature": 0}`.
        retries: How many further attempts follow a request that failed.
        timeout: Seconds that a request may take.
        backoff: Seconds before the second attempt; doubled for each further one, with jitter.
        max_backoff: The longest wait between attempts, in seconds.

    Returns:
        The answer.

    Raises:
        UsageError: No model is named, or the name is not known.
    """
    if model is None and alias_of(DEFAULT) is None:
        raise UsageError(
            "llm() was not told which model to ask",
            hint='say llm(..., model="openai:gpt-5-mini"), or give a default in kitaru.toml:'
            f' [models] {DEFAULT} = "openai:gpt-5-mini"',
        )
    durability = _OneOff(
        model_retries=retries,
        model_timeout=timeout,
        model_backoff=backoff,
        model_max_backoff=max_backoff,
        outside="allow",
    )
    asked: Agent[object, Any] = Agent(
        DEFAULT if model is None else model,
        name="llm",
        output_type=output_type,
        instructions=instructions,
        model_settings=settings,
        capabilities=[durability],
    )
    return (await asked.run(prompt)).output


class _OneOff(KitaruDurability[object]):
    """Each call has an agent of its own; that they share a name is no mistake."""

    shares_name = True
