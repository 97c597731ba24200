"""In whose charge a run is while nobody drives it: `.git/kitaru/charge`, in no commit.

    supervised    a supervisor took it up last: one goes on with it, also after an orderly stop
    moved         a human moved it, by `rewind`, `undo` or `redo`: it waits for their `resume`

Without the file a human drove it last. A supervisor then goes on with it after a crash, and when
what it waits for has come; not after an orderly stop, which was the human's.
"""

from __future__ import annotations

from pathlib import Path

from kitaru_fs.git.layout import write_anew

__all__ = ["MOVED", "SUPERVISED", "read_charge", "take_charge"]

SUPERVISED = "supervised"
MOVED = "moved"

_BY_PURPOSE = {"up": SUPERVISED, "rewind": MOVED, "undo": MOVED, "redo": MOVED}
_ANYBODY = frozenset({"answer", "send", "cancel", "child"})


def read_charge(git_dir: Path) -> str:
    """Returns in whose charge a run is; empty for a human's.

    Args:
        git_dir: The run's `.git`.
    """
    try:
        return (git_dir / "kitaru" / "charge").read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def take_charge(git_dir: Path, purpose: str) -> None:
    """Notes who took a run up.

    Args:
        git_dir: The run's `.git`.
        purpose: What for.

    Raises:
        OSError: The disk refused.
    """
    if purpose in _ANYBODY:
        return
    path = git_dir / "kitaru" / "charge"
    charge = _BY_PURPOSE.get(purpose)
    if charge is None:
        path.unlink(missing_ok=True)
    elif read_charge(git_dir) != charge:
        write_anew(path, charge.encode() + b"\n")
