"""Secrets: known by where they come from or by their shape, and kept out of what is committed.

`credentials` says which values of the environment are secrets, `shapes` what a token looks like,
`forms` in which spellings a value is found; `finder` finds them, `redactor` puts placeholders in
their place and, on replay, the values in theirs; `vault` keeps what the environment does not have.
"""
