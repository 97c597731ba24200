import unittest
from datetime import date

from ledger.book import Book

MARCH = """
# date, category, amount, note
2026-03-01, rent, -850.00, March
2026-03-04, groceries, -62.40, market
2026-03-28, salary, 2400.00
2026-03-31, groceries, -35.10, corner shop
2026-04-01, rent, -850.00, April
"""


class BookTest(unittest.TestCase):
    def setUp(self):
        self.book = Book.read(MARCH)

    def test_reads_entries_and_skips_comments(self):
        self.assertEqual(len(self.book.entries), 5)
        self.assertEqual(Book().balance(), 0)

    def test_balance(self):
        self.assertEqual(self.book.balance(), 60250)

    def test_between_includes_the_last_day(self):
        march = self.book.between(date(2026, 3, 1), date(2026, 3, 31))
        self.assertEqual(len(march.entries), 4)

    def test_by_category(self):
        totals = self.book.by_category()
        self.assertEqual(totals, {"rent": -170000, "groceries": -9750, "salary": 240000})

    def test_daily_average(self):
        average = self.book.daily_average(date(2026, 3, 2), date(2026, 3, 5))
        self.assertEqual(average, -1560.0)
