"""Whether `.git` is a plain repository with directories, objects and history of its own.

Links and files that lead git elsewhere are taken out of the way; what they led to is copied in
first, as far as the run needs it: an object's id says whether it is the right one, wherever it came
from.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from kitaru_fs.errors import RunDamagedError
from kitaru_fs.git.layout import linked_directories, read_plain_file
from kitaru_fs.git.safe import Git
from kitaru_fs.rundir.checkup.examination import Examination
from kitaru_fs.storage.refs import is_ref_name

__all__ = ["check_access", "check_layout_parts", "check_permissions", "is_there"]

_FAN_OUT = re.compile(r"[0-9a-f]{2}\Z")
_LOOSE = re.compile(r"[0-9a-f]{38}\Z")
_PACKED = re.compile(r"(?:pack-[0-9a-f]{40}\.(?:pack|idx|rev|bitmap)|multi-pack-index)\Z")
_SHA = re.compile(rb"[0-9a-f]{40}\n?\Z")
_DIRECTORY = re.compile(
    r"files|inbox|\.git/(objects(/pack|/[0-9a-f]{2})?|refs(/heads)?|info|kitaru)"
)
_NEEDED = ("objects", "objects/pack", "refs", "refs/heads", "info", "kitaru")


def is_there(look: Examination) -> bool:
    """Says whether there is a repository at all; reports where there is not."""
    git_dir = look.git_dir
    if git_dir.is_symlink() or git_dir.is_file():
        look.report(
            "layout",
            ".git is not a directory: the run's repository would be elsewhere",
            git_dir,
            hint="put the repository itself there, or make a run of it with `git clone`",
        )
        return False
    if not git_dir.is_dir() or not os.path.lexists(git_dir / "objects"):
        look.report(
            "layout",
            "there is no repository: without .git/objects there is no journal",
            git_dir,
            hint="restore it from a copy or a clone",
        )
        return False
    return True


def check_layout_parts(look: Examination) -> None:
    """Checks that every directory of `.git` is one, and its own."""
    git_dir = look.git_dir
    for part in _no_files(git_dir):
        look.report(
            "layout",
            "what is no file was in the place of one: whoever opens it may hang",
            part,
            mend=lambda part=part: look.set_aside(part),
        )
    for name in _NEEDED:
        part = git_dir / name
        if part.is_symlink():
            look.report(
                "layout",
                f".git/{name} was a link to {os.readlink(part)}",
                part,
                mend=lambda part=part: _make_own(look, part),
                hint="`kitaru doctor` copies what the run needs, and keeps the link aside",
            )
        elif os.path.lexists(part) and not part.is_dir():
            look.report(
                "layout",
                f".git/{name} was no directory",
                part,
                mend=lambda part=part: _make_anew(look, part),
            )
        elif not part.exists() and name not in ("kitaru", "info"):
            look.report(
                "layout", f".git/{name} was missing", part, mend=lambda part=part: _make(part)
            )
    links = _links_below(git_dir / "objects") + linked_directories(git_dir / "refs")
    for part in links:
        if part == git_dir / "refs" / "heads":
            continue
        look.report(
            "layout",
            f"a link among the objects or refs, to {os.readlink(part)}",
            part,
            mend=lambda part=part: _make_own(look, part),
        )
    for name in ("files", "inbox"):
        part = look.path / name
        if os.path.lexists(part) and (part.is_symlink() or not part.is_dir()):
            look.report(
                "layout",
                f"{name} was no directory of its own",
                part,
                mend=lambda part=part: _make_anew(look, part),
            )
    _check_leading_elsewhere(look)


def _check_leading_elsewhere(look: Examination) -> None:
    git_dir = look.git_dir
    commondir = git_dir / "commondir"
    if os.path.lexists(commondir):
        look.report(
            "layout",
            "commondir sent git to another repository",
            commondir,
            mend=lambda: look.set_aside(commondir),
        )
    for name in ("alternates", "http-alternates"):
        alternates = git_dir / "objects" / "info" / name
        if _says_something(alternates):
            look.report(
                "layout",
                f"objects/info/{name} took objects from another repository",
                alternates,
                mend=lambda path=alternates: _leave_alternates(look, path),
                hint="the objects that it needs are copied, if they can be found",
            )
    shallow = git_dir / "shallow"
    if _says_something(shallow):
        look.report(
            "layout",
            "shallow cut the history off",
            shallow,
            mend=lambda: _deepen(look, shallow),
            hint="in the run, `git fetch --unshallow` gets it",
        )
    replaced = git_dir / "refs" / "replace"
    if os.path.lexists(replaced):
        look.report(
            "layout",
            "refs/replace had objects pass for others, for whoever looks with plain git",
            replaced,
            mend=lambda: look.set_aside(replaced),
        )


def check_access(look: Examination) -> None:
    """Checks that whoever owns the run may read and write what kitaru and git do.

    What is below `files/` is the agent's, whatever its modes.
    """
    for place in _run_parts(look.path):
        try:
            mode = place.lstat().st_mode
        except FileNotFoundError:
            continue  # of a run that is being driven
        lacking = _needed(look, place, mode) & ~mode
        if not lacking:
            continue
        look.report(
            "permissions",
            f"the owner had no access to {_name(look, place)} (mode {stat.S_IMODE(mode):04o})",
            place,
            mend=lambda place=place, mode=mode, more=lacking: place.chmod(
                stat.S_IMODE(mode) | more
            ),
        )


def _run_parts(path: Path) -> Iterator[Path]:
    """Yields what belongs to a run, what is above before what is below; links are not followed."""
    yield path
    for name in (".git", "files", "inbox", "code", "journal", "run.json"):
        place = path / name
        if not os.path.lexists(place) or place.is_symlink():
            continue
        yield place
        if name == "files":
            continue
        # Each directory is named before it is opened: it may be mended in between.
        for folder, names, files in os.walk(place):
            if Path(folder) == path / ".git" / "kitaru":
                names[:] = [one for one in names if one not in ("aside", "tampered")]
            for one in (*names, *files):
                if not os.path.islink(os.path.join(folder, one)):
                    yield Path(folder, one)


def _needed(look: Examination, place: Path, mode: int) -> int:
    if stat.S_ISDIR(mode):
        return 0o700
    if not stat.S_ISREG(mode):
        return 0
    # These alone are written in place; git makes its objects read-only.
    return 0o600 if place.parent == look.git_dir / "kitaru" else 0o400


def _name(look: Examination, place: Path) -> str:
    return "the run" if place == look.path else look.shown(place)


def check_permissions(look: Examination) -> None:
    """Checks that others can read neither the run nor its vault."""
    places = ((look.path, 0o700), (look.git_dir / "kitaru", 0o700))
    for place, mode in (*places, (look.git_dir / "kitaru" / "vault", 0o600)):
        try:
            found = place.lstat().st_mode
        except FileNotFoundError:
            continue
        if stat.S_ISLNK(found) or not found & 0o077:
            continue
        look.report(
            "permissions",
            f"others had access to {_name(look, place)} (mode {stat.S_IMODE(found):04o})",
            place,
            mend=lambda place=place, mode=mode: place.chmod(mode),
        )


def _make(part: Path) -> None:
    part.mkdir(mode=0o700 if part.name == "kitaru" else 0o755, parents=True, exist_ok=True)


def _make_anew(look: Examination, part: Path) -> Path:
    return _replace(look, part, None)


def _replace(look: Examination, part: Path, new: Path | None) -> Path:
    """Sets a part aside; in its place comes another one, or a directory where one belongs."""
    if part in look.aside.parents:
        # It is the way to where it is kept.
        old = part.with_name(f"{part.name}.old-{os.getpid()}")
        os.rename(part, old)
        _put(look, part, new)
        return look.set_aside(old)
    kept = look.set_aside(part)
    _put(look, part, new)
    return kept


def _put(look: Examination, part: Path, new: Path | None) -> None:
    if new is not None:
        os.rename(new, part)
    elif _DIRECTORY.fullmatch(look.shown(part)):
        _make(part)


def _make_own(look: Examination, part: Path) -> Path:
    """Replaces a link by what it led to, as far as that can be a part of a repository."""
    new = part.with_name(f"{part.name}.own-{os.getpid()}")
    remove_own(new)
    if part.is_dir():
        new.mkdir(mode=0o755)
        for source, name in _usable(part, look.git_dir):
            target = new / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target, follow_symlinks=True)
    elif part.is_file():
        shutil.copyfile(part, new)
    return _replace(look, part, new if os.path.lexists(new) else None)


def remove_own(new: Path) -> None:
    """Removes what an earlier, killed repair had begun."""
    if new.is_dir() and not new.is_symlink():
        shutil.rmtree(new)
    else:
        new.unlink(missing_ok=True)


def _usable(part: Path, git_dir: Path) -> Iterator[tuple[Path, str]]:
    """The plain files below a linked directory that its place in `.git` may have."""
    inside = part.relative_to(git_dir).as_posix()
    for folder, names, files in os.walk(part.resolve()):
        place = Path(folder).relative_to(part.resolve())
        # Not what is being made: the link may lead to where the run itself is.
        names[:] = [
            name for name in names if not Path(folder, name).is_symlink() and ".own-" not in name
        ]
        for name in files:
            path = Path(folder, name)
            within = (Path(inside) / place / name).as_posix()
            if path.is_file() and _belongs(within, path):
                yield path, (place / name).as_posix()


def _belongs(within: str, path: Path) -> bool:
    first, _, rest = within.partition("/")
    if first == "objects":
        folder, _, name = rest.rpartition("/")
        if folder == "pack":
            return bool(_PACKED.match(name))
        return bool(_FAN_OUT.match(folder) and _LOOSE.match(name))
    if first == "refs":
        content = read_plain_file(path)
        return content is not None and bool(_SHA.match(content)) and is_ref_name(within)
    if first == "kitaru":
        return "/" not in rest
    return False


def _no_files(git_dir: Path) -> list[Path]:
    """FIFOs, sockets and devices among git's files."""
    found: list[Path] = []
    for folder, _, names in os.walk(git_dir):
        for name in names:
            mode = os.lstat(os.path.join(folder, name)).st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
                found.append(Path(folder, name))
    # What is set aside stays what it was.
    private = git_dir / "kitaru"
    return [path for path in found if not path.is_relative_to(private)]


def _links_below(objects: Path) -> list[Path]:
    if objects.is_symlink() or not objects.is_dir():
        return []
    found: list[Path] = []
    for folder, names, files in os.walk(objects):
        found += [Path(folder, name) for name in (*names, *files)]
    return [path for path in found if path.is_symlink() and path != objects / "pack"]


def _says_something(path: Path) -> bool:
    if not os.path.lexists(path):
        return False
    content = read_plain_file(path)
    return content is None or any(
        line.strip() and not line.startswith(b"#") for line in content.splitlines()
    )


def _leave_alternates(look: Examination, alternates: Path) -> Path:
    """Copies the objects of other repositories that the run lacks, then leaves those."""
    content = read_plain_file(alternates) or b""
    objects = look.git_dir / "objects"
    places = [Path(os.fsdecode(line.strip())) for line in content.splitlines() if line.strip()]
    sources = [place if place.is_absolute() else objects / place for place in places]
    kept = look.set_aside(alternates)
    borrowed = [source for source in sources if source.is_dir()]
    if borrowed:
        git = Git(look.git_dir, look.path)
        listed = git.run("rev-list", "--objects", "--all", objects_too=borrowed)
        ids = b"".join(line[:40] + b"\n" for line in listed.splitlines())
        known = git.run("cat-file", "--batch-check=%(objectname)", input=ids)
        lacking = [line[:40] for line in known.splitlines() if line.endswith(b" missing")]
        if lacking:
            pack = str(objects / "pack" / "pack")
            names = b"".join(one + b"\n" for one in lacking)
            git.run("pack-objects", "-q", pack, input=names, objects_too=borrowed)
    return kept


def _deepen(look: Examination, shallow: Path) -> Path:
    """Leaves a boundary of the history that hides what is there; a true one stays."""
    from kitaru_fs.rundir.repository import Repository
    from kitaru_fs.storage.objects import parse_commit

    kept = look.set_aside(shallow)
    content = read_plain_file(kept) or b""
    repository = Repository(look.path)
    try:
        for line in content.split():
            if not re.fullmatch(rb"[0-9a-f]{40}", line):
                continue
            sha = bytes.fromhex(line.decode("ascii"))
            if not repository.store.has(sha):
                continue
            commit = parse_commit(repository.store.read(sha, "commit"))
            if not all(repository.store.has(parent) for parent in commit.parents):
                os.rename(kept, shallow)
                raise RunDamagedError(
                    f"the commit before {sha.hex()[:12]} is missing",
                    hint="in the run, `git fetch --unshallow` gets it; clone runs without --depth",
                )
    finally:
        repository.close()
    return kept
