"""What durability adds to a round of an agent: one request and one tool call, both durable.

    python -m tests.campaigns.agent_overhead

Beside plain Pydantic AI, and `DBOSDurability` on SQLite where the package `dbos` is installed (its
tool a `@DBOS.step`). Runs of each are made in turn; read the ratios. On a machine that is busy with
other things the CPU's time tells more than the clock's.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic_ai import Agent, FunctionToolset
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.usage import RequestUsage, UsageLimits

from kitaru_fs import Workspace, flow
from kitaru_fs.pydantic_ai import KitaruDurability
from kitaru_fs.testing import run_flow

ROUNDS = 40
TIMES = 7
LIMITS = UsageLimits(request_limit=None)


async def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    usage = RequestUsage(input_tokens=1000, output_tokens=100)
    turn = len(messages) // 2
    if turn == ROUNDS:
        return ModelResponse(parts=[TextPart("done")], usage=usage)
    call = ToolCallPart("look", {"number": turn}, tool_call_id=f"call-{turn}")
    return ModelResponse(parts=[TextPart("I look. " * 20), call], usage=usage)


def _tools(look: Callable[..., Any]) -> FunctionToolset[Any]:
    toolset: FunctionToolset[Any] = FunctionToolset(id="tools")
    toolset.add_function(look, name="look")
    return toolset


async def look(number: int) -> str:
    return f"{number:0200d}"


def _agent(name: str, look: Callable[..., Any], *capabilities: Any) -> Agent[None, str]:
    return Agent(
        FunctionModel(answer), name=name, toolsets=[_tools(look)], capabilities=capabilities
    )


plain = _agent("plain", look)
durable = _agent("durable", look, KitaruDurability())


async def _timed(agent: Agent[None, str]) -> list[float]:
    """Seconds of the clock and of the CPU, all threads of this process."""
    clock, cpu = time.perf_counter(), time.process_time()
    await agent.run("go", usage_limits=LIMITS)
    return [time.perf_counter() - clock, time.process_time() - cpu]


@flow
async def kitaru_run() -> list[float]:
    return await _timed(durable)


def _plain() -> list[float]:
    return asyncio.run(_timed(plain))


def _kitaru(root: Path, durability: str) -> Callable[[], list[float]]:
    place = root / durability
    place.mkdir()
    (place / "kitaru.toml").write_text(f'durability = "{durability}"\n')
    workspace = Workspace(place)

    def run() -> list[float]:
        found = run_flow(workspace, kitaru_run)
        assert found.status == "completed", found.error
        assert found.log()[-1].step == 2 * ROUNDS + 2
        return found.output

    return run


def _dbos(root: Path) -> tuple[Callable[[], list[float]], str] | None:
    try:
        import dbos  # pyright: ignore[reportMissingImports]
        from pydantic_ai.durable_exec.dbos import DBOSDurability
    except ImportError:
        return None
    library: Any = dbos.DBOS
    library(config={"name": "overhead", "system_database_url": f"sqlite:///{root}/dbos.sqlite",
                    "log_level": "ERROR"})  # fmt: skip
    agent = _agent("theirs", library.step()(look), DBOSDurability())

    @library.workflow()
    async def workflow() -> list[float]:
        return await _timed(agent)

    library.launch()

    def run() -> list[float]:
        return asyncio.run(workflow())

    return run, str(getattr(dbos, "__version__", ""))


def main() -> None:
    """Measures, and prints a table, or JSON with `--json`."""
    with tempfile.TemporaryDirectory(prefix="kitaru-overhead-") as place:
        root = Path(place)
        rows: dict[str, Callable[[], list[float]]] = {"plain Pydantic AI": _plain}
        rows["kitaru-fs, fsync"] = _kitaru(root, "fsync")
        rows['kitaru-fs, durability = "process"'] = _kitaru(root, "process")
        theirs = _dbos(root)
        if theirs is not None:
            rows[f"DBOSDurability on SQLite {theirs[1]}".strip()] = theirs[0]
        took: dict[str, list[list[float]]] = {name: [] for name in rows}
        for number in range(TIMES + 1):
            for name, run in rows.items():
                seconds = run()
                if number:
                    took[name].append([one / ROUNDS * 1000 for one in seconds])
        base = took["plain Pydantic AI"]
        table = {name: _row(found, base) for name, found in took.items()}
    if "--json" in sys.argv:
        print(json.dumps(table, indent=2))
        return
    print(f"a round: one request and one tool call; medians of {TIMES} runs of {ROUNDS} rounds, ms")
    print(f"{'':45} {'clock':>8} {'added':>8} {'CPU':>8} {'added':>8}")
    for name, row in table.items():
        print(f"{name:45} " + " ".join(f"{value:8.2f}" for value in row.values()))


def _row(found: list[list[float]], base: list[list[float]]) -> dict[str, float]:
    row: dict[str, float] = {}
    for number, name in enumerate(("clock", "cpu")):
        mine = [one[number] for one in found]
        added = [one[number] - other[number] for one, other in zip(found, base, strict=True)]
        row[name] = round(statistics.median(mine), 3)
        row[f"{name}_added"] = round(statistics.median(added), 3)
    return row


if __name__ == "__main__":
    main()
