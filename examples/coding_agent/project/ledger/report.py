"""A month as text."""

from __future__ import annotations

from ledger.book import Book
from ledger.dates import month_bounds
from ledger.money import format_amount


def share(part: int, whole: int) -> int:
    """A part of a whole in percent, rounded to the nearest."""
    if whole == 0:
        return 0
    return round(100 * part // whole)


def spending(book: Book) -> list[tuple[str, int]]:
    """What was spent by category, in positive cents, the largest first."""
    spent = [(name, -cents) for name, cents in book.by_category().items() if cents < 0]
    return sorted(spent, key=lambda item: item[1], reverse=True)


def monthly_report(book: Book, year: int, month: int) -> str:
    """One line for each category of a month that cost money, then the balance."""
    first, last = month_bounds(year, month)
    entries = book.between(first, last)
    rows = spending(entries)
    total = sum(cents for _, cents in rows)
    lines = [
        f"{name:<12}{format_amount(cents):>10}{share(cents, total):>5}%" for name, cents in rows
    ]
    return "\n".join([*lines, f"{'balance':<12}{format_amount(entries.balance()):>10}"])
