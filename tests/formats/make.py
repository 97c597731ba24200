"""Makes the stored run of this kitaru's format: `python -m tests.formats.make`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from kitaru_fs.entry import FORMAT

HERE = Path(__file__).parent


def main() -> None:
    """Drives a run to its wait, rewinds it and takes that back, edits a file, and packs it."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "kitaru.toml").touch()
        (root / "agents").mkdir()
        (root / "agents" / "stored.py").write_text((HERE / "agents.py").read_text())
        kitaru(root, "run", "stored", "name=app", status=3)
        state = json.loads(kitaru(root, "status", "last", "--json"))
        kitaru(root, "rewind", "last@build")
        kitaru(root, "undo", "last")
        (Path(state["path"]) / "files" / "note").write_text("a human's\n")
        kitaru(root, "rewind", "last@build")
        kitaru(root, "undo", "last")
        with tarfile.open(HERE / f"{FORMAT}.tar.xz", "w:xz") as archive:
            archive.add(state["path"], arcname=state["run"], filter=nobody)


def kitaru(root: Path, *arguments: str, status: int = 0) -> str:
    """Runs a command in the workspace."""
    done = subprocess.run(
        [sys.executable, "-m", "kitaru_fs", *arguments],
        cwd=root,
        env={**os.environ, "GIT_AUTHOR_NAME": "Ada", "GIT_AUTHOR_EMAIL": "ada@example.org"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != status:
        raise SystemExit(f"kitaru {arguments[0]} ended with {done.returncode}: {done.stderr}")
    return done.stdout


def nobody(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Takes the owner out of an archive's member."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    main()
