"""Pydantic AI agents in durable flows: `Agent(..., capabilities=[KitaruDurability()])`."""

from __future__ import annotations

from kitaru_fs.pydantic_ai.agents import agent_flow
from kitaru_fs.pydantic_ai.durability import KitaruDurability, OutsideFlowWarning
from kitaru_fs.pydantic_ai.runfiles import RunFiles

__all__ = ["KitaruDurability", "OutsideFlowWarning", "RunFiles", "agent_flow"]
