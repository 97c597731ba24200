"""Many entries."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date

from ledger.dates import days_between
from ledger.entries import Entry, parse_line


class Book:
    """Entries in the order in which they were added."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.entries = list(entries)

    @classmethod
    def read(cls, text: str) -> Book:
        """A book from its text: one entry a line, `#` starts a comment line."""
        lines = [line.strip() for line in text.splitlines()]
        return cls(parse_line(line) for line in lines if line and not line.startswith("#"))

    def balance(self) -> int:
        """What came in less what went out, in cents."""
        return sum(entry.cents for entry in self.entries)

    def between(self, first: date, last: date) -> Book:
        """The entries of a period, its first and its last day included."""
        return Book(entry for entry in self.entries if first <= entry.day < last)

    def by_category(self) -> dict[str, int]:
        """The balance of each category."""
        totals: dict[str, int] = {}
        for entry in self.entries:
            totals[entry.category] = totals.get(entry.category, 0) + entry.cents
        return totals

    def daily_average(self, first: date, last: date) -> float:
        """What a day of the period brought or cost on average, in cents."""
        return self.between(first, last).balance() / days_between(first, last)
