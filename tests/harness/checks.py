"""What must hold of a run, whatever happened to it. Each check returns the violations it found."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from .bench import ATTEMPTS, Bench, Expected, Progress
from .scripted import Tree
from .worker import Worker

__all__ = [
    "check_clean",
    "check_completed",
    "check_readable",
    "check_recovery",
    "describe",
    "git",
    "snapshot",
]


def git(directory: Path, *args: str, check: bool = True) -> str:
    """Runs plain git in a run's directory as a human would; returns what it wrote."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environment.pop("XDG_CONFIG_HOME", None)
    environment |= {
        "HOME": "/nonexistent",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "Ada",
        "GIT_AUTHOR_EMAIL": "ada@example.org",
        "GIT_COMMITTER_NAME": "Ada",
        "GIT_COMMITTER_EMAIL": "ada@example.org",
    }
    done = subprocess.run(
        ["git", *args],
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if check and done.returncode != 0:
        raise AssertionError(f"git {' '.join(args)}: {done.stdout}")
    return done.stdout


def snapshot(path: Path) -> dict[str, tuple[int, ...] | str]:
    """Returns what `lstat` says of everything below a directory, to see that nothing was
    written."""
    found: dict[str, tuple[int, ...] | str] = {}
    for folder, names, files in os.walk(path):
        for name in [*names, *files, "."]:
            place = os.path.join(folder, name)
            status = os.lstat(place)
            found[os.path.relpath(place, path)] = (
                status.st_ino,
                status.st_mode,
                status.st_mtime_ns,
                status.st_size if not os.path.isdir(place) else 0,
            )
    return found


def describe(expected: Tree, found: Tree) -> str:
    """Says how two trees differ, in a line; empty if they do not."""
    parts: list[str] = []
    for path in sorted(expected.keys() | found.keys()):
        want, have = expected.get(path), found.get(path)
        if want != have:
            parts.append(f"{path}: {_brief(want)} expected, {_brief(have)} found")
    return "; ".join(parts)


def _brief(item: tuple[str, int, bytes] | None) -> str:
    if item is None:
        return "nothing"
    kind, mode, content = item
    return f"{kind} {mode:o} {content[:40]!r} ({len(content)} bytes)"


def check_readable(worker: Worker, bench: Bench, run: str, expected: Expected) -> list[str]:
    """A run that died can be read at once; every acknowledged step is there; reading writes
    nothing.

    A step is there with its output and with all that it did to `files/`, or not at all.
    """
    path = bench.run_path(run)
    before = snapshot(path)
    outcome = worker.run("read", bench.root, run=run)
    if outcome.killed or outcome.error:
        return [f"reading failed: {outcome.message or 'killed'}"]
    problems: list[str] = []
    after = snapshot(path)
    if after != before:
        changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
        problems.append(f"reading wrote: {sorted(changed)[:5]}")
    status = outcome.value["state"]["status"]
    if status not in ("interrupted", "completed"):
        problems.append(f"the run of a dead process reads {status!r}")
    done = [line for line in outcome.value["log"] if _is_outcome(line)]
    missing = bench.acks() - set(range(len(done)))
    if missing:
        problems.append(f"acknowledged steps {sorted(missing)} are not in the log")
    if done:
        step, found = done[-1]["step"], outcome.value["files"]
        for path, (kind, _, content) in sorted(expected.trees[len(done)].items()):
            if kind == "file" and found.get(path) != content.hex():
                problems.append(f"step {step} is not whole: {path}")
    return problems


def _is_outcome(line: dict[str, Any]) -> bool:
    last_failure = line["kind"] == "failed" and line["attempt"] == ATTEMPTS
    return line["kind"] == "step" or last_failure


def check_recovery(worker: Worker, bench: Bench, run: str) -> list[str]:
    """Recovering twice changes nothing that the first time did not."""
    git_dir = bench.run_path(run) / ".git"
    first = worker.run("recover", bench.root, run=run)
    before = _contents(git_dir)
    second = worker.run("recover", bench.root, run=run)
    for outcome in (first, second):
        if outcome.killed or outcome.error:
            return [f"recovery failed: {outcome.message or 'killed'}"]
    after = _contents(git_dir)
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return [f"recovering twice changed {sorted(changed)[:5]}"] if changed else []


def _contents(git_dir: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(git_dir)): path.read_bytes()
        for path in git_dir.rglob("*")
        if path.is_file() and path.name not in ("lock", "holder.json")
    }


def check_completed(
    bench: Bench, run: str, expected: Expected, result: object, before: Progress
) -> list[str]:
    """A completed run is what an uninterrupted one is, and no acknowledged step ran again.

    Args:
        bench: The workspace.
        run: The run.
        expected: Of the uninterrupted execution.
        result: What the flow returned.
        before: What had been acknowledged and executed before the run was resumed.
    """
    problems: list[str] = []
    if result != expected.result:
        problems.append(f"the result is {result}, not {expected.result}")
    difference = describe(expected.trees[-1], bench.files(run))
    if difference:
        problems.append(f"files/: {difference}")
    effects = bench.effects()
    problems += [
        f"step {number} was acknowledged, and executed again"
        for number in sorted(before.acks)
        if effects[number] != before.effects[number]
    ]
    return problems + check_clean(bench.run_path(run))


def check_clean(path: Path) -> list[str]:
    """A run at rest is clean for plain git, and nothing temporary is left."""
    problems: list[str] = []
    fsck = git(path, "fsck", "--strict", "--full", "--no-dangling", check=False)
    if fsck:
        problems.append(f"git fsck: {fsck.strip()}")
    status = git(path, "status", "--porcelain", check=False)
    if status:
        problems.append(f"git status: {status.strip()}")
    problems += [
        f"left over: {found.relative_to(path)}"
        for found in path.rglob("*")
        if found.name.endswith(".lock") or ".kitaru-" in found.name
    ]
    return problems
