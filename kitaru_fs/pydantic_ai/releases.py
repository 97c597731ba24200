"""What the newer of the supported releases of Pydantic AI have, and the older ones lack."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from pydantic_ai import durable_exec

__all__ = [
    "ExternalEventError",
    "ExternalEventWaiter",
    "event_scope",
    "record_durable_unit",
    "replay_scope",
]


def _nothing(*, executed: bool) -> None:
    pass


_contract: Any = durable_exec

# What a resume replays is kept out of traces; before 2.63 Pydantic AI traces it like any other.
replay_scope: Callable[[], AbstractContextManager[None]]
replay_scope = getattr(_contract, "replay_scope", nullcontext)

record_durable_unit: Callable[..., None] = getattr(_contract, "record_durable_unit", _nothing)

# Waits for external events in an agent run.
event_scope: Callable[[Any], AbstractContextManager[Any]] | None
event_scope = getattr(_contract, "external_event_scope", None)

ExternalEventWaiter: type[Any] = getattr(_contract, "ExternalEventWaiter", object)
ExternalEventError: type[Exception] = getattr(_contract, "ExternalEventError", Exception)
