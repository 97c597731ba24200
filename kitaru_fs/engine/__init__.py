"""Match or execute: replaying a journal, then committing each live step."""
