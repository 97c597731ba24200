"""Binary content of steps' inputs and outputs: which files beside the journal's entries hold it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kitaru_fs.engine.guard import Guard
from kitaru_fs.entry import Entry, entry_path
from kitaru_fs.redaction.redactor import Redactor
from kitaru_fs.rundir.journal import Journal
from kitaru_fs.rundir.masking import fill_beside

__all__ = ["Beside"]


class Beside:
    """The files beside a run's entries, by the digests of what they hold.

    Args:
        journal: The run's journal.
        secrets: Fills in the secrets that were taken out of them.
        guard: Serializes what is done with the run.
    """

    def __init__(self, journal: Journal, secrets: Redactor, guard: Guard) -> None:
        self._journal = journal
        self._secrets = secrets
        self._guard = guard
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
            self._files.setdefault(end.partition(".")[0], (entry.step, end))

    def read(self, digest: str) -> bytes | None:
        """Returns the content of a digest; None if no file has it.

        Raises:
            FormatError: The file, or its entry, is missing.
            SecretMissingError: It holds a secret that nothing here has.
        """
        found = self._files.get(digest)
        if found is None:
            return None
        step, end = found
        with self._guard:
            entry = self._journal.read(step)
            data = self._journal.read_beside(step, entry_path(step, entry.name, end)[1])
        return fill_beside(self._secrets, entry, end, data)
