"""Taking a run's files out: as a patch for where they came from, or as a directory.

Nothing is written into the run. The patch is made by git in a scratch repository that holds the
files that differ and nothing else, so it also knows commits that are in the run's log only, and no
config, attributes or driver of the run has a say.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from hashlib import sha1
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from kitaru_fs.errors import ConflictError, FormatError, StorageError, UsageError
from kitaru_fs.git.config import canonical_files
from kitaru_fs.git.safe import Git
from kitaru_fs.quoting import quote_path
from kitaru_fs.redaction.redactor import FileWatch
from kitaru_fs.rundir.repository import Point, Repository
from kitaru_fs.snapshot.exclude import Exclude
from kitaru_fs.snapshot.filetree import DirRef, Item, read_directory
from kitaru_fs.snapshot.removal import remove_tree
from kitaru_fs.snapshot.restore import put_files
from kitaru_fs.snapshot.scanner import Scanner
from kitaru_fs.storage.objects import (
    MODE_EXECUTABLE,
    MODE_FILE,
    MODE_LINK,
    MODE_TREE,
    ObjectKind,
    TreeEntry,
    encode_tree,
    is_unsafe_name,
    object_id,
)
from kitaru_fs.storage.pack import Whole, write_pack
from kitaru_fs.storage.store import FileChanged, Store

if TYPE_CHECKING:
    from kitaru_fs.rundir.history import OpenRun

__all__ = ["make_patch", "write_into"]

_DIFF = (
    *("diff-tree", "-r", "-p", "--binary", "--full-index", "--no-renames", "--no-color"),
    *("--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/"),
)
_CHUNK = 1 << 20
_SHOWN = 5


# A patch


class _Difference(NamedTuple):
    """A file that differs: its path and what git's trees say of it, None where there is none."""

    path: bytes
    before: TreeEntry | None
    after: TreeEntry | None


def make_patch(opened: OpenRun, commit: bytes) -> bytes:
    """Returns what a run changed in its files since its first commit, as `git apply` takes it.

    Paths are relative to `files/`. What a patch has no words for is not in it: empty directories,
    other modes than executable or not, the repositories' own state. A path that is left out of
    either commit is not in it, since its change is not known. Where `files/` began as a git work
    tree, neither are new files that its ignore rules match: the work tree may have its own there.

    Args:
        opened: The run.
        commit: The commit up to which.

    Returns:
        The patch; empty where nothing differs.

    Raises:
        FormatError: The commit does not descend from a first commit of kitaru's.
        RunDamagedError: An object is missing.
        StorageError: There is no room for the scratch repository.
    """
    store = opened.repository.store
    before = _first_point(opened, commit).files
    after = opened.repository.point(commit).files
    found = list(_differences(store, before, after))
    if not found:
        return b""
    try:
        with tempfile.TemporaryDirectory(prefix="kitaru-export-") as name:
            scratch = _make_scratch(Path(name))
            if b".git" in read_directory(store, before).items:
                ignored = _ignored(store, after, scratch, [d.path for d in found if not d.before])
                found = [d for d in found if d.before or d.path not in ignored]
            return _diff(store, scratch, found)
    except OSError as error:
        raise StorageError(
            f"making the patch failed: {error.strerror or error}",
            hint="it needs a temporary directory: make room there, or set TMPDIR",
        ) from error


def _first_point(opened: OpenRun, commit: bytes) -> Point:
    first = opened.commits(commit)[-1][0]
    point = opened.repository.point(first)
    if point.step != 0:
        raise FormatError(
            f"{opened.repository.path}: the history of {commit.hex()[:12]} does not begin with a "
            "commit of kitaru's",
            hint="check out a commit of the run: git log --all",
        )
    return point


def _differences(
    store: Store, before: DirRef, after: DirRef, base: bytes = b""
) -> Iterator[_Difference]:
    if before.files == after.files:
        return
    old, new = read_directory(store, before), read_directory(store, after)
    for name in sorted(old.items.keys() | new.items.keys()):
        if name in old.left_out or name in new.left_out or is_unsafe_name(name):
            continue
        was, now = old.items.get(name), new.items.get(name)
        difference = _Difference(base + name, _tree_entry(was), _tree_entry(now))
        if difference.before != difference.after:
            yield difference
        yield from _differences(store, _directory(was), _directory(now), base + name + b"/")


def _directory(item: Item | None) -> DirRef:
    return item.ref if item is not None and item.kind == "dir" else DirRef(None, None)


def _tree_entry(item: Item | None) -> TreeEntry | None:
    if item is None or item.kind == "dir":
        return None
    if item.kind == "link":
        return TreeEntry(MODE_LINK, item.sha)
    return TreeEntry(MODE_EXECUTABLE if item.mode & 0o100 else MODE_FILE, item.sha)


def _make_scratch(path: Path) -> Git:
    """An empty repository and an empty work tree, with settings of ours."""
    git_dir, work_tree = path / "git", path / "tree"
    for name in ("info", "objects/pack", "refs"):
        (git_dir / name).mkdir(parents=True)
    for name, content in {"HEAD": b"ref: refs/heads/main\n", **canonical_files()}.items():
        (git_dir / name).write_bytes(content)
    work_tree.mkdir()
    return Git(git_dir, work_tree)


def _diff(store: Store, scratch: Git, found: list[_Difference]) -> bytes:
    trees: dict[bytes, bytes] = {}
    before = _put_tree(trees, {d.path: d.before for d in found if d.before})
    after = _put_tree(trees, {d.path: d.after for d in found if d.after})
    blobs = {entry.sha for d in found for entry in (d.before, d.after) if entry}

    def objects() -> Iterator[Whole]:
        for sha, content in trees.items():
            yield Whole(sha, "tree", content)
        for sha, content in store.read_many(blobs):
            yield Whole(sha, "blob", content)

    write_pack(scratch.git_dir / "objects", objects(), len(trees) + len(blobs), sync=False)
    return scratch.run(*_DIFF, before.hex(), after.hex())


def _put_tree(trees: dict[bytes, bytes], files: dict[bytes, TreeEntry]) -> bytes:
    """Adds the trees that hold some files at their paths; returns the root's id."""
    entries: dict[bytes, TreeEntry] = {}
    inside: dict[bytes, dict[bytes, TreeEntry]] = {}
    for path, entry in files.items():
        first, slash, rest = path.partition(b"/")
        if slash:
            inside.setdefault(first, {})[rest] = entry
        else:
            entries[first] = entry
    for name, below in inside.items():
        entries[name] = TreeEntry(MODE_TREE, _put_tree(trees, below))
    content = encode_tree(entries)
    sha = object_id("tree", content)
    trees[sha] = content
    return sha


def _ignored(store: Store, files: DirRef, scratch: Git, paths: list[bytes]) -> set[bytes]:
    """Which paths the ignore rules in a commit's `files/` match, but for those in its index."""
    (scratch.git_dir / "info" / "exclude").write_bytes(b"")
    repository = _directory(read_directory(store, files).items.get(b".git"))
    for name, item in read_directory(store, repository).items.items():
        if name == b"index":
            _place(store, item, scratch.git_dir / "index")
        elif name == b"info":
            rules = read_directory(store, _directory(item)).items.get(b"exclude")
            _place(store, rules, scratch.git_dir / "info" / "exclude")
    _place_rules(store, files, scratch.work_tree, paths)
    command = ("check-ignore", "-z", "--stdin")
    # With `./` a name that begins with a colon is no pathspec's magic.
    asked = b"".join(b"./" + path + b"\0" for path in paths)
    done = scratch.execute(*command, input=asked)
    if done.status > 1:  # it cannot read the index
        done = scratch.execute(*command, "--no-index", input=asked)
    return {path.removeprefix(b"./") for path in done.stdout.split(b"\0")}


def _place_rules(store: Store, ref: DirRef, folder: Path, paths: Iterable[bytes]) -> None:
    """Writes the `.gitignore` of each directory that some paths lie in."""
    inside: dict[bytes, list[bytes]] = {}
    for path in paths:
        first, slash, rest = path.partition(b"/")
        if slash:
            inside.setdefault(first, []).append(rest)
    items = read_directory(store, ref).items
    _place(store, items.get(b".gitignore"), folder / ".gitignore")
    for name, below in inside.items():
        (folder / os.fsdecode(name)).mkdir()
        _place_rules(store, _directory(items.get(name)), folder / os.fsdecode(name), below)


def _place(store: Store, item: Item | None, path: Path) -> None:
    if item is not None and item.kind == "file":
        path.write_bytes(store.read(item.sha, "blob"))


# A directory


def write_into(opened: OpenRun, commit: bytes, directory: Path) -> int:
    """Writes the files of a commit into a new or empty directory, all of them or none.

    They are exact: bytes, modes, links, empty directories, nested repositories with their state.
    What is left out of the commit is not written. They are built beside their place, checked, and
    then moved there.

    Args:
        opened: The run.
        commit: The commit.
        directory: Where to; parents that do not exist are made.

    Returns:
        How many files and links were written, those of nested repositories included.

    Raises:
        ConflictError: There is a file in that place, or something in the directory.
        UsageError: It is inside the run, or cannot be made.
        RunDamagedError: An object is missing.
        StorageError: The disk refused; nothing is left behind.
    """
    place = Path(os.path.abspath(directory))
    _check_place(opened.repository, place)
    store = _Comparing(opened.repository)
    target = opened.repository.point(commit).files
    count = store.expect(target)
    folder = place if place.is_dir() else place.parent
    building = folder / f".kitaru-export-{os.urandom(6).hex()}"
    parents: list[Path] = []
    try:
        _make_parents(folder, parents)
        building.mkdir()
    except OSError as error:
        _take_back([], parents)
        raise UsageError(
            f"{place} cannot be made: {error.strerror}", hint="name a directory in a place of yours"
        ) from error
    ours = [building]
    try:
        put_files(building, Scanner(building, store, Exclude(()), sys.maxsize), store, target)
        if folder == place:
            _move_content(building, place, ours)
        else:
            _move(building, place)
    except OSError as error:
        _take_back(ours, parents)
        raise StorageError(
            f"writing {place} failed: {error.strerror or error}",
            hint="nothing was left there; make room, or name another directory",
        ) from error
    except BaseException:
        _take_back(ours, parents)
        raise
    return count


class _Comparing(Store):
    """Names what is on disk as the run's store does, but keeps none of what a commit holds."""

    def __init__(self, repository: Repository) -> None:
        super().__init__(repository.git_dir, repository.git)
        self._source = repository.store
        self._expected: set[bytes] = set()
        self._kept: dict[bytes, bytes] = {}

    def expect(self, ref: DirRef) -> int:
        """Notes the objects of a directory; returns how many files and links are below it."""
        count = 0
        self._expected.update(sha for sha in (ref.files, ref.state) if sha)
        for item in read_directory(self._source, ref).items.values():
            if item.kind == "dir":
                count += self.expect(item.ref)
            else:
                self._expected.add(item.sha)
                count += 1
        return count

    def read(self, sha: bytes, kind: ObjectKind | None = None) -> bytes:
        kept = self._kept.get(sha)
        return self._source.read(sha, kind) if kept is None else kept

    def write_blob(self, sha: bytes, out: BinaryIO) -> None:
        self._source.write_blob(sha, out)

    def put_scanned(
        self,
        kind: ObjectKind,
        data: bytes,
        *,
        base: bytes | None = None,
        sha: bytes | None = None,
    ) -> bytes:
        sha = sha or object_id(kind, data)
        if sha not in self._expected:
            self._kept[sha] = data
        return sha

    def put_large(
        self,
        descriptor: int,
        size: int,
        watch: FileWatch | None = None,
        *,
        base: bytes | None = None,
    ) -> bytes:
        digest = sha1(b"blob %d\0" % size)
        seen = 0
        while chunk := os.read(descriptor, _CHUNK):
            digest.update(chunk)
            seen += len(chunk)
        if seen != size:
            raise FileChanged
        return digest.digest()


def _check_place(repository: Repository, place: Path) -> None:
    run = os.path.realpath(repository.path)
    if Path(os.path.realpath(place)).is_relative_to(run):
        raise UsageError(
            f"{place} is inside the run {repository.path.name} itself",
            hint="name a directory elsewhere",
        )
    try:
        if os.path.lexists(place) and (not place.is_dir() or os.listdir(place)):
            raise _conflict(place)
    except OSError as error:
        raise UsageError(f"{place} cannot be read: {error.strerror}") from error


def _conflict(place: Path) -> ConflictError:
    hint = "name a new or an empty directory"
    if not place.is_dir():
        return ConflictError(f"{place} exists and is not a directory", hint=hint)
    names = sorted(map(os.fsencode, os.listdir(place)))
    shown = ", ".join(map(quote_path, names[:_SHOWN])) + (" …" if len(names) > _SHOWN else "")
    return ConflictError(f"{place} is not empty: it holds {shown}", hint=hint)


def _make_parents(folder: Path, made: list[Path]) -> None:
    """Makes a directory and what is missing above it, and notes what it made."""
    missing = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    for path in reversed(missing):
        path.mkdir()
        made.append(path)


def _move(building: Path, place: Path) -> None:
    try:
        # This replaces nothing but an empty directory.
        os.rename(building, place)
    except (FileExistsError, NotADirectoryError):
        raise _conflict(place) from None
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:
            raise _conflict(place) from None
        raise


def _move_content(building: Path, place: Path, moved: list[Path]) -> None:
    for name in sorted(os.listdir(building)):
        source, target = building / name, place / name
        if os.path.lexists(target):
            raise _conflict(place)
        status = os.lstat(source)
        # A directory that moves gets another `..`, so for that it must be writable.
        locked = stat.S_ISDIR(status.st_mode) and not status.st_mode & stat.S_IWUSR
        if locked:
            source.chmod(stat.S_IMODE(status.st_mode) | stat.S_IWUSR)
        os.rename(source, target)
        moved.append(target)
        if locked:
            target.chmod(stat.S_IMODE(status.st_mode))
    building.rmdir()


def _take_back(ours: list[Path], parents: list[Path]) -> None:
    for path in ours:
        remove_tree(path)
    for path in reversed(parents):
        # What another has made in it meanwhile stays.
        with contextlib.suppress(OSError):
            path.rmdir()
