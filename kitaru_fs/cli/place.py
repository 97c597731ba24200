"""Where a command works: the workspace, and what RUN and AT name."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kitaru_fs.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from kitaru_fs.run import Run
    from kitaru_fs.workspace import Workspace

__all__ = ["Place", "RunAt", "enclosing_run"]

_SETTINGS = "kitaru.toml"


class RunAt(NamedTuple):
    """A run and a STEP of it; None for its last one."""

    run: Run
    step: str | None


class Place:
    """Where a command works.

    Args:
        named: The directory that `--workspace` names.
    """

    def __init__(self, named: str | None) -> None:
        self._named = named

    def workspace(self, run: Path | None = None) -> Workspace:
        """Returns the workspace: the one that is named, else the one that holds a run or this
        directory.

        Args:
            run: A run's directory that it is about.

        Raises:
            NotFoundError: There is none.
            SettingsError: Its settings are wrong.
        """
        from kitaru_fs.workspace import Workspace

        if self._named is not None:
            return Workspace(os.path.expanduser(self._named))
        if run is not None and _holds(run.parent):
            return Workspace(run.parents[1])
        try:
            return Workspace.current()
        except NotFoundError as error:
            if run is not None:
                error.hint = f"put {run} under a workspace's runs/, or name one with --workspace"
            raise

    def in_run(self) -> bool:
        """Says whether this directory is in a run's."""
        return enclosing_run(_here()) is not None

    def find_run(self, reference: str | None, *, quiet: bool = False, needed: bool = False) -> Run:
        """Returns the run that RUN names.

        Args:
            reference: RUN; None where it was left out.
            quiet: Do not say which run `last` is.
            needed: Outside a run's directory it may not be left out.

        Raises:
            NotFoundError: None fits.
            AmbiguousError: More than one fits.
            UsageError: It was left out where it is needed.
        """
        from kitaru_fs.run import Run

        if reference:
            directory = _directory(reference)
            if directory is not None:
                return Run(directory, self.workspace(directory))
            return self._named_run(reference)
        here = enclosing_run(_here())
        if here is not None:
            return Run(here, self.workspace(here))
        if needed:
            raise UsageError(
                "this command needs a RUN here, since it is for good",
                hint="name it (`kitaru runs` lists them), or say `last`",
            )
        run = self.workspace().run("last")
        if not quiet:
            from kitaru_fs.cli.output import say

            say(f"run {run.id}")
        return run

    def find_at(self, text: str, *, quiet: bool = False) -> RunAt:
        """Returns what AT names: `RUN@STEP`, `@STEP`, or RUN for its last step.

        Raises:
            NotFoundError: The run does not exist.
            AmbiguousError: More than one run fits.
            UsageError: It is no AT.
        """
        reference, step = _split(text)
        if step == "":
            raise UsageError(f"{text!r} names no step", hint=f"write {text}STEP, or {text[:-1]}")
        try:
            return RunAt(self.find_run(reference or None, quiet=quiet), step)
        except NotFoundError as error:
            if step is None and enclosing_run(_here()) is not None:
                error.hint = f"for a step of this run write @{text}; {error.hint}"
            raise

    def _named_run(self, reference: str) -> Run:
        here = enclosing_run(_here())
        return self.workspace(here).run(reference)


def enclosing_run(start: Path) -> Path | None:
    """The directory of the run that a directory lies in, whatever an agent put below; or None."""
    start = Path(os.path.realpath(start))
    found = None
    for directory in (start, *start.parents):
        is_run = (directory / "run.json").is_file() or (directory / ".git").is_dir()
        if is_run and _holds(directory.parent):
            found = directory
    return found


def _holds(runs: Path) -> bool:
    return runs.name == "runs" and (runs.parent / _SETTINGS).is_file()


def _here() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise UsageError(
            "the current directory does not exist any more", hint="cd to one that does"
        ) from None


def _directory(reference: str) -> Path | None:
    """The run's directory that a RUN names as a directory; None if it is an id."""
    if os.sep not in reference and reference not in (".", ".."):
        place = Path(reference)
        if not (place / "run.json").is_file():
            return None
    place = Path(os.path.realpath(os.path.expanduser(reference)))
    if (place / "run.json").is_file() or ((place / ".git").is_dir() and _holds(place.parent)):
        return place
    inside = enclosing_run(place) if place.is_dir() else None
    if inside is not None:
        return inside
    what = "is no run" if place.is_dir() else "does not exist"
    raise NotFoundError(f"{place} {what}", hint="`kitaru runs` lists the runs")


def _split(text: str) -> tuple[str, str | None]:
    """RUN and STEP of an AT; a directory may have an @ of its own."""
    places = [match.start() for match in re.finditer("@", text)]
    if not places or (os.sep in text and os.path.isdir(text)):
        return text, None
    for place in places:
        if os.sep in text[:place] and os.path.isdir(text[:place]):
            return text[:place], text[place + 1 :]
    return text[: places[0]], text[places[0] + 1 :]
