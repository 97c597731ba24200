"""Copying a project into a run's `files/`: its files, and its repository as a whole one.

What would lead git from the copy back to the user's own repository is copied, not pointed at.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from pathlib import Path
from typing import NamedTuple

from kitaru_fs.errors import UsageError
from kitaru_fs.git.layout import read_plain_file
from kitaru_fs.git.safe import Git
from kitaru_fs.intake.projectgit import (
    ProjectRepository,
    find_repository,
    make_scratch,
    read_pointer,
    read_settings,
    refuse_reftable,
)
from kitaru_fs.quoting import quote_path, unquote_path

__all__ = ["ProjectCopy", "identity_of"]

# What a linked worktree has from the repository that it belongs to; the rest is its own.
_SHARED = (
    *("config", "description", "hooks", "info", "lfs", "logs", "packed-refs", "refs"),
    *("remotes", "branches", "rr-cache", "shallow", "svn"),
)
_NOT_SHARED = frozenset(
    {"info/sparse-checkout", "logs/HEAD", "refs/bisect", "refs/rewritten", "refs/worktree"}
)
# Ties to where the repository lies, and to processes that work on it.
_TIES = frozenset({"commondir", "gc.pid", "gitdir", "locked", "worktrees"})
_LATE = {"packed-refs": 1, "objects": 2}
_PACKED = re.compile(r"pack-[0-9a-f]+\.(?:pack|idx|rev|keep|promisor|mtimes)\Z")
_FANOUT = re.compile(r"[0-9a-f]{2}\Z")
_LOOSE = re.compile(r"[0-9a-f]+\Z")
_KINDS = {
    stat.S_IFIFO: "FIFO",
    stat.S_IFSOCK: "socket",
    stat.S_IFBLK: "device",
    stat.S_IFCHR: "device",
}
_PASSES = 100


class _Part(NamedTuple):
    """Where in a repository the copying is.

    Attributes:
        boundary: A link that leads out of this directory is followed.
        without: Paths relative to the repository that are not copied.
        inside: The path so far, with a `/` at its end.
        followed: A link was followed on the way; another one is not.
    """

    boundary: str
    without: frozenset[str]
    inside: str = ""
    followed: bool = False

    def enter(self, name: str) -> _Part:
        return self._replace(inside=f"{self.inside}{name}/")


class ProjectCopy:
    """Copies one directory, and each repository in it so that the copy stands on its own."""

    def __init__(
        self,
        root: Path,
        avoid: set[tuple[int, int] | None],
        ignored: frozenset[bytes],
        left_out: dict[str, str],
    ) -> None:
        self._root = root
        self._avoid = avoid
        self._ignored = ignored
        self._left_out = left_out
        self._vanished = False

    def directory(self, source: str, target: str, base: bytes) -> None:
        """Copies what is in a directory of the work tree into an existing directory."""
        for entry in self._list(source, base):
            path = base + os.fsencode(entry.name)
            to = os.path.join(target, entry.name)
            if path in self._ignored:
                continue
            repository = None
            if entry.name == ".git":
                repository = self._to_take_out(Path(entry.path))
            if repository is not None:
                self._repository(repository, to, path)
            elif entry.is_dir(follow_symlinks=False):
                if identity_of(entry.path) not in self._avoid:
                    os.mkdir(to)
                    self.directory(entry.path, to, path + b"/")
                    _copy_stat(entry.path, to)
            else:
                self._file(entry.path, to, path)

    def _list(self, source: str, base: bytes) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(source) as listing:
                return sorted(listing, key=lambda entry: entry.name)
        except PermissionError:
            self._left_out[quote_path(base)] = "unreadable"
        except (FileNotFoundError, NotADirectoryError):
            self._vanished = True
        return []

    def _file(self, source: str, target: str, path: bytes) -> None:
        try:
            self._copy(source, target, path)
        except PermissionError as error:
            if error.filename != source:
                raise
            self._left_out[quote_path(path)] = "unreadable"

    def _copy(self, source: str, target: str, path: bytes) -> None:
        try:
            kind = stat.S_IFMT(os.lstat(source).st_mode)
            if kind in (stat.S_IFREG, stat.S_IFLNK):
                shutil.copy2(source, target, follow_symlinks=False)
            else:
                self._left_out[quote_path(path)] = _KINDS.get(kind, "not a file")
        except FileNotFoundError as error:
            if error.filename != source:
                raise
            self._vanished = True
            Path(target).unlink(missing_ok=True)
        except (IsADirectoryError, shutil.SpecialFileError):
            self._left_out[quote_path(path)] = "changed while it was copied"

    # Repositories

    def _to_take_out(self, dot_git: Path) -> ProjectRepository | None:
        """The repository to copy in place of a `.git`; None if that can stay what it is."""
        found = find_repository(dot_git)
        if found is None or (dot_git.is_file() and self._stays_inside(dot_git, found)):
            return None
        refuse_reftable(found, dot_git.parent)
        return found

    def _stays_inside(self, dot_git: Path, found: ProjectRepository) -> bool:
        """Whether a `.git` file leads, in the copy too, to a submodule's repository in the copy."""
        pointer = read_pointer(dot_git)
        if pointer is None or pointer.is_absolute() or dot_git.is_symlink():
            return False
        if not found.own.is_relative_to(self._root) or found.linked:
            return False
        parts = found.own.relative_to(self._root).parts
        if ".git" not in parts or parts[parts.index(".git") + 1 :][:1] != ("modules",):
            return False
        return not any(map(os.path.isabs, read_settings(found.own / "config", "core", "worktree")))

    def _repository(self, repository: ProjectRepository, target: str, path: bytes) -> None:
        """Makes a `.git` directory that needs nothing outside it."""
        os.mkdir(target)
        own, common = str(repository.own), str(repository.common)
        without = {"objects"}
        if repository.linked:
            others = set(self._names(common)).difference(_SHARED)
            self._git_directory(_Part(common, _NOT_SHARED | others), common, target, path)
            without |= {"modules", "packed-refs"}
        self._git_directory(_Part(own, frozenset(without)), own, target, path)
        # Objects come last, so that no ref was copied that needs a later one.
        self._objects(os.path.join(common, "objects"), os.path.join(target, "objects"), path)
        _untie(target, linked=repository.linked)
        _copy_stat(own, target)

    def _git_directory(self, part: _Part, source: str, target: str, path: bytes) -> None:
        names = self._names(source)
        is_repository = not part.inside or (
            part.inside.startswith("modules/") and {"HEAD", "objects", "refs"}.issubset(names)
        )
        if is_repository:
            # git moves refs from files of their own to this one, so it is read after them: whether
            # it was there before or not.
            names = [*names, "packed-refs"]
        for name in sorted(set(names), key=lambda name: (_LATE.get(name, 0), name)):
            if part.inside + name in part.without or name.endswith(".lock"):
                continue
            if is_repository and name in _TIES:
                continue
            entry, to = os.path.join(source, name), os.path.join(target, name)
            below = path + b"/" + os.fsencode(name)
            inner = part.enter(name)
            real = os.path.realpath(entry)
            if os.path.islink(entry) and _leads_out(entry, part.boundary):
                # From the copy it would lead back to the user's own repository.
                if inner.followed or not os.path.exists(real):
                    self._left_out[quote_path(below)] = "a link that leads out of the repository"
                    continue
                entry, inner = real, inner._replace(boundary=real, followed=True)
            if not os.path.isdir(entry) or os.path.islink(entry):
                self._git_file(entry, to, below)
            elif is_repository and name == "objects":
                self._objects(entry, to, path)
            else:
                os.makedirs(to, exist_ok=True)
                self._git_directory(inner, entry, to, below)
                _copy_stat(entry, to)

    def _names(self, source: str) -> list[str]:
        try:
            return os.listdir(source)
        except (FileNotFoundError, NotADirectoryError):
            self._vanished = True
            return []
        except PermissionError as error:
            raise _unreadable(source) from error

    def _git_file(self, source: str, target: str, path: bytes) -> None:
        # The worktree's own file may take the place of one that it shares.
        Path(target).unlink(missing_ok=True)
        try:
            self._copy(source, target, path)
        except PermissionError as error:
            if error.filename != source:
                raise
            raise _unreadable(source) from error

    def _objects(self, source: str, target: str, path: bytes) -> None:
        """Copies objects, those that the repository has from elsewhere too; no caches of them."""
        folders = [source, *_alternates(source)]
        for _ in range(_PASSES):
            # A repack moves objects while they are copied: then what is new since is copied too.
            self._vanished = False
            for folder in folders:
                self._add_objects(folder, target, path)
            if not self._vanished:
                return
        raise UsageError(
            f"{source} keeps changing while it is copied", hint="wait for `git gc` there to end"
        )

    def _add_objects(self, source: str, target: str, path: bytes) -> None:
        for folder in ("info", "pack"):
            os.makedirs(os.path.join(target, folder), exist_ok=True)
        for folder in self._names(source):
            wanted = _PACKED if folder == "pack" else _LOOSE if _FANOUT.match(folder) else None
            if wanted is None:
                continue
            os.makedirs(os.path.join(target, folder), exist_ok=True)
            names = filter(wanted.match, self._names(os.path.join(source, folder)))
            # A pack before its index: git looks for indexes.
            for name in sorted(names, key=lambda name: (name.endswith(".idx"), name)):
                to = os.path.join(target, folder, name)
                if not os.path.lexists(to):
                    real = os.path.realpath(os.path.join(source, folder, name))
                    self._git_file(real, to, path + b"/objects/" + os.fsencode(name))


def _leads_out(link: str, boundary: str) -> bool:
    if os.path.isabs(os.readlink(link)):
        return True
    return not Path(os.path.realpath(link)).is_relative_to(boundary)


def _untie(git_dir: str, *, linked: bool) -> None:
    """Takes out of a copied config what says that the work tree is elsewhere."""
    for name in ("config", "config.worktree"):
        config = Path(git_dir, name)
        if read_settings(config, "core", "worktree"):
            _set(config, "--unset-all", "core.worktree")
        if linked and read_settings(config, "core", "bare"):
            _set(config, "--replace-all", "core.bare", "false")


def _set(config: Path, *args: str) -> None:
    with tempfile.TemporaryDirectory(prefix="kitaru-intake-") as name:
        scratch = make_scratch(Path(name))
        Git(scratch, scratch).run("config", "--file", str(config), *args)


def _alternates(objects: str, depth: int = 0) -> list[str]:
    """The object directories that one takes objects from, theirs included."""
    found: list[str] = []
    content = read_plain_file(Path(objects, "info", "alternates")) or b""
    for line in content.splitlines():
        if not line or line.startswith(b"#"):
            continue
        raw = unquote_path(os.fsdecode(line)) if line.startswith(b'"') else line
        folder = os.path.realpath(os.path.join(objects, os.fsdecode(raw)))
        # git goes five deep as well.
        if os.path.isdir(folder) and depth < 5:
            found += [folder, *_alternates(folder, depth + 1)]
    return list(dict.fromkeys(found))


def _unreadable(path: str) -> UsageError:
    return UsageError(
        f"{path} cannot be read, so the git history would not be whole",
        hint="give this user read access to it; a copy without its .git can be taken",
    )


def _copy_stat(source: str, target: str) -> None:
    try:
        shutil.copystat(source, target)
    except FileNotFoundError as error:
        if error.filename != source:
            raise


def identity_of(path: Path | str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino
