"""Git objects and refs in process, durable with one sync a commit: log, packs, refs."""
