"""What stands in a run's directory beside `files/`, for reading: `run.json`, `code/`, `journal/`.

The commits are the truth. These files show them, and are put right where a crash, a clone or a
human left them otherwise; what is replaced is kept in `.git/kitaru/aside/`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from kitaru_fs.clock import nonce
from kitaru_fs.rundir.repository import Repository, leaves
from kitaru_fs.storage.objects import MODE_TREE, TreeEntry, object_id
from kitaru_fs.storage.store import Store

__all__ = ["clear", "find_wrong", "put_right", "remove_state", "show", "show_tree"]

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SHOWN = (b"run.json", b"code", b"journal")


def show(path: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Writes files of a run's directory. No link on the way there is followed: it is set aside.

    Args:
        path: The run's directory.
        files: Their paths in it, and what they hold; those of one folder come together.

    Raises:
        OSError: The disk refused.
    """
    for place, together in groupby(files, lambda file: os.path.dirname(file[0])):
        with _folder(path, place.split("/") if place else ()) as folder:
            for name, content in together:
                leaf = os.path.basename(name)
                try:
                    _write(leaf, content, folder)
                except OSError:
                    if not (path / name).is_dir():
                        raise
                    _set_aside(path, name)
                    _write(leaf, content, folder)


@contextlib.contextmanager
def _folder(path: Path, parts: Sequence[str]) -> Generator[int]:
    """Opens a directory below a run's, and makes it where it is missing."""
    descriptor = os.open(path, _FOLDER)
    try:
        for number, part in enumerate(parts):
            try:
                inner = os.open(part, _FOLDER, dir_fd=descriptor)
            except FileNotFoundError:
                os.mkdir(part, 0o755, dir_fd=descriptor)
                inner = os.open(part, _FOLDER, dir_fd=descriptor)
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                    raise
                _set_aside(path, "/".join(parts[: number + 1]))
                os.mkdir(part, 0o755, dir_fd=descriptor)
                inner = os.open(part, _FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def _set_aside(path: Path, name: str) -> Path:
    """Moves what is in the way in a run's directory to where it is kept; returns that place."""
    target = path / ".git" / "kitaru" / "aside" / nonce()[:8] / name
    target.parent.mkdir(mode=0o700, parents=True)
    os.rename(path / name, target)
    return target


def clear(path: Path, name: str) -> None:
    """Removes a directory that is shown; a link in its place is set aside, not followed.

    Args:
        path: The run's directory.
        name: `code`, for instance.

    Raises:
        OSError: The disk refused.
    """
    place = path / name
    if place.is_symlink() or (place.exists() and not place.is_dir()):
        _set_aside(path, name)
    elif place.exists():
        shutil.rmtree(place)


def show_tree(path: Path, name: str, store: Store, tree: bytes, source: Path) -> None:
    """Writes a directory that is shown; files that stand in another run's directory are linked.

    Args:
        path: The run's directory; nothing of that name is in it.
        name: The directory's name.
        store: Holds the tree.
        tree: Its id.
        source: The other run's directory, trusted in nothing.

    Raises:
        OSError: The disk refused.
    """
    missing: dict[bytes, list[str]] = {}
    folders: set[str] = set()
    for raw, entry in leaves(store, os.fsencode(name), TreeEntry(MODE_TREE, tree)):
        leaf = os.fsdecode(raw)
        folder = os.path.dirname(leaf)
        if folder not in folders:
            os.makedirs(path / folder, exist_ok=True)
            folders.add(folder)
        if not _link(f"{source}/{leaf}", f"{path}/{leaf}", entry.sha):
            missing.setdefault(entry.sha, []).append(leaf)
    for sha, content in store.read_many(missing):
        for leaf in missing[sha]:
            _write(f"{path}/{leaf}", content)


def _link(source: str, target: str, sha: bytes) -> bool:
    """Links a file if it holds what it should; says whether it did."""
    try:
        found = _reads(os.fsencode(source))
        if found is None or object_id("blob", found) != sha:
            return False
        os.link(source, target, follow_symlinks=False)
    except OSError:
        return False  # it is written instead
    return True


def put_right(repository: Repository, root: dict[bytes, TreeEntry]) -> list[str]:
    """Makes what is shown equal to a commit's root tree.

    What a crash tore, and what the repository holds, is replaced or removed; anything else that is
    in the way is set aside.

    Returns:
        What was set aside, as `NAME -> PLACE`.

    Raises:
        OSError: The disk refused.
    """
    work = _PutRight(repository)
    wanted: dict[bytes, bytes] = {}
    for name in _SHOWN:
        if name in root:
            found = leaves(repository.store, name, root[name])
            wanted.update((path, entry.sha) for path, entry in found)
    work.clear_links()
    for path, sha in wanted.items():
        work.put(path, sha)
    work.remove_strays(wanted)
    return work.moved


def find_wrong(repository: Repository, root: dict[bytes, TreeEntry]) -> list[str]:
    """Returns what is shown and is not as a commit's root tree has it; writes nothing."""
    base = os.fsencode(repository.path)
    wanted: dict[bytes, bytes] = {}
    there: set[bytes] = set()
    for name in _SHOWN:
        if name in root:
            found = leaves(repository.store, name, root[name])
            wanted.update((path, entry.sha) for path, entry in found)
            there.update(_below(base, name))
    wrong = set(wanted) - there
    for path in there:
        content = _reads(os.path.join(base, path)) if path in wanted else None
        if content is None or object_id("blob", content) != wanted[path]:
            wrong.add(path)
    return sorted(map(os.fsdecode, wrong))


def _below(base: bytes, name: bytes) -> Iterator[bytes]:
    """Yields the files at or below a path, and links as they are."""
    place = os.path.join(base, name)
    if os.path.islink(place) or os.path.isfile(place):
        yield name
        return
    for folder, folders, names in os.walk(place):
        links = [one for one in folders if os.path.islink(os.path.join(folder, one))]
        for one in (*names, *links):
            yield os.path.relpath(os.path.join(folder, one), base)


def remove_state(repository: Repository, root: dict[bytes, TreeEntry]) -> list[str]:
    """Removes a checked-out `state/`, as `git clone` makes it: kitaru applies it, nobody reads it.

    Args:
        repository: The run.
        root: The root tree that it came from; with anything else in it, it is set aside.

    Returns:
        What was set aside, as `NAME -> PLACE`.

    Raises:
        OSError: The disk refused.
    """
    work = _PutRight(repository)
    work.remove_state(root.get(b"state"))
    return work.moved


class _PutRight:
    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._store = repository.store
        self._path = repository.path
        self._base = os.fsencode(repository.path)
        self._aside = repository.private_dir / "aside" / nonce()[:8]
        self.moved: list[str] = []

    def put(self, path: bytes, sha: bytes) -> None:
        place = os.path.join(self._base, path)
        found = _reads(place)
        if found is not None and object_id("blob", found) == sha:
            return
        content = self._store.read(sha, "blob")
        if os.path.lexists(place) and (found is None or not self._is_ours(found, content)):
            self._move(path)
        # Whole or not at all: a torn piece of what HEAD is not on would be nobody's.
        new = os.fspath(self._repository.private_dir / "shown.new")
        _write(new, content)
        *folders, leaf = os.fsdecode(path).split("/")
        with _folder(self._path, folders) as folder:
            os.rename(new, leaf, dst_dir_fd=folder)

    def clear_links(self) -> None:
        """Sets links aside that stand where a directory is to be."""
        for name in _SHOWN:
            place = os.path.join(self._base, name)
            if os.path.islink(place):
                self._move(name)
            for folder, folders, _ in os.walk(place):
                for one in folders:
                    inner = os.path.join(folder, one)
                    if os.path.islink(inner):
                        self._move(os.path.relpath(inner, self._base))

    def remove_strays(self, wanted: dict[bytes, bytes]) -> None:
        """Removes what a torn commit, or one that HEAD is not on, had shown."""
        for top in (b"code", b"journal"):
            for folder, _, names in os.walk(os.path.join(self._base, top), topdown=False):
                for name in names:
                    place = os.path.join(folder, name)
                    path = os.path.relpath(place, self._base)
                    found = _reads(place) if path not in wanted else None
                    if found is not None and self._is_ours(found, b""):
                        os.unlink(place)
                with contextlib.suppress(OSError):
                    os.rmdir(folder)

    def remove_state(self, entry: TreeEntry | None) -> None:
        place = self._path / "state"
        if not os.path.lexists(place):
            return
        found = leaves(self._store, b"state", entry) if entry is not None else ()
        known = {path: leaf.sha for path, leaf in found}
        if place.is_symlink() or not place.is_dir() or not self._holds_only(place, known):
            self._move(b"state")
        else:
            shutil.rmtree(place)

    def _holds_only(self, place: Path, known: dict[bytes, bytes]) -> bool:
        for folder, _, names in os.walk(os.fsencode(place)):
            for name in names:
                file = os.path.join(folder, name)
                found = _reads(file)
                path = os.path.relpath(file, self._base)
                if found is None or known.get(path) != object_id("blob", found):
                    return False
        return True

    def _is_ours(self, found: bytes, wanted: bytes) -> bool:
        """Says whether content is a torn piece of what belongs there, or is in the repository."""
        start = found.rstrip(b"\0")
        return not start or wanted.startswith(start) or self._store.has(object_id("blob", found))

    def _move(self, path: bytes) -> None:
        name = os.fsdecode(path)
        target = self._aside / name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(self._path / name, target)
        self.moved.append(f"{name} -> {target}")


def _reads(place: bytes) -> bytes | None:
    """Returns a file's content, or a link's target; None if it is neither or is not there."""
    try:
        if os.path.islink(place):
            return os.readlink(place)
        descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        with os.fdopen(descriptor, "rb") as file:
            return file.read()
    except IsADirectoryError:
        os.close(descriptor)
        return None


def _write(file: str, content: bytes, folder: int | None = None) -> None:
    try:
        descriptor = os.open(file, _NEW_FILE, 0o644, dir_fd=folder)
    except FileExistsError:
        # Not into it: a fork may show the same file.
        os.unlink(file, dir_fd=folder)
        descriptor = os.open(file, _NEW_FILE, 0o644, dir_fd=folder)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
    finally:
        os.close(descriptor)
