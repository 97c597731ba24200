"""A disk whose power can be cut: a file system in a file, which forgets what was not made durable.

The file system is shut down as it stands, without flushing its journal (`XFS_IOC_GOINGDOWN`, which
ext4 has too), and mounted again: what only the page cache held is gone. Needs root on Linux.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import time
from pathlib import Path

__all__ = ["Disk", "why_no_disk"]

_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32)
_WITHOUT_FLUSHING = struct.pack("I", 2)
_SIZES = {"ext4": 64 << 20, "xfs": 300 << 20}
# Nothing becomes durable by itself while a trial runs.
_OPTIONS = {"ext4": "loop,commit=300", "xfs": "loop,nouuid"}
_PATIENCE_SECONDS = 30.0


def why_no_disk(kind: str) -> str | None:
    """Says why there can be no such disk here; None if there can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "mounting needs root"
    for program in (f"mkfs.{kind}", "mount", "umount"):
        if shutil.which(program) is None:
            return f"there is no {program}"
    if not Path("/dev/loop-control").exists():
        return "there are no loop devices"
    return None


class Disk:
    """A mounted file system. Use it as a context manager.

    Args:
        folder: Where its image and its mount point are.
        kind: `ext4` or `xfs`.

    Attributes:
        root: Where it is mounted.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self._image = folder / "disk.img"
        self._kind = kind
        self.root = folder / "disk"

    def __enter__(self) -> Disk:
        self.root.mkdir()
        with open(self._image, "xb") as image:
            image.truncate(_SIZES[self._kind])
        quiet = ["-q", "-F"] if self._kind == "ext4" else ["-q"]
        _run(f"mkfs.{self._kind}", *quiet, str(self._image))
        self._mount()
        return self

    def __exit__(self, *_: object) -> None:
        self._unmount()
        self._image.unlink()

    def make_durable(self) -> None:
        """Waits until all that was written so far is on the disk."""
        _run("sync", "-f", str(self.root))

    def commit_metadata(self) -> None:
        """Makes names and sizes durable, not what files hold: as a journal does by and by."""
        descriptor = os.open(self.root / "unrelated", os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def cut_power(self) -> None:
        """Forgets what is not durable, and mounts what is left."""
        descriptor = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, _WITHOUT_FLUSHING)
        finally:
            os.close(descriptor)
        self._unmount()
        # A new image: should another process keep the old mount in sight, that stays shut down.
        old, self._image = self._image, self._image.with_suffix(".cut")
        _run("cp", "--sparse=always", str(old), str(self._image))
        old.unlink()
        self._mount()

    def _mount(self) -> None:
        _run(
            "mount", "-t", self._kind, "-o", _OPTIONS[self._kind], str(self._image), str(self.root)
        )

    def _unmount(self) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        # A killed process may still be on its way out.
        while subprocess.run(["umount", str(self.root)], capture_output=True).returncode != 0:
            if time.monotonic() > deadline:
                _run("umount", str(self.root))
            time.sleep(0.05)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
