"""A coding agent that makes a project's failing tests pass, as a durable run.

    kitaru run agents/coder.py:fix --files project

Set KITARU_MODEL, or give `model=`, to use a language model: `anthropic:claude-sonnet-4-5` with
`pip install 'kitaru-fs[anthropic]'` and ANTHROPIC_API_KEY. Without it the small offline model of
`brain` decides; it needs no key and no network.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, ToolCallPart
from pydantic_ai.usage import UsageLimits

from kitaru_fs import files, flow, step
from kitaru_fs.pydantic_ai import KitaruDurability

from .brain import offline_model
from .failures import parse_report
from .tools import Tools, project_files

MAX_REQUESTS = 250

INSTRUCTIONS = """\
You repair a small Python project until all of its tests pass.
Run the tests first. Read the failing tests and the code that they reach before you change anything.
The tests are right: never edit them. Make one small change at a time, run the tests after each, and
put back what does not help. Say in a sentence what you think before each call. Stop when all tests
pass, or say openly that you cannot do it.
"""

# KITARU_DEMO_PACE makes each write pause in its middle, for whoever wants to kill the run there.
tools = Tools(files, pace=float(os.environ.get("KITARU_DEMO_PACE") or 0))

# `defer_model_check`: a missing key is an error of the run that asks, not of loading this file.
agent = Agent(
    os.environ.get("KITARU_MODEL") or offline_model(),
    name="coder",
    instructions=INSTRUCTIONS,
    toolsets=[tools.toolset()],
    capabilities=[KitaruDurability()],
    defer_model_check=True,
)


@dataclass(frozen=True)
class Inspection:
    """The project at one moment."""

    tests: int
    failing: list[str]
    ended: bool
    """False if the tests did not run to their end."""
    digests: dict[str, str]
    """The SHA-256 of each file."""


@dataclass(frozen=True)
class Fixed:
    """What came of a run.

    Attributes:
        green: Whether tests ran and all of them pass.
        passed: How many tests pass.
        tests: How many tests there are.
        changed: The files that are not as they were, in order.
        rounds: How many times the agent ran the tests.
        summary: What the agent said at the end.
    """

    green: bool
    passed: int
    tests: int
    changed: list[str]
    rounds: int
    summary: str


@step
async def inspect() -> Inspection:
    """Run the tests and take down what each file holds."""
    report = parse_report(await tools.run_tests())
    root = files()
    digests = {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in project_files(root)
    }
    return Inspection(report.ran, list(report.failures), report.finished, digests)


@flow
async def fix(task: str = "Make the tests pass.", model: str = "") -> Fixed:
    """Repair the project in the run's files; `model` is any name that Pydantic AI knows."""
    # Looked at before and after by the flow itself: an agent's own word is not taken for it.
    before = await inspect()
    result = await agent.run(
        task, model=model or None, usage_limits=UsageLimits(request_limit=MAX_REQUESTS)
    )
    after = await inspect()
    paths = sorted(before.digests.keys() | after.digests.keys())
    return Fixed(
        green=after.ended and after.tests > 0 and not after.failing,
        passed=max(after.tests - len(after.failing), 0),
        tests=after.tests,
        changed=[p for p in paths if before.digests.get(p) != after.digests.get(p)],
        rounds=count_calls(result.all_messages(), "run_tests"),
        summary=result.output,
    )


def count_calls(messages: list[ModelMessage], tool: str) -> int:
    """How many times the model called a tool."""
    return sum(
        isinstance(part, ToolCallPart) and part.tool_name == tool
        for message in messages
        if isinstance(message, ModelResponse)
        for part in message.parts
    )
