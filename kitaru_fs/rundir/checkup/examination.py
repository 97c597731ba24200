"""One look at a run, with leave to put right what it finds, or without."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from kitaru_fs.clock import nonce
from kitaru_fs.errors import KitaruError
from kitaru_fs.rundir.oplog import Operation
from kitaru_fs.storage.store import storage_error

__all__ = ["Examination", "Finding", "State"]

_LONGEST_NAME = 200

State = Literal["found", "repaired", "refused"]


class Finding(msgspec.Struct, kw_only=True, frozen=True):
    """Something that is not as it should be.

    Attributes:
        check: What was looked at: `format`, `layout`, `permissions`, `settings`, `locks`, `log`,
            `vault`, `head`, `refs`, `objects`, `journal`, `crash`, `shown`, `index` or `leftovers`.
        state: `found` by a look that repairs nothing; `repaired`; or `refused`: it cannot be
            repaired, or not without overwriting what cannot be explained.
        what: A sentence.
        path: Where, relative to the run's directory; empty where it is no one file.
        kept_as: Where what was replaced is now; empty where there was nothing to keep.
        hint: What to do about it.
    """

    check: str
    state: State
    what: str
    path: str = ""
    kept_as: str = ""
    hint: str = ""


class Examination:
    """A look at one run.

    Args:
        path: The run's directory.
        repair: Whether to put right what can be. The caller then holds the run's lock.

    Attributes:
        aside: Where it keeps what it replaces.
        moved: What it did to branches, for the log of operations.
    """

    def __init__(self, path: Path, *, repair: bool) -> None:
        self.path = path
        self.git_dir = path / ".git"
        self.repair = repair
        self.findings: list[Finding] = []
        self.moved: list[Operation] = []
        self.aside = self.git_dir / "kitaru" / "aside" / f"doctor-{nonce()[:8]}"

    def report(
        self,
        check: str,
        what: str,
        place: Path | None = None,
        *,
        mend: Callable[[], Path | None] | None = None,
        hint: str = "",
    ) -> bool:
        """Adds a finding, and puts it right where that can be done and may be.

        Args:
            check: What was looked at.
            what: A sentence.
            place: The file that it is about.
            mend: Puts it right; returns where what was replaced is kept.
            hint: What to do about it, where it is not put right.

        Returns:
            Whether it was put right.

        Raises:
            StorageError: The disk refused.
        """
        state: State = "refused" if mend is None else "found"
        kept: Path | None = None
        if mend is not None and self.repair:
            try:
                kept, state = mend(), "repaired"
            except OSError as error:
                raise storage_error(error, f"repairing {self.path.name}", then="again") from error
            except KitaruError as error:
                state, what, hint = "refused", f"{what}; {error.message}", error.hint or hint
        self.findings.append(
            Finding(
                check=check,
                state=state,
                what=what,
                path=self.shown(place) if place is not None else "",
                kept_as=self.shown(kept) if kept is not None else "",
                hint="" if state == "repaired" else hint,
            )
        )
        return state == "repaired"

    def has(self, *checks: str) -> bool:
        """Says whether one of some checks found something that is not repaired."""
        return any(one.check in checks and one.state != "repaired" for one in self.findings)

    def note(self, check: str, what: str, *, kept_as: str = "") -> None:
        """Adds something that was put right on the way."""
        self.findings.append(Finding(check=check, state="repaired", what=what, kept_as=kept_as))

    def set_aside(self, place: Path) -> Path:
        """Moves a file, link or directory of the run to where it harms nobody, and is kept.

        Raises:
            OSError: The disk refused.
        """
        name = self.shown(place).removeprefix(".git/").replace("/", "-")
        name = os.fsdecode(os.fsencode(name)[:_LONGEST_NAME])
        self.aside.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = self.aside / name
        number = 1
        while os.path.lexists(kept):
            number += 1
            kept = self.aside / f"{name}.{number}"
        os.rename(place, kept)
        return kept

    def shown(self, place: Path) -> str:
        """Returns a path relative to the run's directory."""
        return str(place.relative_to(self.path)) if place.is_relative_to(self.path) else str(place)
