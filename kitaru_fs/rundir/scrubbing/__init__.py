"""A redacted copy of a run: its whole history written anew, without the secrets that are in it."""
