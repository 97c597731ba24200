"""What was measured: figures with their baselines, the machine, and a picture."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Figure", "machine", "picture"]


class Figure(NamedTuple):
    """One row.

    Attributes:
        name: What was measured.
        values: One for each round.
        unit: Of what, such as `ms`.
        baseline: What each round is compared with, in the same unit; empty for none.
        against: What that is.
        target: What was aimed at, in words.
        group: Which part of the picture it belongs to; empty for none.
    """

    name: str
    values: Sequence[float]
    unit: str = "ms"
    baseline: Sequence[float] = ()
    against: str = ""
    target: str = ""
    group: str = ""

    @property
    def median(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.values)

    @property
    def ratio(self) -> float | None:
        """The median over the rounds of what each is to its baseline."""
        if not self.baseline:
            return None
        pairs = zip(self.values, self.baseline, strict=True)
        return statistics.median(value / base for value, base in pairs)

    def line(self) -> str:
        """One line of text."""
        ratio = f"{self.ratio:7.2f}x {self.against}" if self.ratio is not None else ""
        target = f"   (target: {self.target})" if self.target else ""
        return f"{self.name:58}{self.median:10.3f} {self.unit:10}{ratio}{target}"

    def to_json(self) -> dict[str, Any]:
        """The row as JSON."""
        return {
            "name": self.name,
            "median": round(self.median, 4),
            "unit": self.unit,
            "ratio": None if self.ratio is None else round(self.ratio, 3),
            "against": self.against,
            "target": self.target,
            "rounds": [round(value, 4) for value in self.values],
        }


def machine(place: Path) -> str:
    """Says what this was measured on: the processor, the system, and the disk."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0].partition(": ")[2] if models else name
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{name}, {os.cpu_count()} cores; {system}; {_disk(place)}"


def _disk(place: Path) -> str:
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        return "disk unknown"
    best, found = -1, "disk unknown"
    for line in mounts.read_text().splitlines():
        device, folder, kind = line.split()[:3]
        if place.resolve().is_relative_to(folder) and len(folder) > best:
            best, found = len(folder), f"{kind} on {device}"
    return found


_BAR, _LEFT, _WIDTH = 22, 330, 760
_COLOURS = {"method": "#2a6f97", "tree": "#588157", "history": "#9c6644"}


def picture(figures: Sequence[Figure], where: str) -> str:
    """Returns bars of what a step costs, as SVG: by method, by tree size, by history length."""
    rows = [figure for figure in figures if figure.group]
    height = 70 + len(rows) * _BAR + 30 * len({figure.group for figure in rows})
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        '<text x="10" y="22" font-size="16">What a durable step costs (ms, log scale)</text>',
        f'<text x="10" y="{height - 8}" font-size="10" fill="#666">{_escape(where)}</text>',
    ]
    y, group = 34, ""
    smallest = min((figure.median for figure in rows), default=1.0) / 2
    largest = max((figure.median for figure in rows), default=1.0)
    titles = {"method": "by method", "tree": "by tree size", "history": "by history length"}
    for figure in sorted(rows, key=lambda figure: list(titles).index(figure.group)):
        if figure.group != group:
            group = figure.group
            y += 30
            out.append(f'<text x="10" y="{y - 6}" font-weight="bold">{titles[group]}</text>')
        share = _log(figure.median / smallest) / max(_log(largest / smallest), 1e-9)
        length = max(2, share * (_WIDTH - _LEFT - 80))
        out += [
            f'<text x="{_LEFT - 8}" y="{y + 14}" text-anchor="end">{_escape(figure.name)}</text>',
            f'<rect x="{_LEFT}" y="{y + 2}" width="{length:.0f}" height="{_BAR - 6}" '
            f'fill="{_COLOURS[group]}"/>',
            f'<text x="{_LEFT + length + 6:.0f}" y="{y + 14}">{figure.median:.3g}</text>',
        ]
        y += _BAR
    return "\n".join([*out, "</svg>"]) + "\n"


def _log(value: float) -> float:
    import math

    return math.log(max(value, 1.0))


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
