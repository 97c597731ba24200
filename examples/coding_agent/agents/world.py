"""What a conversation has shown of a project: its files as they are now, and each test run.

Nothing is kept between two requests. All of it is read again from the messages, so that a resumed
run, which has the same messages, decides the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    ToolCallPart,
    ToolReturnPart,
)

from .failures import Report, parse_report

State = frozenset[tuple[str, str]]
"""The files that differ from how they were first seen, with what they hold."""


@dataclass
class World:
    """The project as the messages show it."""

    listed: frozenset[str] | None = None
    """All paths, or None before `list_files` was called."""
    originals: dict[str, str] = field(default_factory=dict[str, str])
    current: dict[str, str] = field(default_factory=dict[str, str])
    outcomes: dict[State, Report] = field(default_factory=dict[State, Report])
    """What the tests said, for each state that they ran in, the first one first."""
    calls: int = 0
    last_call: str = ""
    test_runs: int = 0
    refused: int = 0
    """Edits that did not apply: the file was not what it was thought to be."""

    @property
    def state(self) -> State:
        """The state that the files are in now."""
        return self.changed(self.current)

    def changed(self, files: dict[str, str]) -> State:
        """The state of some files."""
        return frozenset((p, t) for p, t in files.items() if self.originals.get(p) != t)

    def files(self, state: State) -> dict[str, str]:
        """All files that were read, as they are in a state."""
        return {**self.originals, **dict(state)}

    def learn(self, name: str, args: dict[str, Any], result: str | None) -> None:
        """Take in one tool call and its result; None stands for a call that failed."""
        self.calls += 1
        self.last_call = name
        path = str(args.get("path", ""))
        match name:
            case "list_files" if result is not None:
                self.listed = (self.listed or frozenset()) | frozenset(result.splitlines())
            case "read_file":
                self._read(path, result or "")
            case "replace_in_file":
                old, new = str(args.get("old", "")), str(args.get("new", ""))
                text = self.current.get(path)
                if result is None or text is None or text.count(old) != 1:
                    self._forget(path)
                else:
                    self.current[path] = text.replace(old, new)
            case "write_file" if result is not None:
                self.originals.setdefault(path, "")
                self.current[path] = str(args.get("text", ""))
                self.listed = (self.listed or frozenset()) | {path}
            case "run_tests":
                self.test_runs += 1
                self.outcomes[self.state] = parse_report(result or "")
            case _:
                pass

    def _read(self, path: str, text: str) -> None:
        if path not in self.current:
            self.originals[path] = self.current[path] = text
        elif self.current[path] != text:
            # Somebody else changed it: what the tests said before is of another project.
            self.current[path] = text
            self._restart()

    def _forget(self, path: str) -> None:
        self.refused += 1
        self.current.pop(path, None)
        self._restart()

    def _restart(self) -> None:
        self.originals = dict(self.current)
        self.outcomes.clear()


def recall(messages: list[ModelMessage]) -> World:
    """The world that the messages show."""
    world = World()
    for call, result in _exchanges(messages):
        world.learn(call.tool_name, call.args_as_dict(), result)
    return world


def _exchanges(messages: list[ModelMessage]) -> Iterator[tuple[ToolCallPart, str | None]]:
    results: dict[str, str | None] = {}
    for message in messages:
        if isinstance(message, ModelRequest):
            for part in message.parts:
                if isinstance(part, ToolReturnPart):
                    good = part.outcome == "success"
                    results[part.tool_call_id] = part.model_response_str() if good else None
    for message in messages:
        if isinstance(message, ModelResponse):
            for part in message.parts:
                if isinstance(part, ToolCallPart):
                    yield part, results.get(part.tool_call_id)
