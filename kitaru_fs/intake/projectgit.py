"""What git says of a project that is taken in: HEAD, and what its ignore rules match.

git is asked in a scratch repository with settings of ours, links to the project's refs and a copy
of its index: nothing of the user's is written, locked or executed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from kitaru_fs.errors import StorageError, UsageError
from kitaru_fs.git.config import canonical_files
from kitaru_fs.git.configfile import ConfigEntry, parse_config
from kitaru_fs.git.layout import read_plain_file
from kitaru_fs.git.safe import Git
from kitaru_fs.quoting import printable

__all__ = [
    "ProjectRepository",
    "ask_git",
    "find_repository",
    "make_scratch",
    "read_pointer",
    "read_settings",
    "refuse_reftable",
    "top_repository",
]

# What kind of repository it is, on what kind of file system.
_KIND = (
    *(("core", "ignorecase"), ("core", "precomposeunicode")),
    *(("extensions", "objectformat"), ("extensions", "refstorage")),
)


class ProjectRepository(NamedTuple):
    """Where a repository lies: HEAD and index in `own`; objects and refs in `common`."""

    own: Path
    common: Path

    @property
    def linked(self) -> bool:
        return self.own != self.common


def find_repository(dot_git: Path) -> ProjectRepository | None:
    """The repository that a `.git` is or leads to; None where that is none."""
    own = dot_git
    try:
        if not dot_git.is_dir():
            pointer = read_pointer(dot_git)
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
    return ProjectRepository(own, common) if whole else None


def read_pointer(dot_git: Path) -> Path | None:
    content = read_plain_file(dot_git) or b""
    if not content.startswith(b"gitdir: "):
        return None
    return Path(os.fsdecode(content.removeprefix(b"gitdir: ").rstrip(b"\r\n")))


def top_repository(place: Path) -> ProjectRepository:
    dot_git = place / ".git"
    found = find_repository(dot_git)
    if found is None:
        if dot_git.is_dir():
            raise _damaged(place, "HEAD, objects or refs are missing")
        leads = read_pointer(dot_git)
        where = f"it leads to {leads}, where none is" if leads else "it leads nowhere"
        raise _damaged(place, where, "`git worktree repair` mends a moved worktree")
    lock = found.own / "index.lock"
    if os.path.lexists(lock):
        raise UsageError(
            f"{lock} exists: a git command works on {place}, or was killed there",
            hint="wait for it to end; if none runs, remove that file",
        )
    refuse_reftable(found, place)
    return found


def refuse_reftable(repository: ProjectRepository, place: Path) -> None:
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


def read_settings(path: Path, section: str, key: str) -> list[str]:
    return [
        entry.value or "" for entry in _config(path) if (entry.section, entry.key) == (section, key)
    ]


def ask_git(place: Path, repository: ProjectRepository) -> tuple[str | None, list[bytes]]:
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

    def __init__(self, place: Path, repository: ProjectRepository, scratch: Path) -> None:
        self._place = place
        self._repository = repository
        self._git_dir = scratch / "git"
        self._git = Git(make_scratch(scratch / "ours"), place)
        (self._git_dir / "info").mkdir(parents=True)
        (self._git_dir / "objects").mkdir()
        settings = "[core]\n\trepositoryformatversion = 1\n\tbare = false\n"
        for section, key in _KIND:
            for value in read_settings(repository.common / "config", section, key):
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


def make_scratch(path: Path) -> Path:
    """An empty repository with settings of ours."""
    for name in ("info", "objects", "refs"):
        (path / name).mkdir(parents=True)
    for name, content in {"HEAD": b"ref: refs/heads/main\n", **canonical_files()}.items():
        (path / name).write_bytes(content)
    return path
