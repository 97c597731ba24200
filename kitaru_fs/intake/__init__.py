"""Copying a project into a run's first commit."""
