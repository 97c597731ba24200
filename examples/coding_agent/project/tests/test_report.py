import unittest

from ledger.book import Book
from ledger.report import monthly_report, share, spending


class ReportTest(unittest.TestCase):
    def test_share_is_rounded(self):
        self.assertEqual(share(1, 3), 33)
        self.assertEqual(share(2, 3), 67)
        self.assertEqual(share(5, 0), 0)

    def test_spending_is_sorted(self):
        book = Book.read("2026-03-02, food, -10\n2026-03-03, rent, -850\n2026-03-04, pay, 900")
        self.assertEqual(spending(book), [("rent", 85000), ("food", 1000)])

    def test_monthly_report(self):
        book = Book.read("2026-03-01, rent, -850\n2026-03-09, food, -150\n2026-03-28, pay, 2400")
        self.assertEqual(
            monthly_report(book, 2026, 3),
            "rent            850.00   85%\nfood            150.00   15%\nbalance        1400.00",
        )
