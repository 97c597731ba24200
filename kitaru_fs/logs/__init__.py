"""What a run printed: caught from the process that drives it, kept beside the run, read again."""
