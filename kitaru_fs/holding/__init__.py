"""The one process that holds a run, and what a dead one left running."""
