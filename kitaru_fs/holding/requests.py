"""What others ask of the process that holds a run: `.git/kitaru/asked/pause` and `cancel`.

A file each, with who asked and when. The holder looks for the directory before each step, and while
it waits; no signal is sent and no pid is guessed. `pause` stays until the run is resumed.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any, Literal

from kitaru_fs.clock import nonce, stamp

__all__ = ["Asked", "ask", "asked_dir", "is_asked", "who_asked", "withdraw"]

Asked = Literal["pause", "cancel"]


def asked_dir(git_dir: Path) -> Path:
    """Where the requests to a run's holder are; there is such a directory only if there is one."""
    return git_dir / "kitaru" / "asked"


def ask(git_dir: Path, what: Asked, who: tuple[str, str]) -> None:
    """Asks the process that holds a run, or the next one, for something.

    Raises:
        OSError: The disk refused.
    """
    folder = asked_dir(git_dir)
    content = json.dumps({"by": who[0], "email": who[1], "since": stamp()})
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        try:
            new = folder / f".{nonce()}"
            new.write_text(content)
            os.rename(new, folder / what)
            return
        except FileNotFoundError:
            continue  # the last request was withdrawn, and the directory with it


def is_asked(git_dir: Path, what: Asked) -> bool:
    """Says whether something is asked for."""
    return os.path.exists(asked_dir(git_dir) / what)


def who_asked(git_dir: Path, what: Asked) -> dict[str, Any] | None:
    """Returns who asked for something (`by`, `since`); None if nobody did."""
    try:
        found = json.loads((asked_dir(git_dir) / what).read_bytes())
        return {"by": str(found["by"]), "since": str(found["since"])}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError):
        return {"by": "", "since": ""}


def withdraw(git_dir: Path, what: Asked) -> None:
    """Takes a request back, or notes that it was done."""
    with contextlib.suppress(OSError):
        (asked_dir(git_dir) / what).unlink(missing_ok=True)
        asked_dir(git_dir).rmdir()
