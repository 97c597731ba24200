"""Agents whose process is killed with SIGKILL: what they had done is not done again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kitaru_fs import Run, Workspace

CODE = '''
import os
import sys
from pathlib import Path

from pydantic_ai import Agent, FunctionToolset
from pydantic_ai.messages import ModelMessagesTypeAdapter, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import FunctionModel

from kitaru_fs import files, flow
from kitaru_fs.pydantic_ai import KitaruDurability

OUTSIDE = Path(os.environ["OUTSIDE"])


def called(what):
    """Notes a call outside of the run; where the test wants to kill, says so and waits for it."""
    with (OUTSIDE / "calls").open("a") as log:
        log.write(what + "\\n")
    if what == os.environ.get("STOP_AT"):
        print("reached", flush=True)
        sys.stdin.read()


PLAN = [
    [("write", {"name": "a", "text": "one"})],
    [("write", {"name": "b", "text": "two"}), ("write", {"name": "c", "text": "three"})],
    [("append", {"name": "a", "text": "four"})],
]


def answer(messages, info):
    turn = sum(isinstance(message, ModelResponse) for message in messages)
    (OUTSIDE / f"asked-{turn}").write_bytes(ModelMessagesTypeAdapter.dump_json(messages))
    called(f"model {turn}")
    if turn == len(PLAN):
        return ModelResponse(parts=[TextPart("written")])
    return ModelResponse(parts=[ToolCallPart(tool, args) for tool, args in PLAN[turn]])


tools = FunctionToolset(id="files")


@tools.tool_plain(sequential=True)
def write(name: str, text: str) -> str:
    (files() / name).write_text(text)
    called(f"write {name}")
    return f"{name} is written"


@tools.tool_plain
async def append(name: str, text: str) -> str:
    with (files() / name).open("a") as file:
        file.write(text)
    called(f"append {name}")
    return f"{name} is longer"


agent = Agent(FunctionModel(answer), name="writer", toolsets=[tools])
durable = Agent(
    FunctionModel(answer), name="durable", toolsets=[tools], capabilities=[KitaruDurability()]
)


@flow
async def main(prompt: str) -> str:
    result = await durable.run(prompt)
    (OUTSIDE / "messages").write_bytes(result.all_messages_json())
    return result.output
'''

START = """
import asyncio, sys, msgspec
from kitaru_fs import Workspace
workspace = Workspace(sys.argv[1])
flow, target = workspace.load(sys.argv[2])
prompt = {"prompt": msgspec.Raw(msgspec.json.encode("write"))}
path = workspace.create(flow, prompt, target=target)
print(workspace.run(path.name).resume())
"""

RESUME = """
import sys
from kitaru_fs import Workspace
print(Workspace(sys.argv[1]).run("last").resume())
"""

WHOLE = [
    "model 0",
    "write a",
    "model 1",
    "write b",
    "write c",
    "model 2",
    "append a",
    "model 3",
]


class Place:
    def __init__(self, path: Path) -> None:
        self.path = path
        Workspace.init(path / "ws")
        (path / "ws" / "agents" / "them.py").write_text(textwrap.dedent(CODE))

    @contextmanager
    def process(self, code: str, *args: str, stop_at: str = "") -> Iterator[subprocess.Popen[str]]:
        environment = {**os.environ, "OUTSIDE": str(self.path), "STOP_AT": stop_at}
        command = [sys.executable, "-c", code, str(self.path / "ws"), *args]
        with subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def start_and_kill(self, target: str, stop_at: str) -> None:
        """Starts a run and kills it where it is at a call."""
        with self.process(START, target, stop_at=stop_at) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline() == "reached\n", process.stderr.read()
            process.send_signal(signal.SIGKILL)
            process.wait()

    def resume(self) -> str:
        with self.process(RESUME) as process:
            out, err = process.communicate()
            assert process.returncode == 0, err
            return out.strip()

    @property
    def last(self) -> Run:
        return Workspace(self.path / "ws").run("last")

    @property
    def calls(self) -> list[str]:
        return (self.path / "calls").read_text().splitlines()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize(
    ("target", "stop_at"),
    [*(("main", stop_at) for stop_at in WHOLE), ("agent", "write c"), ("agent", "model 2")],
)
def test_a_killed_agent_does_again_only_what_it_was_at(
    place: Place, target: str, stop_at: str
) -> None:
    place.start_and_kill(f"agents/them.py:{target}", stop_at)
    assert place.last.status == "interrupted"
    assert place.resume() == "written"
    at = WHOLE.index(stop_at)
    assert place.calls == [*WHOLE[: at + 1], *WHOLE[at:]]
    run = place.last
    assert run.status == "completed"
    # The torn step began again on the files of the last commit: nothing was appended twice.
    assert run.read("a") == b"onefour"
    assert run.read("b") == b"two"
    assert run.read("c") == b"three"
    kinds = [line.kind for line in run.log()]
    assert kinds.count("model") == 4
    assert kinds.count("tool") == 4
    # One process took up what was queued, and one what was killed.
    assert kinds.count("resume") == 2


def test_the_resumed_messages_are_those_of_the_killed_process(place: Place) -> None:
    place.start_and_kill("agents/them.py:main", "append a")
    before = json.loads((place.path / "asked-2").read_bytes())
    assert len(before) == 5
    place.resume()
    assert json.loads((place.path / "messages").read_bytes())[:5] == before
