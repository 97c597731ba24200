"""Which variables of the environment hold credentials.

A variable does if its name says so (`*_KEY`, `*_TOKEN`, `*_SECRET`, `*PASSWORD*` and the like) and
its value has 12 characters or more, is no path that exists and more than one character repeated;
or if `[redact] env` names it and its value has 4 or more. Of any other variable whose value is a
URL, the password in it is a credential, named `VARIABLE.password`.
"""

from __future__ import annotations

import functools
import os
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from kitaru_fs.redaction.finder import Finder, Known

__all__ = ["Credentials", "credential_in", "shared_credentials"]

SHORTEST = 12
SHORTEST_NAMED = 4
PASSWORD = ".password"

# Anywhere in a name; the others count only where the name ends with them.
_ANYWHERE = re.compile(r"PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|CREDENTIAL|APIKEY|PRIVATEKEY")
_AT_END = frozenset(
    {"KEY", "KEYS", "PASS", "PWD", "PAT", "JWT", "AUTH", "COOKIE", "COOKIES", "CREDS", "ACCESSKEY"}
)
# What may follow: the name is still about the credential itself.
_QUALIFIERS = frozenset(
    {"BASE", "OLD", "NEW", "PREVIOUS", "CURRENT", "PRIMARY", "SECONDARY", "DEFAULT", "VALUE"}
    | {"PROD", "PRODUCTION", "DEV", "DEVELOPMENT", "TEST", "TESTING", "STAGING", "LIVE", "LOCAL"}
    | {"PEM", "JSON", "HEX", "B64", "BASE64", "STRING", "DATA"}
)
# About a credential, and none: PASSWORD_FILE, TOKEN_URL, SECRET_NAME.
_ABOUT = frozenset(
    {"FILE", "FILES", "PATH", "DIR", "DIRECTORY", "FOLDER", "NAME", "NAMES", "ID", "IDS", "URL"}
    | {"URI", "HOST", "PORT", "ENDPOINT", "REGION", "USER", "USERNAME", "EMAIL", "TYPE", "KIND"}
    | {"ALGORITHM", "ALG", "HEADER", "PREFIX", "SUFFIX", "LENGTH", "SIZE", "TTL", "EXPIRY", "STORE"}
    | {"EXPIRES", "EXPIRATION", "TIMEOUT", "COUNT", "LIMIT", "LIMITS", "VERSION", "ISSUER", "ARN"}
    | {"AUDIENCE", "SCOPE", "SOCK", "SOCKET", "ENABLED", "REQUIRED", "POLICY", "COMMAND", "CMD"}
    | {"HELPER", "FORMAT", "MODE", "PROVIDER", "BACKEND", "MANAGER", "SERVICE", "PARALLELISM"}
)
_PUBLIC = frozenset({"PUBLIC", "PUBLISHABLE", "PUB"})
# Decoding every variable before each commit would cost more than the search; comparing the
# undecoded ones costs less than a microsecond.
_ENVIRONMENT: Mapping[Any, Any] = getattr(os.environ, "_data", os.environ)
_WORD = re.compile(r"[A-Z0-9]+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_URL_PASSWORD = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#\s:@]*:([^/?#\s@]+)@")


def _is_named_so(name: str) -> bool:
    words = _WORD.findall(_CAMEL.sub("_", name).upper())
    while words and (words[-1] in _QUALIFIERS or words[-1].isdigit()):
        words.pop()
    if not words or words == ["PWD"] or words[-1] in _ABOUT or not _PUBLIC.isdisjoint(words):
        return False
    if words[-1].rstrip("0123456789") in _AT_END:
        return True
    return any(_ANYWHERE.search(word) for word in words)


def _is_plain(value: str) -> bool:
    """Says whether a value cannot be a secret: a path that is there, or one character repeated."""
    if len(set(value)) < 2:
        return True
    return value[0] in "/~" and os.path.exists(os.path.expanduser(value))


def credential_in(name: str, value: str, globs: Sequence[str] = ()) -> Known | None:
    """Returns the credential that a variable holds, or None.

    Args:
        name: The variable's name.
        value: Its value.
        globs: Names and globs of variables that always hold one.
    """
    value = value.strip()
    if globs and _fits(name, globs):
        return Known(_placeable(name), value) if len(value) >= SHORTEST_NAMED else None
    if _is_named_so(name):
        if len(value) >= SHORTEST and not _is_plain(value):
            return Known(_placeable(name), value)
        return None
    found = _URL_PASSWORD.match(value) if "://" in value else None
    if found is not None:
        from urllib.parse import unquote

        password = unquote(found[1])
        if len(password) >= SHORTEST and not _is_plain(password):
            return Known(_placeable(name) + PASSWORD, password)
    return None


def _fits(name: str, globs: Sequence[str]) -> bool:
    from fnmatch import fnmatchcase

    return any(fnmatchcase(name, glob) for glob in globs)


def _placeable(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", name)


class Credentials:
    """The credentials of this process's environment, looked up anew when that changes.

    What was seen once stays known: a variable that is set, used and removed again before the next
    look is not seen, one that was there at any look is.

    Args:
        globs: `[redact] env`.
        patterns: `[redact] patterns`: regular expressions; what they match is a secret too.

    Attributes:
        patterns: Those, compiled.
    """

    def __init__(self, globs: Sequence[str] = (), patterns: Sequence[str] = ()) -> None:
        self._globs = tuple(globs)
        self.patterns = tuple(re.compile(pattern) for pattern in patterns)
        self._lock = threading.Lock()
        self._environment: Any = None
        self._current: dict[str, str] = {}
        self._seen: dict[Known, None] = {}
        self._finder: Finder | None = None
        self._with_more: tuple[Finder, frozenset[Known], Finder] | None = None

    def current(self, name: str) -> str | None:
        """Returns the value that the environment has for a placeholder's name."""
        self.finder()
        return self._current.get(name)

    def finder(self, more: frozenset[Known] = frozenset()) -> Finder:
        """Returns what finds every credential that is known.

        Args:
            more: Further ones, such as a vault's.
        """
        finder = self._finder
        if finder is None or self._environment != _ENVIRONMENT:
            with self._lock:
                finder = self._look()
        if not more or more <= self._seen.keys():
            return finder
        known = self._with_more
        if known is None or known[0] is not finder or known[1] != more:
            joined = Finder([*self._seen, *sorted(more)], self.patterns)
            known = self._with_more = (finder, more, joined)
        return known[2]

    def _look(self) -> Finder:
        self._environment = now = dict(_ENVIRONMENT)
        # Not from os.environ again: another thread may be changing it.
        variables = {os.fsdecode(name): os.fsdecode(value) for name, value in now.items()}
        found = [
            known
            for name in sorted(variables)
            if (known := credential_in(name, variables[name], self._globs)) is not None
        ]
        self._current = dict(found)
        before = len(self._seen)
        self._seen.update(dict.fromkeys(found))
        if self._finder is None or len(self._seen) != before:
            self._finder = Finder(list(self._seen), self.patterns)
        return self._finder


@functools.lru_cache(maxsize=64)
def shared_credentials(globs: tuple[str, ...] = (), patterns: tuple[str, ...] = ()) -> Credentials:
    """Returns the credentials for some settings, the same object for the same ones."""
    return Credentials(globs, patterns)
