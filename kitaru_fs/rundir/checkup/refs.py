"""Refs, loose and packed: names that git takes, and values that are there.

What is no ref is kept aside. A branch that kitaru made is put where the log, its twin, a note of
kitaru's, `packed-refs` or git's reflog say that it was; where none does, it is left and reported.
What nothing but a ref's name was wrong with stays reachable, under `refs/kitaru/aside/`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from kitaru_fs.errors import RunDamagedError
from kitaru_fs.git.layout import read_plain_file
from kitaru_fs.quoting import printable, quote_path
from kitaru_fs.rundir.checkup.examination import Examination
from kitaru_fs.rundir.leaving import left_where, was_torn
from kitaru_fs.rundir.oplog import (
    NOWHERE,
    OPS,
    PUT_BACK,
    SET_ASIDE,
    branch_moved,
    read_operation,
)
from kitaru_fs.rundir.repository import HEADS, TIPS, TORN, Repository
from kitaru_fs.storage.refs import is_ref_name

__all__ = ["check_refs", "names_commit", "put_branch_back"]

_SHA = re.compile(rb"[0-9a-f]{40}\n?\Z")
_SYMBOLIC = re.compile(rb"ref: *(\S+)\n?\Z")
_PACKED = re.compile(rb"([0-9a-f]{40}) (refs/[^\n]*)\Z")
_PEELED = re.compile(rb"\^[0-9a-f]{40}\Z")
_REFLOG = re.compile(rb"[0-9a-f]{40} ([0-9a-f]{40}) ")
_SHOWN = 80


def names_commit(repository: Repository, sha: bytes) -> bool:
    """Says whether an object is a commit, or was one, as far as can be seen of a damaged one."""
    if _is_absent(repository, sha):
        return False
    return _kind(repository, sha) in ("commit", None)


def put_branch_back(
    look: Examination, repository: Repository, name: str, sha: bytes, source: str
) -> None:
    """Sets a ref that was damaged or gone to what it was, and tells so if it is a branch.

    Args:
        look: The examination.
        repository: The run.
        name: The ref's full name.
        sha: The commit.
        source: What says that it was there, for people.
    """
    at = repository.refs.read(name)
    repository.refs.write(name, sha)
    repository.refs.sync([name])
    if name.startswith(HEADS) and at != sha:
        branch = name.removeprefix(HEADS)
        was = None if at is None or _is_absent(repository, at) else at
        why = f"{branch} was damaged; {source} said where it was"
        look.moved.append(branch_moved(PUT_BACK, branch, was, sha, why))


def check_refs(look: Examination, repository: Repository, logged: Mapping[str, bytes]) -> None:
    """Checks that every ref has a name that git takes, and names something.

    Args:
        look: The examination.
        repository: The run.
        logged: What the log says of refs.
    """
    work = _Work(look, repository, logged)
    work.packed()
    work.loose()
    work.conflicts()


class _Wrong(NamedTuple):
    """What is wrong with a ref, what of it is to stay reachable, and whether it may be set aside
    where nothing says what it was.
    """

    what: str
    keep: bytes | None = None
    mendable: bool = True


# A branch and its tip agree on an object that is gone: that is for the objects' check to tell.
_LOST = _Wrong("names an object that is lost", mendable=False)


class _Work:
    def __init__(
        self, look: Examination, repository: Repository, logged: Mapping[str, bytes]
    ) -> None:
        self._look = look
        self._repository = repository
        self._refs = repository.refs
        self._logged = logged

    # packed-refs

    def packed(self) -> None:
        path = self._look.git_dir / "packed-refs"
        if not os.path.lexists(path):
            return
        is_file = path.is_file() and not path.is_symlink()
        raw = path.read_bytes() if path.is_file() else b""
        good: dict[str, bytes] = {}
        bad: list[bytes] = []
        kept: list[bytes] = []
        lost: list[str] = []
        is_whole, is_sorted = not raw or raw.endswith(b"\n"), False
        for line in raw.removesuffix(b"\n").split(b"\n") if raw else ():
            if line.startswith(b"#"):
                is_sorted = is_sorted or b" sorted" in line
                continue
            if _PEELED.match(line) and good:
                continue
            match = _PACKED.match(line)
            name = match[2].decode("utf-8", "surrogateescape") if match else ""
            sha = bytes.fromhex(match[1].decode("ascii")) if match else b""
            wrong = self._wrong(name, sha) if match else _Wrong("")
            if wrong is None or wrong is _LOST:
                good[name] = sha
                continue
            bad.append(line)
            kept += [wrong.keep] if wrong.keep is not None else []
            lost += [name] if name.startswith((HEADS, TIPS)) and is_ref_name(name) else []
        in_order = is_whole and (not is_sorted or list(good) == sorted(good, key=os.fsencode))
        if is_file and not bad and in_order:
            return
        what = "packed-refs was no file" if not is_file else "packed-refs was not in order"
        if bad:
            first = printable(quote_path(bad[0][:_SHOWN]), 2 * _SHOWN)
            what = f"packed-refs held what is no ref (lines: {len(bad)}, the first: {first})"

        def mend() -> Path:
            known = {name: self._known_value(name) for name in lost}
            aside = self._look.set_aside(path)
            if good:
                self._refs.write_packed(good)
            for sha in kept:
                self._refs.keep(sha)
            for name, found in known.items():
                if found is not None and not (self._look.git_dir / name).exists():
                    put_branch_back(self._look, self._repository, name, *found)
            return aside

        self._look.report("refs", what, path, mend=mend)

    # Loose refs

    def loose(self) -> None:
        for path in _ref_files(self._look.git_dir):
            name = path.relative_to(self._look.git_dir).as_posix()
            content = read_plain_file(path)
            wrong = self._wrong_content(name, content)
            if wrong is None or wrong is _LOST:
                continue
            shown = printable(quote_path(os.fsencode(name)), 2 * _SHOWN)
            known = self._known_value(name) if is_ref_name(name) else None
            if known is not None:
                self._look.report(
                    "refs",
                    f"{shown} {wrong.what}; {known[1]} says where it was",
                    path,
                    mend=partial(self._rewrite, path, name, *known),
                )
            elif not wrong.mendable:
                self._look.report(
                    "refs",
                    f"{shown} {wrong.what}, and nothing says where it was",
                    path,
                    hint="`git fsck --lost-found` in the run lists commits; `git branch -f` sets"
                    " it",
                )
            else:
                self._look.report(
                    "refs", f"{shown} {wrong.what}", path, mend=partial(self._drop, path, wrong)
                )

    def _wrong_content(self, name: str, content: bytes | None) -> _Wrong | None:
        if content is not None and _SHA.match(content):
            return self._wrong(name, bytes.fromhex(content.strip().decode("ascii")))
        if not is_ref_name(name):
            return _Wrong("is no name of a ref")
        symbolic = _SYMBOLIC.match(content) if content is not None else None
        if symbolic is None:
            what = "is empty" if content == b"" else "names nothing"
            return _Wrong(what, mendable=not self._may_be_a_branch(name))
        target = symbolic[1].decode("utf-8", "surrogateescape")
        if not is_ref_name(target) or target == name:
            return _Wrong("leads nowhere")
        if name.startswith(HEADS) and self._twin(name) is not None:
            return _Wrong("leads to another ref")
        if name.startswith((HEADS, "refs/kitaru/")) and self._refs.read(target) is None:
            return _Wrong("leads nowhere")
        return None

    def _wrong(self, name: str, sha: bytes) -> _Wrong | None:
        repository = self._repository
        absent = _is_absent(repository, sha)
        short = name.removeprefix(HEADS).removeprefix(TIPS)
        is_branch = name.startswith((HEADS, TIPS))
        if not is_ref_name(name) or (is_branch and (short == "HEAD" or short[:1] == "-")):
            return _Wrong("is no name of a ref", None if absent else sha)
        if absent:
            lost = is_branch and self._twin(name) == sha and self._known_value(name) is None
            return _LOST if lost else _Wrong("names an object that is not here")
        if is_branch or name.startswith(TORN):
            if not names_commit(repository, sha):
                return _Wrong("names no commit", sha)
        elif name.startswith(OPS):
            operation = read_operation(repository, sha)
            if operation is None:
                return _Wrong("is no entry of the log of operations", sha)
            for place in (operation.before, operation.after):
                gone = _is_absent(repository, bytes.fromhex(place.commit))
                if gone and place.commit != NOWHERE:
                    return _Wrong("names a commit that is not here", sha)
        return None

    # A ref in the place of a directory of refs

    def conflicts(self) -> None:
        names = self._refs.all()
        for name in names:
            parts = name.split("/")
            for number in range(2, len(parts)):
                above = "/".join(parts[:number])
                if above in names:
                    self._conflict(name, above, names)

    def _conflict(self, name: str, above: str, names: Mapping[str, bytes]) -> None:
        loser = above if self._is_ours(name) and not self._is_ours(above) else name
        winner = above if loser == name else name
        path = self._look.git_dir / loser

        def mend() -> Path | None:
            aside = self._look.set_aside(path) if path.is_file() else None
            packed = self._refs.packed()
            if packed.pop(loser, None) is not None:
                self._refs.write_packed(packed)
            self._refs.keep(names[loser])
            if loser.startswith(HEADS):
                branch, why = loser.removeprefix(HEADS), f"{loser} stood in the way of {winner}"
                operation = branch_moved(SET_ASIDE, branch, names[loser], None, why)
                self._look.moved.append(operation)
            return aside

        shown = printable(quote_path(os.fsencode(loser)), 2 * _SHOWN)
        self._look.report(
            "refs",
            f"{shown} stood in the way of {winner}",
            path,
            mend=mend,
        )

    def _may_be_a_branch(self, name: str) -> bool:
        """Says whether a ref whose value is damaged is a branch that the run went on from."""
        git_dir = self._look.git_dir
        if name.startswith(TIPS):
            return True
        twin = git_dir / (TIPS + name.removeprefix(HEADS))
        head = read_plain_file(git_dir / "HEAD") or b""
        on_it = head.strip() == b"ref: " + os.fsencode(name)
        return name.startswith(HEADS) and (on_it or os.path.lexists(twin))

    def _is_ours(self, name: str) -> bool:
        return name.startswith(TIPS) or self._twin(name) is not None

    # What a ref was

    def _twin(self, name: str) -> bytes | None:
        if name.startswith(HEADS):
            return self._refs.read(TIPS + name.removeprefix(HEADS))
        if name.startswith(TIPS):
            return self._refs.read(HEADS + name.removeprefix(TIPS))
        return None

    def _known_value(self, name: str) -> tuple[bytes, str] | None:
        """What a ref was, and who says so."""
        repository = self._repository
        candidates = (
            (self._logged.get(name), "the log"),
            (self._twin(name), "its twin"),
            (_left_at(repository, name), "kitaru's note"),
            (self._refs.packed().get(name), "packed-refs"),
            (_last_in_reflog(repository.git_dir, name), "its reflog"),
        )
        for sha, source in candidates:
            if sha is not None and repository.store.has(sha) and names_commit(repository, sha):
                return sha, source
        return None

    # Putting right

    def _rewrite(self, path: Path, name: str, sha: bytes, source: str) -> Path:
        kept = self._look.set_aside(path)
        put_branch_back(self._look, self._repository, name, sha, source)
        return kept

    def _drop(self, path: Path, wrong: _Wrong) -> Path:
        if wrong.keep is not None:
            self._refs.keep(wrong.keep)
        kept = self._look.set_aside(path)
        # As git does: what is empty would be in the way of a ref, or of its lock.
        for folder in path.parents[: -len(self._look.git_dir.parts) - 2]:
            with suppress(OSError):
                folder.rmdir()
        return kept


def _is_absent(repository: Repository, sha: bytes) -> bool:
    """Says whether an object is not there at all; one that is damaged is."""
    return not repository.store.loose.has(sha) and not repository.store.has(sha)


def _kind(repository: Repository, sha: bytes) -> str | None:
    """Returns what an object is; None for a damaged one."""
    store = repository.store
    if not store.has(sha):
        return None
    for kind in ("commit", "tree", "blob", "tag"):
        try:
            store.read(sha, kind)
        except RunDamagedError:
            continue
        return kind
    return None


def _ref_files(git_dir: Path) -> list[Path]:
    found: list[Path] = []
    for folder, _, names in os.walk(git_dir / "refs"):
        found += [Path(folder, name) for name in names if not name.endswith(".lock")]
    return sorted(found)


def _left_at(repository: Repository, name: str) -> bytes | None:
    """Where kitaru left a branch, if nothing of kitaru's moved it since."""
    git_dir = repository.git_dir
    left = left_where(git_dir)
    if left is None or was_torn(git_dir) or not re.fullmatch(r"[0-9a-f]{40}", left.commit):
        return None
    ours = name in (HEADS + left.branch, TIPS + left.branch)
    return bytes.fromhex(left.commit) if ours else None


def _last_in_reflog(git_dir: Path, name: str) -> bytes | None:
    content = read_plain_file(git_dir / "logs" / name) or b""
    lines = content.splitlines()
    match = _REFLOG.match(lines[-1]) if lines else None
    return bytes.fromhex(match[1].decode("ascii")) if match else None
