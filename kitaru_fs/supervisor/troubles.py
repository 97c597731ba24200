"""Runs that do not go on as they should: how long they are let alone, which are left to a human.

    .kitaru/up/RUN.json    one `Trouble`; without it the run is taken up at once

A human's `kitaru resume` removes it, and so does progress.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from kitaru_fs.config.settings import UpSettings

__all__ = ["Trouble", "Troubles", "forget_trouble", "read_trouble"]


class Trouble(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What keeps a run from going on.

    Attributes:
        reason: A sentence.
        deaths: How many times in a row, without a step between them.
        until: When it is tried again, in seconds since the epoch.
        held: It is not tried again before a human resumes it.
    """

    reason: str
    deaths: int = 1
    until: float = 0.0
    held: bool = False


class Troubles:
    """The troubles of one workspace's runs.

    Args:
        folder: `.kitaru/up`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # What a full disk did not take.
        self._unwritten: dict[str, Trouble] = {}

    def read(self, name: str) -> Trouble | None:
        """Returns a run's trouble; None if it has none."""
        return _read(self._folder / f"{name}.json") or self._unwritten.get(name)

    def hold(self, name: str, reason: str) -> Trouble:
        """Notes that a run is left to a human."""
        return self._write(name, Trouble(reason=reason, held=True))

    def note(
        self, name: str, reason: str, *, progressed: bool, now: float, settings: UpSettings
    ) -> Trouble:
        """Notes that a run's process ended as it should not have.

        Args:
            name: The run.
            reason: How it ended.
            progressed: It had committed a step before.
            now: Seconds since the epoch.
            settings: How long it is let alone, and when it is left to a human.
        """
        before = self.read(name)
        deaths = 1 if before is None or progressed else before.deaths + 1
        # The first time at once: a machine that went down has done that to many.
        doubled = settings.backoff * 2.0 ** min(deaths - 2, 1000) if deaths > 1 else 0.0
        return self._write(
            name,
            Trouble(
                reason=reason,
                deaths=deaths,
                until=now + min(doubled, settings.max_backoff),
                held=deaths >= settings.crashes,
            ),
        )

    def forget(self, name: str) -> None:
        """Notes that a run goes on as it should."""
        self._unwritten.pop(name, None)
        with contextlib.suppress(OSError):
            (self._folder / f"{name}.json").unlink()

    def _write(self, name: str, trouble: Trouble) -> Trouble:
        path = self._folder / f"{name}.json"
        new = path.with_suffix(".new")
        try:
            new.write_bytes(msgspec.json.encode(trouble))
            os.rename(new, path)
        except OSError:
            self._unwritten[name] = trouble
        return trouble


def read_trouble(workspace: Path, name: str) -> Trouble | None:
    """Returns the trouble of a workspace's run; None if it has none."""
    return _read(workspace / ".kitaru" / "up" / f"{name}.json")


def forget_trouble(workspace: Path, name: str) -> None:
    """Lets a workspace's supervisor begin anew with a run."""
    with contextlib.suppress(OSError):
        (workspace / ".kitaru" / "up" / f"{name}.json").unlink()


def _read(path: Path) -> Trouble | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Trouble)
    except (OSError, msgspec.MsgspecError):
        return None
