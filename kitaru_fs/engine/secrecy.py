"""A run's secrets: out of what its calls are known by, and in again where outputs are replayed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from kitaru_fs.engine.guard import Guard
from kitaru_fs.engine.replay import Call, Replay
from kitaru_fs.entry import Entry
from kitaru_fs.errors import SecretMissingError
from kitaru_fs.redaction.finder import Known
from kitaru_fs.redaction.redactor import Redactor
from kitaru_fs.rundir.journal import Journal
from kitaru_fs.rundir.masking import error_of, output_of
from kitaru_fs.values import digest

__all__ = ["Secrecy"]


class Secrecy:
    """What a live run does with the secrets that it is given.

    Args:
        redactor: The run's.
        journal: Its journal.
        replay: What is left of it.
        guard: Serializes what is done with the run.
    """

    def __init__(self, redactor: Redactor, journal: Journal, replay: Replay, guard: Guard) -> None:
        self._redactor = redactor
        self._journal = journal
        self._replay = replay
        self._guard = guard

    @property
    def known(self) -> Sequence[Known]:
        """The environment's credentials, and those that the run used before."""
        return self._redactor.finder().known

    def key(self, base: str, unmasked: Callable[[], str] | None = None) -> str:
        """Returns the key of the next call that has something in common with others.

        Args:
            base: What they have in common, secrets masked.
            unmasked: Returns the same as it was made before a secret in it was known as one: a
                journal of that time holds that.
        """
        with self._guard:
            return self._replay.key(base, unmasked)

    def call_key(self, name: str, arguments: bytes | msgspec.Raw) -> str:
        """Returns the key of the next call with this name and arguments, as JSON.

        It is made of both with their secrets masked: it tells nothing of a secret, and stays the
        same when a credential's value changes.
        """
        shown, masked = self._redactor.mask_text(name), self.mask(bytes(arguments))
        base = f"{shown}:{digest(masked)[:16]}"
        if shown == name and masked == bytes(arguments):
            return self.key(base)
        return self.key(base, lambda: f"{name}:{digest(arguments)[:16]}")

    def text_key(self, kind: str, text: str) -> str:
        """Returns the key of the next call of a kind that is known by a text, not by arguments."""
        shown = self._redactor.mask_text(text)
        if shown == text:
            return self.key(f"{kind}:{text}")
        return self.key(f"{kind}:{shown}", lambda: f"{kind}:{text}")

    def mask(self, raw: bytes) -> bytes:
        """Returns JSON text with its secrets masked."""
        return self._redactor.mask_json(raw)

    def cut(self, text: str, limit: int) -> int:
        """Returns where to cut a text: at `limit`, or before a secret that lies across it."""
        return self._redactor.cut(text, limit)

    def output_of(self, entry: Entry) -> bytes:
        """Returns the recorded output of a journaled step, as JSON.

        Raises:
            SecretMissingError: It holds a secret that nothing here has.
        """
        if entry.output_file is None:
            return output_of(self._redactor, entry, bytes(entry.output))
        with self._guard:
            return output_of(self._redactor, entry, self._journal.output(entry))

    def error_of(self, entry: Entry) -> dict[str, Any]:
        """Returns the recorded error of a journaled step. Raises as `output_of` does."""
        return error_of(self._redactor, entry)

    def shown(self, call: Call) -> Call:
        """Returns a call with its secrets masked."""
        shown = msgspec.Raw(self.mask(msgspec.json.encode(call.input)))
        return call._replace(name=self._redactor.mask_text(call.name), input=shown)

    def missing(self, text: str, where: str) -> SecretMissingError | None:
        """Returns the error for a text that names a secret that nothing here has, if it does."""
        return self._redactor.missing(text, where)

    def find_replayed(self) -> None:
        """Finds out whether all secrets that are replayed can be had.

        Raises:
            SecretMissingError: One cannot.
        """
        for entry in map(self._replay.read, self._replay.with_secrets):
            if entry.status == "failed":
                self.error_of(entry)
            else:
                self.output_of(entry)
        self._replay.with_secrets.clear()
