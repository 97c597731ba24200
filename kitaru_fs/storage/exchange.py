"""Swapping two files' names in one step, where the system can."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from typing import Any

__all__ = ["exchange"]

_SWAP = 2  # RENAME_EXCHANGE of Linux's renameat2(2), RENAME_SWAP of macOS's renameatx_np(2)
_HERE = -100 if sys.platform == "linux" else -2  # AT_FDCWD


@cache
def _swap() -> Any:
    library = ctypes.CDLL(None, use_errno=True)
    return getattr(library, "renameat2", None) or getattr(library, "renameatx_np", None)


def exchange(first: str, second: str) -> bool:
    """Swaps what two paths of one file system name; both must exist.

    A rename over an existing file makes ext4 write the new file's data out first (auto_da_alloc):
    0.5 ms that a file which is durable elsewhere does not need. A swap does not.

    Returns:
        Whether it was done; False where the system cannot, or a path is missing.
    """
    swap = _swap()
    if swap is None:
        return False
    names = (os.fsencode(first), os.fsencode(second))
    return swap(_HERE, names[0], _HERE, names[1], _SWAP) == 0
