"""Taking a directory into a run's `files/`, for `run --files DIR`.

A git work tree (a directory with a `.git` in it) comes with its history and with what is not
committed yet; what its own ignore rules match stays out. Anything else comes whole.

Nothing of the user's is written, locked or executed. git is asked only what is ignored and where
HEAD is, and it reads settings of ours in place of the repository's. The repository itself is copied
as files. What would lead git from the copy back to the user's own repository is copied, not pointed
at: the `.git` file of a linked worktree or submodule, alternates, links; `core.worktree` goes.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from kitaru_fs.configfile import ConfigEntry, parse_config
from kitaru_fs.errors import NotFoundError, StorageError, UsageError
from kitaru_fs.git import Git
from kitaru_fs.gitconfig import canonical_files
from kitaru_fs.gitlayout import read_plain_file
from kitaru_fs.quoting import printable, quote_path, unquote_path

__all__ = ["Intake"]

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
# What kind of repository it is, on what kind of file system.
_KIND = (
    *(("core", "ignorecase"), ("core", "precomposeunicode")),
    *(("extensions", "objectformat"), ("extensions", "refstorage")),
)
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
_PASSES = 5


class Intake:
    """A directory that a run begins with. Made by `inspect`.

    Attributes:
        directory: The directory, as a real path.
        source: What a run's request says of it: `directory`, and `commit` (hexadecimal) where it is
            a git work tree that has one.
        ignored: What its ignore rules match, relative and quoted, a directory as one with a `/` at
            its end. None of it is copied.
        left_out: What `copy_into` found that cannot be copied: relative quoted path to reason.
    """

    def __init__(
        self, directory: Path, skip: Sequence[Path], commit: str | None, ignored: Iterable[bytes]
    ) -> None:
        self.directory = directory
        self.source: dict[str, str] = {"directory": quote_path(os.fsencode(directory))}
        if commit is not None:
            self.source["commit"] = commit
        below = [os.path.relpath(os.path.realpath(folder), directory) for folder in skip]
        ours = tuple(os.fsencode(folder) + b"/" for folder in below)
        listed = [path for path in ignored if not path.startswith(ours)]
        self.ignored: list[str] = [quote_path(path) for path in listed]
        self.left_out: dict[str, str] = {}
        self._ignored = frozenset(path.rstrip(b"/") for path in listed)
        self._skip = tuple(skip)

    @classmethod
    def inspect(cls, directory: Path, skip: Sequence[Path] = ()) -> Intake:
        """Looks at a directory: whether it can be taken, and what of it stays out.

        Args:
            directory: The directory.
            skip: Directories that are not copied, wherever they lie in it: the workspace's `runs/`
                and `.kitaru/`.

        Raises:
            UsageError: It is missing, no directory, unreadable, `/` or the home directory, part of
                what is skipped (the `files/` of another run can be taken), or a git work tree
                whose repository is locked or cannot be read.
            GitError: git is missing or too old.
            StorageError: No temporary directory could be made.
        """
        place = _check_place(directory, skip)
        if not os.path.lexists(place / ".git"):
            return cls(place, skip, None, ())
        commit, ignored = _ask_git(place, _top_repository(place))
        return cls(place, skip, commit, ignored)

    def copy_into(self, files_dir: Path) -> None:
        """Copies the directory; `left_out` says afterwards what could not be.

        Modes, times, links and empty directories stay as they are; what vanishes meanwhile is
        skipped.

        Args:
            files_dir: An existing, empty directory.

        Raises:
            UsageError: A part of the git repository cannot be read.
            OSError: The disk refused.
        """
        self.left_out.clear()
        avoid = {_identity(folder) for folder in (*self._skip, files_dir)}
        work = _Copy(self.directory, avoid, self._ignored, self.left_out)
        work.directory(str(self.directory), str(files_dir), b"")


def _check_place(directory: Path, skip: Sequence[Path]) -> Path:
    place = Path(os.path.realpath(directory))
    named = {
        "/": "the root directory",
        os.path.realpath(os.path.expanduser("~")): "your home directory",
    }
    try:
        mode = place.stat().st_mode
        if not stat.S_ISDIR(mode):
            raise UsageError(f"{directory} is not a directory", hint="name a project directory")
        if str(place) in named:
            raise UsageError(
                f"{directory} is {named[str(place)]}, too much to take into a run",
                hint="name a project directory",
            )
        os.scandir(place).close()
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(
            f"{directory} does not exist", hint="name a project directory"
        ) from None
    except OSError as error:
        raise UsageError(
            f"{directory} cannot be read: {error.strerror}",
            hint="name a directory that you can read",
        ) from error
    for folder in map(os.path.realpath, skip):
        if not place.is_relative_to(folder):
            continue
        run, *inside = place.relative_to(folder).parts or ("",)
        if inside[:1] == ["files"] and Path(folder, run, ".git").is_dir():
            continue
        raise UsageError(
            f"{directory} is part of {folder}, which holds the workspace's own data",
            hint="name a project directory, or the files/ of a run",
        )
    return place


def _identity(path: Path | str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


# Reading a repository


class _Repository(NamedTuple):
    """Where a repository lies: HEAD and index in `own`; objects and refs in `common`."""

    own: Path
    common: Path

    @property
    def linked(self) -> bool:
        return self.own != self.common


def _find_repository(dot_git: Path) -> _Repository | None:
    """The repository that a `.git` is or leads to; None where that is none."""
    own = dot_git
    try:
        if not dot_git.is_dir():
            pointer = _pointer(dot_git)
            if pointer is None:
                return None
            own = dot_git.parent / pointer
        own = Path(os.path.realpath(own))
        common = own
        if (own / "commondir").is_file():
            text = os.fsdecode((own / "commondir").read_bytes().rstrip(b"\r\n"))
            common = Path(os.path.realpath(own / text))
        whole = os.path.lexists(own / "HEAD") and (common / "objects").is_dir()
        whole = whole and (common / "refs").is_dir()
    except OSError:
        return None
    return _Repository(own, common) if whole else None


def _pointer(dot_git: Path) -> Path | None:
    content = read_plain_file(dot_git) or b""
    if not content.startswith(b"gitdir: "):
        return None
    return Path(os.fsdecode(content.removeprefix(b"gitdir: ").rstrip(b"\r\n")))


def _top_repository(place: Path) -> _Repository:
    dot_git = place / ".git"
    found = _find_repository(dot_git)
    if found is None:
        if dot_git.is_dir():
            raise _damaged(place, "HEAD, objects or refs are missing")
        leads = _pointer(dot_git)
        where = f"it leads to {leads}, where none is" if leads else "it leads nowhere"
        raise _damaged(place, where, "`git worktree repair` mends a moved worktree")
    lock = found.own / "index.lock"
    if os.path.lexists(lock):
        raise UsageError(
            f"{lock} exists: a git command works on {place}, or was killed there",
            hint="wait for it to end; if none runs, remove that file",
        )
    _refuse_reftable(found, place)
    return found


def _refuse_reftable(repository: _Repository, place: Path) -> None:
    if repository.linked and (repository.common / "reftable").exists():
        raise UsageError(
            f"{place} is a linked worktree of a repository that keeps its refs as a reftable",
            hint="use the main worktree, or a clone",
        )


def _damaged(place: Path, why: str, hint: str = "") -> UsageError:
    return UsageError(
        f"{place / '.git'} is no whole git repository: {why}",
        hint=hint or f"`git -C {place} fsck` says more; a copy without its .git can be taken",
    )


def _config(path: Path) -> list[ConfigEntry]:
    return parse_config(read_plain_file(path) or b"")[0]


def _settings(path: Path, section: str, key: str) -> list[str]:
    return [
        entry.value or "" for entry in _config(path) if (entry.section, entry.key) == (section, key)
    ]


def _ask_git(place: Path, repository: _Repository) -> tuple[str | None, list[bytes]]:
    """HEAD's commit, and the ignored paths, a directory as one that ends in `/`."""
    try:
        with tempfile.TemporaryDirectory(prefix="kitaru-intake-") as name:
            asked = _Asked(place, repository, Path(name))
            return asked.head(), asked.ignored()
    except OSError as error:
        raise StorageError(
            f"asking git about {place} failed: {error.strerror or error}",
            hint="it needs a temporary directory: make room there, or set TMPDIR",
        ) from error


class _Asked:
    """A user's repository as git is asked about it: settings of ours, its refs, a copied index.

    The index is a copy since git touches files beside it, and in a sparse one also objects, that it
    finds old; what reads it gets objects of its own.
    """

    def __init__(self, place: Path, repository: _Repository, scratch: Path) -> None:
        self._place = place
        self._repository = repository
        self._git_dir = scratch / "git"
        self._git = Git(_make_scratch(scratch / "ours"), place)
        (self._git_dir / "info").mkdir(parents=True)
        (self._git_dir / "objects").mkdir()
        settings = "[core]\n\trepositoryformatversion = 1\n\tbare = false\n"
        for section, key in _KIND:
            for value in _settings(repository.common / "config", section, key):
                if value.isalnum():
                    settings += f"[{section}]\n\t{key} = {value}\n"
        (self._git_dir / "config").write_text(settings)
        for name in ("refs", "packed-refs", "reftable", "info/exclude"):
            (self._git_dir / name).symlink_to(repository.common / name)
        for name in os.listdir(repository.own):
            if name in ("HEAD", "index") or name.startswith("sharedindex."):
                source = repository.own / name
                shutil.copyfile(source, self._git_dir / name, follow_symlinks=name != "HEAD")

    def head(self) -> str | None:
        found = self._ask("rev-parse", "--verify", "--quiet", "HEAD")
        if found.returncode == 0:
            commit = found.stdout.decode("ascii").strip()
            if self._ask("cat-file", "-e", f"{commit}^{{commit}}").returncode != 0:
                raise _damaged(self._place, f"its commit {commit} is missing or damaged")
            return commit
        branch = self._ask("symbolic-ref", "--quiet", "HEAD")
        name = os.fsdecode(branch.stdout.rstrip(b"\n"))
        if branch.returncode != 0 or os.path.lexists(self._repository.common / name):
            raise _damaged(self._place, f"{name or 'HEAD'} names no commit")
        return None

    def ignored(self) -> list[bytes]:
        ours = self._git_dir / "objects"
        self._bring_trees(ours)
        command = ("ls-files", "-z", "-o", "-i", "--exclude-standard", "--directory")
        listed = self._checked(self._ask(*command, objects=ours))
        paths = sorted(path for path in listed.split(b"\0") if path)
        # git also lists a directory that is not ignored but whose files all are: these follow it.
        return [
            path
            for path, after in pairwise([*paths, b""])
            if not (path.endswith(b"/") and after.startswith(path))
        ]

    def _bring_trees(self, objects: Path) -> None:
        """Copies the trees that a sparse index names in place of the paths below them."""
        index = self._git_dir / "index"
        if not index.exists() or b"sdir\0\0\0\0" not in index.read_bytes():
            return
        listed = self._checked(self._ask("ls-files", "--sparse", "--stage", "-z", objects=objects))
        rows = [row.split(b" ", 2) for row in listed.split(b"\0") if row]
        trees = b"".join(row[1] + b"\n" for row in rows if row[0] == b"040000")
        packing = ("pack-objects", "--quiet", "--revs", "--filter=blob:none", "--stdout")
        packed = self._checked(self._ask(*packing, given=trees))
        self._checked(self._ask("index-pack", "--stdin", given=packed, objects=objects))

    def _ask(
        self, *args: str, given: bytes = b"", objects: Path | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        where = {
            "GIT_DIR": self._git_dir,
            "GIT_OBJECT_DIRECTORY": objects or self._repository.common / "objects",
        }
        return subprocess.run(
            self._git.command(*args),
            input=given,
            capture_output=True,
            env=self._git.environment() | {name: str(path) for name, path in where.items()},
            cwd=self._place,
            check=False,
        )

    def _checked(self, done: subprocess.CompletedProcess[bytes]) -> bytes:
        if done.returncode != 0:
            raise _damaged(
                self._place, _last_words(done.stderr) or f"git ended with {done.returncode}"
            )
        return done.stdout


def _last_words(stderr: bytes) -> str:
    lines = [line for line in stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    told = [line for line in lines if line.startswith(("fatal:", "error:"))] or lines
    return printable(re.sub(r"^(?:fatal|error): ", "", told[0]), 300) if told else ""


# Copying


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


class _Copy:
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
                if _identity(entry.path) not in self._avoid:
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

    def _to_take_out(self, dot_git: Path) -> _Repository | None:
        """The repository to copy in place of a `.git`; None if that can stay what it is."""
        found = _find_repository(dot_git)
        if found is None or (dot_git.is_file() and self._stays_inside(dot_git, found)):
            return None
        _refuse_reftable(found, dot_git.parent)
        return found

    def _stays_inside(self, dot_git: Path, found: _Repository) -> bool:
        """Whether a `.git` file leads, in the copy too, to a submodule's repository in the copy."""
        pointer = _pointer(dot_git)
        if pointer is None or pointer.is_absolute() or dot_git.is_symlink():
            return False
        if not found.own.is_relative_to(self._root) or found.linked:
            return False
        parts = found.own.relative_to(self._root).parts
        if ".git" not in parts or parts[parts.index(".git") + 1 :][:1] != ("modules",):
            return False
        return not any(map(os.path.isabs, _settings(found.own / "config", "core", "worktree")))

    def _repository(self, repository: _Repository, target: str, path: bytes) -> None:
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
        if _settings(config, "core", "worktree"):
            _set(config, "--unset-all", "core.worktree")
        if linked and _settings(config, "core", "bare"):
            _set(config, "--replace-all", "core.bare", "false")


def _set(config: Path, *args: str) -> None:
    with tempfile.TemporaryDirectory(prefix="kitaru-intake-") as name:
        scratch = _make_scratch(Path(name))
        Git(scratch, scratch).run("config", "--file", str(config), *args)


def _make_scratch(path: Path) -> Path:
    """An empty repository with settings of ours."""
    for name in ("info", "objects", "refs"):
        (path / name).mkdir(parents=True)
    for name, content in {"HEAD": b"ref: refs/heads/main\n", **canonical_files()}.items():
        (path / name).write_bytes(content)
    return path


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
