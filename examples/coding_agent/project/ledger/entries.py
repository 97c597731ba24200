"""One entry of the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from ledger.dates import parse_date
from ledger.money import parse_amount


@dataclass(frozen=True)
class Entry:
    """Money that came in (positive) or went out (negative)."""

    day: date
    category: str
    cents: int
    note: str | None = None


def parse_line(line: str) -> Entry:
    """Read `date, category, amount[, note]`; categories are kept in lower case."""
    fields = line.split(",")
    day, category, amount = fields[:3]
    note = fields[3].strip() if len(fields) > 3 else None
    return Entry(parse_date(day), category.strip(), parse_amount(amount), note)


def matches(entry: Entry, word: str) -> bool:
    """Whether an entry's category or note has the word, in any case."""
    return word.lower() in entry.category or word.lower() in entry.note.lower()
