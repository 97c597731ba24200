"""What says where a run stands: its log, and HEAD."""

from __future__ import annotations

import os
import re
from pathlib import Path

from kitaru_fs.git.layout import read_plain_file
from kitaru_fs.rundir.checkup.examination import Examination
from kitaru_fs.rundir.checkup.refs import names_commit, put_branch_back
from kitaru_fs.rundir.leaving import is_clone, read_left
from kitaru_fs.rundir.repository import HEADS, TIPS, Repository
from kitaru_fs.storage.refs import is_ref_name, sync_directory
from kitaru_fs.storage.wal import WriteAheadLog

__all__ = ["check_head", "check_log"]

_SHA = re.compile(rb"[0-9a-f]{40}\n?\Z")


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


def check_head(look: Examination, repository: Repository) -> None:
    """Checks that HEAD is on a branch or a commit."""
    path = look.git_dir / "HEAD"
    content = None if path.is_symlink() else read_plain_file(path)
    if content is not None:
        content = content.strip()
        is_sha = _SHA.match(content)
        if is_sha and names_commit(repository, bytes.fromhex(content.decode("ascii"))):
            return
        name = content.removeprefix(b"ref:").strip().decode("utf-8", "surrogateescape")
        is_branch = content.startswith(b"ref:") and name.startswith(HEADS) and is_ref_name(name)
        if is_branch and _exists(repository, name):
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
    if repository.refs.read(name) is None and tip is not None and not path.is_file():

        def put_back() -> None:
            put_branch_back(look, repository, name, tip, "its twin")

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
