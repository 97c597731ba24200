"""Objects that two repositories share: hard links, so that history costs nothing a second time.

git never writes into an object that has its name, and neither does kitaru: a link is as good as a
copy.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

__all__ = ["share_objects"]

_NO_LINK = frozenset(
    {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
)
_FAN_OUT = re.compile(r"[0-9a-f]{2}\Z")
_LOOSE = re.compile(r"[0-9a-f]{38}\Z")
_TRIES = 100


def share_objects(source: Path, target: Path, logged: Callable[[], Iterable[bytes]]) -> None:
    """Gives a new repository the objects of another, to which a process may be adding.

    Args:
        source: The `objects` directory that has them.
        target: The `objects` directory of the new repository.
        logged: Reads the source's log: which objects may not be on the disk yet. They are left to
            the caller, to be written anew.

    Raises:
        OSError: The disk refused.
    """
    # In this order: what stops being loose stands in a pack before, and leaves the log after that.
    for fan_out in sorted(filter(_FAN_OUT.match, os.listdir(source))):
        _share_loose(source / fan_out, target / fan_out)
    for sha in logged():
        (target / sha.hex()[:2] / sha.hex()[2:]).unlink(missing_ok=True)
    for _ in range(_TRIES):
        packs = _packs(source / "pack")
        if all(_share_pack(source / "pack", target / "pack", pack) for pack in packs):
            return
    raise OSError(errno.EBUSY, "its packs are being replaced all the time", str(source / "pack"))


def _share_loose(source: Path, target: Path) -> None:
    try:
        names = [name for name in os.listdir(source) if _LOOSE.match(name)]
    except (FileNotFoundError, NotADirectoryError):
        return
    if names:
        target.mkdir(exist_ok=True)
    for name in names:
        _link(source / name, target / name)


def _packs(folder: Path) -> list[str]:
    try:
        return [name.removesuffix(".idx") for name in os.listdir(folder) if name.endswith(".idx")]
    except FileNotFoundError:
        return []


def _share_pack(source: Path, target: Path, name: str) -> bool:
    """Shares a pack, its index last; says whether it was still there."""
    return all(_link(source / f"{name}{end}", target / f"{name}{end}") for end in (".pack", ".idx"))


def _link(source: Path, target: Path) -> bool:
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        return True
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        _copy(source, target)
    return True


def _copy(source: Path, target: Path) -> None:
    with open(source, "rb") as found, open(target, "xb") as made:
        shutil.copyfileobj(found, made, 1 << 20)
        made.flush()
        os.fchmod(made.fileno(), 0o444)
        os.fsync(made.fileno())
