"""Putting placeholders in the place of secrets, and secrets in the place of placeholders.

Two ways. `redact_json` is for what a flow gets back on replay: every text that it changed is a
place to be listed, and `fill_json` restores those places, no other. `mask_json` and `mask_text` are
for what is only read: names, arguments, messages. A mask holds no number of the vault's, so equal
texts have equal masks in every process and on every machine, also when a credential's value changed
meanwhile: a digest of it can be a key, and tells nothing of the secret.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from kitaru_fs.errors import SecretMissingError
from kitaru_fs.redaction.credentials import PASSWORD, Credentials
from kitaru_fs.redaction.finder import Finder, Found, Suspects
from kitaru_fs.redaction.forms import spell
from kitaru_fs.redaction.jsontext import Kind, decode_text, encode_number, encode_text, rewrite
from kitaru_fs.redaction.placeholders import (
    ESCAPED,
    OPENER,
    names_in,
    placeholder,
    replace_placeholders,
)
from kitaru_fs.redaction.vault import Vault

__all__ = ["FileWatch", "Redactor", "mask_text"]

# How far behind a cut a secret may end that begins before it.
_BEHIND = 32 * 1024


class Redactor:
    """Keeps the secrets of one run out of what is committed.

    Args:
        credentials: What the environment holds.
        vault: What the run's placeholders stand for.
        thorough: Look for every text that the vault has, in any form: for what was committed before
            it was known. What is redacted for a second time is then given with `again`.
    """

    def __init__(self, credentials: Credentials, vault: Vault, *, thorough: bool = False) -> None:
        self.credentials = credentials
        self._vault = vault
        self._thorough = thorough

    def finder(self) -> Finder:
        """Returns what finds the environment's credentials and those that the run used before."""
        more = self._vault.everything() if self._thorough else self._vault.known()
        return self.credentials.finder(more)

    # One way

    def mask_json(self, raw: bytes, *, again: bool = False) -> bytes:
        """Returns JSON text with placeholders for its secrets; the same object if it has none.

        Args:
            raw: The JSON text.
            again: It was masked before: its placeholders are ours, and stay.
        """
        finder = self.finder()
        suspects = finder.suspects(raw)
        if suspects is None:
            return raw
        return _replace(raw, finder, suspects, _mask, ours=lambda _: again)[0]

    def mask_text(self, text: str, *, again: bool = False) -> str:
        """Returns a text with placeholders for its secrets."""
        return mask_text(self.finder(), text, again=again)

    def mask_bytes(self, data: bytes) -> bytes:
        """Returns code or any other content with placeholders for the secrets in it.

        What looks like a placeholder stays as it is: nothing is filled in there.
        """
        finder = self.finder()
        suspects = finder.suspects(data)
        if suspects is None:
            return data
        text = data.decode("utf-8", "surrogateescape")
        shown = _replaced(text, finder.find(text, suspects), _mask, escape=False)
        return shown.encode("utf-8", "surrogateescape")

    def overwrite(self, data: bytes) -> bytes:
        """Returns content of the same length with its secrets overwritten, for what is no text."""
        finder = self.finder()
        suspects = finder.suspects(data)
        if suspects is None:
            return data
        text = data.decode("utf-8", "surrogateescape")

        def stars(_: Found, secret: str) -> str:
            return "*" * len(secret.encode("utf-8", "surrogateescape"))

        shown = _replaced(text, finder.find(text, suspects), stars, escape=False)
        return shown.encode("utf-8", "surrogateescape")

    def cut(self, text: str, limit: int) -> int:
        """Returns where to cut a text: at `limit`, or before a secret that lies across it."""
        if len(text) <= limit:
            return limit
        near = text[: limit + _BEHIND]
        finder = self.finder()
        suspects = finder.suspects(near.encode("utf-8", "surrogateescape"))
        for found in finder.find(near, suspects) if suspects is not None else ():
            if found.start < limit < found.end:
                return found.start
        return limit

    # There and back

    def redact_json(
        self, raw: bytes, root: str, again: Collection[str] = ()
    ) -> tuple[bytes, list[str]]:
        """Returns JSON text with placeholders for its secrets, and the places that it changed.

        Args:
            raw: The JSON text.
            root: What the places begin with.
            again: The places that were redacted before: the placeholders there are ours, and stay.
        """
        finder = self.finder()
        suspects = finder.suspects(raw)
        if suspects is None:
            return raw, []
        return _replace(raw, finder, suspects, self._name, root, ours=lambda at: at in again)

    def redact_bytes(self, data: bytes, *, again: bool = False) -> bytes:
        """Returns any content with placeholders for its secrets; the same object if it has none."""
        finder = self.finder()
        suspects = finder.suspects(data)
        if suspects is None:
            return data
        text = data.decode("utf-8", "surrogateescape")
        found = finder.find(text, suspects)
        if not found and (again or OPENER not in text):
            return data
        hidden = _replaced(text, found, self._name, escape=not again)
        return hidden.encode("utf-8", "surrogateescape")

    def fill_bytes(self, data: bytes, where: str) -> bytes:
        """Returns what `redact_bytes` was given. Raises as `fill_json` does."""
        text = data.decode("utf-8", "surrogateescape")
        return self._filled(text, where).encode("utf-8", "surrogateescape")

    def fill_json(self, raw: bytes, places: Iterable[str], root: str, where: str) -> bytes:
        """Returns JSON text with the secrets in the listed places.

        Args:
            raw: The JSON text.
            places: The places, as `redact_json` listed them; those under other roots are ignored.
            root: What its places begin with.
            where: What the text is, for the error.

        Raises:
            SecretMissingError: Neither the environment nor the vault has one of them.
        """
        wanted = {place for place in places if place.startswith(root)}
        if not wanted:
            return raw

        def fill(kind: Kind, token: bytes, place: Callable[[], str]) -> bytes | None:
            if kind == "number":
                return None
            here = place()
            if here in wanted:
                return encode_text(self._filled(decode_text(token), where))
            if kind == "text" and here + "#number" in wanted:
                return encode_number(self._filled(decode_text(token), where))
            return None

        return rewrite(raw, fill, root, keys_as_changed=False)[0]

    def missing(self, text: str, where: str) -> SecretMissingError | None:
        """Returns the error for a masked text with a secret that is known neither here nor there.

        Args:
            text: The text.
            where: What it is, for the error.
        """
        for name in names_in(text):
            known = self.credentials.current(name) or self._vault.value(name)
            # A mask names a token by its kind: the vault has it with a number.
            if known is None and "-" not in name:
                return _missing(name, where)
        return None

    def save(self) -> None:
        """Writes the vault, if a placeholder was made that it does not know.

        Raises:
            OSError: The disk refused.
        """
        self._vault.save()

    def copy_vault(self, folder: Path) -> None:
        """Puts a copy of the vault in a directory, where there is one.

        Raises:
            OSError: The disk refused.
        """
        self._vault.copy_to(folder / self._vault.path.name)

    def _name(self, found: Found, text: str) -> str:
        if found.known is None:
            return placeholder(self._vault.number(found.kind, text))
        self._vault.remember(found.known)
        return placeholder(found.known.name, found.form)

    def _filled(self, text: str, where: str) -> str:
        def value(name: str, form: str) -> str:
            found = self.credentials.current(name) or self._vault.value(name)
            if found is None:
                raise _missing(name, where)
            return spell(found, form)

        return replace_placeholders(text, value)


def mask_text(finder: Finder, text: str, *, again: bool = False) -> str:
    """Returns a text with placeholders for the secrets that a finder knows.

    Args:
        finder: The finder.
        text: The text.
        again: It was masked before: its placeholders are ours, and stay.
    """
    suspects = finder.suspects(text.encode("utf-8", "surrogateescape"))
    if suspects is None:
        return text
    return _replaced(text, finder.find(text, suspects), _mask, escape=not again)


class FileWatch:
    """Looks at a file that is read in pieces.

    Args:
        finder: What it looks for.
    """

    def __init__(self, finder: Finder) -> None:
        self._finder = finder
        self._reach = finder.reach
        self._tail = b""
        self.found: str | None = None

    def look(self, piece: bytes) -> bool:
        """Looks at the next piece; says whether a secret was found, named in `found`."""
        if self.found is None:
            window = self._tail + piece
            self.found = self._finder.held_by(window)
            self._tail = window[-self._reach :]
        return self.found is not None


_Name = Callable[[Found, str], str]


def _mask(found: Found, text: str) -> str:
    if found.known is None:
        return placeholder(found.kind)
    return placeholder(found.known.name, found.form)


def _replaced(text: str, spans: list[Found], name: _Name, *, escape: bool = True) -> str:
    parts: list[str] = []
    copied = 0
    for found in (*spans, None):
        between = text[copied : found.start if found else None]
        parts.append(between.replace(OPENER, ESCAPED) if escape else between)
        if found is not None:
            parts.append(name(found, text[found.start : found.end]))
            copied = found.end
    return "".join(parts)


def _replace(
    raw: bytes,
    finder: Finder,
    suspects: Suspects,
    name: _Name,
    root: str = "",
    *,
    ours: Callable[[str], bool],
) -> tuple[bytes, list[str]]:
    def change(kind: Kind, token: bytes, place: Callable[[], str]) -> bytes | None:
        text = token.decode("ascii") if kind == "number" else decode_text(token)
        spans = finder.find(text, suspects)
        spoofed = suspects.opener and OPENER in text and not ours(place())
        if not spans and not spoofed:
            return None
        return encode_text(_replaced(text, spans, name, escape=spoofed))

    return rewrite(raw, change, root, keys_as_changed=True)


def _missing(name: str, where: str) -> SecretMissingError:
    variable = name.removesuffix(PASSWORD)
    if "-" in name:
        what, hint = (
            f"a {name.rpartition('-')[0]} ({name})",
            "a clone does not carry the vault: take a copy of the run's directory (cp -a, tar), or "
            "rewind to before that step",
        )
    else:
        what, hint = f"the secret {variable}", f"set {variable} in the environment, then resume"
    return SecretMissingError(
        f"{where} holds {what}, which neither the environment nor the run's vault has", hint=hint
    )
