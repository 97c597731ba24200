"""One run's directory: its repository, journal and branches; opening it and moving it."""
