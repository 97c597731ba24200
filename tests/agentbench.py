"""Runs of agents from a module that a test writes, and what the agents did outside of them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from kitaru_fs import Run, Workspace
from kitaru_fs.testing import crash

__all__ = ["PRELUDE", "AgentBench"]

PRELUDE = '''
import asyncio, os
from pathlib import Path

from pydantic import BaseModel
from pydantic_ai import Agent, ApprovalRequired, DeferredToolRequests, ModelRetry, RunContext
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import (
    ModelRequest, ModelResponse, TextPart, ToolCallPart, ToolReturnPart, UserPromptPart,
)
from pydantic_ai.models.function import DeltaToolCall, FunctionModel

from kitaru_fs import files, flow, note, step, this_step
from kitaru_fs.pydantic_ai import KitaruDurability
from kitaru_fs.testing import die

OUTSIDE = Path(os.environ["OUTSIDE"])

def called(what):
    with (OUTSIDE / "calls").open("a") as log:
        log.write(what + "\\n")

def saved(result):
    with (OUTSIDE / "messages").open("ab") as log:
        log.write(result.all_messages_json() + b"\\n")

def scripted(*turns, name="model"):
    """A model that gives the n-th of its turns as the n-th answer of a conversation."""
    def answer(messages, info):
        since = max(
            number for number, message in enumerate(messages)
            if any(isinstance(part, UserPromptPart) for part in message.parts)
        )
        turn = sum(isinstance(message, ModelResponse) for message in messages[since:])
        called(f"{name} {turn}")
        said = turns[turn]
        said = said(messages) if callable(said) else said
        if isinstance(said, str):
            return ModelResponse(parts=[TextPart(said)])
        return ModelResponse(parts=[ToolCallPart(tool, args) for tool, args in said])
    return FunctionModel(answer)

def broken():
    return not (OUTSIDE / "mended").exists()

@step
async def fragile() -> None:
    called("fragile")
    if broken():
        raise RuntimeError("not yet")
'''


class AgentBench:
    """A workspace with one module, and what its agents left outside of their runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.workspace = Workspace(path / "ws")

    def write(self, code: str) -> None:
        text = PRELUDE + textwrap.dedent(code)
        (self.path / "ws" / "agents" / "them.py").write_text(text)

    def settings(self, text: str) -> None:
        """Writes `kitaru.toml`."""
        (self.workspace.path / "kitaru.toml").write_text(text)
        self.workspace = Workspace(self.workspace.path)

    def load(self, name: str = "main") -> Any:
        return self.workspace.load(f"agents/them.py:{name}")[0]

    def run(self, *args: Any) -> Any:
        return asyncio.run(self.load()(*args))

    def crash(self, *args: Any) -> None:
        """Runs the flow in a process that is killed with SIGKILL where the module calls `die()`."""
        crash(self.workspace, self.load(), *args, at="die")

    def kitaru(self, *args: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        """Runs the program in the workspace, in a process of its own."""
        done = subprocess.run(
            [sys.executable, "-m", "kitaru_fs", *args],
            cwd=self.workspace.path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stderr
        return done

    def mend(self) -> None:
        (self.path / "mended").touch()

    @property
    def last(self) -> Run:
        return self.workspace.run("last")

    @property
    def calls(self) -> list[str]:
        return (self.path / "calls").read_text().split("\n")[:-1]

    @property
    def messages(self) -> list[Any]:
        return [json.loads(line) for line in (self.path / "messages").read_bytes().splitlines()]

    @property
    def entries(self) -> list[dict[str, Any]]:
        files = sorted(self.last.path.glob("journal/*/*.json"))
        return [json.loads(file.read_bytes()) for file in files]

    def named(self, name: str) -> dict[str, Any]:
        return next(entry for entry in self.entries if entry["name"] == name)

    def resumes_alike(self, *args: Any) -> Any:
        """Runs a flow that ends in `fragile()`, and resumes it when that is mended.

        Asserts that the replay executed nothing, and that what the flow saved is the same.

        Returns:
            The result.
        """
        with pytest.raises(RuntimeError, match="not yet"):
            self.run(*args)
        before = self.calls
        saved = self.messages if (self.path / "messages").exists() else []
        self.mend()
        result = self.last.resume()
        assert self.calls == [*before, "fragile"]
        if saved:
            assert self.messages == saved * 2
        return result
