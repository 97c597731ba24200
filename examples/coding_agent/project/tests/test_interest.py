import unittest
from datetime import date

from ledger.interest import simple_interest


class InterestTest(unittest.TestCase):
    def test_a_whole_year(self):
        self.assertEqual(simple_interest(100_000, 3, date(2026, 1, 1), date(2026, 12, 31)), 3000)

    def test_a_single_day(self):
        self.assertEqual(simple_interest(365_000, 10, date(2026, 3, 5), date(2026, 3, 5)), 100)
