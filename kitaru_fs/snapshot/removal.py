"""Removing what was half made, read-only directories included."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["remove_tree"]


def remove_tree(path: Path) -> None:
    """Removes a file, a link, or a directory with all that is in it; links are not followed.

    Raises:
        OSError: The disk refused.
    """
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    path.chmod(0o700)
    for name in os.listdir(path):
        remove_tree(path / name)
    path.rmdir()
