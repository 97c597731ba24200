"""The object store of one run: git objects and refs, durable with one sync a commit.

A commit goes: log record (synced) -> acknowledged -> loose objects and refs (unsynced), at once
or, in a burst of commits, a moment later (`defer`, `publish`). So a ref on the disk never names
what the log or a pack does not hold. At a checkpoint the log's objects become one synced pack, the
refs are synced, the log is reset, and the loose copies are dropped.

What a log record means: `u32` count of objects, each as 20-byte id, `u32` length and the bytes of
its loose object file; then `u32` count of refs, each as `u16` length of the name, the name, 20-byte
id.

Large files go past the log: straight into a synced loose object. A step that adds more than the log
takes goes into a synced pack, and its record holds the refs only.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha1
from pathlib import Path
from typing import BinaryIO

from kitaru_fs.errors import RunDamagedError, StorageError
from kitaru_fs.git.safe import Git
from kitaru_fs.redaction.redactor import FileWatch
from kitaru_fs.storage.objects import ObjectKind, decode_loose, encode_loose, object_id, parse_tree
from kitaru_fs.storage.pack import write_pack
from kitaru_fs.storage.refs import Refs, sync_directory
from kitaru_fs.storage.wal import WriteAheadLog

__all__ = ["LARGE_FILE", "FileChanged", "Store", "storage_error"]

LARGE_FILE = 256 * 1024
_SPILL_BYTES = 32 * 1024 * 1024
_CHUNK = 1 << 20
_U32 = struct.Struct("<I")
_U16 = struct.Struct("<H")


class FileChanged(Exception):
    """A file's size changed while it was read."""


def storage_error(error: OSError, doing: str, *, then: str = "`kitaru resume`") -> StorageError:
    """Returns the error that tells a user what the disk refused while doing what.

    Args:
        error: What the system said.
        doing: What was being done.
        then: What to do once the disk is in order.
    """
    remedy = {
        errno.ENOSPC: "free some space",
        errno.EDQUOT: "raise the quota or free some space",
        errno.EROFS: "make the file system writable",
        errno.EACCES: "give this user write access to the directory",
    }.get(error.errno or 0, "see the system's log for the disk's state")
    where = f" ({error.filename})" if isinstance(error.filename, str) else ""
    return StorageError(
        f"{doing} failed: {error.strerror or error}{where}", hint=f"{remedy}, then {then}"
    )


class Store:
    """Objects, refs and log of one repository. One thread at a time; one writing process at a time.

    Args:
        git_dir: The run's `.git`.
        git: Reads what is in packs.
        durable: Whether a commit waits for the disk (`durability = "fsync"`).
    """

    def __init__(self, git_dir: Path, git: Git, *, durable: bool = True) -> None:
        self.git_dir = git_dir
        self.refs = Refs(git_dir)
        self._objects_dir = git_dir / "objects"
        self._objects_prefix = os.fspath(self._objects_dir)
        self._git = git
        self._durable = durable
        self._wal: WriteAheadLog | None = None
        self._broken = ""
        self._staged: dict[bytes, tuple[ObjectKind, bytes]] = {}
        self._scanned: dict[bytes, tuple[ObjectKind, bytes]] = {}
        self._scanned_bytes = 0
        self._overlay: dict[bytes, bytes] = {}
        self._unpublished: dict[bytes, bytes] = {}
        self._unpublished_refs: dict[str, bytes] = {}

    # Reading

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
                objects, names = _parse_record(payload)
                self._overlay.update(objects)
                refs.update(names)
        finally:
            wal.close()
        return refs

    def logged_objects(self) -> dict[bytes, bytes]:
        """Reads the log without writing; returns its objects as loose ones, by id."""
        self.load_log()
        return dict(self._overlay)

    def read(self, sha: bytes, kind: ObjectKind | None = None) -> bytes:
        """Returns an object's content.

        Raises:
            RunDamagedError: The object is missing, unreadable or of another kind.
        """
        staged = self._staged.get(sha) or self._scanned.get(sha)
        if staged is not None:
            return staged[1]
        raw = self._overlay.get(sha) or self._unpublished.get(sha)
        if raw is None:
            try:
                with open(self._loose_path(sha), "rb") as file:
                    raw = file.read()
            except (FileNotFoundError, NotADirectoryError):
                raw = None
        found = None
        if raw:
            try:
                found = decode_loose(raw)
            except ValueError:
                found = None
        if found is None:
            try:
                found = self._git.cat_file.read(sha.hex())
            except KeyError:
                raise RunDamagedError(
                    f"{self.git_dir}: object {sha.hex()} is missing or unreadable",
                    hint="`kitaru doctor RUN` says what can be repaired; a clone may have it",
                ) from None
        if kind is not None and found[0] != kind:
            raise RunDamagedError(f"{self.git_dir}: {sha.hex()} is a {found[0]}, not a {kind}")
        return found[1]

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
            with open(self._loose_path(sha), "rb") as file:
                for piece in _inflate(file):
                    out.write(piece)
            return
        except FileNotFoundError:
            pass
        except ValueError:
            # A damaged loose copy; git may find the object in a pack.
            out.seek(0)
            out.truncate()
        try:
            for piece in self._git.cat_file.stream(sha.hex()):
                out.write(piece)
        except KeyError:
            raise RunDamagedError(
                f"{self.git_dir}: object {sha.hex()} is missing or unreadable",
                hint="`kitaru doctor RUN` says what can be repaired; a clone may have it",
            ) from None

    def has(self, sha: bytes) -> bool:
        """Says whether an object is there and whole."""
        try:
            self.read(sha)
        except RunDamagedError:
            return False
        return True

    def is_near(self, sha: bytes) -> bool:
        """Says whether an object can be read without git: it is not in a pack."""
        return self._is_in_memory(sha) or os.path.exists(self._loose_path(sha))

    def _is_in_memory(self, sha: bytes) -> bool:
        places = (self._staged, self._scanned, self._overlay, self._unpublished)
        return any(sha in place for place in places)

    def read_many(self, shas: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
        """Yields (id, content) in the order asked for, packed ones in one batch.

        Raises:
            RunDamagedError: An object is missing.
        """
        wanted = list(shas)
        here: dict[bytes, bytes] = {}
        elsewhere: list[bytes] = []
        for sha in wanted:
            if self.is_near(sha):
                here[sha] = b""
            else:
                elsewhere.append(sha)
        packed = (
            self._git.cat_file.read_many([sha.hex() for sha in elsewhere])
            if elsewhere
            else iter(())
        )
        for sha in wanted:
            if sha in here:
                yield sha, self.read(sha)
            else:
                try:
                    _, _, data = next(packed)
                except KeyError:
                    raise RunDamagedError(
                        f"{self.git_dir}: object {sha.hex()} is missing",
                        hint="`kitaru doctor RUN` says what can be repaired",
                    ) from None
                yield sha, data

    # Staging

    def put(self, kind: ObjectKind, data: bytes) -> bytes:
        """Stages an object for the next commit; returns its id."""
        sha = object_id(kind, data)
        self._staged[sha] = (kind, data)
        return sha

    def put_scanned(self, kind: ObjectKind, data: bytes) -> bytes:
        """Stages an object that a scan of `files/` found, for the commit that holds it."""
        sha = object_id(kind, data)
        if sha not in self._scanned and sha not in self._staged:
            self._scanned[sha] = (kind, data)
            self._scanned_bytes += len(data)
            if self._scanned_bytes > _SPILL_BYTES:
                self._spill(self._scanned)
                self._scanned_bytes = 0
        return sha

    def put_large(self, descriptor: int, size: int, watch: FileWatch | None = None) -> bytes | None:
        """Streams an open file into a synced loose blob, read once.

        Args:
            descriptor: The file.
            size: Its size.
            watch: Looks at its content.

        Returns:
            The blob's id; None if the watch found a secret, which the store did not have yet.

        Raises:
            FileChanged: The file did not have `size` bytes.
            OSError: The disk refused.
        """
        temporary = self._objects_dir / f"tmp_obj_{os.getpid()}_{os.urandom(6).hex()}"
        digest = sha1()
        try:
            with open(temporary, "xb", opener=_read_only) as out:
                header = b"blob %d\0" % size
                digest.update(header)
                chunk = os.read(descriptor, _CHUNK)
                deflate = zlib.compressobj(_level_for(chunk))
                out.write(deflate.compress(header))
                seen = 0
                secret = False
                while chunk:
                    seen += len(chunk)
                    if seen > size:
                        break
                    digest.update(chunk)
                    if watch is not None:
                        secret = secret or watch.look(chunk)
                    if not secret:
                        out.write(deflate.compress(chunk))
                    chunk = os.read(descriptor, _CHUNK)
                if seen != size:
                    raise FileChanged
                out.write(deflate.flush())
                out.flush()
                sha = digest.digest()
                path = self._loose_path(sha)
                if os.path.exists(path):
                    return sha
                if secret:
                    return sha if self.has(sha) else None
                if self._durable:
                    os.fsync(out.fileno())
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.rename(temporary, path)
            if self._durable:
                sync_directory(os.path.dirname(path))
                sync_directory(self._objects_dir)
            return sha
        finally:
            temporary.unlink(missing_ok=True)

    # Committing

    def open_log(self) -> None:
        """Opens the log for appending; `recover` must have been called before the first commit.

        Raises:
            RunDamagedError: The log is no log of ours.
        """
        try:
            self._wal = WriteAheadLog.open(self._wal_path)
        except FileNotFoundError:
            WriteAheadLog.create(self._wal_path)
            sync_directory(self._wal_path.parent)
            self._wal = WriteAheadLog.open(self._wal_path)
        except ValueError as error:
            raise RunDamagedError(
                str(error), hint="`kitaru doctor RUN` keeps it aside and makes a new one"
            ) from error

    @property
    def at_rest(self) -> bool:
        """Whether the log is empty, as an orderly stop leaves it; known once it was recovered."""
        return self._require_log().empty

    def recover_objects(self) -> dict[str, bytes]:
        """Writes the log's objects where they are missing, short or empty; returns its refs.

        Doing it twice changes nothing. Refs are the caller's to judge, then to set.
        """
        wal = self._require_log()
        refs: dict[str, bytes] = {}
        for payload in wal.records():
            objects, names = _parse_record(payload)
            for sha, raw in objects.items():
                self._write_loose(sha, raw, replace=True)
            refs.update(names)
        return refs

    def commit(
        self,
        refs: Mapping[str, bytes],
        *,
        trees: Iterable[bytes | None] = (),
        forget_staged: bool = False,
        defer: bool = False,
    ) -> None:
        """Makes what was staged durable and sets refs, in the order given: all of it, or none.

        Args:
            refs: Names and 20-byte ids.
            trees: Trees of a scan that the commit holds, with all below them.
            forget_staged: Forget what a scan staged and this commit does not hold.
            defer: Leave it to `publish`, which the caller sees to, that git can see the commit.

        Raises:
            StorageError: The disk refused. If the record had reached the log, the commit stands and
                the next recovery completes it; either way this store takes no further commit.
        """
        if self._broken:
            raise StorageError(self._broken, hint="`kitaru resume` takes the run up again")
        wal = self._require_log()
        try:
            self._take_scanned(trees)
            objects = self._encode_staged()
            parts, length = _encode_record(objects, refs)
            if length > wal.capacity:
                self._spill(self._staged)
                objects: list[tuple[bytes, bytes]] = []
                parts, length = _encode_record(objects, refs)
            if not wal.fits(length):
                self.checkpoint()
            wal.append(parts, sync=self._durable)
        except OSError as error:
            self._broken = f"{self.git_dir}: an earlier write failed ({error.strerror})"
            raise storage_error(error, "writing the journal") from error
        self._unpublished.update(objects)
        for name, sha in refs.items():
            # A ref moves in the order of its last commit: a branch before its tip.
            self._unpublished_refs.pop(name, None)
            self._unpublished_refs[name] = sha
        self._staged.clear()
        if not defer:
            self.publish()
        if forget_staged:
            self._scanned.clear()
            self._scanned_bytes = 0

    def publish(self) -> None:
        """Writes what was deferred as loose objects, then the refs: git sees it from here on.

        Raises:
            StorageError: The disk refused; the next recovery completes it.
        """
        try:
            for sha, raw in self._unpublished.items():
                self._write_loose(sha, raw)
            self._unpublished.clear()
            self._publish_refs()
        except OSError as error:
            self._broken = f"{self.git_dir}: an earlier write failed ({error.strerror})"
            raise storage_error(error, "writing the journal's objects") from error

    def _publish_refs(self) -> None:
        for name, sha in self._unpublished_refs.items():
            self.refs.advance(name, sha)
        self._unpublished_refs.clear()

    def _take_scanned(self, trees: Iterable[bytes | None]) -> None:
        queue = [sha for sha in trees if sha is not None]
        while queue:
            sha = queue.pop()
            found = self._scanned.pop(sha, None)
            if found is None:
                continue
            self._staged[sha] = found
            if found[0] == "tree":
                queue.extend(entry.sha for entry in parse_tree(found[1]).values())

    def checkpoint(self) -> None:
        """Moves the log's objects into a pack, syncs the refs, resets the log, drops loose copies.

        Raises:
            OSError: The disk refused; the log still holds everything.
        """
        wal = self._require_log()
        if wal.empty:
            return
        objects: dict[bytes, bytes] = {}
        names: dict[str, bytes] = {}
        reading = WriteAheadLog.open_for_reading(self._wal_path)
        try:
            for payload in reading.records():
                found, refs = _parse_record(payload)
                objects.update(found)
                names.update(refs)
        finally:
            reading.close()
        write_pack(
            self._objects_dir,
            ((sha, *decode_loose(raw)) for sha, raw in objects.items()),
            len(objects),
            sync=self._durable,
        )
        # What was deferred is in the pack now, and never becomes loose.
        deferred = set(self._unpublished)
        self._unpublished.clear()
        self._publish_refs()
        if self._durable:
            self.refs.sync(list(names))
        wal.reset(sync=self._durable)
        self._overlay.clear()
        for sha in objects.keys() - deferred:
            Path(self._loose_path(sha)).unlink(missing_ok=True)

    def close(self) -> None:
        """Closes the log and the reader."""
        if self._wal is not None:
            self._wal.close()
            self._wal = None
        self._git.close()

    # Inside

    @property
    def _wal_path(self) -> Path:
        return self.git_dir / "kitaru" / "wal"

    def _require_log(self) -> WriteAheadLog:
        if self._wal is None:
            raise RuntimeError("the store was not opened for writing")
        return self._wal

    def _encode_staged(self) -> list[tuple[bytes, bytes]]:
        return [(sha, encode_loose(kind, data)) for sha, (kind, data) in self._staged.items()]

    def _spill(self, staged: dict[bytes, tuple[ObjectKind, bytes]]) -> None:
        objects = ((sha, kind, data) for sha, (kind, data) in staged.items())
        write_pack(self._objects_dir, objects, len(staged), sync=self._durable)
        staged.clear()

    def _loose_path(self, sha: bytes) -> str:
        name = sha.hex()
        return f"{self._objects_prefix}/{name[:2]}/{name[2:]}"

    def _write_loose(self, sha: bytes, raw: bytes, *, replace: bool = False) -> None:
        path = self._loose_path(sha)
        try:
            descriptor = _create(path)
        except FileNotFoundError:
            # A repack by another git may have removed the empty directory; make it again.
            os.makedirs(os.path.dirname(path), exist_ok=True)
            descriptor = _create(path)
        except FileExistsError:
            if os.stat(path).st_size == len(raw) and not replace:
                return
            self._replace_loose(sha, path, raw)
            return
        try:
            try:
                view = memoryview(raw)
                while view:
                    view = view[os.write(descriptor, view) :]
            finally:
                os.close(descriptor)
        except BaseException:
            os.unlink(path)
            raise

    def _replace_loose(self, sha: bytes, path: str, raw: bytes) -> None:
        with open(path, "rb") as file:
            present = file.read()
        try:
            kind, data = decode_loose(present)
            if object_id(kind, data) == sha:  # type: ignore[arg-type]
                return
        except ValueError:
            pass
        temporary = f"{self._objects_prefix}/tmp_obj_{os.getpid()}_{os.urandom(6).hex()}"
        try:
            with open(temporary, "xb", opener=_read_only) as out:
                out.write(raw)
            os.rename(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def _inflate(file: BinaryIO) -> Iterator[bytes]:
    """Yields the content of a loose object, without its header.

    Raises:
        ValueError: It is no whole loose object.
    """
    inflate = zlib.decompressobj()
    head = b""
    left: int | None = None
    while not inflate.eof:
        raw = inflate.unconsumed_tail or file.read(_CHUNK)
        if not raw:
            raise ValueError("a loose object is cut short")
        try:
            piece = inflate.decompress(raw, _CHUNK)
        except zlib.error as error:
            raise ValueError(str(error)) from error
        if left is None:
            head += piece
            header, separator, piece = head.partition(b"\0")
            if not separator:
                continue
            left = int(header.partition(b" ")[2])
        left -= len(piece)
        yield piece
    if left != 0:
        raise ValueError("a loose object's header does not fit its content")


def _create(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)


def _read_only(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o444)


def _level_for(sample: bytes) -> int:
    return 1 if len(zlib.compress(sample, 1)) < 0.9 * len(sample) else 0


def _encode_record(
    objects: list[tuple[bytes, bytes]], refs: Mapping[str, bytes]
) -> tuple[list[bytes], int]:
    parts: list[bytes] = [_U32.pack(len(objects))]
    for sha, raw in objects:
        parts += (sha, _U32.pack(len(raw)), raw)
    parts.append(_U32.pack(len(refs)))
    for name, sha in refs.items():
        encoded = name.encode("utf-8", "surrogateescape")
        parts.append(_U16.pack(len(encoded)) + encoded + sha)
    return parts, sum(map(len, parts))


def _parse_record(payload: bytes) -> tuple[dict[bytes, bytes], dict[str, bytes]]:
    objects: dict[bytes, bytes] = {}
    refs: dict[str, bytes] = {}
    (count,) = _U32.unpack_from(payload, 0)
    position = 4
    for _ in range(count):
        sha = payload[position : position + 20]
        (length,) = _U32.unpack_from(payload, position + 20)
        position += 24
        objects[sha] = payload[position : position + length]
        position += length
    (count,) = _U32.unpack_from(payload, position)
    position += 4
    for _ in range(count):
        (length,) = _U16.unpack_from(payload, position)
        name = payload[position + 2 : position + 2 + length].decode("utf-8", "surrogateescape")
        position += 2 + length
        refs[name] = payload[position : position + 20]
        position += 20
    return objects, refs
