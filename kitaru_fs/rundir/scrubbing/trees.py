"""Trees and commits written anew without the secrets that are in them; what has none stays.

A secret in a text becomes a placeholder. In a file that is no text it is overwritten, byte for
byte, so that the file keeps its format. What is compressed, or larger than can be held, is left out
of its commit as any file is that holds a credential, and listed there with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from kitaru_fs.quoting import slug
from kitaru_fs.redaction.redactor import Redactor
from kitaru_fs.rundir.leaks import Leaking
from kitaru_fs.rundir.repository import Repository
from kitaru_fs.rundir.scrubbing.entries import Keys, scrub_entry, scrub_request
from kitaru_fs.snapshot.filetree import (
    Directory,
    DirRef,
    Item,
    LeftOut,
    build_directory,
    read_directory,
)
from kitaru_fs.storage.objects import (
    MODE_TREE,
    ObjectKind,
    TreeEntry,
    encode_tree,
    object_id,
    parse_tree,
)

__all__ = ["History"]

_LARGEST = 32 << 20
_ENTRY = re.compile(rb"(\d{6})-.*\.json\Z", re.DOTALL)
_COMMIT = re.compile(rb"\b[0-9a-f]{40}\b")
_CODE = re.compile(r"(?m)^Kitaru-Code: [0-9a-f]{12}$")
_KEY_LINE = re.compile(r"(?m)^Kitaru-Key: (.*)$")


class History:
    """The objects of a run, rewritten.

    Args:
        source: The run; it is only read.
        redactor: Knows the secrets.
        leaking: The objects that hold some.

    Attributes:
        made: What was made and not taken yet: kind and content, by id.
        commits: The new commits, by the old ones.
        left_out: The paths that are left out of a commit now.
    """

    def __init__(
        self, source: Repository, redactor: Redactor, leaking: Mapping[bytes, Leaking]
    ) -> None:
        self._source = source
        self._redactor = redactor
        self._leaking = leaking
        self._keys = Keys()
        self._directories: dict[tuple[bytes | None, bytes | None, bool], DirRef] = {}
        self._trees: dict[tuple[bytes, bool], bytes] = {}
        self._shards: dict[bytes, bytes] = {}
        self._entries: dict[bytes, dict[bytes, TreeEntry]] = {}
        self._blobs: dict[bytes, bytes | LeftOut] = {}
        self.made: dict[bytes, tuple[ObjectKind, bytes]] = {}
        self.commits: dict[bytes, bytes] = {}
        self.left_out: set[bytes] = set()

    # What `build_directory` needs

    def read(self, sha: bytes, kind: ObjectKind | None = None) -> bytes:
        """Returns an object of the source."""
        return self._source.store.read(sha, kind)

    def put_scanned(
        self,
        kind: ObjectKind,
        data: bytes,
        *,
        base: bytes | None = None,
        sha: bytes | None = None,
    ) -> bytes:
        """Takes an object that was made; returns its id."""
        sha = sha or object_id(kind, data)
        self.made[sha] = (kind, data)
        return sha

    # Commits

    def add(self, sha: bytes) -> None:
        """Rewrites a commit whose parents are rewritten."""
        raw = self.read(sha, "commit")
        head, _, message = raw.partition(b"\n\n")
        lines: list[bytes] = []
        signed = False
        code = None
        for line in head.split(b"\n"):
            key, _, value = line.partition(b" ")
            if key in (b"gpgsig", b"gpgsig-sha256", b"mergetag") or (signed and line[:1] == b" "):
                # What was signed is another commit.
                signed = True
                continue
            signed = False
            if key == b"tree":
                tree, code = self._root(bytes.fromhex(value.decode("ascii")))
                line = b"tree " + tree.hex().encode()
            elif key == b"parent":
                parent = bytes.fromhex(value.decode("ascii"))
                line = b"parent " + self.commits.get(parent, parent).hex().encode()
            elif sha in self._leaking:
                line = self._masked(line)
            lines.append(line)
        if sha in self._leaking:
            message = self._masked(message)
        text = message.decode("utf-8", "surrogateescape")
        text = _KEY_LINE.sub(lambda m: f"Kitaru-Key: {self._keys.changed.get(m[1], m[1])}", text)
        if code is not None:
            text = _CODE.sub(f"Kitaru-Code: {code}", text)
        new = b"\n".join(lines) + b"\n\n" + text.encode("utf-8", "surrogateescape")
        self.commits[sha] = sha if new == raw else self.put_scanned("commit", new)

    def other(self, sha: bytes) -> bytes:
        """Rewrites what a ref names that is no commit: a tag, or a blob of the operation log."""
        kind, data = self._source.git.cat_file.read(sha.hex())
        if kind == "tree":
            return self._tree(sha, code=False)

        def moved(match: re.Match[bytes]) -> bytes:
            old = bytes.fromhex(match[0].decode("ascii"))
            return self.commits.get(old, old).hex().encode("ascii")

        new = _COMMIT.sub(moved, data)
        if sha in self._leaking:
            new = self._masked(new)
        if new == data:
            return sha
        return self.put_scanned("tag" if kind == "tag" else "blob", new)

    def ref_name(self, name: str) -> str:
        """Returns a ref's name without secrets."""
        masked = self._redactor.mask_text(name, again=True)
        return name if masked == name else "/".join(map(slug, masked.split("/")))

    def _masked(self, data: bytes) -> bytes:
        text = data.decode("utf-8", "surrogateescape")
        return self._redactor.mask_text(text, again=True).encode("utf-8", "surrogateescape")

    # Trees

    def _root(self, sha: bytes) -> tuple[bytes, str | None]:
        """A commit's tree, and the digest of its `code/` if that changed."""
        entries = parse_tree(self.read(sha, "tree"))
        new: dict[bytes, TreeEntry] = {}
        code = None
        files, state = entries.pop(b"files", None), entries.pop(b"state", None)
        for name, entry in entries.items():
            if name == b"journal" and entry.mode == MODE_TREE:
                new[name] = entry._replace(sha=self._journal(entry.sha))
            elif name == b"run.json" and entry.sha in self._leaking:
                new[name] = entry._replace(sha=self._request(entry.sha))
            else:
                name, entry = self._plain(name, entry, code=name == b"code")
                new[name] = entry
                if name == b"code" and entry.sha != entries[name].sha:
                    code = entry.sha.hex()[:12]
        own = all(entry is None or entry.mode == MODE_TREE for entry in (files, state))
        if own:
            ref = DirRef(files.sha if files else None, state.sha if state else None)
            ref = self._directory(ref, b"", root=True)
            for name, found in ((b"files", ref.files), (b"state", ref.state)):
                if found is not None:
                    new[name] = TreeEntry(MODE_TREE, found)
        else:
            for name, entry in ((b"files", files), (b"state", state)):
                if entry is not None:
                    name, entry = self._plain(name, entry, code=False)
                    new[name] = entry
        return self._put_tree(sha, new), code

    def _put_tree(self, was: bytes, entries: dict[bytes, TreeEntry]) -> bytes:
        data = encode_tree(entries)
        return was if object_id("tree", data) == was else self.put_scanned("tree", data)

    def _journal(self, sha: bytes) -> bytes:
        shards = parse_tree(self.read(sha, "tree"))
        new = {name: e._replace(sha=self._shard(e.sha)) for name, e in shards.items()}
        return self._put_tree(sha, new)

    def _shard(self, sha: bytes) -> bytes:
        known = self._shards.get(sha)
        if known is None:
            known = self._shards[sha] = self._new_shard(sha)
        return known

    def _new_shard(self, sha: bytes) -> bytes:
        files = parse_tree(self.read(sha, "tree"))
        new = dict(files)
        for name, entry in files.items():
            match = _ENTRY.match(name)
            if match is None:
                continue
            stem = name.removesuffix(b".json")
            group = {
                other: found for other, found in files.items() if other.startswith(stem + b".")
            }
            if any(found.sha in self._leaking for found in group.values()):
                for other in group:
                    new.pop(other)
                new.update(self._entry(entry.sha, stem, group))
        return self._put_tree(sha, new)

    def _entry(
        self, sha: bytes, stem: bytes, group: dict[bytes, TreeEntry]
    ) -> dict[bytes, TreeEntry]:
        known = self._entries.get(sha)
        if known is None:
            beside = {
                name[len(stem) + 1 :].decode(): self.read(found.sha, "blob")
                for name, found in group.items()
                if found.sha != sha
            }
            mode = group[stem + b".json"].mode
            files = scrub_entry(self._redactor, self._keys, self.read(sha, "blob"), beside)
            known = self._entries[sha] = {
                name.encode(): TreeEntry(mode, self.put_scanned("blob", data))
                for name, data in files.items()
            }
        return known

    def _request(self, sha: bytes) -> bytes:
        try:
            content = scrub_request(self._redactor, self.read(sha, "blob"))
        except msgspec.MsgspecError:
            content = self._masked(self.read(sha, "blob"))
        return self.put_scanned("blob", content)

    def _plain(self, name: bytes, entry: TreeEntry, *, code: bool) -> tuple[bytes, TreeEntry]:
        """What is beside `files/` and the journal: code, and what a human put there."""
        name = self._name(name)
        if entry.mode == MODE_TREE:
            return name, entry._replace(sha=self._tree(entry.sha, code=code))
        if entry.sha not in self._leaking:
            return name, entry
        content = self._content(entry.sha)
        if isinstance(content, LeftOut):
            content = self.put_scanned("blob", f"({content.reason})\n".encode())
        return name, entry._replace(sha=content)

    def _tree(self, sha: bytes, *, code: bool) -> bytes:
        known = self._trees.get((sha, code))
        if known is None:
            entries = parse_tree(self.read(sha, "tree"))
            new = dict(self._plain(name, entry, code=code) for name, entry in entries.items())
            known = self._trees[sha, code] = self._put_tree(sha, new)
        return known

    # The agent's files

    def _directory(self, ref: DirRef, path: bytes, *, root: bool = False) -> DirRef:
        key = (ref.files, ref.state, ref.unsafe)
        known = self._directories.get(key)
        if known is None:
            known = self._directories[key] = self._new_directory(ref, path, root=root)
        return known

    def _new_directory(self, ref: DirRef, path: bytes, *, root: bool) -> DirRef:
        directory = read_directory(self, ref)
        items: dict[bytes, Item] = {}
        left_out = {self._name(name): why for name, why in directory.left_out.items()}
        for name, item in directory.items.items():
            place = path + b"/" + name if path else name
            new = self._name(name)
            if item.kind == "dir":
                items[new] = item._replace(ref=self._directory(item.ref, place))
            elif item.sha not in self._leaking:
                items[new] = item
            else:
                content = self._content(item.sha, text=item.kind == "link")
                if isinstance(content, LeftOut):
                    left_out[new] = content
                    self.left_out.add(place)
                else:
                    items[new] = item._replace(sha=content)
        if items == directory.items and left_out == directory.left_out:
            return ref
        mode = directory.mode
        changed = Directory(mode, items, left_out)
        return build_directory(self, changed, unsafe=ref.unsafe, root=root, known=ref)

    def _name(self, name: bytes) -> bytes:
        return self._masked(name).replace(b"/", b"-")

    def _content(self, sha: bytes, *, text: bool = False) -> bytes | LeftOut:
        known = self._blobs.get(sha)
        if known is None:
            known = self._blobs[sha] = self._new_content(sha, text=text)
        return known

    def _new_content(self, sha: bytes, *, text: bool) -> bytes | LeftOut:
        found = self._leaking[sha]
        names = ", ".join(sorted(found.secrets))
        if found.size > _LARGEST:
            return LeftOut(f"holds the secret {names}", found.size)
        data = self.read(sha, "blob")
        if found.compressed:
            return LeftOut(f"holds the secret {names}, compressed", len(data))
        finder = self._redactor.finder()
        is_text = text or b"\0" not in data
        new = self._masked(data) if is_text else self._redactor.overwrite(data)
        if finder.leaks_in(new):
            return LeftOut(f"holds the secret {names}", len(data))
        return self.put_scanned("blob", new)
