"""What the newer of the supported releases of Pydantic AI have, and the older ones lack."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from pydantic_ai import durable_exec

__all__ = ["record_durable_unit", "replay_scope"]


def _nothing(*, executed: bool) -> None:
    pass


_contract: Any = durable_exec

# What a resume replays is kept out of traces; before 2.63 Pydantic AI traces it like any other.
replay_scope: Callable[[], AbstractContextManager[None]]
replay_scope = getattr(_contract, "replay_scope", nullcontext)

record_durable_unit: Callable[..., None] = getattr(_contract, "record_durable_unit", _nothing)
