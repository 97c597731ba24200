"""A process that forks one child for each action, so that each runs in a fresh, real process.

kitaru is imported once, in the worker; a child leads its own process group and session, and may be
killed at any point. `Worker` is the side of the test; `main` is the worker's own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .shim import build_shim

__all__ = ["Outcome", "Worker"]


@dataclass(frozen=True)
class Outcome:
    """How an action ended.

    Attributes:
        value: What it returned, as JSON.
        error: The type of what it raised, and all base types, by name.
        message: What the exception said.
        killed: Whether a signal ended it.
        calls: How many storage calls the shim counted.
        trace: The traceback of what it raised.
    """

    value: Any = None
    error: tuple[str, ...] = ()
    message: str = ""
    killed: bool = False
    calls: int = 0
    trace: str = ""

    def unwrap(self) -> Any:
        """Returns the value; fails where the action did."""
        if self.killed or self.error:
            raise AssertionError("the action was killed" if self.killed else self.trace)
        return self.value


class Worker:
    """A worker process. Close it, or use it as a context manager.

    Args:
        shim: Whether the storage shim is loaded; a C compiler is needed.
    """

    def __init__(self, *, shim: bool = False) -> None:
        package = __package__ or "harness"
        root = Path(__file__).parents[package.count(".") + 1]
        environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
        source = Path(__file__).parents[2]
        paths = [str(root), str(source), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        if shim:
            built = build_shim()
            if built is None:
                raise RuntimeError("the storage shim needs a C compiler (cc)")
            environment["LD_PRELOAD"] = str(built)
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"{package}.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, action: str, root: Path, **arguments: Any) -> Outcome:
        """Runs an action of `actions` in a child, to its end.

        Args:
            action: Its name.
            root: The workspace.
            arguments: What it takes, and for `shim`, what `plan_shim` takes (with `fire`: whether
                to count from the start).
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([action, str(root), arguments]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the worker ended")
        answer = json.loads(line)
        answer["error"] = tuple(answer.get("error", ()))
        return Outcome(**answer)

    def close(self) -> None:
        """Ends the worker."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def main() -> None:
    from . import actions

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        name, root, arguments = json.loads(line)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            os.setsid()
            answer = json.dumps(_perform(actions, name, Path(root), arguments)).encode()
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(answer)
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            answer = pipe.read()
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status) or not answer:
            answer = json.dumps({"killed": True}).encode()
        answers.write(answer.decode() + "\n")
        answers.flush()


def _perform(actions: Any, name: str, root: Path, arguments: dict[str, Any]) -> dict[str, Any]:
    os.environ["KITARU_WORKSPACE"] = str(root)
    os.chdir(root)
    shim = actions.prepare_shim(root, arguments.pop("shim", None))
    try:
        value = actions.ACTIONS[name](root, **arguments)
        return {"value": value, "calls": shim.shim_count() if shim else 0}
    except BaseException as error:
        names = [kind.__name__ for kind in type(error).__mro__]
        return {
            "error": names,
            "message": str(error),
            "trace": traceback.format_exc(),
            "calls": shim.shim_count() if shim else 0,
        }
    finally:
        if shim:
            shim.shim_stop()


if __name__ == "__main__":
    main()
