import unittest

from ledger.money import format_amount, parse_amount, split


class MoneyTest(unittest.TestCase):
    def test_parse_amount(self):
        self.assertEqual(parse_amount("12.5"), 1250)
        self.assertEqual(parse_amount(" -0.07 "), -7)
        self.assertEqual(parse_amount("1,200"), 120000)

    def test_format_amount(self):
        self.assertEqual(format_amount(1250), "12.50")
        self.assertEqual(format_amount(-7), "-0.07")

    def test_split_adds_up(self):
        self.assertEqual(split(1000, 3), [334, 333, 333])
        self.assertEqual(sum(split(1001, 7)), 1001)
