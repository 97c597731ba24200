"""Binary content of steps' inputs and outputs: which files beside the journal's entries hold it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kitaru_fs.entry import Entry, entry_path
from kitaru_fs.rundir.journal import Journal

__all__ = ["Beside"]


class Beside:
    """The files beside a run's entries, by the digests of what they hold.

    Args:
        journal: The run's journal.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._files: dict[str, tuple[int, str]] = {}

    def __contains__(self, digest: str) -> bool:
        return digest in self._files

    def noting(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Yields entries, and notes what stands beside them."""
        for entry in entries:
            self.note(entry)
            yield entry

    def note(self, entry: Entry) -> None:
        """Notes what stands beside an entry."""
        for end in entry.beside or ():
            file = entry_path(entry.step, entry.name, end)[1]
            self._files.setdefault(end.partition(".")[0], (entry.step, file))

    def read(self, digest: str) -> bytes | None:
        """Returns the content of a digest; None if no file has it.

        Raises:
            FormatError: The file is missing.
        """
        found = self._files.get(digest)
        return None if found is None else self._journal.read_beside(*found)
