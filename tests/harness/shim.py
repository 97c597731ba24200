"""The storage shim: compiled on demand, loaded into a worker, planned and fired in its children."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

__all__ = ["ACTIONS", "build_shim", "plan_shim"]

ACTIONS = {"count": 0, "kill": 1, "tear": 2, "fail-once": 3, "fail-on": 4}
"""What is done at the call: nothing; SIGKILL before it; SIGKILL after half of a write; the call
fails; the call and every later one that needs room on the disk fail."""


def build_shim(name: str = "shim.c") -> Path | None:
    """Compiles a shim, once for each version of its source; None without a C compiler."""
    source = Path(__file__).with_name(name)
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    version = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    built = Path(tempfile.gettempdir()) / f"kitaru-shim-{os.getuid()}-{version}.so"
    if not built.exists():
        fresh = built.with_suffix(f".{os.getpid()}")
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-O1", "-o", str(fresh), str(source), "-ldl"], check=True
        )
        fresh.rename(built)
    return built


def plan_shim(
    below: Path,
    *,
    at: int,
    action: str,
    error: int = 0,
    trace: Path | None = None,
    only: Sequence[str] = ("", ""),
) -> ctypes.CDLL:
    """Says what happens at the `at`-th storage call below a directory; `shim_fire` begins to count.

    Args:
        below: The directory.
        at: From 1.
        action: One of `ACTIONS`.
        error: The `errno` of a call that fails.
        trace: A file that gets a line for each call: number, name, path.
        only: A call's name and a part of its path: others do not count.
    """
    library = ctypes.CDLL(None)
    library.shim_count.restype = ctypes.c_long
    library.shim_plan(
        os.fsencode(below),
        ctypes.c_long(at),
        ACTIONS[action],
        error,
        os.fsencode(trace) if trace else b"",
    )
    library.shim_only(*(os.fsencode(word) for word in only))
    return library
