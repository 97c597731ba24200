"""A run's vault: the secrets that its commits hold placeholders for, and nothing else.

On disk, `.git/kitaru/vault`, mode 0600, in no commit, carried by no clone or push:

    {"format": 1,
     "named": {"OPENAI_API_KEY": ["value", "earlier value"]},
     "found": {"github-token-1": "value"}}

`named` are the environment's credentials: the environment goes before the vault, which may be of
another day or machine. `found` are texts that only their shape gave away: the vault alone has them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, cast

from kitaru_fs.errors import RunDamagedError
from kitaru_fs.redaction.finder import Known

__all__ = ["Vault"]

_MODE = 0o600


class Vault:
    """The vault of one run; read when it is first asked.

    Args:
        path: Its file; the run need not have one.
        durable: Whether to wait for the disk.
    """

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        self.path = path
        self._durable = durable
        self._named: dict[str, list[str]] = {}
        self._found: dict[str, str] = {}
        self._numbers: dict[tuple[str, str], str] = {}
        self._known: frozenset[Known] = frozenset()
        self._changed = False
        self._load()

    def known(self) -> frozenset[Known]:
        """Returns the environment's credentials that the run used, those of other days too."""
        return self._known

    def everything(self) -> frozenset[Known]:
        """Returns all that the vault has, also what only its shape gave away."""
        return self._known | {Known(name, text) for name, text in self._found.items()}

    def remember(self, known: Known) -> None:
        """Notes a credential that a placeholder stands for."""
        if known.name in self._found:
            return
        values = self._named.setdefault(known.name, [])
        if values[:1] != [known.value]:
            if known.value in values:
                values.remove(known.value)
            values.insert(0, known.value)
            self._known |= {known}
            self._changed = True

    def number(self, kind: str, text: str) -> str:
        """Returns the placeholder's name for a text that its shape gave away; the same again."""
        name = self._numbers.get((kind, text))
        if name is None:
            count = sum(1 for other, _ in self._numbers if other == kind) + 1
            while f"{kind}-{count}" in self._found:
                count += 1
            name = f"{kind}-{count}"
            self._found[name] = text
            self._numbers[kind, text] = name
            self._changed = True
        return name

    def value(self, name: str) -> str | None:
        """Returns what a placeholder's name stands for; None if the vault does not have it."""
        values = self._named.get(name)
        return values[0] if values else self._found.get(name)

    def save(self) -> None:
        """Writes what is new, atomically.

        Raises:
            OSError: The disk refused; the file is as it was.
        """
        if not self._changed:
            return
        self._write(self.path)
        self._changed = False

    def copy_to(self, path: Path) -> None:
        """Writes the vault of a run that goes on from this one.

        Raises:
            OSError: The disk refused.
        """
        if self._named or self._found:
            self._write(path)

    def _write(self, path: Path) -> None:
        content = {"format": 1, "named": self._named, "found": self._found}
        new = path.with_name(f"{path.name}.new")
        new.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(new, flags, _MODE), "w", encoding="ascii") as file:
            json.dump(content, file, indent=1)
            file.flush()
            if self._durable:
                os.fsync(file.fileno())
        os.rename(new, path)
        if self._durable:
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _load(self) -> None:
        try:
            opened = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _unreadable(self.path, str(error.strerror)) from error
        try:
            with os.fdopen(opened, "rb") as file:
                content = cast("dict[str, Any]", json.loads(file.read()))
            for name, values in content["named"].items():
                self._named[str(name)] = [str(value) for value in values]
            for name, text in content["found"].items():
                self._found[str(name)] = str(text)
                self._numbers[str(name).rpartition("-")[0], str(text)] = str(name)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise _unreadable(self.path, "it is not what kitaru writes there") from error
        self._known = frozenset(
            Known(name, value) for name, values in self._named.items() for value in values
        )


def _unreadable(path: Path, why: str) -> RunDamagedError:
    return RunDamagedError(
        f"{path}, the run's vault of secrets, cannot be read: {why}",
        hint="`kitaru doctor RUN` sets it aside; the secrets then come from the environment alone",
    )
