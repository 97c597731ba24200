import unittest
from datetime import date

from ledger.entries import Entry, matches, parse_line


class EntriesTest(unittest.TestCase):
    def test_parse_line(self):
        entry = parse_line("2026-03-04, groceries, -62.40, Market")
        self.assertEqual(entry, Entry(date(2026, 3, 4), "groceries", -6240, "Market"))

    def test_category_is_lower_case(self):
        self.assertEqual(parse_line("2026-03-01, Rent, -850.00").category, "rent")

    def test_matches_category_or_note(self):
        entry = parse_line("2026-03-04, groceries, -62.40, Market")
        self.assertTrue(matches(entry, "grocer"))
        self.assertTrue(matches(entry, "MARKET"))
        self.assertFalse(matches(entry, "rent"))

    def test_matches_without_a_note(self):
        entry = parse_line("2026-03-28, salary, 2400.00")
        self.assertFalse(matches(entry, "market"))
