"""What `python -m unittest -v` printed, as data."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from typing import Any

UNKNOWN: Any = object()
"""Stands for a value that cannot be read back from what was printed."""

_RULE = re.compile(r"^={70}\n", re.MULTILINE)
_HEADER = re.compile(r"(FAIL|ERROR): (\S+) \(([^)]*)\)(.*)\n")
_FRAME = re.compile(r'^  File "([^"]+)", line (\d+), in (.+)$', re.MULTILINE)
_ERROR = re.compile(r"^([A-Za-z_][\w.]*)(?:: (.*))?$", re.MULTILINE)
_RAN = re.compile(r"^Ran (\d+) tests?", re.MULTILINE)


@dataclass(frozen=True)
class Frame:
    """One line of a traceback, in a file of the project."""

    path: str
    line: int
    function: str


@dataclass(frozen=True)
class Failure:
    """One failing test."""

    test: str
    """Its dotted name; the sub-test's parameters follow."""
    frames: tuple[Frame, ...]
    """The traceback, the test's own line first."""
    error: str
    """The exception's type."""
    message: str
    """The exception's text, which may have several lines."""

    @property
    def brief(self) -> str:
        """The first line of what went wrong."""
        first = self.message.splitlines()[0] if self.message else ""
        return first if self.error == "AssertionError" and first else f"{self.error}: {first}"

    @cached_property
    def values(self) -> tuple[Any, Any]:
        """The two values that an assertion compared, in its order; `UNKNOWN` where unreadable."""
        first = self.message.splitlines()[0] if self.message else ""
        if self.error != "AssertionError":
            return UNKNOWN, UNKNOWN
        if first.startswith("unexpectedly None"):
            return None, UNKNOWN
        if match := re.match(r"(.+) is not (true|false)\b", first):
            return _value(match[1]), match[2] == "true"
        first = re.sub(r"^(Lists|Tuples|Sequences|Sets|Dicts) differ: ", "", first)
        return _compared(first)


@dataclass(frozen=True)
class Report:
    """One run of all tests."""

    finished: bool
    """False if the tests hung, or stopped before they were counted."""
    ran: int
    failures: dict[str, Failure] = field(default_factory=dict[str, Failure])

    @property
    def passed(self) -> bool:
        """Whether tests ran and all passed."""
        return self.finished and self.ran > 0 and not self.failures


def parse_report(text: str) -> Report:
    """Read what the tool `run_tests` gave back."""
    ran = _RAN.search(text)
    status = text.split("\n", 1)[0]
    failures: dict[str, Failure] = {}
    for block in _RULE.split(text)[1:]:
        if failure := _parse_failure(block):
            failures[failure.test] = failure
    finished = ran is not None and (status == "exit status 0") == (not failures)
    return Report(finished, int(ran[1]) if ran else 0, failures)


def _parse_failure(block: str) -> Failure | None:
    header = _HEADER.match(block)
    if header is None:
        return None
    body = re.split(r"^-{70}\n(?=Ran )", block[header.end() :], flags=re.MULTILINE)[0]
    # The last traceback is the one that ended the test; those above it are its causes.
    body = body.rsplit("Traceback (most recent call last):\n", 1)[-1]
    frames = [Frame(path, int(line), name) for path, line, name in _FRAME.findall(body)]
    error = None
    for match in _ERROR.finditer(body):
        if not match[0].startswith(" "):
            error = match
            break
    kind, message = (error[1], body[error.start() :]) if error else ("Error", body)
    message = message[len(kind) :].removeprefix(":").strip()
    inside = [frame for frame in frames if not frame.path.startswith(("/", "<"))]
    return Failure(header[3] + header[4], tuple(inside), kind, message)


def _compared(text: str) -> tuple[Any, Any]:
    for pattern in (
        r" != ",
        r" not found in ",
        r" not less than ",
        r" not greater than ",
        r" is not ",
    ):
        for match in re.finditer(pattern, text):
            # What may follow: the tolerance of assertAlmostEqual, or the test's own remark.
            right = re.sub(r" (within .* (places|delta) |: ).*$", "", text[match.end() :])
            values = _value(text[: match.start()]), _value(right)
            if UNKNOWN not in values or text.count(match[0]) == 1:
                return values
    return UNKNOWN, UNKNOWN


def _value(text: str) -> Any:
    text = text.strip()
    try:
        if match := re.fullmatch(r"Decimal\('([^']*)'\)", text):
            return Decimal(match[1])
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, ArithmeticError):
        return UNKNOWN
