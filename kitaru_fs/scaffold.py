"""Making a workspace: what `kitaru init` does, and how a workspace is found again.

A workspace is built aside and moved into place piece by piece, `kitaru.toml` last: that file is
what makes a directory a workspace, so an `init` that was killed leaves none, and can be repeated.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kitaru_fs.config.settings import SETTINGS_FILE
from kitaru_fs.errors import ConflictError, NotFoundError, UsageError

__all__ = ["InitResult", "example_dir", "find_workspace", "init_workspace", "template_dir"]

_STAGING = ".kitaru-init-"
_IGNORED = ("runs", ".kitaru")
_DIRECTORIES = ("agents", "runs", ".kitaru")


@dataclass(frozen=True)
class InitResult:
    """What `init_workspace` did.

    Attributes:
        workspace: The workspace's directory, absolute.
        created: What is new or was added to, relative to the workspace; directories end in `/`.
        kept: What was there already and is as it was.
        notes: Sentences for the user.
    """

    workspace: Path
    created: list[str] = field(default_factory=list[str])
    kept: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])


def find_workspace(start: Path) -> Path | None:
    """The workspace that a directory lies in, or None.

    It is the nearest directory upwards with a `kitaru.toml`. Inside a run it is always the
    workspace that holds the run, whatever an agent has put into the run's `files/`.
    """
    start = Path(os.path.realpath(start))
    found: Path | None = None
    for directory in (start, *start.parents):
        if found is None and (directory / SETTINGS_FILE).is_file():
            found = directory
        if _is_run(directory) and (directory.parents[1] / SETTINGS_FILE).is_file():
            found = directory.parents[1]
    return found


def init_workspace(directory: Path, *, force: bool = False) -> InitResult:
    """Make a workspace, in a new or empty directory or inside an existing project.

    In a directory that holds something already only `kitaru.toml`, `runs/` and, where there is no
    `agents/`, the example agents are added, and the ignore rules go to the end of `.gitignore`.

    Args:
        directory: Where; made if it does not exist.
        force: Also in the home directory or `/`.

    Raises:
        ConflictError: Something is in the way; the message lists all of it.
        UsageError: The place is no good: `/`, the home directory, not writable, inside a run.
    """
    target = Path(os.path.realpath(directory))
    _refuse_place(target, force=force)
    try:
        if os.path.lexists(target) and not target.is_dir():
            raise ConflictError(f"{target} is no directory", hint="Name another place.")
        return _Init(target).run()
    except OSError as error:
        place = error.filename or target
        raise UsageError(
            f"No workspace could be made in {target}: {error.strerror or error} ({place})",
            hint="Nothing was left there. Choose a directory that you can write to.",
        ) from error


def template_dir() -> Path:
    """The workspace template that `init_workspace` copies from."""
    return _shipped("_template", "workspace_template")


def example_dir(name: str) -> Path:
    """An example that is shipped with the package, such as `coding_agent`."""
    return _shipped(f"_examples/{name}", f"examples/{name}")


def _shipped(installed: str, in_checkout: str) -> Path:
    package = Path(__file__).parent
    for place in (package / installed, package.parent / in_checkout):
        if place.is_dir():
            return place
    raise NotFoundError(
        f"This installation of kitaru-fs has no {in_checkout}",
        hint="Install it again: pip install --force-reinstall kitaru-fs",
    )


def _is_run(directory: Path) -> bool:
    return (
        directory.parent.name == "runs"
        and (directory / "run.json").is_file()
        and (directory / ".git").is_dir()
    )


def _refuse_place(target: Path, *, force: bool) -> None:
    home = os.path.expanduser("~")
    special = {"/": "the root directory", os.path.realpath(home): "your home directory"}
    if str(target) in special and not force:
        raise UsageError(
            f"{target} is {special[str(target)]}: a workspace there would take in all below it",
            hint="Name a directory (kitaru init my-workspace), or say --force.",
        )
    for place in (target, *target.parents):
        if place.name == "runs" and (place.parent / SETTINGS_FILE).is_file():
            raise UsageError(
                f"{target} lies among the runs of the workspace {place.parent}",
                hint="Name a directory outside of it.",
            )


def _refuse_conflicts(target: Path, existing: list[str]) -> None:
    if SETTINGS_FILE in existing and (target / SETTINGS_FILE).is_file():
        raise ConflictError(
            f"{target} is a workspace already: it has a {SETTINGS_FILE}",
            hint=f"Nothing was changed. To start from new settings, move {SETTINGS_FILE} away.",
        )
    found = list(_in_the_way(target, existing))
    if found:
        raise ConflictError(
            f"No workspace can be made in {target}, in the way: {'; '.join(found)}",
            hint="Nothing was changed. Move that away, or name another directory.",
        )


def _in_the_way(target: Path, existing: list[str]) -> Iterator[str]:
    if SETTINGS_FILE in existing:
        yield f"{SETTINGS_FILE} (not a regular file)"
    for name in _DIRECTORIES:
        if name in existing and not (target / name).is_dir():
            yield f"{name} (not a directory)"
    if ".gitignore" in existing:
        mode = os.lstat(target / ".gitignore").st_mode
        if stat.S_ISLNK(mode):
            yield ".gitignore (a symbolic link, which git does not follow)"
        elif not stat.S_ISREG(mode):
            yield ".gitignore (not a regular file)"
    if (target / "runs").is_dir():
        others = [
            entry.name
            for entry in sorted((target / "runs").iterdir())
            if not entry.name.startswith(".") and not (entry / "run.json").is_file()
        ]
        if others:
            yield f"runs/ (holds something else, such as {others[0]})"


class _Init:
    """One `init`: what it has done so far, so that all of it can be taken back."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.in_project = False
        self.result = InitResult(target)
        self.made: list[Path] = []
        self.appended: tuple[Path, int] | None = None

    def run(self) -> InitResult:
        outer = find_workspace(self.target.parent)
        try:
            self._make_directories()
            with _alone_in(self.target):
                self._fill()
        except BaseException:
            self._take_back()
            raise
        if outer is not None:
            self.result.notes.append(
                f"It lies inside the workspace {outer}; commands run in here use the new one."
            )
        return self.result

    def _make_directories(self) -> None:
        places = [self.target, *self.target.parents]
        for place in reversed([place for place in places if not os.path.lexists(place)]):
            with contextlib.suppress(FileExistsError):
                place.mkdir()
                self.made.append(place)

    def _fill(self) -> None:
        existing = sorted(os.listdir(self.target))
        _refuse_conflicts(self.target, existing)
        self.in_project = any(not name.startswith(_STAGING) for name in existing)
        staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=self.target))
        self.made.append(staging)
        for name in self._stage(template_dir(), staging):
            self._move(staging / name)
        for leftover in [staging, *self.target.glob(f"{_STAGING}*")]:
            # Of inits that were killed: a living one would have kept us out.
            shutil.rmtree(leftover, ignore_errors=True)

    def _stage(self, template: Path, staging: Path) -> Iterator[str]:
        """Write all that is new, then yield what to move into place, in this order."""
        names = ["agents", "runs", SETTINGS_FILE]
        if not self.in_project:
            names[1:1] = ["README.md", ".gitignore"]
        new = [name for name in names if not os.path.lexists(self.target / name)]
        kept = [name for name in names if name not in new]
        self.result.kept.extend(name + "/" * (self.target / name).is_dir() for name in kept)
        for name in new:
            if name == "runs":
                (staging / name).mkdir()
            elif (template / name).is_dir():
                _copy_modules(template / name, staging / name)
            else:
                shutil.copyfile(template / name, staging / name)
        yield from new[:-1]
        if self.in_project:
            self._append_ignore_rules()
        yield new[-1]

    def _move(self, source: Path) -> None:
        place = self.target / source.name
        if os.path.lexists(place):
            raise ConflictError(
                f"{place} has appeared while the workspace was being made",
                hint="Nothing was changed. Try again.",
            )
        os.rename(source, place)
        self.made.append(place)
        files = sorted(path for path in place.rglob("*") if path.is_file())
        names = [str(path.relative_to(self.target)) for path in files]
        self.result.created.extend(names or [place.name + "/" * place.is_dir()])

    def _append_ignore_rules(self) -> None:
        place = self.target / ".gitignore"
        is_new = not place.exists()
        before = b"" if is_new else place.read_bytes()
        addition = missing_ignore_rules(before)
        if not addition:
            self.result.kept.append(".gitignore")
            return
        if is_new:
            self.made.append(place)
        else:
            self.appended = (place, len(before))
        # Appending in place keeps the file's owner, mode and links.
        with place.open("ab") as file:
            file.write(addition)
        self.result.created.append(".gitignore")

    def _take_back(self) -> None:
        if self.appended is not None:
            os.truncate(*self.appended)
        for place in reversed(self.made):
            if place in (self.target, *self.target.parents):
                # Somebody else may have put something in meanwhile: that stays.
                with contextlib.suppress(OSError):
                    place.rmdir()
            elif place.is_dir():
                shutil.rmtree(place, ignore_errors=True)
            else:
                place.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone_in(directory: Path) -> Generator[None, None, None]:
    """Keep other inits out. The lock is on the directory itself: a killed holder leaves nothing."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Where a file system has no locks, only one `init` at a time is safe.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _copy_modules(source: Path, to: Path) -> None:
    # Not `copytree`: an installed template may be read-only, and the copies must not be.
    for path in sorted(source.rglob("*.py")):
        place = to / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)


def missing_ignore_rules(content: bytes) -> bytes:
    """What to append to a `.gitignore` so that it ignores runs and caches; empty if it does.

    The file's line ends are kept, and so is the lack of a newline at its end.
    """
    lines = [line.strip() for line in content.decode("utf-8", "replace").splitlines()]
    missing = [name for name in _IGNORED if not _is_ignored(name, lines)]
    if not missing:
        return b""
    newline = b"\r\n" if b"\r\n" in content else b"\n"
    rules = [b"# kitaru-fs", *(f"/{name}/".encode() for name in missing)]
    if not content:
        return newline.join(rules) + newline
    if content.endswith(b"\n"):
        return newline.join([b"", *rules]) + newline
    return newline.join([b"", b"", *rules])


def _is_ignored(name: str, lines: list[str]) -> bool:
    forms = {name, f"/{name}", f"{name}/", f"/{name}/"}
    rules = [line for line in lines if line.removeprefix("!") in forms]
    # As git reads it, the last rule that fits decides.
    return bool(rules) and not rules[-1].startswith("!")
