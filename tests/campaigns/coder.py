"""A coding agent with everything, killed with SIGKILL at random moments.

    python -m tests.campaigns.coder [KILLS] [SEED]

It has the file and shell tools of `pydantic-ai-harness`, tools that run at the same time, a tool
that a human must approve, a sub-agent, and an MCP server. Killed until it has been killed KILLS
times (30 by default), over as many runs as that takes, each must end with the messages, files and
costs of one that was not; and no call that the journal held is made again, counted in the models
and the tools.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from kitaru_fs import Run, Workspace
from kitaru_fs.testing import VOLATILE, differences

__all__ = ["Crew"]

SERVER = """
import os
from pathlib import Path
from mcp.server.mcpserver import MCPServer

server = MCPServer("shelf")


@server.tool()
def count(shelf: str) -> int:
    with (Path(os.environ["OUTSIDE"]) / "calls").open("a") as log:
        log.write(f"count {shelf}\\n")
    return len(shelf)


server.run("stdio")
"""

AGENTS = '''
import asyncio
import json
import os
import signal
import sys
from decimal import Decimal
from pathlib import Path

from fastmcp.client.transports import StdioTransport
from pydantic_ai import Agent
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.usage import RequestUsage
from pydantic_ai_harness import FileSystem, Shell

from kitaru_fs import files, flow
from kitaru_fs.pydantic_ai import KitaruDurability, RunFiles

OUTSIDE = Path(os.environ["OUTSIDE"])


def called(what):
    with (OUTSIDE / "calls").open("a") as log:
        log.write(what + "\\n")
    if what == os.environ.get("STOP_AT"):
        (OUTSIDE / "reached").touch()
        signal.pause()


def scripted(name, *turns):
    """A model that gives its n-th answer as the n-th of a conversation, at a price."""

    async def answer(messages, info):
        turn = sum(isinstance(message, ModelResponse) for message in messages)
        called(f"model {name} {turn}")
        await asyncio.sleep(0.02)
        said = turns[turn]
        usage = RequestUsage(input_tokens=100, output_tokens=10, cost=Decimal("0.01"))
        if isinstance(said, str):
            return ModelResponse(parts=[TextPart(said)], usage=usage)
        calls = [
            ToolCallPart(tool, args, tool_call_id=f"{name}-{turn}-{number}")
            for number, (tool, args) in enumerate(said)
        ]
        return ModelResponse(parts=calls, usage=usage)

    return FunctionModel(answer)


scout = Agent(
    scripted("scout", [("dig", {})], "gold at two"), name="scout", capabilities=[KitaruDurability()]
)


@scout.tool_plain
async def dig() -> str:
    called("dig")
    (files() / "map.txt").write_text("x marks two\\n")
    return "dug"


coder = Agent(
    scripted(
        "coder",
        [("write_file", {"path": "a.py", "content": "print(1)\\n"}),
         ("write_file", {"path": "b.py", "content": "print(2)\\n"})],
        [("check", {"n": 1}), ("check", {"n": 2}), ("check", {"n": 3})],
        [("run_command", {"command": "echo shell >> $OUTSIDE/calls; python3 a.py > out; cat out"}),
         ("count", {"shelf": "poetry"})],
        [("ask_scout", {})],
        [("publish", {"title": "The end"})],
        [("read_file", {"path": "published.md"})],
        "all is written",
    ),
    name="coder",
    toolsets=[
        MCPToolset(
            StdioTransport(
                sys.executable, [str(OUTSIDE / "server.py")], env={"OUTSIDE": str(OUTSIDE)}
            ),
            id="shelf",
            init_timeout=120,
        )
    ],
    capabilities=[
        RunFiles(env={"OUTSIDE": str(OUTSIDE)}), FileSystem(), Shell(), KitaruDurability()
    ],
)


@coder.tool_plain
async def check(n: int) -> str:
    called(f"check {n}")
    await asyncio.sleep(0.01 * (4 - n))
    (files() / f"check-{n}.txt").write_text(f"{n} is good\\n")
    return f"{n} is good"


@coder.tool_plain
async def ask_scout() -> str:
    return (await scout.run("where is it?")).output


@coder.tool_plain(requires_approval=True)
def publish(title: str) -> str:
    called(f"publish {title}")
    (files() / "published.md").write_text(f"# {title}\\n")
    return "published"


@flow
async def crew() -> list:
    result = await coder.run("write it")
    (files() / "report.txt").write_text(result.output)
    return json.loads(result.all_messages_json())
'''

# What the calls of a journaled step are known by in the log of calls.
_INSIDE = {
    "run_command": ["shell"],
    "ask_scout": ["model scout 0", "dig", "model scout 1"],
}


class Crew:
    """A workspace with the agent.

    Args:
        place: An empty directory.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        Workspace.init(place / "ws")
        (place / "ws" / "kitaru.toml").write_text('linger = "0s"\n')
        (place / "ws" / "agents" / "crew.py").write_text(AGENTS)
        (place / "server.py").write_text(SERVER)

    @property
    def run(self) -> Run:
        """The last run."""
        return Workspace(self.place / "ws").run("last")

    @property
    def calls(self) -> list[str]:
        """What was called of models and tools, in the order of the calls."""
        file = self.place / "calls"
        return file.read_text().splitlines() if file.exists() else []

    def start(self, *args: str, stop_at: str = "") -> subprocess.Popen[bytes]:
        """Starts the program in a process group of its own."""
        environment = {**os.environ, "OUTSIDE": str(self.place), "STOP_AT": stop_at}
        with (self.place / "output").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "kitaru_fs", *args],
                cwd=self.place / "ws",
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def goes_on(self) -> tuple[str, ...]:
        """The command that takes the run further; empty if it is completed."""
        if not any((self.place / "ws" / "runs").iterdir()):
            return ("run", "crew")
        status = self.run.status
        if status == "waiting":
            self.run.answer(True)
        return () if status == "completed" else ("resume", "last")

    def to_the_end(self) -> Run:
        """Drives the run to its end, and answers on the way."""
        while command := self.goes_on():
            status = self.start(*command).wait()
            assert status in (0, 3), (self.place / "output").read_text()
        return self.run

    def kill_at(self, what: str) -> None:
        """Goes on until a call begins, and kills the process there."""
        reached = self.place / "reached"
        reached.unlink(missing_ok=True)
        while not reached.exists():
            command = self.goes_on()
            assert command, f"the run ended before {what}"
            process = self.start(*command, stop_at=what)
            while process.poll() is None and not reached.exists():
                time.sleep(0.01)
        self.kill(process)

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kills a process and all that it started, as a machine that fails does."""
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def journaled(self) -> Counter[str]:
        """The calls whose outcome the journal holds, as the log of calls names them."""
        found: Counter[str] = Counter()
        if not any((self.place / "ws" / "runs").iterdir()):
            return found
        asked = 0
        for line in self.run.log():
            if line.kind == "model":
                found[f"model coder {asked}"] += 1
                asked += 1
            elif line.kind == "tool":
                given: Any = self.run.show(str(line.step)).entry.input
                text = " ".join([line.name, *map(str, given.values())])
                found.update(_INSIDE.get(line.name, [text]))
        return found

    def repeated(self, journaled: Counter[str], since: int) -> list[str]:
        """Calls that were made again after `since` though the journal held them."""
        return [call for call in self.calls[since:] if journaled[call]]


def _campaign(kills: int, seed: int, root: Path) -> list[str]:
    rng = random.Random(seed)
    whole = Crew(root / "whole")
    begun = time.monotonic()
    reference = whole.to_the_end()
    span = (time.monotonic() - begun) / 2
    print(f"uninterrupted: {len(whole.calls)} calls, {len(reference.log())} entries")
    found: list[str] = []
    done = runs = 0
    while done < kills:
        runs += 1
        crew = Crew(root / f"run-{runs}")
        here = 0
        while command := crew.goes_on():
            journaled, since = crew.journaled(), len(crew.calls)
            process = crew.start(*command)
            # Six kills a run: it must come to an end.
            if done < kills and here < 6:
                try:
                    process.wait(timeout=rng.uniform(0.2, span))
                except subprocess.TimeoutExpired:
                    crew.kill(process)
                    done += 1
                    here += 1
            else:
                process.wait()
            found += [f"run {runs}: {call} again" for call in crew.repeated(journaled, since)]
            if process.returncode not in (0, 3, -signal.SIGKILL):
                found.append(f"run {runs}: status {process.returncode}, see {crew.place}/output")
                break
        found += [
            f"run {runs}: {text}" for text in differences(reference, crew.run, ignore=VOLATILE)
        ]
        print(f"run {runs}: killed {here} times, {len(crew.calls)} calls, {len(found)} violations")
    print(f"{done} kills in {runs} runs, seed {seed}: {len(found)} violations")
    return found


def main() -> int:
    """Runs the campaign; its status is 1 for any violation."""
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(10**6)
    with tempfile.TemporaryDirectory(prefix="kitaru-coder-") as place:
        found = _campaign(kills, seed, Path(place))
        if found and "KEEP" in os.environ:
            os.rename(place, os.environ["KEEP"])
            os.mkdir(place)
    print(json.dumps(found, indent=2) if found else "ok")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
