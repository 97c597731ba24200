"""Months and periods."""

from __future__ import annotations

import calendar
from datetime import date


def parse_date(text: str) -> date:
    """The date of an ISO text such as `2026-03-01`."""
    return date.fromisoformat(text.strip())


def month_bounds(year: int, month: int) -> tuple[date, date]:
    """The first and the last day of a month."""
    last = calendar.monthrange(year, month)[1]
    return date(year, month, 1), date(year, month, last)


def days_between(first: date, last: date) -> int:
    """How many days a period has, its first and its last day included."""
    return (last - first).days
