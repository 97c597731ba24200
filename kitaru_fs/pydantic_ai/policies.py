"""How often and how long the steps of an agent are tried."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Literal, cast

from kitaru_fs.engine.protocol import Policy
from kitaru_fs.errors import UsageError

__all__ = ["METADATA_KEY", "make_policy", "needs_approval", "tool_policy"]

METADATA_KEY = "kitaru"
_NUMBERS = ("backoff", "max_backoff", "retries", "timeout")
_KNOWN = (*_NUMBERS, "approve", "effect", "on_unknown")
_ON_UNKNOWN = ("ask", "retry", "skip")


def make_policy(where: str, base: Policy, **options: Any) -> Policy:
    """Returns a policy with some of its options changed.

    Args:
        where: What has the options, for the error.
        base: The policy that holds where no option is given.
        options: `retries` (a count), `timeout`, `backoff` and `max_backoff` (seconds), `effect`
            (what a call does outside of the run, as a sentence) and `on_unknown` (`ask`, `retry` or
            `skip`: what becomes of a call that may have had its effect and came to no end).

    Raises:
        UsageError: An option is not known, or its value makes no sense.
    """
    for name, value in options.items():
        if name not in _KNOWN:
            near = difflib.get_close_matches(name, _KNOWN, n=1)
            raise UsageError(
                f"{where}: {name!r} is not known",
                hint=f"did you mean {near[0]!r}?" if near else f"known are {', '.join(_KNOWN)}",
            )
        if name in _NUMBERS:
            _check_number(where, name, value)
        elif name == "effect" and (not isinstance(value, str) or not value.strip()):
            raise UsageError(
                f"{where}: effect must say what the call does, not be {value!r}",
                hint='for example "sends the mail"',
            )
        elif name == "on_unknown" and value not in _ON_UNKNOWN:
            raise UsageError(f'{where}: on_unknown must be "ask", "retry" or "skip", not {value!r}')
    return base._replace(**options)


def _check_number(where: str, name: str, value: object) -> None:
    if name == "timeout" and value is None:
        return
    kinds = (int,) if name == "retries" else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or value < 0:
        expected = "a whole number" if name == "retries" else "a number of seconds"
        raise UsageError(f"{where}: {name} must be {expected}, not {value!r}")
    if name == "timeout" and value == 0:
        raise UsageError(f"{where}: timeout must be more than 0 seconds")


def tool_policy(
    tool: str, metadata: Mapping[str, Any] | None, base: Policy
) -> Policy | Literal[False]:
    """Returns how a tool is tried; False if it is to run inline, as no step of its own.

    Args:
        tool: The tool's name.
        metadata: The tool's metadata; `{"kitaru": {"retries": 2}}`, or `{"kitaru": False}`.
        base: How tools are tried that say nothing.

    Raises:
        UsageError: The metadata makes no sense.
    """
    where = f"metadata[{METADATA_KEY!r}] of tool {tool!r}"
    options = (metadata or {}).get(METADATA_KEY)
    if options is None or options is True:
        return base
    if options is False:
        return False
    if not isinstance(options, Mapping):
        raise UsageError(
            f"{where} must be a mapping or False, not {options!r}",
            hint=f'for example metadata={{"{METADATA_KEY}": {{"retries": 2, "timeout": 60}}}}',
        )
    given = dict(cast("Mapping[str, Any]", options))
    approve = given.pop("approve", False)
    if not isinstance(approve, bool):
        raise UsageError(f"{where}: approve must be True or False, not {approve!r}")
    return make_policy(where, base, **given)


def needs_approval(metadata: Mapping[str, Any] | None) -> bool:
    """Says whether a human must approve a tool's calls."""
    options = (metadata or {}).get(METADATA_KEY)
    return (
        isinstance(options, Mapping) and cast("Mapping[str, Any]", options).get("approve") is True
    )
