"""Stored runs, one of every released format, as that release left them.

`python -m tests.formats.make` makes one with the kitaru that is installed; it is done once, when a
format is released, and the archive stays as it is from then on.
"""
