"""The run's own git settings: what they must be, byte for byte, and how they are put right.

git executes what a repository's config, attributes and hooks name. So a run has exactly the
settings below: checked before git is run, restored under the run's lock, a changed file kept in
`.git/kitaru/tampered/` and reported. Of what a user or `git clone` adds, remotes and the remotes
of branches are kept where their values can start no program; everything else goes.

Chosen so that plain git shows `files/` as it is:

- `info/attributes` is stronger than every `.gitattributes`: no conversion, no filter, no driver.
  `!diff` and not `-diff`, which would show every file as binary; `!working-tree-encoding`, since
  git dies of `-working-tree-encoding`.
- `info/exclude` hides `inbox/` alone: git overwrites a hidden path without a word, so no path that
  a commit holds may be hidden.
- `sparseCheckout` is off: where it is on, git overwrites files that no commit holds with a warning
  alone. The index's skip-worktree bits keep `state/` out of the directory at rest; what a checkout
  puts there is removed when the run is taken up.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, lru_cache
from pathlib import Path

from kitaru_fs.errors import StorageError
from kitaru_fs.git.configfile import ConfigEntry, parse_config, quote_value
from kitaru_fs.git.layout import check_format, check_layout, read_plain_file

__all__ = [
    "Remotes",
    "Tampered",
    "canonical_config",
    "canonical_files",
    "ensure_canonical",
    "find_tampered",
    "is_canonical",
]

Remotes = Mapping[tuple[str, str], Mapping[str, tuple[str, ...]]]
"""`("remote", NAME)` or `("branch", NAME)` to its keys and their values."""

_SETTINGS = """\
[core]
	repositoryformatversion = 0
	filemode = true
	bare = false
	logallrefupdates = true
	symlinks = true
	ignorecase = false
	precomposeunicode = false
	protectHFS = true
	protectNTFS = true
	autocrlf = false
	safecrlf = false
	hooksPath = /dev/null
	fsmonitor = false
	untrackedCache = false
	splitIndex = false
	attributesFile = /dev/null
	excludesFile = /dev/null
	sparseCheckout = false
	useReplaceRefs = false
[index]
	sparse = false
[gc]
	auto = 0
	packRefs = false
	pruneExpire = never
	reflogExpire = never
	reflogExpireUnreachable = never
[maintenance]
	auto = false
[receive]
	autogc = false
	denyCurrentBranch = refuse
	denyDeletes = true
	denyNonFastForwards = true
[transfer]
	fsckObjects = true
[fetch]
	recurseSubmodules = false
[submodule]
	recurse = false
[diff]
	ignoreSubmodules = dirty
[advice]
	detachedHead = false
"""
_ATTRIBUTES = (
    b"* -text -crlf !eol -ident -filter !working-tree-encoding !diff !merge !whitespace"
    b" -export-ignore -export-subst\n"
)
_INFO = {
    "info/attributes": _ATTRIBUTES,
    "info/exclude": b"/inbox/\n",
}
# What git itself writes into the config of a new repository or clone, and what we once wrote.
_GIT_DEFAULTS = frozenset(
    f"core.{name}"
    for name in (
        *("repositoryformatversion", "filemode", "bare", "logallrefupdates"),
        *("ignorecase", "precomposeunicode", "symlinks"),
        *("sparsecheckout", "sparsecheckoutcone"),
    )
)
_HARMLESS_EXTENSIONS = frozenset(
    {"noop", "noop-v1", "preciousobjects", "relativeworktrees", "worktreeconfig"}
)
# What git reads, or runs, beside the config, and a run does not have.
_UNWANTED = ("config.worktree", "info/grafts", "modules", "remotes", "branches", "hooks")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*\Z")
_HARMLESS_URL = re.compile(
    r"(?:(?:https?|git|ssh|file)://(?!-)[^\s\x00-\x1f\x7f]+"  # a transport of git's own
    r"|\w[\w.+-]*(?:@\w[\w.-]*)?:(?![:-]|//)[^\x00-\x1f\x7f]+"  # HOST:PATH, as for scp
    r"|\.{0,2}/[^\x00-\x1f\x7f]*)\Z",  # a path
    re.ASCII,
)
_HARMLESS_FETCH = re.compile(
    r"\+?refs/[^\s:\x00-\x1f\x7f]+:refs/(?:remotes|tags)/[^\s:\x00-\x1f\x7f]+\Z"
    r"|refs/[^\s:\x00-\x1f\x7f]+:refs/kitaru/[^\s:\x00-\x1f\x7f]+\Z"
)
_BRANCH = re.compile(r"[^\s\x00-\x1f\x7f~^:?*\[\\\"]+\Z")


@dataclass(frozen=True, slots=True)
class Tampered:
    """A file of git's own in a run that was not as it must be, and was put right.

    Attributes:
        path: Where it was.
        kept_as: Where it is now; None where there was none.
    """

    path: Path
    kept_as: Path | None

    def __str__(self) -> str:
        if self.kept_as is None:
            return f"{self.path} was missing"
        return f"{self.path} was tampered with; what was there is kept as {self.kept_as}"


def canonical_config(remotes: Remotes | None = None) -> bytes:
    """The config file that a run has.

    Args:
        remotes: Its remotes and their branches; only harmless ones (`ensure_canonical` judges).

    Returns:
        The file's bytes.
    """
    lines: list[str] = []
    for (section, name), keys in (remotes or {}).items():
        escaped = name.replace("\\", "\\\\").replace('"', '\\"')
        lines.append(f'[{section} "{escaped}"]\n')
        lines += [
            f"\t{key} = {quote_value(value)}\n" for key, values in keys.items() for value in values
        ]
    return (_SETTINGS + "".join(lines)).encode("utf-8", "surrogateescape")


def canonical_files(remotes: Remotes | None = None) -> dict[str, bytes]:
    """All settings files of a run, by their paths relative to `.git`."""
    return {"config": canonical_config(remotes)} | _INFO


def is_canonical(git_dir: Path) -> bool:
    """Whether git can be run on a run as it is: settings are ours, nothing leads elsewhere.

    Writes nothing. False also where a settings file is missing, as in a fresh clone.
    """
    try:
        config = read_plain_file(git_dir / "config")
        if config is None or read_plain_file(git_dir / "info/attributes") != _ATTRIBUTES:
            return False
        if any(os.path.lexists(git_dir / name) for name in ("commondir", "info/grafts")):
            return False
    except OSError:
        return False
    return _is_canonical_config(config)


@lru_cache(maxsize=16)
def _is_canonical_config(content: bytes) -> bool:
    return content == canonical_config(_adopt(parse_config(content)[0])[0])


def ensure_canonical(git_dir: Path) -> list[Tampered]:
    """Puts a run's git settings right. Only who holds the run's lock may call it.

    A file of another content is moved to `.git/kitaru/tampered/`. What `git clone` and
    `git remote` write is adopted without a word.

    Args:
        git_dir: The run's `.git`.

    Returns:
        What was tampered with; empty in the ordinary case.

    Raises:
        RunDamagedError: `.git` is no plain repository of its own: it is missing, a link, or
            takes its objects, refs or history from elsewhere.
        FormatError: It is in a repository format that kitaru does not read.
        StorageError: The disk refused.
    """
    check_layout(git_dir)
    try:
        paths, remotes = _examine(git_dir)
        missing = [path for path in paths if not os.path.lexists(path)]
        tampered = [
            Tampered(path, None if path in missing else _move_aside(git_dir, path))
            for path in paths
        ]
        (git_dir / "info").mkdir(exist_ok=True)
        for name, wanted in canonical_files(remotes).items():
            path = git_dir / name
            if read_plain_file(path) != wanted:
                _replace(git_dir, path, wanted)
    except OSError as error:
        raise StorageError(
            f"The git settings in {git_dir} could not be put right: {error.strerror}.",
            hint="Make room on the disk or make it writable.",
        ) from error
    return tampered


def find_tampered(git_dir: Path) -> list[Path]:
    """Returns the files that `ensure_canonical` would set aside, or make anew; writes nothing.

    Raises:
        FormatError: The run is in a repository format that kitaru does not read.
    """
    return _examine(git_dir)[0]


def _examine(git_dir: Path) -> tuple[list[Path], Remotes]:
    """What is not as it must be, and the remotes that stay."""
    config, info = git_dir / "config", git_dir / "info"
    content = read_plain_file(config)
    entries, whole = parse_config(content or b"")
    check_format(git_dir, entries)
    remotes, dropped = _adopt(entries)
    planted = (*(git_dir / name for name in _UNWANTED), git_dir.parent / ".gitmodules")
    found = [path for path in planted if _is_planted(path)]
    own_info = stat.S_ISDIR(info.lstat().st_mode) if os.path.lexists(info) else True
    if not own_info:
        found = [path for path in found if path.parent != info] + [info]
    if content is None or dropped or not whole:
        found.append(config)
    for name, wanted in _INFO.items():
        path = git_dir / name
        if own_info and os.path.lexists(path):
            there = read_plain_file(path)
            if there != wanted and not _is_template(there):
                found.append(path)
    return found, remotes


def _adopt(entries: Iterable[ConfigEntry]) -> tuple[Remotes, list[ConfigEntry]]:
    """The harmless remotes and branches among entries; and what is neither these nor known."""
    found: dict[tuple[str, str], dict[str, tuple[str, ...]]] = {}
    dropped: list[ConfigEntry] = []
    entries = list(entries)
    named = {
        entry.subsection
        for entry in entries
        if entry.section == "remote" and entry.key == "url" and _is_harmless(entry, frozenset())
    } | {"."}
    for entry in entries:
        if entry in _settings_entries() or f"{entry.section}.{entry.key}" in _GIT_DEFAULTS:
            continue
        if entry.section == "extensions" and entry.key in _HARMLESS_EXTENSIONS:
            continue
        if entry.subsection is not None and _is_harmless(entry, named):
            keys = found.setdefault((entry.section, entry.subsection), {})
            keys[entry.key] = (*keys.get(entry.key, ()), entry.value or "")
        else:
            dropped.append(entry)
    return found, dropped


def _is_harmless(entry: ConfigEntry, remotes: Iterable[str | None]) -> bool:
    name, value = entry.subsection or "", entry.value or ""
    if entry.section == "remote" and _NAME.match(name):
        if entry.key in ("url", "pushurl"):
            return _HARMLESS_URL.match(value) is not None
        return entry.key == "fetch" and name in remotes and bool(_HARMLESS_FETCH.match(value))
    if entry.section == "branch" and _BRANCH.match(name):
        if entry.key == "remote":
            return value in remotes
        return entry.key == "merge" and bool(re.match(r"refs/[^\s\x00-\x1f\x7f]+\Z", value))
    return False


@cache
def _settings_entries() -> frozenset[ConfigEntry]:
    return frozenset(parse_config(_SETTINGS.encode("ascii"))[0])


def _is_template(content: bytes | None) -> bool:
    """Whether a file of `info/` is what `git init` makes: nothing but comments."""
    return content is not None and all(
        not line.strip() or line.startswith(b"#") for line in content.splitlines()
    )


def _is_planted(path: Path) -> bool:
    if not os.path.lexists(path):
        return False
    if not stat.S_ISDIR(path.lstat().st_mode):
        return True
    with os.scandir(path) as entries:
        samples = [e.name.endswith(".sample") and e.is_file(follow_symlinks=False) for e in entries]
    return not all(samples)


def _move_aside(git_dir: Path, path: Path) -> Path:
    folder = git_dir / "kitaru/tampered"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    base = git_dir if path.is_relative_to(git_dir) else git_dir.parent
    kept = folder / f"{stamp}-{str(path.relative_to(base)).replace('/', '-')}"
    os.rename(path, kept)
    return kept


def _replace(git_dir: Path, path: Path, content: bytes) -> None:
    folder = git_dir / "kitaru"
    folder.mkdir(mode=0o700, exist_ok=True)
    new = folder / f"{path.name}.new"
    new.unlink(missing_ok=True)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(fd)
    os.rename(new, path)
