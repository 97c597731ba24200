"""Simple interest, by the day."""

from __future__ import annotations

from datetime import date

from ledger.dates import days_between

DAYS_IN_YEAR = 365


def simple_interest(cents: int, percent: float, first: date, last: date) -> int:
    """The interest on an amount for a period at a yearly rate, both days included."""
    days = days_between(first, last) + 1
    return round(cents * percent / 100 * days / DAYS_IN_YEAR)
