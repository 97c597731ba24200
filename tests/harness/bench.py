"""A workspace with the scripted flow, and what is expected of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import kitaru_fs

from .scripted import Tree, digest, perform, read_tree

__all__ = ["ATTEMPTS", "Bench", "Expected", "Plan", "Progress", "expect"]

Plan = Sequence[dict[str, Any]]
ATTEMPTS = 3


class Expected(NamedTuple):
    """What an uninterrupted execution of a plan leaves.

    Attributes:
        result: What the flow returns.
        trees: `files/` after each step, the state before the first one in front.
    """

    result: list[str]
    trees: list[Tree]


class Progress(NamedTuple):
    """Which steps' calls returned to the flow, and how often each was executed."""

    acks: set[int]
    effects: Counter[int]


def expect(plan: Plan) -> Expected:
    """Does a plan in a plain directory, without kitaru."""
    result: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        trees = [read_tree(root)]
        for number, spec in enumerate(plan):
            perform(root, spec.get("flow", []))
            before = digest(read_tree(root))
            failures = max((item[1] for item in spec["do"] if item[0] == "fail"), default=0)
            if failures >= ATTEMPTS:
                result.append(f"{number} attempt {ATTEMPTS} fails")
            else:
                perform(root, [item for item in spec["do"] if item[0] not in ("fail", "trip")])
                result.append(f"{number} {before}")
            trees.append(read_tree(root))
    return Expected(result, trees)


class Bench:
    """A workspace on disk.

    Args:
        root: Its directory, resolved.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def make(cls, root: Path, plan: Plan) -> Bench:
        """Makes a workspace in a new directory."""
        root = root.resolve()
        (root / "agents").mkdir(parents=True)
        (root / "trips").mkdir()
        (root / "kitaru.toml").write_text("")
        shutil.copy(Path(__file__).with_name("scripted.py"), root / "agents" / "scripted.py")
        bench = cls(root)
        bench.set_plan(plan)
        return bench

    def set_plan(self, plan: Plan) -> None:
        """Says what the flow does from now on."""
        (self.root / "plan.json").write_text(json.dumps(list(plan)))

    def trip(self, name: str, what: str = "kill") -> None:
        """Lets the flow be killed (`kill`), interrupted or the shim fired where it comes by
        NAME."""
        (self.root / "trips" / name).write_text(what)

    def copy(self, to: Path) -> Bench:
        """Copies the workspace, with its runs."""
        shutil.copytree(self.root, to, symlinks=True)
        return Bench(to.resolve())

    def run_path(self, run: str) -> Path:
        """A run's directory."""
        return self.root / "runs" / run

    def files(self, run: str) -> Tree:
        """What a run's `files/` hold now."""
        return read_tree(self.run_path(run) / "files")

    def only_run(self) -> str:
        """The id of the only run."""
        (run,) = [
            path.name for path in (self.root / "runs").iterdir() if not path.name.startswith(".")
        ]
        return run

    def effects(self) -> Counter[int]:
        """How often each step was executed."""
        return Counter(self._numbers("effects"))

    def acks(self) -> set[int]:
        """The steps whose call returned to the flow."""
        return set(self._numbers("acks"))

    def progress(self) -> Progress:
        """What has been acknowledged and executed so far."""
        return Progress(self.acks(), self.effects())

    def forget(self) -> None:
        """Forgets which steps were executed and acknowledged."""
        for name in ("effects", "acks"):
            (self.root / name).unlink(missing_ok=True)

    def _numbers(self, name: str) -> list[int]:
        try:
            return [int(line) for line in (self.root / name).read_text().split()]
        except FileNotFoundError:
            return []

    def kitaru(self, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs the command line, as a user does, in its own session."""
        source = str(Path(kitaru_fs.__file__).parents[1])
        paths = [source, os.environ.get("PYTHONPATH", "")]
        return subprocess.run(
            [sys.executable, "-m", "kitaru_fs", "--workspace", str(self.root), *args],
            cwd=self.root,
            env={
                **os.environ,
                "KITARU_WORKSPACE": str(self.root),
                "PYTHONPATH": os.pathsep.join(filter(None, paths)),
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,
        )
