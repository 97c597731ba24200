"""From a target to what is run: the flow, and the code that is recorded with it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from kitaru_fs.engine.runner import Runnable
from kitaru_fs.errors import UsageError
from kitaru_fs.rundir.creation import CodeFile
from kitaru_fs.targets.target import Target, source_files

__all__ = ["as_flow", "read_code"]

# Faces that make a flow of something else, by name: this layer knows nothing of what they adapt.
_ADAPTERS = {"agent": ("kitaru_fs.pydantic_ai", "agent_flow")}


def as_flow(target: Target) -> Runnable:
    """Returns a target's flow; a bare Pydantic AI agent becomes one.

    Raises:
        UsageError: The agent cannot be made durable.
    """
    thing: Any = target.object
    if target.kind in _ADAPTERS:
        module, function = _ADAPTERS[target.kind]
        return getattr(import_module(module), function)(thing, target.name)
    return thing


def read_code(target: Target) -> list[CodeFile]:
    """Returns the modules that run for a target, with their content.

    Raises:
        UsageError: One cannot be read.
    """
    found: list[CodeFile] = []
    for name, path in source_files(target):
        try:
            found.append((name, path.read_bytes()))
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    return found
