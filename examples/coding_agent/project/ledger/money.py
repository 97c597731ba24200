"""Amounts of money, always in whole cents."""

from __future__ import annotations


def parse_amount(text: str) -> int:
    """The cents that a text such as `-12.50` or `1,200` stands for."""
    text = text.strip().replace(",", "")
    sign = -1 if text.startswith("-") else 1
    whole, _, fraction = text.lstrip("+-").partition(".")
    cents = int(whole or "0") * 100 + int(fraction.ljust(2, "0")[:2] or "0")
    return sign * cents


def format_amount(cents: int) -> str:
    """The text of an amount, with two decimals."""
    sign = "-" if cents < 0 else ""
    return f"{sign}{abs(cents) // 100}.{abs(cents) % 100:02d}"


def split(cents: int, people: int) -> list[int]:
    """Shares that differ by at most one cent and add up to the amount; larger ones first."""
    share, rest = divmod(cents, people)
    return [share + 1 if index < rest else share for index in range(people)]
