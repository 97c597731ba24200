"""A run's journal as a tree: adding the next entry, reading all of them in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from kitaru_fs.entry import MAX_STEPS, Entry, decode_entry, encode_entry, entry_path
from kitaru_fs.errors import FormatError, StorageError
from kitaru_fs.storage.objects import MODE_FILE, MODE_TREE, GrowingTree, TreeEntry, parse_tree
from kitaru_fs.storage.store import Store

__all__ = ["Added", "Journal"]

LARGE_OUTPUT = 64 * 1024
# Calls that run at the same time are few folders apart.
_MOST_FOLDERS = 4


class Added(NamedTuple):
    """What adding an entry made: the journal's new tree, and the files that show it on disk."""

    tree: bytes
    files: list[tuple[str, bytes]]


class Journal:
    """The journal of one commit, and what the next ones add.

    Args:
        store: The run's objects.
        tree: The `journal` tree of the commit; None for a run that has none yet.
    """

    def __init__(self, store: Store, tree: bytes | None) -> None:
        self._store = store
        self._tree = tree
        self._shards = GrowingTree(store.read(tree, "tree") if tree else b"")
        self._shard_name = b""
        self._shard = GrowingTree(b"")
        self._shard_sha: bytes | None = None
        self._folders: dict[bytes, dict[bytes, bytes]] = {}

    def add(
        self, entry: Entry, output: bytes | None, beside: Mapping[str, bytes] | None = None
    ) -> Added:
        """Stages an entry's file (and what stands beside it), and the trees above it.

        Args:
            entry: The entry; its `output` and its `beside` are set here.
            output: The step's output as JSON.
            beside: Further files, by the ends of their names.

        Raises:
            StorageError: The run has as many steps as a journal can hold.
        """
        if entry.step >= MAX_STEPS:
            raise StorageError(
                f"the journal is full: it holds {MAX_STEPS} entries",
                hint="start a new run, with this one's files: kitaru run ... --files RUN/files",
            )
        shard, name = entry_path(entry.step, entry.name)
        if shard.encode() != self._shard_name:
            self._open_shard(shard.encode())
        files: list[tuple[str, bytes]] = []
        if output is not None and len(output) > LARGE_OUTPUT:
            _, entry.output_file = entry_path(entry.step, entry.name, "out")
            files.append((f"journal/{shard}/{entry.output_file}", output))
            self._put(entry.output_file, output)
        elif output is not None:
            entry.output = msgspec.Raw(output)
        for end, data in (beside or {}).items():
            _, file = entry_path(entry.step, entry.name, end)
            files.append((f"journal/{shard}/{file}", data))
            self._put(file, data)
        entry.beside = list(beside) if beside else None
        content = encode_entry(entry)
        files.append((f"journal/{shard}/{name}", content))
        self._put(name, content)
        self._shard_sha = self._store.put("tree", self._shard.data, base=self._shard_sha)
        self._shards.put(self._shard_name, MODE_TREE, self._shard_sha)
        self._tree = self._store.put("tree", self._shards.data, base=self._tree)
        return Added(self._tree, files)

    def entries(self) -> Iterator[Entry]:
        """Yields every entry, in journal order.

        Raises:
            FormatError: An entry cannot be read.
            RunDamagedError: An object is missing.
        """
        return map(decode_entry, self.contents())

    def contents(self) -> Iterator[bytes]:
        """Yields the file of every entry, in journal order.

        Raises:
            RunDamagedError: An object is missing.
        """
        for _, data in self._store.read_many(entry.sha for entry in self._shards.entries.values()):
            for _, content in self._store.read_many(sha for _, sha in _entry_ids(data)):
                yield content

    def read(self, step: int) -> Entry:
        """Returns one entry.

        Raises:
            FormatError: There is none of that number.
        """
        sha = self._ids(step).get(b"%06d-" % step)
        if sha is None:
            raise FormatError(
                f"the journal has no entry {step}", hint="`kitaru log RUN` lists them"
            )
        return decode_entry(self._store.read(sha, "blob"))

    def last_end(self, step: int) -> Entry | None:
        """Returns the newest `end` at or before a step, edits and messages after it apart."""
        while step > 0:
            entry = self.read(step)
            if entry.kind not in ("edit", "message"):
                return entry if entry.kind == "end" else None
            step -= 1
        return None

    def output(self, entry: Entry) -> bytes:
        """Returns an entry's output as JSON, wherever it stands; `null` if it has none."""
        if entry.output_file is None:
            return bytes(entry.output)
        return self.read_beside(entry.step, entry.output_file)

    def read_beside(self, step: int, name: str) -> bytes:
        """Returns a file that stands beside an entry.

        Raises:
            FormatError: It is missing.
        """
        found = self._files(step).get(name.encode())
        if found is None:
            raise FormatError(f"a file beside the entry of step {step} is missing: {name}")
        return self._store.read(found.sha, "blob")

    def _files(self, step: int) -> dict[bytes, TreeEntry]:
        """Returns what the folder that a step's entry is in holds."""
        found = self._folder(step)
        return parse_tree(self._store.read(found, "tree")) if found is not None else {}

    def _ids(self, step: int) -> dict[bytes, bytes]:
        """Returns the ids of the entries in the folder that a step's is in, by their numbers."""
        folder = self._folder(step)
        if folder is None:
            return {}
        found = self._folders.pop(folder, None)
        if found is None:
            found = dict(_entry_ids(self._store.read(folder, "tree")))
            if len(self._folders) == _MOST_FOLDERS:
                del self._folders[next(iter(self._folders))]
        self._folders[folder] = found
        return found

    def _folder(self, step: int) -> bytes | None:
        """Returns the tree of the folder that a step's entry is in."""
        shard, _ = entry_path(step, "x")
        found = self._shards.entries.get(shard.encode())
        return found.sha if found is not None else None

    def _open_shard(self, shard: bytes) -> None:
        existing = self._shards.entries.get(shard)
        self._shard_sha = existing.sha if existing else None
        self._shard = GrowingTree(self._store.read(existing.sha, "tree") if existing else b"")
        self._shard_name = shard

    def _put(self, name: str, content: bytes) -> None:
        self._shard.put(name.encode(), MODE_FILE, self._store.put("blob", content))


def _entry_ids(shard: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields the beginning of an entry's name (its number, `000003-`), and its id, in order."""
    position = 0
    while position < len(shard):
        null = shard.index(b"\0", position)
        if shard.endswith(b".json", position, null):
            name = shard.index(b" ", position) + 1
            yield shard[name : name + 7], shard[null + 1 : null + 21]
        position = null + 21
