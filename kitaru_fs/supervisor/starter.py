"""Starting the processes that drive runs, each in a session of its own.

They are children of a process that has imported what they need (`cli.warm`): forking one takes
milliseconds where starting Python and importing takes a large part of a second. Should that process
end, another is started; what it had started goes on.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

__all__ = ["Ended", "Starter", "errors_in", "needed_modules"]


_NEEDED = (
    "kitaru_fs.cli.program",
    "kitaru_fs.cli.resume",
    "kitaru_fs.cli.driving",
    "kitaru_fs.engine.asking",
    "kitaru_fs.engine.protocol",
    "kitaru_fs.engine.runner",
    "kitaru_fs.engine.unknown",
    "kitaru_fs.flows",
    "kitaru_fs.logs.capture",
    "kitaru_fs.logs.keeper",
    "kitaru_fs.mapping",
    "kitaru_fs.rundir.codecheck",
    "kitaru_fs.sync",
    "kitaru_fs.targets.launching",
    "kitaru_fs.values.schema",
    "kitaru_fs.workspace",
    "ahocorasick_rs",
    "importlib.util",
    "tomllib",
    "watchfiles",
)


class Ended(NamedTuple):
    """A process that ended.

    Attributes:
        run: The run that it drove.
        status: Its exit status; negative for a signal, None where it could not be started, or
            nobody knows how it ended.
    """

    run: str
    status: int | None


class Starter:
    """Starts processes and tells of their ends.

    Args:
        workspace: The workspace's directory, their working directory.
        command: What precedes a run's directory on their command line.
        modules: What is imported before.
        changed: Told the descriptor to be listened to, when that is another.
    """

    def __init__(
        self,
        workspace: Path,
        modules: Sequence[str],
        changed: Callable[[socket.socket | None], None],
    ) -> None:
        self._workspace = workspace
        self._modules = modules
        self._changed = changed
        self._server: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._rest = b""
        self._pids: dict[str, int] = {}

    @property
    def pids(self) -> Mapping[str, int]:
        """The processes that go on, by run; 0 for one that is being started."""
        return self._pids

    def warm_up(self) -> None:
        """Starts the process that starts the others, if it is not there."""
        if self._control is not None:
            return
        ours, theirs = socket.socketpair()
        with theirs:
            self._server = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "kitaru_fs.cli.warm",
                    str(theirs.fileno()),
                    *self._modules,
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd=self._workspace,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self._control, self._rest = ours, b""
        self._changed(ours)

    def start(
        self, run: str, args: Sequence[str], stderr: Path, environment: Mapping[str, str]
    ) -> None:
        """Starts a process that drives a run.

        Args:
            run: The run's id.
            args: Its command line.
            stderr: Where its standard error goes.
            environment: Variables beside this process's.

        Raises:
            OSError: No process is to be had.
        """
        self.warm_up()
        self._pids[run] = 0
        self._send(
            {
                "run": run,
                "args": list(args),
                "stderr": str(stderr),
                "environment": dict(environment),
            }
        )

    def signal(self, run: str, number: int) -> None:
        """Sends a run's process a signal, if it goes on."""
        if run in self._pids:
            self._send({"run": run, "signal": int(number)})

    def events(self) -> list[Ended]:
        """Returns what ended since the last call."""
        if self._control is None:
            return []
        try:
            data = self._control.recv(1 << 16, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            return self._lost()
        *lines, self._rest = (self._rest + data).split(b"\n")
        ended: list[Ended] = []
        for line in lines:
            message: dict[str, Any] = msgspec.json.decode(line)
            run, pid = message["run"], message["pid"]
            if "status" not in message and pid:
                self._pids[run] = pid
            elif self._pids.get(run) in (0, pid):
                del self._pids[run]
                ended.append(Ended(run, message.get("status")))
        return ended

    def close(self) -> None:
        """Lets go of the processes; what goes on goes on."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._server is not None:
            self._server.wait()

    def _lost(self) -> list[Ended]:
        """The process that starts the others ended: what it started goes on, unseen from here."""
        assert self._control is not None
        self._changed(None)
        self._control.close()
        self._control = None
        if self._server is not None:
            self._server.wait()
        ended = [Ended(run, None) for run in self._pids]
        self._pids.clear()
        return ended

    def _send(self, message: dict[str, Any]) -> None:
        # If it has ended, its end is noticed where its messages are read.
        with contextlib.suppress(OSError):
            if self._control is not None:
                self._control.sendall(msgspec.json.encode(message) + b"\n")


def errors_in(path: Path) -> dict[str, str] | None:
    """Returns the error that a process wrote to its standard error as JSON; None if it wrote none.

    Args:
        path: Where that went.
    """
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - (1 << 16)))
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        with contextlib.suppress(msgspec.MsgspecError):
            return msgspec.json.decode(line, type=dict[str, dict[str, str]]).get("error")
    return None


def needed_modules(workspace: Path) -> list[str]:
    """Returns what every run needs, and where agents are used, what those need."""
    for file in sorted((workspace / "agents").rglob("*.py")):
        with contextlib.suppress(OSError):
            if b"pydantic_ai" in file.read_bytes():
                return [*_NEEDED, "pydantic_ai", "kitaru_fs.pydantic_ai"]
    return [*_NEEDED]
