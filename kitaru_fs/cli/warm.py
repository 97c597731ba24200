"""A process that has imported what runs need, and forks one for each that is to be driven.

The supervisor starts it as `python -m kitaru_fs.cli.warm DESCRIPTOR MODULE...` and talks to it over
a socket, one JSON object a line:

    -> {"run", "args", "stderr", "environment"}    drive a run with this command line
    -> {"run", "signal"}                           send its process a signal
    <- {"run", "pid"}                              its process was started; 0: it could not be
    <- {"run", "pid", "status"}                    it ended; a negative status is a signal

The user's own modules are imported by the runs alone, afresh. It ends when the supervisor does;
what it started goes on.
"""

from __future__ import annotations

import contextlib
import gc
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
from importlib import import_module
from types import FrameType
from typing import Any

import msgspec

__all__ = ["main"]

_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Server:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._rest = b""
        self._runs: dict[int, str] = {}
        self._woken, self._waking = socket.socketpair()
        for end in (self._woken, self._waking):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, _nothing)
        signal.set_wakeup_fd(self._waking.fileno())
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)

    def serve(self) -> dict[str, Any] | None:
        """Serves until the supervisor ends; in a process that it forks, returns what to drive."""
        with selectors.DefaultSelector() as ready:
            ready.register(self._control, selectors.EVENT_READ)
            ready.register(self._woken, selectors.EVENT_READ)
            while True:
                self._reap()
                for key, _ in ready.select():
                    if key.fileobj is self._woken:
                        with contextlib.suppress(BlockingIOError):
                            self._woken.recv(4096)
                        continue
                    data = self._control.recv(1 << 16)
                    if not data:
                        return None
                    *lines, self._rest = (self._rest + data).split(b"\n")
                    for line in lines:
                        request = msgspec.json.decode(line)
                        if self._handle(request):
                            return request

    def leave(self) -> None:
        """In a forked process: nothing of the server's stays."""
        signal.set_wakeup_fd(-1)
        for number in (*_IGNORED, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        for end in (self._control, self._woken, self._waking):
            end.close()

    def _handle(self, request: dict[str, Any]) -> bool:
        """Does what is asked; says whether this is the process that it forked for that."""
        run = request["run"]
        if "signal" in request:
            for pid in [pid for pid, driven in self._runs.items() if driven == run]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, request["signal"])
            return False
        try:
            # Threads do not survive a fork, and what they hold stays held.
            pid = os.fork() if threading.active_count() == 1 else _spawn(request)
        except OSError:
            self._tell({"run": run, "pid": 0})
            return False
        if pid == 0:
            return True
        self._runs[pid] = run
        self._tell({"run": run, "pid": pid})
        return False

    def _reap(self) -> None:
        while self._runs:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            run = self._runs.pop(pid, None)
            if run is not None:
                code = os.waitstatus_to_exitcode(status)
                self._tell({"run": run, "pid": pid, "status": code})

    def _tell(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            self._control.sendall(msgspec.json.encode(message) + b"\n")


def _nothing(_: int, __: FrameType | None) -> None:
    """Only so that a child's end writes to the wakeup descriptor."""


def main() -> None:
    """Serves a supervisor."""
    control = socket.socket(fileno=int(sys.argv[1]))
    for name in sys.argv[2:]:
        with contextlib.suppress(ImportError):
            import_module(name)
    server = _Server(control)
    # What is there now is shared with the processes that are forked, as long as nobody touches it.
    gc.collect()
    gc.freeze()
    request = server.serve()
    if request is not None:
        server.leave()
        _become(request)


def _become(request: dict[str, Any]) -> None:
    from kitaru_fs.cli import main as run_command

    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    errors = _open_errors(request["stderr"])
    for number, descriptor in ((0, nothing), (1, nothing), (2, errors)):
        os.dup2(descriptor, number)
    os.close(nothing)
    os.close(errors)
    os.environ.update(request["environment"])
    sys.argv = ["kitaru", *request["args"]]
    run_command(request["args"])


def _spawn(request: dict[str, Any]) -> int:
    errors = _open_errors(request["stderr"])
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "kitaru_fs", *request["args"]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=os.environ | request["environment"],
            start_new_session=True,
        )
    finally:
        os.close(errors)
    # It is waited for by its pid, with all others.
    process.returncode = 0
    return process.pid


def _open_errors(path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o600)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


if __name__ == "__main__":
    main()
