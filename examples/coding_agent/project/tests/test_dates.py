import unittest
from datetime import date

from ledger.dates import days_between, month_bounds, parse_date


class DatesTest(unittest.TestCase):
    def test_parse_date(self):
        self.assertEqual(parse_date(" 2026-03-01"), date(2026, 3, 1))

    def test_month_bounds(self):
        self.assertEqual(month_bounds(2028, 2), (date(2028, 2, 1), date(2028, 2, 29)))

    def test_days_between_counts_both_ends(self):
        self.assertEqual(days_between(date(2026, 3, 1), date(2026, 3, 31)), 31)
        self.assertEqual(days_between(date(2026, 3, 5), date(2026, 3, 5)), 1)
