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
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from kitaru_fs.errors import NotFoundError, UsageError
from kitaru_fs.intake.projectcopy import ProjectCopy, identity_of
from kitaru_fs.intake.projectgit import ask_git, top_repository
from kitaru_fs.quoting import quote_path

__all__ = ["Intake"]


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
        commit, ignored = ask_git(place, top_repository(place))
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
        avoid = {identity_of(folder) for folder in (*self._skip, files_dir)}
        work = ProjectCopy(self.directory, avoid, self._ignored, self.left_out)
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
