"""The repairs worth trying for a failing test, the most likely first."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .evidence import Evidence, directed
from .rules import Change, Edit, changes
from .source import Module, Suspect, parse_module

MAX_REPAIRS = 40

# How common each kind of mistake is, before the failure itself is heard.
COMMON = {
    "loosen": 0.4,
    "tighten": 0.4,
    "arithmetic": 0.35,
    "default": 0.4,
    "division": 0.3,
    "compare": 0.3,
    "extra one": 0.3,
    "boolean": 0.25,
    "junction": 0.3,
    "swap": 0.25,
    "sibling": 0.25,
    "bound": 0.25,
    "loop": 0.2,
    "order": 0.15,
    "accumulate": 0.15,
    "return": 0.1,
    "digit": 0.1,
}
ASKED_FOR = {"one less", "one more", "order", "return"}
"""Kinds that almost any code has room for: tried only if the failure looks like them."""
FARTHER = 0.12
"""What each call between the failing line and the code takes off."""
RAISED_HERE = 0.3
"""What the line that the exception came from adds."""
USES_CHANGED = 0.4
"""What a line adds that uses the code whose repair broke the test."""


@dataclass(frozen=True)
class Repair:
    """A change of one file, ready to be tried."""

    path: str
    line: int
    where: str
    what: str
    text: str
    """The whole file as it would be."""
    weight: float
    old: str
    """The lines that it changes, as they are: what tells two repairs apart while lines move."""
    new: str

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """The same repair has the same identity wherever its lines have moved to."""
        return self.path, self.where, self.old, self.new


def repairs(
    found: list[Suspect], evidence: Evidence, files: Mapping[str, str], broken_by: str = ""
) -> list[Repair]:
    """Ranked repairs of the suspects' code, each of them valid Python.

    Args:
        found: The code to doubt.
        evidence: What the failing test says.
        files: The text of each file that was read.
        broken_by: The name of the code whose repair broke this test, if one did.
    """
    best: dict[tuple[str, str], Repair] = {}
    for suspect in found:
        unit = suspect.unit
        module = parse_module(unit.path, files[unit.path])
        if module is None:
            continue
        options = [
            (change, COMMON.get(change.kind, 0.0) + evidence.weight(change.kind))
            for change in changes(module, unit)
            if change.kind not in ASKED_FOR or evidence.weight(change.kind)
        ]
        options += directed(module, unit, evidence)
        raised = {f.line for f in evidence.failure.frames if f.path == unit.path}
        uses = {
            number
            for number, line in enumerate(module.lines, 1)
            if broken_by and unit.name != broken_by and re.search(rf"\b{broken_by}\b", line)
        }
        for change, weight in options:
            weight -= FARTHER * suspect.distance
            weight += RAISED_HERE if change.line in raised else 0.0
            weight += USES_CHANGED if change.line in uses else 0.0
            text = apply(module.text, change.edits)
            key = unit.path, text
            if key in best and best[key].weight >= weight:
                continue
            if text != module.text and parse_module(unit.path, text) is not None:
                best[key] = _repair(module, change, unit.label, text, weight)
    ranked = sorted(best.values(), key=lambda r: (-round(r.weight, 6), r.path, r.line))
    return ranked[:MAX_REPAIRS]


def apply(text: str, edits: tuple[Edit, ...]) -> str:
    """The text with its edits made; they do not overlap."""
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def difference(old: str, new: str) -> tuple[str, str]:
    """The lines in which two texts differ, widened until the old ones are found only once."""
    before, after = old.splitlines(keepends=True), new.splitlines(keepends=True)
    top = 0
    while top < min(len(before), len(after)) and before[top] == after[top]:
        top += 1
    bottom = 0
    while bottom < min(len(before), len(after)) - top and before[-1 - bottom] == after[-1 - bottom]:
        bottom += 1
    while True:
        piece = "".join(before[top : len(before) - bottom])
        if piece and old.count(piece) == 1:
            return piece, "".join(after[top : len(after) - bottom])
        if not top and not bottom:
            return piece, "".join(after)
        top, bottom = max(top - 1, 0), max(bottom - 1, 0)


def _repair(module: Module, change: Change, label: str, text: str, weight: float) -> Repair:
    old, new = difference(module.text, text)
    return Repair(module.path, change.line, label, change.what, text, weight, old, new)
