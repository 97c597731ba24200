"""The git on this machine, and the environment, built from nothing, that it is run in."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from kitaru_fs.errors import GitError

__all__ = ["BASE_ENVIRONMENT", "check_git_version", "clean_path", "find_git"]

OLDEST_GIT = (2, 34)
_INSTALL = "Install git 2.34 or newer (Debian: `apt install git`; macOS: `xcode-select --install`)."

BASE_ENVIRONMENT = {
    "GIT_ASKPASS": "",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_EDITOR": ":",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_PAGER": "cat",
    "GIT_SEQUENCE_EDITOR": ":",
    "GIT_TERMINAL_PROMPT": "0",
    "HOME": "/dev/null",
    "LC_ALL": "C",
}


def clean_path(environ: Mapping[str, str], work_tree: Path | None = None) -> str:
    """The entries of `PATH` that no agent of a run could have written into."""
    entries = environ.get("PATH", os.defpath).split(os.pathsep)
    safe = [entry for entry in entries if os.path.isabs(entry)]
    if work_tree is not None:
        run = os.path.realpath(work_tree)
        safe = [entry for entry in safe if not _is_below(_resolved(entry), run)]
    return os.pathsep.join(safe) or os.defpath


@cache
def _resolved(entry: str) -> str:
    return os.path.realpath(entry)


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


_programs: dict[str, str] = {}
_checked: dict[str, tuple[int, ...]] = {}


def find_git(path: str) -> str:
    """The git on a `PATH`.

    Raises:
        GitError: There is none.
    """
    program = _programs.get(path) or shutil.which("git", path=path)
    if program is None:
        raise GitError("git was not found on PATH.", hint=_INSTALL)
    _programs[path] = program
    return program


def check_git_version(path: str | None = None) -> tuple[int, ...]:
    """Checks once in a process that git is there and new enough.

    Args:
        path: The `PATH` to find it on; None for the process's own.

    Returns:
        Its version, such as `(2, 39, 5)`.

    Raises:
        GitError: It is missing or older than 2.34.
    """
    program = find_git(clean_path(os.environ) if path is None else path)
    if program in _checked:
        return _checked[program]
    try:
        text = subprocess.run(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=BASE_ENVIRONMENT | {"PATH": os.path.dirname(program)},
            check=False,
        ).stdout.decode("utf-8", "replace")
    except OSError as error:
        raise GitError(f"{program} could not be run: {error.strerror}.", hint=_INSTALL) from error
    match = re.match(r"git version (\d+(?:\.\d+)+)", text)
    if match is None:
        raise GitError(f"{program} does not answer as git does.", hint=_INSTALL)
    version = tuple(map(int, match[1].split(".")))
    if version < OLDEST_GIT:
        raise GitError(f"{program} is git {match[1]}, which is too old.", hint=_INSTALL)
    _checked[program] = version
    return version
