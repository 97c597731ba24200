"""The object store of one run: git objects and refs, durable with one sync a commit.

A commit goes: log record -> synced -> acknowledged; a moment later it is published: as loose
objects and refs, unsynced, that git can see. Commits in quick succession are published together.
So a ref on the disk never names what the log or a pack does not hold. At a checkpoint the log's
objects become one synced pack, the refs are synced, the log is reset, and the loose copies are
dropped.

Large files go past the log, straight into a synced pack (`large`). A step that adds more than the
log takes goes into a synced pack too, and its record holds the refs only.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from kitaru_fs.errors import NewerFormatError, RunDamagedError, StorageError
from kitaru_fs.git.safe import Git
from kitaru_fs.redaction.redactor import FileWatch
from kitaru_fs.storage.deltas import Difference, git_delta, line_delta
from kitaru_fs.storage.groupsync import GroupSync
from kitaru_fs.storage.large import FileChanged, LargeBlobs
from kitaru_fs.storage.maintenance import consolidate, pack_tightly, sweep
from kitaru_fs.storage.objects import ObjectKind, object_id, parse_tree
from kitaru_fs.storage.pack import Delta, Whole, write_pack
from kitaru_fs.storage.reader import ObjectReader
from kitaru_fs.storage.record import encode_record, parse_record
from kitaru_fs.storage.refs import Refs, sync_directory
from kitaru_fs.storage.wal import NewerLog, WriteAheadLog

__all__ = ["LARGE_FILE", "Displaced", "FileChanged", "Store", "storage_error"]

LARGE_FILE = 256 * 1024
_SPILL_BYTES = 32 * 1024 * 1024
# So many objects that git cannot see yet become a pack at once, and no loose objects.
_MANY = 64
_FEW = 32
# From so many packs on it is time to join them.
_CROWDED = 64
# So many commits are differences from the same one.
_COMMITS = 64
_HEADS = "refs/heads/"


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
        errno.EACCES: "give this user access to it, or ask `kitaru doctor` to",
    }.get(error.errno or 0, "see the system's log for the disk's state")
    where = f" ({error.filename})" if isinstance(error.filename, str) else ""
    return StorageError(
        f"{doing} failed: {error.strerror or error}{where}", hint=f"{remedy}, then {then}"
    )


class Displaced(NamedTuple):
    """A branch that another git had moved, and that was moved on from where it belongs.

    Attributes:
        name: The ref's full name.
        was: The commit that the other git had put it on.
        now: The commit that it is on since.
        kept: The ref that keeps the other one.
    """

    name: str
    was: bytes
    now: bytes
    kept: str


class Store(ObjectReader):
    """Objects, refs and log of one repository. One thread at a time; one writing process at a time.

    `wait` and `later` alone may be called by any thread.

    Args:
        git_dir: The run's `.git`.
        git: Reads what our own reader of packs does not.
        durable: Whether a commit waits for the disk (`durability = "fsync"`).

    Attributes:
        displaced: The branches that another git had moved since this store moved them last.
    """

    def __init__(self, git_dir: Path, git: Git, *, durable: bool = True) -> None:
        super().__init__(git_dir, git)
        self.refs = Refs(git_dir)
        self._objects_dir = git_dir / "objects"
        self._large = LargeBlobs(self._objects_dir, self._packs, self.loose)
        self._durable = durable
        self._wal: WriteAheadLog | None = None
        self._group = GroupSync(self._sync_log)
        self._ticket = 0
        self._broken = ""
        self._bases: dict[bytes, bytes] = {}
        self._scanned_bytes = 0
        self._unpublished: dict[bytes, None] = {}
        self._unpublished_refs: dict[str, bytes] = {}
        self._branches: dict[str, bytes | None] = {}
        self.displaced: list[Displaced] = []

    # Staging

    def put(self, kind: ObjectKind, data: bytes, *, base: bytes | None = None) -> bytes:
        """Stages an object for the next commit; returns its id.

        Args:
            kind: What it is.
            data: Its content.
            base: An object that it differs little from, such as a directory's tree before.
        """
        sha = object_id(kind, data)
        self._staged[sha] = (kind, data)
        if base is not None:
            self._bases[sha] = base
        return sha

    def put_scanned(
        self,
        kind: ObjectKind,
        data: bytes,
        *,
        base: bytes | None = None,
        sha: bytes | None = None,
    ) -> bytes:
        """Stages an object that a scan of `files/` found, for the commit that holds it.

        Args:
            kind: What it is.
            data: Its content.
            base: An object that it differs little from.
            sha: Its id, where that is known already.

        Returns:
            Its id.
        """
        sha = sha or object_id(kind, data)
        if sha not in self._scanned and sha not in self._staged:
            self._scanned[sha] = (kind, data)
            if base is not None:
                self._bases[sha] = base
            self._scanned_bytes += len(data)
            if self._scanned_bytes > _SPILL_BYTES:
                self._spill(self._scanned)
                self._scanned_bytes = 0
        return sha

    def put_large(
        self,
        descriptor: int,
        size: int,
        watch: FileWatch | None = None,
        *,
        base: bytes | None = None,
    ) -> bytes | None:
        """Streams an open file into a synced pack, read once.

        Args:
            descriptor: The file.
            size: Its size.
            watch: Looks at its content.
            base: The blob that it held before.

        Returns:
            The blob's id; None if the watch found a secret, which the store did not have yet.

        Raises:
            FileChanged: The file did not have `size` bytes.
            OSError: The disk refused.
        """
        look = watch.look if watch is not None else None
        sha, is_there = self._large.put(
            descriptor, size, sync=self._durable, refuse=look, base=base
        )
        return sha if is_there or self.has(sha) else None

    # Committing

    def open_log(self) -> None:
        """Opens the log for appending; `recover` must have been called before the first commit.

        Raises:
            NewerFormatError: It is of a newer version.
            RunDamagedError: The log is no log of ours.
        """
        try:
            self._wal = WriteAheadLog.open(self._wal_path)
        except FileNotFoundError:
            WriteAheadLog.create(self._wal_path)
            sync_directory(self._wal_path.parent)
            self._wal = WriteAheadLog.open(self._wal_path)
        except NewerLog as error:
            raise NewerFormatError(str(error), hint="upgrade kitaru-fs") from error
        except ValueError as error:
            raise RunDamagedError(
                str(error), hint="`kitaru doctor RUN` keeps it aside and makes a new one"
            ) from error

    @property
    def has_log(self) -> bool:
        """Whether the log holds commits, as no orderly stop leaves it; known once it was read."""
        return len(self._logged) > 0 or bool(self._logged_refs)

    def recover_objects(self) -> dict[str, bytes]:
        """Writes the log's objects where they are missing, short or empty; returns its refs.

        Doing it twice changes nothing. Refs are the caller's to judge, then to set.
        """
        wal = self._require_log()
        refs: dict[str, bytes] = {}
        for payload in wal.records():
            refs.update(parse_record(payload, self._logged))
        self._logged_refs = dict.fromkeys(refs)
        missing = [
            sha
            for sha in self._logged
            if not self.loose.is_whole(sha) and self._packs.read(sha) is None
        ]
        if len(missing) > _MANY:
            self._pack_logged(missing)
        else:
            for sha in missing:
                self.loose.put_right(sha, *self._read_logged(sha))
        return refs

    def sweep(self) -> None:
        """Removes what a killed process left beside the log: half written files, loose copies.

        Raises:
            OSError: The disk refused; nothing is lost.
        """
        sweep(self.loose, self._packs, needed=self._logged)

    def commit(
        self,
        refs: Mapping[str, bytes],
        *,
        trees: Iterable[bytes | None] = (),
        forget_staged: bool = False,
    ) -> None:
        """Makes what was staged durable and sets refs, in the order given: all of it, or none.

        Args:
            refs: Names and 20-byte ids.
            trees: Trees of a scan that the commit holds, with all below them.
            forget_staged: Forget what a scan staged and this commit does not hold.

        Raises:
            StorageError: The disk refused. If the record had reached the log, the commit stands and
                the next recovery completes it; either way this store takes no further commit.
        """
        self.append(refs, trees=trees, forget_staged=forget_staged)
        self.publish()

    def append(
        self,
        refs: Mapping[str, bytes],
        *,
        trees: Iterable[bytes | None] = (),
        forget_staged: bool = False,
    ) -> int:
        """Writes a commit to the log, as `commit` does. It is neither durable nor seen by git yet.

        Returns:
            The ticket that `wait` and `later` take.

        Raises:
            StorageError: The disk refused.
        """
        self._refuse_when_broken()
        wal = self._require_log()
        try:
            self._take_scanned(trees)
            ticket = self._write_record(wal, refs)
        except OSError as error:
            raise self._break(error, "writing the journal") from error
        for name, sha in refs.items():
            # A ref moves in the order of its last commit: a branch before its tip.
            self._unpublished_refs.pop(name, None)
            self._unpublished_refs[name] = sha
            if name.startswith(_HEADS) and name not in self._branches:
                self._branches[name] = self.refs.read(name)
        self._staged.clear()
        if forget_staged:
            self._scanned.clear()
            self._scanned_bytes = 0
        if not self._scanned:
            self._bases.clear()
        return ticket

    def _write_record(self, wal: WriteAheadLog, refs: Mapping[str, bytes]) -> int:
        if sum(len(data) for _, data in self._staged.values()) > wal.capacity // 2:
            self._spill(self._staged)
        while True:
            objects = [
                (sha, self._logged.add(sha, kind, data, self._bases.get(sha)))
                for sha, (kind, data) in self._staged.items()
                if sha not in self._logged
            ]
            parts = encode_record(objects, refs)
            if wal.make_room(sum(map(len, parts))):
                break
            for sha, _ in objects:
                self._logged.remove(sha)
            self.checkpoint()
        wal.append(parts)
        self._unpublished.update(dict.fromkeys(sha for sha, _ in objects))
        self._logged_refs.update(dict.fromkeys(refs))
        self._ticket = self._group.written()
        return self._ticket

    def wait(self, ticket: int) -> None:
        """Waits until a commit is durable.

        Raises:
            StorageError: The disk refused.
        """
        if not self._durable:
            return
        try:
            self._group.wait(ticket)
        except OSError as error:
            raise self._break(error, "writing the journal") from error

    def later(self, ticket: int, done: Callable[[], None]) -> bool:
        """Calls `done`, in another thread, once `wait` would return, or raise, at once.

        Returns:
            Whether it will be called: not if a commit is durable already.
        """
        return self._durable and self._group.later(ticket, done)

    def publish(self) -> None:
        """Lets git see what was committed: waits until it is durable, writes objects, then refs.

        Raises:
            StorageError: The disk refused; the next recovery completes it.
        """
        while not self.publish_some(_MANY):
            pass

    def publish_some(self, most: int) -> bool:
        """Does a part of what `publish` does, so that others can commit in between.

        Args:
            most: So many objects are written; what is left after them is the next call's.

        Returns:
            Whether git sees all of it.

        Raises:
            StorageError: The disk refused; the next recovery completes it.
        """
        self._refuse_when_broken()
        self.wait(self._ticket)
        if len(self._unpublished) > _MANY:
            self.checkpoint_or_break()
            self._join_packs()
            return True
        try:
            for sha in list(islice(self._unpublished, most)):
                self.loose.write(sha, *self._read_logged(sha))
                del self._unpublished[sha]
            if not self._unpublished:
                self._publish_refs()
        except OSError as error:
            raise self._break(error, "writing the journal's objects") from error
        return not self._unpublished

    def _join_packs(self) -> None:
        """Makes one pack of many: a run that never rests would have ever more of them."""
        if len(list(self._packs)) < _CROWDED:
            return
        try:
            consolidate(self._objects_dir, self._packs, sync=self._durable)
        except OSError as error:
            raise self._break(error, "joining the journal's packs") from error

    def _publish_refs(self) -> None:
        for name, sha in self._unpublished_refs.items():
            was = self.refs.advance(name, sha)
            if name.startswith(_HEADS):
                known = (None, sha, self._branches.get(name))
                # What is not there cannot be lost: an agent may write anything in a ref.
                if was not in known and (self.loose.has(was) or self.has(was)):
                    self.displaced.append(Displaced(name, was, sha, self.refs.keep(was)))
                self._branches[name] = sha
        self._unpublished_refs.clear()

    def _take_scanned(self, trees: Iterable[bytes | None]) -> None:
        queue = [sha for sha in trees if sha is not None] if self._scanned else []
        while queue:
            sha = queue.pop()
            found = self._scanned.pop(sha, None)
            if found is None:
                continue
            self._staged[sha] = found
            if found[0] != "tree":
                continue
            if len(self._scanned) <= _FEW:
                # A large tree is not parsed for what changed in it.
                queue.extend(other for other in self._scanned if other in found[1])
            else:
                queue.extend(entry.sha for entry in parse_tree(found[1]).values())

    def checkpoint_or_break(self) -> None:
        """Does what `checkpoint` does; after an error this store takes no further commit.

        Raises:
            StorageError: The disk refused; the log still holds everything.
        """
        try:
            self.checkpoint()
        except OSError as error:
            raise self._break(error, "packing the journal") from error

    def checkpoint(self) -> None:
        """Moves the log's objects into a pack, syncs the refs, resets the log, drops loose copies.

        Raises:
            OSError: The disk refused; the log still holds everything.
        """
        wal = self._require_log()
        if wal.empty:
            return
        packed = list(self._logged)
        self._pack_logged(packed)
        # What was not published is in the pack now, and never becomes loose.
        loose = [sha for sha in packed if sha not in self._unpublished]
        self._unpublished.clear()
        self._publish_refs()
        if self._durable:
            self.refs.sync(list(self._logged_refs))
        wal.reset(sync=self._durable)
        self._group.all_synced()
        self._logged.clear()
        self._logged_refs.clear()
        for sha in loose:
            self.loose.remove(sha)

    def rest(self) -> None:
        """Brings the store to rest: all in packs, and few of them, the log empty and small.

        Raises:
            OSError: The disk refused; the log still holds everything.
        """
        self.checkpoint()
        self._require_log().shrink()
        consolidate(self._objects_dir, self._packs, sync=self._durable)

    def pack_tightly(self) -> None:
        """Makes one pack of all, as small as git can; nothing is dropped. The log is at rest.

        Raises:
            OSError: The disk refused, or has no room; all is as it was.
            GitError: git could not.
        """
        pack_tightly(self._objects_dir, self._packs, self._git)

    def close(self) -> None:
        """Closes the log and the readers."""
        if self._wal is not None:
            self._group.close()
            self._wal.close()
            self._wal = None
        super().close()

    # Inside

    def _require_log(self) -> WriteAheadLog:
        if self._wal is None:
            raise RuntimeError("the store was not opened for writing")
        return self._wal

    def _sync_log(self) -> None:
        self._require_log().sync()

    def _refuse_when_broken(self) -> None:
        if self._broken:
            raise StorageError(self._broken, hint="`kitaru resume` takes the run up again")

    def _break(self, error: OSError, doing: str) -> StorageError:
        self._broken = f"{self.git_dir}: an earlier write failed ({error.strerror})"
        return storage_error(error, doing)

    def _pack_logged(self, shas: list[bytes]) -> None:
        """Writes objects of the log as one pack, each difference after what it builds on.

        A commit is a difference from one not far before it: their trailers are much the same.
        """
        chosen = set(shas)

        def items() -> Iterator[Whole | Delta]:
            anchor, since = (b"", b""), 0
            for sha in shas:
                kind, content, _, _ = self._logged.item(sha)
                if isinstance(content, Difference) and content.base in chosen:
                    size = self._logged.size(content.base)
                    yield Delta(sha, content.base, git_delta(content, size))
                    continue
                whole = Whole(sha, *self._read_logged(sha))
                if kind != "commit":
                    yield whole
                    continue
                since = (since + 1) % _COMMITS
                delta = line_delta(anchor[1], whole.content) if since else None
                if delta is not None and len(delta) < len(whole.content) // 2:
                    yield Delta(sha, anchor[0], delta)
                else:
                    anchor, since = (sha, whole.content), 0
                    yield whole

        write_pack(self._objects_dir, items(), len(shas), sync=self._durable)

    def _spill(self, staged: dict[bytes, tuple[ObjectKind, bytes]]) -> None:
        objects = (Whole(sha, kind, data) for sha, (kind, data) in staged.items())
        write_pack(self._objects_dir, objects, len(staged), sync=self._durable)
        staged.clear()
