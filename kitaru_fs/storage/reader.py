"""Reading a run's git objects, wherever they are: in memory, in the log, in a pack, loose."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from kitaru_fs.errors import RunDamagedError
from kitaru_fs.git.safe import Git
from kitaru_fs.storage.loose import LooseObjects
from kitaru_fs.storage.objects import ObjectKind
from kitaru_fs.storage.packs import Packs
from kitaru_fs.storage.record import LoggedObjects, parse_record
from kitaru_fs.storage.wal import WriteAheadLog

__all__ = ["ObjectReader"]

_BATCH = 64


class ObjectReader:
    """The objects of one repository. Nothing here writes.

    Attributes:
        git_dir: The run's `.git`.
        loose: Its loose objects.

    Args:
        git_dir: The run's `.git`.
        git: Reads what our own reader of packs does not.
    """

    def __init__(self, git_dir: Path, git: Git) -> None:
        self.git_dir = git_dir
        self.loose = LooseObjects(git_dir / "objects")
        self._packs = Packs(git_dir / "objects")
        self._git = git
        # What is to be committed, what a scan found, and what the log holds.
        self._staged: dict[bytes, tuple[ObjectKind, bytes]] = {}
        self._scanned: dict[bytes, tuple[ObjectKind, bytes]] = {}
        self._logged = LoggedObjects()
        self._logged_refs: dict[str, None] = {}

    def load_log(self) -> dict[str, bytes]:
        """Reads the log without writing: its objects become readable; returns its refs.

        Returns:
            The last value that the log holds of each ref; empty if there is no log.
        """
        refs: dict[str, bytes] = {}
        try:
            wal = WriteAheadLog.open_for_reading(self._wal_path)
        except (FileNotFoundError, ValueError):
            return refs
        try:
            for payload in wal.records():
                refs.update(parse_record(payload, self._logged))
        finally:
            wal.close()
        self._logged_refs.update(dict.fromkeys(refs))
        return refs

    def logged_objects(self) -> dict[bytes, tuple[ObjectKind, bytes]]:
        """Reads the log without writing; returns its objects' kinds and contents, by id."""
        self.load_log()
        return {sha: self._read_logged(sha) for sha in self._logged}

    def read(self, sha: bytes, kind: ObjectKind | None = None) -> bytes:
        """Returns an object's content.

        Raises:
            RunDamagedError: The object is missing, unreadable or of another kind.
        """
        found = self._read_here(sha)
        if found is None:
            try:
                named, data = self._git.cat_file.read(sha.hex())
            except KeyError:
                raise self._missing(sha) from None
            found = named, data
        if kind is not None and found[0] != kind:
            raise RunDamagedError(f"{self.git_dir}: {sha.hex()} is a {found[0]}, not a {kind}")
        return found[1]

    def _read_here(self, sha: bytes) -> tuple[str, bytes] | None:
        """Returns an object's kind and content; None where git has to be asked."""
        return (
            self._staged.get(sha)
            or self._scanned.get(sha)
            or self._logged.get(sha)
            or self._packs.read(sha)
            or self.loose.read(sha)
        )

    def _missing(self, sha: bytes) -> RunDamagedError:
        return RunDamagedError(
            f"{self.git_dir}: object {sha.hex()} is missing or unreadable",
            hint="`kitaru doctor RUN` says what can be repaired; a clone may have it",
        )

    def write_blob(self, sha: bytes, out: BinaryIO) -> None:
        """Writes a blob's content to a file, in pieces: memory stays flat for a large one.

        Raises:
            RunDamagedError: The blob is missing or unreadable.
            OSError: The disk refused.
        """
        if self._is_in_memory(sha):
            out.write(self.read(sha, "blob"))
            return
        try:
            for piece in self.loose.stream(sha):
                out.write(piece)
            return
        except FileNotFoundError:
            pass
        except ValueError:
            # A damaged loose copy; the object may be in a pack.
            out.seek(0)
            out.truncate()
        packed = self._packs.read(sha)
        if packed is not None:
            out.write(packed[1])
            return
        try:
            for piece in self._git.cat_file.stream(sha.hex()):
                out.write(piece)
        except KeyError:
            raise self._missing(sha) from None

    def has(self, sha: bytes) -> bool:
        """Says whether an object is there and whole."""
        try:
            self.read(sha)
        except RunDamagedError:
            return False
        return True

    def has_elsewhere(self, sha: bytes) -> bool:
        """Says whether the log or a pack has an object, whatever became of its loose copy."""
        return self._logged.get(sha) is not None or self._packs.read(sha) is not None

    def is_near(self, sha: bytes) -> bool:
        """Says whether an object is in no pack yet: git may not see it."""
        return self._is_in_memory(sha) or self.loose.has(sha)

    def _is_in_memory(self, sha: bytes) -> bool:
        return any(sha in place for place in (self._staged, self._scanned, self._logged))

    def read_many(self, shas: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
        """Yields (id, content) in the order asked for; those that git has to be asked for,
        in batches.

        Raises:
            RunDamagedError: An object is missing.
        """
        source = iter(shas)
        while wanted := list(islice(source, _BATCH)):
            here = [self._read_here(sha) for sha in wanted]
            asked = [sha.hex() for sha, found in zip(wanted, here, strict=True) if found is None]
            answers = self._git.cat_file.read_many(asked) if asked else iter(())
            for sha, found in zip(wanted, here, strict=True):
                if found is not None:
                    yield sha, found[1]
                    continue
                try:
                    _, _, data = next(answers)
                except KeyError:
                    raise self._missing(sha) from None
                yield sha, data

    def close(self) -> None:
        """Closes the readers."""
        self._packs.close()
        self._git.close()

    def _read_logged(self, sha: bytes) -> tuple[ObjectKind, bytes]:
        found = self._logged.get(sha)
        assert found is not None
        return found

    @property
    def _wal_path(self) -> Path:
        return self.git_dir / "kitaru" / "wal"
