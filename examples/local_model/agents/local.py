"""A model on this machine that answers questions about a text, and writes the answers down."""

from __future__ import annotations

import os

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from kitaru_fs import files, flow
from kitaru_fs.pydantic_ai import KitaruDurability

model = OpenAIChatModel(
    "smollm2-135m",
    provider=OpenAIProvider(
        base_url=f"http://127.0.0.1:{os.environ.get('LOCAL_PORT', '8135')}/v1",
        api_key="none-needed",
    ),
)
reader = Agent(
    model,
    name="reader",
    instructions="Answer in one short sentence.",
    model_settings={"temperature": 0.0, "max_tokens": 48},
    capabilities=[KitaruDurability()],
)

QUESTIONS = ("a directory", "a git commit", "a journal", "a branch", "a tool", "a file")


@flow
async def ask_all() -> int:
    """Asks what each of a few things is; the answers are in `answers.md`."""
    for thing in QUESTIONS:
        result = await reader.run(f"What is {thing}?")
        with (files() / "answers.md").open("a") as notes:
            notes.write(f"## {thing}\n\n{result.output.strip()}\n\n")
    return len(QUESTIONS)
