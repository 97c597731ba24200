"""Real runs of flows whose body a test gives, in this process or in one that is killed.

The body of a flow is any function of the test's, so that a test can change the code between a run
and
its `resume`, and see what its steps did. `crash` runs in a forked process, which dies by SIGKILL
where the body calls `bench.die()`; anywhere else that does nothing, so the same body resumes.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import select
import signal
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from plain_git import git

from kitaru_fs import Run, Workspace, flow
from kitaru_fs.entry import Entry

__all__ = ["FlowBench", "Listing", "listing"]

_PATIENCE = 120.0
_bodies: dict[str, Callable[..., Any]] = {}
_dying = False

Listing = dict[str, tuple[int, int, int, int]]


@flow(name="main")
def _plain(body: str = "main") -> Any:
    return _bodies[body]()


@flow(name="main")
async def _coroutine(body: str = "main") -> Any:
    return await _bodies[body]()


class FlowBench:
    """A workspace, and its last run.

    Args:
        root: The workspace's directory.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True)
        (root / "kitaru.toml").write_text('durability = "process"\nlinger = "50ms"\n')
        self._effects = root / "effects"

    # Running

    def start(self, body: Callable[[], Any]) -> Any:
        """Runs a flow with this body, plain or async, to its end."""
        if inspect.iscoroutinefunction(body):
            return asyncio.run(self.call(body))
        _bodies["main"] = body
        return _plain()

    async def call(self, body: Callable[[], Any], name: str = "main") -> Any:
        """Runs an async flow in the loop that runs; `name` tells several bodies apart."""
        _bodies[name] = body
        return await (_coroutine() if name == "main" else _coroutine(name))

    def handle(self, body: Callable[[], Any], name: str = "main") -> Any:
        """Starts a flow in the background; returns its handle."""
        _bodies[name] = body
        started = _coroutine if inspect.iscoroutinefunction(body) else _plain
        return started.start(name)

    def crash(self, body: Callable[[], Any], *, resume: bool = False) -> None:
        """Runs a flow, or resumes the last run, in a process that dies by SIGKILL in `die`."""
        self.in_child(lambda: self.resume(body) if resume else self.start(body))

    def in_child(self, action: Callable[[], Any]) -> None:
        """Does something in a forked process that must die by SIGKILL."""
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            # The test runner's own threads hold nothing that the child needs.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            global _dying
            _dying = True
            os.setsid()
            try:
                action()
            finally:
                os._exit(17)
        os.close(writing)
        ended = select.select([reading], [], [], _PATIENCE)[0]
        os.close(reading)
        if not ended:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert ended, "the child hangs"
        assert os.WIFSIGNALED(status), (
            f"the child ended by itself: {os.waitstatus_to_exitcode(status)}"
        )

    def die(self) -> None:
        """Kills this process, if it is one of `crash`."""
        if _dying:
            os.kill(os.getpid(), signal.SIGKILL)

    def resume(self, body: Callable[[], Any] | None = None, run: Any = None, **options: Any) -> Any:
        """Resumes a run, by default the last one, with another body if one is given."""
        if body is not None:
            _bodies["main"] = body
        return (run or self.run).resume(**options)

    # What happened

    def did(self, what: object) -> None:
        """Notes that something was executed, in whatever process."""
        with open(self._effects, "a") as file:
            file.write(f"{what}\n")

    @property
    def done(self) -> list[str]:
        """What was executed, in order."""
        return self._effects.read_text().splitlines() if self._effects.exists() else []

    @property
    def counts(self) -> Counter[str]:
        """How often each thing was executed."""
        return Counter(self.done)

    def forget(self) -> None:
        """Forgets what was executed."""
        self._effects.unlink(missing_ok=True)

    @property
    def workspace(self) -> Workspace:
        """The workspace, read afresh."""
        return Workspace(self.root)

    @property
    def run(self) -> Run:
        """The last run, read afresh."""
        return self.workspace.run()

    @property
    def files(self) -> Path:
        """The last run's `files/`."""
        return self.run.path / "files"

    def text(self, name: str) -> str:
        """What a file of the last run holds now."""
        return (self.files / name).read_text()

    def tree(self) -> dict[str, str]:
        """What `files/` of the last run hold."""
        return {
            str(path.relative_to(self.files)): path.read_text()
            for path in sorted(self.files.rglob("*"))
            if path.is_file()
        }

    def log(self, run: Run | None = None) -> list[str]:
        """The subjects of a run's commits, oldest first."""
        return [line.subject for line in (run or self.run).log()]

    def entry(self, step: int | str) -> Entry:
        """One entry of the last run."""
        return self.run.show(str(step)).entry

    def git(self, *args: str) -> str:
        """Runs plain git in the last run's directory, as a human does."""
        return git(self.run.path, *args)

    def refs(self) -> str:
        """Every ref of the last run, and where HEAD is."""
        return self.git("show-ref", "--head") + self.git("symbolic-ref", "-q", "HEAD")


def listing(root: Path) -> Listing:
    """Every file below a directory: inode, size, mode and time of change."""
    return {
        str(path.relative_to(root)): (found.st_ino, found.st_size, found.st_mode, found.st_mtime_ns)
        for path in [root, *root.rglob("*")]
        for found in [path.lstat()]
    }
