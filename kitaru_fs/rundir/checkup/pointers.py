"""What says where a run stands: its log, HEAD, and its refs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from kitaru_fs.git.layout import read_plain_file
from kitaru_fs.rundir.checkup.examination import Examination
from kitaru_fs.rundir.leaving import is_clone, read_left
from kitaru_fs.rundir.repository import HEADS, TIPS, Repository
from kitaru_fs.storage.refs import Refs, sync_directory
from kitaru_fs.storage.wal import WriteAheadLog

__all__ = ["check_head", "check_log", "check_refs"]

_SHA = re.compile(rb"[0-9a-f]{40}\n?\Z")
_SYMBOLIC = re.compile(rb"ref: refs/[^\x00-\x20~^:?*\[\\]+\n?\Z")
_REFLOG = re.compile(rb"[0-9a-f]{40} ([0-9a-f]{40}) ")


def check_log(look: Examination) -> None:
    """Checks that the write-ahead log is one; what it holds is completed later."""
    path = look.git_dir / "kitaru" / "wal"
    if not os.path.lexists(path):
        if not is_clone(look.git_dir):
            look.report(
                "log",
                "the write-ahead log was missing: what only it held is lost",
                path,
                mend=lambda: _make_log(path),
            )
        return
    try:
        log = WriteAheadLog.open_for_reading(path)
    except (ValueError, OSError):
        look.report(
            "log",
            "the write-ahead log could not be read",
            path,
            mend=lambda: _mend_log(look, path),
            hint="`kitaru doctor` keeps it aside, and takes out what it holds if it can",
        )
        return
    try:
        for _ in log.records():
            pass
        if log.torn:
            look.report(
                "log",
                "the log ends in a torn record, of a commit that was never acknowledged",
                path,
                mend=lambda: _copy_aside(look, path),
            )
    finally:
        log.close()


def _make_log(path: Path) -> None:
    WriteAheadLog.create(path)
    sync_directory(path.parent)


def _mend_log(look: Examination, path: Path) -> Path:
    kept = look.set_aside(path)
    if kept.is_file() and not kept.is_symlink():
        path.write_bytes(kept.read_bytes())
        path.chmod(0o600)
        if WriteAheadLog.salvage(path):
            return kept
        path.unlink()
    _make_log(path)
    return kept


def _copy_aside(look: Examination, path: Path) -> Path:
    content = path.read_bytes()
    kept = look.set_aside(path)
    path.write_bytes(content)
    path.chmod(0o600)
    return kept


def check_refs(look: Examination, repository: Repository, logged: Mapping[str, bytes]) -> None:
    """Checks that every ref names something.

    Args:
        look: The examination.
        repository: The run.
        logged: What the log says of refs.
    """
    for path in _ref_files(look.git_dir):
        content = read_plain_file(path)
        if content is not None and (_SHA.match(content) or _SYMBOLIC.match(content)):
            continue
        name = path.relative_to(look.git_dir).as_posix()
        known = _known_value(repository, name, logged)
        what = "is empty" if content == b"" else "names nothing"
        if known is not None:
            look.report(
                "refs",
                f"{name} {what}; {known[1]} says where it was",
                path,
                mend=lambda path=path, name=name, known=known: _rewrite(
                    look, repository.refs, path, name, known[0]
                ),
            )
        elif name.startswith((HEADS, TIPS)):
            look.report(
                "refs",
                f"{name} {what}, and nothing says where it was",
                path,
                hint="`git fsck --lost-found` in the run lists commits; `git branch -f` sets it",
            )
        else:
            look.report("refs", f"{name} {what}", path, mend=lambda path=path: look.set_aside(path))


def _ref_files(git_dir: Path) -> list[Path]:
    found: list[Path] = []
    for folder, _, names in os.walk(git_dir / "refs"):
        found += [Path(folder, name) for name in names if not name.endswith(".lock")]
    return sorted(found)


def _known_value(
    repository: Repository, name: str, logged: Mapping[str, bytes]
) -> tuple[bytes, str] | None:
    """What a ref was, and who says so."""
    refs, store = repository.refs, repository.store
    twin = None
    if name.startswith(HEADS):
        twin = refs.read(TIPS + name.removeprefix(HEADS))
    elif name.startswith(TIPS):
        twin = refs.read(HEADS + name.removeprefix(TIPS))
    candidates = (
        (logged.get(name), "the log"),
        (twin, "its twin"),
        (refs.packed().get(name), "packed-refs"),
        (_last_in_reflog(repository.git_dir, name), "its reflog"),
    )
    for sha, source in candidates:
        if sha is not None and store.has(sha):
            return sha, source
    return None


def _last_in_reflog(git_dir: Path, name: str) -> bytes | None:
    content = read_plain_file(git_dir / "logs" / name) or b""
    lines = content.splitlines()
    match = _REFLOG.match(lines[-1]) if lines else None
    return bytes.fromhex(match[1].decode("ascii")) if match else None


def _rewrite(look: Examination, refs: Refs, path: Path, name: str, sha: bytes) -> Path:
    kept = look.set_aside(path)
    refs.write(name, sha)
    refs.sync([name])
    return kept


def check_head(look: Examination, repository: Repository) -> None:
    """Checks that HEAD is on a branch or a commit."""
    path = look.git_dir / "HEAD"
    content = None if path.is_symlink() else read_plain_file(path)
    if content is not None:
        content = content.strip()
        if _SHA.match(content):
            return
        name = content.removeprefix(b"ref:").strip().decode("utf-8", "surrogateescape")
        if content.startswith(b"ref:") and name.startswith(HEADS) and _exists(repository, name):
            _check_branch(look, repository, name)
            return
    shown = "missing" if not os.path.lexists(path) else "on no branch and on no commit"
    branch = _explained_branch(repository)
    if branch is None:
        look.report(
            "head",
            f"HEAD is {shown}, and nothing says where it was",
            path,
            hint="git -C RUN symbolic-ref HEAD refs/heads/NAME, with a branch of `git branch`",
        )
    else:
        look.report(
            "head",
            f"HEAD is {shown}; it was on {branch.removeprefix(HEADS)}",
            path,
            mend=lambda: _put_head(look, repository, path, branch),
        )


def _check_branch(look: Examination, repository: Repository, name: str) -> None:
    """Checks that the branch that HEAD is on is there; plain git takes it for one without commits
    else."""
    tip = repository.refs.read(TIPS + name.removeprefix(HEADS))
    path = look.git_dir / name
    if repository.refs.read(name) is None and tip is not None and not os.path.lexists(path):

        def put_back() -> None:
            repository.refs.write(name, tip)
            repository.refs.sync([name])

        look.report("refs", f"{name} was missing; its twin says where it was", path, mend=put_back)


def _exists(repository: Repository, name: str) -> bool:
    refs = repository.refs
    return any(refs.read(one) is not None for one in (name, TIPS + name.removeprefix(HEADS)))


def _explained_branch(repository: Repository) -> str | None:
    left = (read_left(repository.git_dir) or {}).get("head")
    if isinstance(left, str) and left.startswith(HEADS) and _exists(repository, left):
        return left
    branches = list(repository.refs.all(HEADS))
    return branches[0] if len(branches) == 1 else None


def _put_head(look: Examination, repository: Repository, path: Path, branch: str) -> Path | None:
    kept = look.set_aside(path) if os.path.lexists(path) else None
    repository.refs.set_head(branch)
    repository.refs.sync([])
    return kept
