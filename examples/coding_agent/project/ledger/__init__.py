"""Household accounts in plain text."""
