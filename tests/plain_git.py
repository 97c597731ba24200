"""A run's directory made with plain git, and plain git on it as a human would use it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

IDENTITY = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")


def git(directory: Path, *args: str, home: Path | None = None, check: bool = True) -> str:
    """Runs plain git with an ordinary environment, and returns what it wrote."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environment |= {"HOME": str(home or directory.parent), "GIT_CONFIG_NOSYSTEM": "1"}
    environment.pop("XDG_CONFIG_HOME", None)
    done = subprocess.run(
        ["git", *IDENTITY, *args],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if check and done.returncode != 0:
        raise AssertionError(done.stderr)
    return done.stdout


def make_run(path: Path) -> Path:
    """A directory with one commit that holds `files/`, `state/` and `run.json`."""
    (path / "files").mkdir(parents=True)
    (path / "state").mkdir()
    (path / "files" / "notes.md").write_text("one\ntwo\n")
    (path / "state" / "modes.json").write_text("{}\n")
    (path / "run.json").write_text("{}\n")
    git(path, "init", "-q", "-b", "main")
    git(path, "add", "-A")
    git(path, "commit", "-q", "-m", "start: demo")
    return path
