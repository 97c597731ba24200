"""kitaru-fs: durable runs for long-running AI agents, with nothing but a directory and git."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from kitaru_fs.engine.context import StepInfo as StepInfo
    from kitaru_fs.engine.context import files as files
    from kitaru_fs.engine.context import note as note
    from kitaru_fs.engine.context import now as now
    from kitaru_fs.engine.context import patched as patched
    from kitaru_fs.engine.context import random as random
    from kitaru_fs.engine.context import this_step as this_step
    from kitaru_fs.engine.context import uuid4 as uuid4
    from kitaru_fs.errors import DivergenceError as DivergenceError
    from kitaru_fs.errors import HeldError as HeldError
    from kitaru_fs.errors import KitaruError as KitaruError
    from kitaru_fs.errors import MessageError as MessageError
    from kitaru_fs.errors import OutputError as OutputError
    from kitaru_fs.errors import RunCancelled as RunCancelled
    from kitaru_fs.errors import RunInterrupted as RunInterrupted
    from kitaru_fs.errors import RunPaused as RunPaused
    from kitaru_fs.errors import RunWaiting as RunWaiting
    from kitaru_fs.errors import StepFailed as StepFailed
    from kitaru_fs.errors import StepTimeout as StepTimeout
    from kitaru_fs.errors import StorageError as StorageError
    from kitaru_fs.errors import UsageError as UsageError
    from kitaru_fs.errors import WaitRejected as WaitRejected
    from kitaru_fs.errors import WaitTimeout as WaitTimeout
    from kitaru_fs.flows import Flow as Flow
    from kitaru_fs.flows import flow as flow
    from kitaru_fs.handle import RunHandle as RunHandle
    from kitaru_fs.pydantic_ai.oneoff import llm as llm
    from kitaru_fs.run import Run as Run
    from kitaru_fs.steps import Step as Step
    from kitaru_fs.steps import step as step
    from kitaru_fs.waiting import receive as receive
    from kitaru_fs.waiting import sleep as sleep
    from kitaru_fs.waiting import wait as wait
    from kitaru_fs.workspace import Workspace as Workspace

# Loaded at first use, so that `import kitaru_fs` costs next to nothing.
_HOMES = {
    "engine.context": "StepInfo files note now patched random this_step uuid4",
    "errors": "DivergenceError HeldError KitaruError MessageError OutputError RunCancelled"
    " RunInterrupted RunPaused RunWaiting StepFailed StepTimeout StorageError UsageError"
    " WaitRejected WaitTimeout",
    "flows": "Flow flow",
    "handle": "RunHandle",
    "pydantic_ai.oneoff": "llm",
    "run": "Run",
    "steps": "Step step",
    "waiting": "receive sleep wait",
    "workspace": "Workspace",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = ["__version__", *_HOME]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
