"""The command line: `main` is the entry point of both `kitaru` and `kitaru-fs`.

Nothing here is imported before it is needed: `kitaru --help` costs little more than click.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and ends the process with its exit status.

    Args:
        args: The command line without the program's name; `sys.argv` by default.
    """
    if sys.platform == "win32":
        sys.stderr.write(
            "kitaru: kitaru-fs does not run on Windows: it needs POSIX locks and file modes\n"
            "  Use it in WSL (https://learn.microsoft.com/windows/wsl), on Linux or on macOS.\n"
        )
        sys.exit(2)
    from kitaru_fs.cli.program import run_program

    run_program(sys.argv[1:] if args is None else args)
