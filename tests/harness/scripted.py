"""A flow whose steps are what `plan.json` says; it is copied into a workspace's `agents/`.

The workspace that `KITARU_WORKSPACE` names holds, beside what every workspace holds:

    plan.json   [{"flow": [OP...], "do": [OP...], "handled": bool}...]: a step each; `flow` is done
                by the flow's own code before the step
    effects     a line for each execution of a step: its number
    acks        a line for each step whose call returned to the flow: its number
    trips/NAME  what happens, once, where the flow comes by NAME: `kill` or `interrupt`

A step returns what `files/` held when it began, so equal results mean exact files at every step.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

from kitaru_fs import files, flow, step, this_step

Tree = dict[str, tuple[str, int, bytes]]


def read_tree(root: Path) -> Tree:
    """Returns what a directory holds: path -> (kind, permissions, content)."""
    tree: Tree = {}
    for folder, names, others in os.walk(root):
        for name in names + others:
            path = Path(folder, name)
            key = str(path.relative_to(root))
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                tree[key] = ("link", 0o777, os.readlink(path).encode())
            elif stat.S_ISDIR(mode):
                tree[key] = ("dir", stat.S_IMODE(mode), b"")
            else:
                tree[key] = ("file", stat.S_IMODE(mode), path.read_bytes())
    return tree


def digest(tree: Tree) -> str:
    """Returns a short digest of a tree."""
    return hashlib.sha256(repr(sorted(tree.items())).encode()).hexdigest()[:16]


def perform(root: Path, operations: list[list[Any]]) -> None:
    """Does operations on a directory."""
    for operation in operations:
        name, *rest = operation
        _OPERATIONS[name](root, *rest)


def trip(name: str) -> None:
    """Does what `trips/NAME` says, once, if it is there."""
    file = _workspace() / "trips" / name
    try:
        what = file.read_text()
    except FileNotFoundError:
        return
    file.unlink()
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "interrupt":
        raise KeyboardInterrupt
    if what == "fire":
        ctypes.CDLL(None).shim_fire()


def _workspace() -> Path:
    return Path(os.environ["KITARU_WORKSPACE"])


def _note(name: str, number: int) -> None:
    with open(_workspace() / name, "a") as file:
        file.write(f"{number}\n")


def _write(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def _append(root: Path, path: str, text: str) -> None:
    with open(root / path, "a") as file:
        file.write(text)


def _random(root: Path, path: str, size: int, seed: int) -> None:
    (root / path).write_bytes(random.Random(seed).randbytes(size))


def _chmod(root: Path, path: str, mode: int) -> None:
    (root / path).chmod(mode)


def _unlink(root: Path, path: str) -> None:
    (root / path).unlink(missing_ok=True)


def _mkdir(root: Path, path: str) -> None:
    (root / path).mkdir(parents=True, exist_ok=True)


def _rmtree(root: Path, path: str) -> None:
    # What the disk refuses is the step's failure: passed over, it would be a step that did less.
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(root / path)


def _symlink(root: Path, path: str, target: str) -> None:
    (root / path).unlink(missing_ok=True)
    (root / path).symlink_to(target)


def _rename(root: Path, path: str, to: str) -> None:
    (root / path).rename(root / to)


def _trip(root: Path, name: str) -> None:
    trip(name)


def _fail(root: Path, times: int) -> None:
    if this_step().attempt <= times:
        raise ValueError(f"attempt {this_step().attempt} fails")


def _spawn(root: Path, path: str) -> None:
    """Leaves a process behind, once, that writes to a file until it is ended; waits until it
    does."""
    if (_workspace() / "spawned").exists():
        return
    # It says once that it is up: nobody reads its output after the kill.
    writer = (
        "import sys, time\nup = False\nwhile True:\n"
        " with open(sys.argv[1], 'a') as f: f.write('x')\n"
        " if not up: print('up', flush=True)\n up = True\n time.sleep(0.01)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", writer, str(root / path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    process.stdout.readline()
    _note("spawned", process.pid)


_OPERATIONS: dict[str, Any] = {
    "write": _write,
    "append": _append,
    "random": _random,
    "chmod": _chmod,
    "unlink": _unlink,
    "mkdir": _mkdir,
    "rmtree": _rmtree,
    "symlink": _symlink,
    "rename": _rename,
    "trip": _trip,
    "fail": _fail,
    "spawn": _spawn,
}


@step(retries=2, backoff=0)
def act(number: int, do: list[Any]) -> str:
    _note("effects", number)
    before = digest(read_tree(files()))
    perform(files(), do)
    return f"{number} {before}"


@flow
def scripted() -> list[str]:
    results: list[str] = []
    plan = json.loads((_workspace() / "plan.json").read_text())
    for number, spec in enumerate(plan):
        trip(f"before-{number}")
        if spec.get("flow"):
            perform(files(), spec["flow"])
        try:
            results.append(act(number, spec["do"]))
        except ValueError as error:
            if not spec.get("handled"):
                raise
            results.append(f"{number} {error}")
        _note("acks", number)
    trip("end")
    return results
