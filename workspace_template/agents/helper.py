"""A bare Pydantic AI agent: `kitaru run` makes its model requests and tool calls durable steps.

    kitaru run helper "List the files and write a note about them"

Set KITARU_MODEL to a model of yours, for instance `openai:gpt-5` with `pip install
'kitaru-fs[openai]'` and OPENAI_API_KEY. Without it a stand-in model answers: it needs no key and no
network, calls each tool once with made-up arguments, and shows what a run looks like.
"""

import os

from pydantic_ai import Agent
from pydantic_ai.models.test import TestModel

from kitaru_fs import files

model = os.environ.get("KITARU_MODEL") or TestModel(
    custom_output_text="The stand-in model called each tool once. Set KITARU_MODEL for a real one."
)

# `defer_model_check`: a missing key is an error of the run that asks, not of loading this file.
agent = Agent(
    model,
    name="helper",
    defer_model_check=True,
    instructions="You help with the files in your working directory. Be brief.",
)


@agent.tool_plain
def list_files() -> list[str]:
    """The files in the working directory."""
    root = files()
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@agent.tool_plain
def write_note(text: str) -> str:
    """Write TEXT to `note.md` in the working directory."""
    (files() / "note.md").write_text(text + "\n")
    return "written"
