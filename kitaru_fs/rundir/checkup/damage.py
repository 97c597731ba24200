"""Objects that are empty, short, damaged or missing, and where else they can be had.

An object's id is the digest of its content, so whatever has a content of that digest is the object:
the log, a pack, the files of the run's directory. What none of them has is reported, with the
commits that need it; nothing takes its place.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from kitaru_fs.errors import FormatError, RunDamagedError
from kitaru_fs.git.safe import Git
from kitaru_fs.quoting import printable, quote_path
from kitaru_fs.rundir.checkup.examination import Examination
from kitaru_fs.rundir.checkup.salvage import salvage
from kitaru_fs.rundir.repository import HEADS, Repository
from kitaru_fs.rundir.whereabouts import all_commits, find_places
from kitaru_fs.snapshot.exclude import Exclude
from kitaru_fs.storage.loose import LooseObjects

__all__ = ["check_journals", "check_leftovers", "check_objects"]

_OURS = re.compile(r"tmp_(?:obj_\d+_[0-9a-f]{12}|(?:pack|idx)_\d+-[0-9a-f]{8})\Z")
_FAN_OUT = re.compile(r"[0-9a-f]{2}\Z")
_NAME = re.compile(r"[0-9a-f]{38}\Z")
_PACK = re.compile(r"pack-[0-9a-f]{40}\Z")
_MISSING = re.compile(rb"^missing (?:blob|tree|commit|tag) ([0-9a-f]{40})", re.MULTILINE)
_BROKEN_LINK = re.compile(rb"^ +to +(?:blob|tree|commit|tag) ([0-9a-f]{40})", re.MULTILINE)
_SHOWN = 5


def check_leftovers(look: Examination) -> None:
    """Checks for files that a killed kitaru was writing."""
    objects = look.git_dir / "objects"
    for folder in (objects, objects / "pack"):
        for name in sorted(_names(folder)):
            if _OURS.match(name):
                place = folder / name
                look.report(
                    "leftovers",
                    "a file that a killed kitaru was writing",
                    place,
                    mend=lambda place=place: place.unlink(missing_ok=True),
                )


def check_objects(look: Examination, repository: Repository, exclude: Exclude) -> None:
    """Checks every object: that it is there, whole, and what its name says.

    Args:
        look: The examination.
        repository: The run, its log read; where it is repaired, the log's objects are put right
            already.
        exclude: What is left out of every commit.

    Raises:
        StorageError: The disk refused.
    """
    store = repository.store
    _check_packs(look, repository.git)
    loose = LooseObjects(look.git_dir / "objects")
    lost: set[bytes] = set()
    for sha in _loose_objects(look.git_dir / "objects"):
        if loose.is_whole(sha):
            continue
        place = Path(loose.path(sha))
        if store.has_elsewhere(sha):
            look.report(
                "objects",
                f"object {sha.hex()[:12]} was {_how(place)}; another copy of it is whole",
                place,
                mend=lambda place=place: look.set_aside(place),
            )
        else:
            lost.add(sha)
    status, said = _fsck(repository.git)
    lost |= {bytes.fromhex(sha.decode("ascii")) for sha in _MISSING.findall(said)}
    lost |= {bytes.fromhex(sha.decode("ascii")) for sha in _BROKEN_LINK.findall(said)}
    lost = {sha for sha in lost if not store.has(sha)}
    if lost:
        _recover(look, repository, exclude, loose, lost)
    elif status != 0 and not _is_explained(look):
        _report_rest(look, said)


def _is_explained(look: Examination) -> bool:
    """Says whether git's complaint may be about what is already reported."""
    return look.has("objects", "refs", "head")


def _report_rest(look: Examination, said: bytes) -> None:
    lines = [line for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
    for line in lines[:_SHOWN]:
        look.report("objects", f"git fsck: {printable(line, 300)}", hint="git -C RUN fsck --full")


def _how(place: Path) -> str:
    try:
        return "empty" if place.stat().st_size == 0 else "damaged"
    except OSError:
        return "missing"


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _loose_objects(objects: Path) -> Iterator[bytes]:
    for folder in sorted(filter(_FAN_OUT.match, _names(objects))):
        for name in sorted(filter(_NAME.match, _names(objects / folder))):
            yield bytes.fromhex(folder + name)


def _check_packs(look: Examination, git: Git) -> None:
    folder = look.git_dir / "objects" / "pack"
    names = set(_names(folder))
    stems = {name.rpartition(".")[0] for name in names if name.endswith((".pack", ".idx"))}
    for stem in sorted(filter(_PACK.match, stems)):
        pack, index = folder / f"{stem}.pack", folder / f"{stem}.idx"
        if pack.name not in names:
            look.report(
                "objects",
                "an index without its pack",
                index,
                mend=lambda index=index: look.set_aside(index),
            )
        elif index.name not in names:
            look.report(
                "objects",
                "a pack without its index",
                pack,
                mend=lambda pack=pack: _index_pack(look, git, pack),
            )
        elif index.stat().st_size == 0 or pack.stat().st_size == 0:
            look.report(
                "objects",
                "a pack that is empty, or its index",
                pack,
                mend=lambda pack=pack, index=index: _mend_pack(look, git, pack, index),
            )


def _mend_pack(look: Examination, git: Git, pack: Path, index: Path) -> Path:
    kept = look.set_aside(index)
    if pack.stat().st_size == 0:
        return look.set_aside(pack)
    return _index_pack(look, git, pack) or kept


def _index_pack(look: Examination, git: Git, pack: Path) -> Path | None:
    if git.execute("index-pack", str(pack)).status == 0:
        return None
    return look.set_aside(pack)


def _fsck(git: Git) -> tuple[int, bytes]:
    # The index is a cache, and looked at on its own.
    args = ("fsck", "--full", "--strict", "--no-dangling", "--no-progress")
    done = git.execute(*args, without_index=True)
    return done.status, done.stdout + b"\n" + done.stderr


def _recover(
    look: Examination,
    repository: Repository,
    exclude: Exclude,
    loose: LooseObjects,
    lost: set[bytes],
) -> None:
    """Takes lost objects from the files of the run's directory, where those have them."""
    had = salvage(repository, exclude, lost)
    for sha in sorted(had):
        kind, data = had[sha]
        place = Path(loose.path(sha))
        look.report(
            "objects",
            f"{kind} {sha.hex()[:12]} was {_how(place)}; the files of the run's directory have it",
            place,
            mend=lambda sha=sha, kind=kind, data=data: loose.put_right(sha, kind, data),
        )
    rest = lost - had.keys()
    if not rest:
        return
    commits = all_commits(repository)
    places = find_places(repository, rest, commits)
    parents = {parent: sha for sha, commit in commits for parent in commit.parents}
    for sha in sorted(rest):
        path = Path(loose.path(sha))
        used = places.get(sha)
        if used is not None and used.path:
            where = f"{quote_path(used.path)}, from commit {used.commit.hex()[:12]} on, needs it"
        elif sha in parents:
            where = f"commit {parents[sha].hex()[:12]} follows it"
        elif sha in repository.refs.all(HEADS).values():
            where = "a branch is on it"
        elif path.exists():
            # Nothing leads to it, so nothing is lost with it.
            look.report(
                "objects",
                f"object {sha.hex()[:12]} was {_how(path)}; no commit needs it",
                path,
                mend=lambda path=path: look.set_aside(path),
            )
            continue
        else:
            where = "a ref or a reflog names it"
        look.report(
            "objects",
            f"object {sha.hex()[:12]} is {_how(path)}, and nothing here has it: {where}",
            path,
            hint="a clone or a copy of the run may have it: "
            f"git -C {look.path} fetch CLONE 'refs/*:refs/rescue/*'",
        )


def check_journals(look: Examination, repository: Repository) -> None:
    """Checks that the entries of every branch can be read, and are numbered without a gap."""
    for name, sha in repository.refs.all(HEADS).items():
        branch = name.removeprefix(HEADS)
        try:
            point = repository.nearest_point(sha)
            steps = [entry.step for entry in repository.journal(point).entries()]
        except (FormatError, RunDamagedError, ValueError) as error:
            message = error.message if isinstance(error, FormatError) else str(error)
            if not _is_explained(look):
                look.report(
                    "journal",
                    f"the journal of branch {branch} cannot be read: {printable(message, 300)}",
                    hint=f"kitaru log {look.path.name} --all lists the branches",
                )
            continue
        if steps != list(range(point.step + 1)):
            look.report(
                "journal",
                f"the journal of branch {branch} has {len(steps)} entries up to step {point.step}",
                hint="its commits are kept; git log in the run shows who made them",
            )
