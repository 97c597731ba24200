"""Durations, sizes, costs, patterns and times as people write them: `"2s"`, `"100MB"`, `"5 USD"`.

Each type is a plain number, string or tuple underneath, so callers calculate with it directly.
Every `parse` raises `ValueError` with a sentence that fits after the name of a setting.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal

__all__ = ["Cost", "Cron", "Duration", "Glob", "Pattern", "Size", "Zone"]

_NUMBER = r"\d+(?:\.\d+)?"
_DURATION_PART = re.compile(rf"({_NUMBER})\s*(ms|s|m|h|d)")
_DURATION = re.compile(rf"(?:{_NUMBER}\s*(?:ms|s|m|h|d)\s*)+", re.ASCII)
_SECONDS = {"ms": Decimal("0.001"), "s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZE = re.compile(rf"({_NUMBER})\s*([KMGT]i?)?B?", re.ASCII | re.IGNORECASE)
_BYTES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY_BYTES = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_COST = re.compile(rf"({_NUMBER})\s*([A-Z]{{3}})", re.ASCII)
_LONGEST_NUMBER = 40

_CRON_NAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
}
_CRON_FIELDS = ("minute", "hour", "day-of-month", "month", "day-of-week")


class Duration(float):
    """A length of time in seconds."""

    @classmethod
    def parse(cls, value: object) -> Duration:
        """Read `"2s"`, `"500ms"`, `"1h30m"` or `"0"`."""
        text = value.strip() if isinstance(value, str) else None
        if text == "0":
            return cls(0.0)
        if text is None or len(text) > _LONGEST_NUMBER or not _DURATION.fullmatch(text):
            raise ValueError(f'must be a duration such as "2s", "500ms" or "1h30m", not {value!r}')
        parts = _DURATION_PART.findall(text)
        return cls(sum(Decimal(number) * _SECONDS[unit] for number, unit in parts))


class Size(int):
    """A number of bytes."""

    @classmethod
    def parse(cls, value: object) -> Size:
        """Read `"100MB"` (powers of 1000), `"64KiB"` (powers of 1024) or `"4096"` (bytes)."""
        text = value.strip() if isinstance(value, str) else ""
        found = _SIZE.fullmatch(text) if len(text) <= _LONGEST_NUMBER else None
        if found is None:
            raise ValueError(f'must be a size such as "100MB" or "64KiB", not {value!r}')
        number, unit = found.groups()
        return cls(Decimal(number) * (_BYTES | _BINARY_BYTES)[(unit or "").lower()])


class Cost:
    """An amount of money in one currency (three capital letters)."""

    __slots__ = ("amount", "currency")

    def __init__(self, amount: Decimal, currency: str) -> None:
        self.amount = amount
        self.currency = currency

    @classmethod
    def parse(cls, value: object) -> Cost:
        """Read `"5 USD"` or `"0.25 EUR"`."""
        text = value.strip() if isinstance(value, str) else ""
        found = _COST.fullmatch(text) if len(text) <= _LONGEST_NUMBER else None
        if found is None:
            raise ValueError(f'must be a cost such as "5 USD" or "0.25 EUR", not {value!r}')
        return cls(Decimal(found[1]), found[2])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cost) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __str__(self) -> str:
        return f"{self.amount.normalize():f} {self.currency}"

    def __repr__(self) -> str:
        return f"Cost({str(self)!r})"


class Glob(str):
    """A pattern of names or paths as in `.gitignore`, without negation."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> Glob:
        """Check a pattern that has to name something."""
        if not isinstance(value, str) or not value.strip("/ "):
            raise ValueError(f'must be a name or a glob such as "*.pem", not {value!r}')
        if value.startswith("!"):
            raise ValueError(f"takes no negation; write out what is left out, not {value!r}")
        return cls(value)


class Pattern(str):
    """A regular expression that is known to compile and never matches the empty text."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> Pattern:
        """Check a regular expression."""
        if not isinstance(value, str):
            raise ValueError(f"must be a regular expression in quotes, not {value!r}")
        try:
            compiled = re.compile(value)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"is no regular expression ({error}): {value!r}") from None
        if compiled.search("") is not None:
            raise ValueError(f"would match everywhere, even in an empty text: {value!r}")
        return cls(value)


class Cron(str):
    """A cron expression of five fields, or one of `@hourly @daily @weekly @monthly @yearly`."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> Cron:
        """Check a cron expression, field by field."""
        from cronsim import CronSim, CronSimError

        text = " ".join(value.lower().split()) if isinstance(value, str) else ""
        fields = _CRON_NAMES.get(text, text).split()
        if len(fields) != len(_CRON_FIELDS):
            raise ValueError(
                f'must be five cron fields such as "0 9 * * mon-fri", or "@daily", not {value!r}'
            )
        try:
            CronSim(" ".join(fields), datetime(2000, 1, 1, tzinfo=UTC))
        except (CronSimError, ValueError, RecursionError) as error:
            what = str(error).removeprefix("Bad ")
            if what not in _CRON_FIELDS:
                raise ValueError(f"is no cron expression ({error}): {value!r}") from None
            field = fields[_CRON_FIELDS.index(what)]
            raise ValueError(f"has {field!r} as its {what}, which never comes") from None
        return cls(text)

    @property
    def fields(self) -> str:
        """The five fields."""
        return _CRON_NAMES.get(self, str(self))


class Zone(str):
    """The name of a time zone, as the machine's tables have it."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> Zone:
        """Check that the machine knows it."""
        from zoneinfo import ZoneInfo

        if not isinstance(value, str):
            raise ValueError(f'must be a time zone such as "Europe/Berlin", not {value!r}')
        try:
            ZoneInfo(value)
        except (LookupError, ValueError, OSError):
            raise ValueError(
                f'must be a time zone that this machine knows, such as "Europe/Berlin", not'
                f" {value!r}"
            ) from None
        return cls(value)
