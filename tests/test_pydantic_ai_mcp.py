"""Agents with MCP servers, real ones: listing, instructions and calls are journaled."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from agentbench import AgentBench

from kitaru_fs.errors import RunWaiting, ToolServerError

pytest.importorskip("mcp", reason="needs the extra mcp")

SERVER = """
import os, socket, sys
from pathlib import Path

from mcp.server.mcpserver import MCPServer

HERE = Path(os.environ["OUTSIDE"])
server = MCPServer("shelf", instructions="Count the books of a shelf.")


def called(what):
    with (HERE / "calls").open("a") as log:
        log.write(what + "\\n")


@server.tool()
def count(shelf: str) -> int:
    called(f"count {shelf}")
    if shelf == "burning" and not (HERE / "mended").exists():
        os._exit(1)
    if shelf == "smoking" and not (HERE / "out").exists():
        (HERE / "out").touch()
        os._exit(1)
    return len(shelf)


@server.tool()
def burn(shelf: str) -> str:
    called(f"burn {shelf}")
    raise ValueError(f"{shelf} does not burn")


@server.tool()
def note(text: str) -> str:
    Path("note.txt").write_text(text)
    return "noted"


if sys.argv[1:] == ["http"]:
    import uvicorn

    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", int(os.environ.get("PORT", 0))))
    listening.listen()
    print(listening.getsockname()[1], flush=True)
    config = uvicorn.Config(server.streamable_http_app(), log_level="error")
    uvicorn.Server(config).run(sockets=[listening])
else:
    server.run("stdio")
"""

AGENT = """
    import sys
    from fastmcp.client.transports import StdioTransport
    from pydantic_ai.mcp import MCPToolset

    def transport():
        if port := os.environ.get("PORT"):
            return f"http://127.0.0.1:{port}/mcp"
        return StdioTransport(
            sys.executable,
            [str(OUTSIDE / "server.py")],
            env={"OUTSIDE": str(OUTSIDE)},
            cwd=os.environ.get("FILES"),
        )

    agent = Agent(
        scripted(TURNS),
        name="librarian",
        toolsets=[
            MCPToolset(transport(), id="shelf", include_instructions=True, init_timeout=120)
        ],
        capabilities=[KitaruDurability()],
    )

    @flow
    async def main() -> str:
        os.environ["FILES"] = str(files())
        result = await agent.run("how many?")
        saved(result)
        await fragile()
        return result.output
"""

TURNS = '[("count", {"shelf": "poetry"})], [("burn", {"shelf": "poetry"})], "six"'


@contextmanager
def _served(place: AgentBench, port: int = 0) -> Iterator[int]:
    command = [sys.executable, str(place.path / "server.py"), "http"]
    environment = {"OUTSIDE": str(place.path), "PORT": str(port)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        try:
            yield int(server.stdout.readline())
        finally:
            server.kill()


@pytest.fixture(params=["stdio", "http"])
def server(
    request: pytest.FixtureRequest, place: AgentBench, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    (place.path / "server.py").write_text(SERVER)
    if request.param == "stdio":
        yield "stdio"
        return
    with _served(place) as port:
        monkeypatch.setenv("PORT", str(port))
        yield "http"


def test_a_server_is_listed_and_called_once(place: AgentBench, server: str) -> None:
    place.write(AGENT.replace("TURNS", TURNS))
    assert place.resumes_alike() == "six"
    assert place.calls == [
        "model 0",
        "count poetry",
        "model 1",
        "burn poetry",
        "model 2",
        "fragile",
        "fragile",
    ]
    kinds = {entry["name"]: entry["kind"] for entry in place.entries}
    assert kinds["shelf.tools"] == "step"
    assert kinds["shelf.instructions"] == "step"
    assert kinds["count"] == "tool"
    assert place.named("count")["output"]["result"] == 6
    # What the tool says is wrong is an answer.
    assert place.named("burn")["output"]["kind"] == "model_retry"
    request = place.named("librarian.model")
    assert "Count the books of a shelf." in request["input"]["instructions"]
    assert request["input"]["tools"] == ["count", "burn", "note"]


def test_a_server_that_dies_in_mid_call_is_a_failed_step(place: AgentBench, server: str) -> None:
    place.write(AGENT.replace("TURNS", '[("count", {"shelf": "burning"})], "seven"'))
    with pytest.raises(ToolServerError) as caught:
        place.run()
    assert caught.value.message.startswith("the MCP server 'shelf' ended or could not be reached")
    assert "while its tool 'count' was called" in caught.value.message
    assert place.entries[-2]["kind"] == "failed"
    assert place.last.status == "failed"
    (place.path / "mended").touch()
    if server == "stdio":
        assert place.last.resume() == "seven"
    else:
        with _served(place, int(os.environ["PORT"])):
            assert place.last.resume() == "seven"
    assert place.calls == ["model 0", "count burning", "count burning", "model 1", "fragile"]


def test_a_further_attempt_has_a_new_server(place: AgentBench) -> None:
    (place.path / "server.py").write_text(SERVER)
    code = AGENT.replace(
        "TURNS", '[("count", {"shelf": "smoking"})], [("count", {"shelf": "a"})], "over"'
    )
    place.write(code.replace("KitaruDurability()", "KitaruDurability(tool_retries=1)"))
    place.mend()
    assert place.run() == "over"
    counted = [entry for entry in place.entries if entry["name"] == "count"]
    assert [(entry["kind"], entry["attempt"]) for entry in counted] == [
        ("failed", 1),
        ("tool", 2),
        ("tool", 1),
    ]


def test_a_server_that_cannot_be_started_is_one_sentence(place: AgentBench) -> None:
    place.write(
        AGENT.replace("TURNS", '"six"').replace("sys.executable,", '"/nowhere/to/be/found",')
    )
    with pytest.raises(ToolServerError) as caught:
        place.run()
    assert "'shelf' ended or could not be reached when it was asked for its" in str(caught.value)
    place.write(AGENT.replace("TURNS", '"six"'))
    (place.path / "server.py").write_text(SERVER)
    place.mend()
    assert place.last.resume() == "six"


def test_what_a_server_writes_into_the_files_is_of_its_step(place: AgentBench) -> None:
    (place.path / "server.py").write_text(SERVER)
    code = AGENT.replace("TURNS", '[("note", {"text": "hello"})], "done"')
    # The server is started where the run's files are.
    code = code.replace('cwd=os.environ.get("FILES")', "cwd=None")
    code = code.replace("transport(), id", "Moved(transport()), id")
    code = code.replace(
        "    agent = Agent(",
        """
    class Moved(StdioTransport):
        def __init__(self, other):
            super().__init__(other.command, other.args, env=other.env)

        async def connect(self, *args, **kwargs):
            self.cwd = str(files())
            return await super().connect(*args, **kwargs)

    agent = Agent(""",
        1,
    )
    place.write(code)
    assert place.resumes_alike() == "done"
    assert place.named("note")["files"] == ["note.txt"]
    assert place.last.read("note.txt", at="note") == b"hello"


def test_a_server_may_not_be_left_out_of_the_journal(place: AgentBench) -> None:
    from pydantic_ai.exceptions import UserError

    (place.path / "server.py").write_text(SERVER)
    code = AGENT.replace("TURNS", '[("count", {"shelf": "a"})], "six"')
    code = code.replace(
        "capabilities=[KitaruDurability()]",
        "capabilities=[KitaruDurability(), SetToolMetadata(kitaru=False)]",
    ).replace(
        "import sys\n", "import sys\n    from pydantic_ai.capabilities import SetToolMetadata\n"
    )
    place.write(code)
    with pytest.raises(UserError, match="MCP tools perform I/O"):
        place.run()


def test_a_run_with_a_server_leaves_when_it_waits(place: AgentBench, server: str) -> None:
    place.settings('linger = "0s"\n')
    code = AGENT.replace("TURNS", '[("count", {"shelf": "a"})], [("sell", {"shelf": "a"})], "sold"')
    place.write(
        code
        + """
    @agent.tool_plain(requires_approval=True)
    def sell(shelf: str) -> str:
        return "gone"
    """
    )
    with pytest.raises(RunWaiting):
        place.run()
    place.last.answer(True)
    place.mend()
    assert place.last.resume() == "sold"
    assert place.calls.count("count a") == 1
