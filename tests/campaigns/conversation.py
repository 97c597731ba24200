"""How a run grows with its conversation: a `.git` that grows with the turns, not with their square.

    python -m tests.campaigns.conversation [TURNS]

A turn is a request to the model and a tool call. What is said is pseudo-random words, so that
nothing of it is alike: some 270 bytes by the model, 1,400 by the tool. Beside the sizes stands what
the conversation itself comes to, as the JSON of its messages.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path
from typing import NamedTuple

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.usage import UsageLimits

from kitaru_fs import flow
from kitaru_fs.pydantic_ai import KitaruDurability
from kitaru_fs.testing import run_flow, temporary_workspace

__all__ = ["Size", "measure"]

_WORDS = ["".join(random.Random(n).choices("abcdefghijklmnop", k=6)) for n in range(2000)]


def _text(words: int, seed: str) -> str:
    return " ".join(random.Random(seed).choices(_WORDS, k=words))


def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    turn = len(messages) // 2
    if turn == int(str(messages[0].parts[0].content)):  # pyright: ignore[reportAttributeAccessIssue]
        return ModelResponse(parts=[TextPart("over")])
    said = TextPart(_text(40, f"said {turn}"))
    return ModelResponse(parts=[said, ToolCallPart("tell", {"turn": turn})])


agent = Agent(
    FunctionModel(answer),
    name="talker",
    instructions="Be brief. " * 100,
    capabilities=[KitaruDurability()],
)


@agent.tool_plain
async def tell(turn: int) -> str:
    return _text(200, f"told {turn}")


@flow
async def talk(turns: int) -> int:
    result = await agent.run(str(turns), usage_limits=UsageLimits(request_limit=None))
    return len(result.all_messages_json())


class Size(NamedTuple):
    """What a run of a conversation comes to, in bytes.

    Attributes:
        turns: The requests to the model that called a tool.
        git: Its `.git`: the lengths of the files in it.
        journal: Its `journal/`, likewise.
        messages: The conversation's messages as JSON.
        seconds: How long it took.
    """

    turns: int
    git: int
    journal: int
    messages: int
    seconds: float


def measure(turns: int) -> Size:
    """Has a conversation, and measures its run."""
    with temporary_workspace() as workspace:
        begun = time.monotonic()
        run = run_flow(workspace, talk, turns)
        took = time.monotonic() - begun
        assert run.status == "completed", run.error
        return Size(turns, _used(run.path / ".git"), _used(run.path / "journal"), run.output, took)


def _used(path: Path) -> int:
    # Bytes, not blocks: what a file system rounds up to says nothing of how a run grows.
    return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())


def main() -> None:
    """Measures an eighth of the turns, then twice as many until all, and prints a table."""
    most = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    sizes = [measure(most // part) for part in (8, 4, 2, 1)]
    print(f"{'turns':>6} {'.git':>10} {'a turn':>10} {'journal/':>10} {'messages':>10} {'took':>8}")
    for one in sizes:
        kilo = [one.git, one.git / one.turns, one.journal, one.messages]
        shown = " ".join(f"{value / 1000:7.1f} kB" for value in kilo)
        print(f"{one.turns:6} {shown} {one.seconds:6.1f} s")


if __name__ == "__main__":
    main()
