"""What is wrong with a run's directory, and putting it right: each module looks at one thing.

In order: `layout` (the directories of `.git` are its own), `settings` (git's config and locks),
`pointers` and `refs` (the log, HEAD, refs), `damage` (objects), `order` (what a crash left, the
index).
`doctor` goes through all of them. What they replace is kept in `.git/kitaru/aside` or `tampered`.
"""
