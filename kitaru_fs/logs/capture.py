"""Catching what a process and all that it starts print, for who keeps it (`keeper`).

While a run is driven, the standard output and the standard error are a pipe. What Python prints
names the step that it is of; what a subprocess prints is told by when it comes. The keeper is
forked while this process has nothing but its command line; should somebody end it, a thread here
goes on in its place, so no print fails.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from kitaru_fs.clock import nonce
from kitaru_fs.engine.context import current_attempt, current_execution
from kitaru_fs.logs.frames import FrameWriter
from kitaru_fs.quoting import printable

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    from kitaru_fs.logs.keeper import OpenScreen
    from kitaru_fs.redaction.credentials import Credentials
    from kitaru_fs.redaction.finder import Finder, Known
    from kitaru_fs.rundir.events import Event, Listener

__all__ = ["Capture"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LONGEST_KEY = 120
_LEFTOVERS_PATIENCE = 0.5
_PIECE = 1024
_STARTS = frozenset({"subprocess.Popen", "os.system", "os.fork", "os.forkpty", "os.posix_spawn"})


class Capture:
    """While it is entered, what a run prints can be kept. Enter it before anything is begun.

    Args:
        open_screen: Opens what a human sees, in the keeper's process; None if nobody sees anything.
    """

    def __init__(self, open_screen: OpenScreen | None) -> None:
        self._open_screen = open_screen
        self._nonce = nonce()
        self._frames = FrameWriter(self._nonce)
        self._reading = self._writing = self._child = -1
        self._control: socket.socket | None = None
        self._asked = False
        self._credentials: Credentials | None = None
        self._finder: Finder | None = None
        self._passed: set[Known] = set()
        self._drained = threading.Event()

    def __enter__(self) -> Capture:
        self._reading, self._writing = os.pipe()
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._child = _fork_aside()
            except OSError:
                ours.close()  # no process is to be had: a thread does it
                return self
            if self._child == 0:
                self._become_keeper(theirs)
        self._control = ours
        return self

    def __exit__(self, *_: object) -> None:
        writing, self._writing = self._writing, -1
        os.close(writing)
        # A thread that keeps in the keeper's place has its own.
        os.close(self._reading)
        if self._control is not None:
            self._reap(self._control)
            self._control.close()

    @contextmanager
    def keeping(self, run: Path, limit: int, credentials: Credentials) -> Generator[Listener]:
        """While it is entered, all that is printed is kept, and shown on stderr alone.

        Args:
            run: The run's directory.
            limit: How many bytes of it are kept.
            credentials: What is not kept of it.

        Yields:
            The listener of the run's events.
        """
        streams = sys.stdout, sys.stderr
        _flush(*streams)
        is_terminal = os.isatty(2)
        kept = os.dup(1), os.dup(2)
        begin = {"runs": str(run.parent), "run": run.name, "limit": int(limit)}
        self._credentials = credentials
        # Until the run was taken up: its modules are imported, as they were before.
        self._send({"kind": "begin", **begin, "replays": True})
        for pattern in credentials.patterns:
            self._teach("", str(pattern.pattern))
        self._pass_secrets()
        sys.addaudithook(self._audit)
        shown = os.dup(2) if self._open_screen is not None else os.open(os.devnull, os.O_WRONLY)
        threading.Thread(target=self._watch, args=(begin, shown), daemon=True).start()
        for number in (1, 2):
            os.dup2(self._writing, number)
        sys.stdout = _Marked.stream(self, 1, is_terminal)
        sys.stderr = _Marked.stream(self, 2, is_terminal)
        try:
            yield self._tell
        finally:
            _flush(sys.stdout, sys.stderr)
            sys.stdout, sys.stderr = streams
            for number, descriptor in zip((1, 2), kept, strict=True):
                os.dup2(descriptor, number)
                os.close(descriptor)
            self._asked = True
            self._send({"kind": "drain"})
            self._drained.wait()

    def driving(self, *, replays: bool, secrets: Iterable[Known]) -> None:
        """Says that the run was taken up.

        Args:
            replays: It replays a journal first.
            secrets: What else is not kept.
        """
        self._send({"kind": "driving", "replays": replays})
        self._pass(secrets)

    def printed(self, text: bytes) -> None:
        """Passes on what Python code printed, with the step that it is in."""
        execution, attempt = current_execution(), current_attempt()
        self._pass_secrets()
        if execution is None:
            self._write(text)
            return
        header: dict[str, Any] = {"kind": "text", "run": execution.run}
        if attempt is not None:
            header |= {"key": _short(attempt.call.key), "attempt": attempt.number}
            header["name"] = printable(attempt.call.name, 200)
        elif not execution.live:
            header["replayed"] = True
        for frame in self._frames.printed(header, text):
            self._write(frame)

    # Inside

    def _audit(self, event: str, _: object) -> None:
        """What a process that is started here prints may be what was put in its environment."""
        if event in _STARTS and self._writing >= 0:
            self._pass_secrets()

    def _pass_secrets(self) -> None:
        """Tells the keeper what the environment holds, where that is new."""
        finder = self._credentials.finder() if self._credentials is not None else None
        if finder is not None and finder is not self._finder:
            self._finder = finder
            self._pass(finder.known)

    def _pass(self, secrets: Iterable[Known]) -> None:
        for secret in secrets:
            if secret not in self._passed:
                self._passed.add(secret)
                self._teach(*secret)

    def _teach(self, name: str, whole: str) -> None:
        """Passes on what the keeper must not keep: a credential, or without a name a pattern."""
        value = whole.encode("utf-8", "surrogateescape")
        for start in range(0, len(value), _PIECE):
            header = {"kind": "learn", "name": name, "more": start + _PIECE < len(value)}
            for frame in self._frames.printed(header, value[start : start + _PIECE]):
                self._write(frame)

    def _tell(self, event: Event) -> None:
        self._pass_secrets()
        short = event._replace(
            key=_short(event.key),
            name=printable(event.name, 200),
            text=printable(event.text, 300),
        )
        self._send({"kind": "event", "event": msgspec.to_builtins(short)})

    def _send(self, header: dict[str, Any]) -> None:
        self._write(self._frames.one(header))

    def _write(self, data: bytes) -> None:
        # A frame goes in one piece, so there is no lock: a forked child's might never be released.
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(self._writing, data) :]

    def _watch(self, begin: dict[str, Any], stderr: int) -> None:
        """Waits for the keeper's answer; if there is no keeper, or it was ended, does its work."""
        from kitaru_fs.logs.keeper import Keeper

        with open(stderr, "wb", buffering=0) as shown:
            if self._control is not None:
                with contextlib.suppress(OSError):
                    if self._control.recv(1):
                        self._drained.set()
                        return
            pipe = os.dup(self._reading)
            keeper = Keeper(pipe, self._nonce, shown, None, self._drained.set)
            keeper.begin(**begin, replays=False)
            if self._asked:
                self._send({"kind": "drain"})  # the keeper may have read it, and not answered
            keeper.keep()

    def _reap(self, control: socket.socket) -> None:
        """Waits for the keeper's end, if nothing that a step started still prints."""
        control.settimeout(_LEFTOVERS_PATIENCE)
        with contextlib.suppress(OSError):
            if control.recv(1) == b"":
                # It may have been waited for already, by a flow that waits for any child.
                os.waitpid(self._child, 0)

    def _become_keeper(self, control: socket.socket) -> None:
        """Makes this forked process the keeper; ends it."""
        try:
            _close_all_but({self._reading, control.fileno()})
            from kitaru_fs.logs.keeper import Keeper

            shown = 2 if self._open_screen is not None else 1
            with open(shown, "wb", buffering=0, closefd=False) as stderr:
                keeper = Keeper(
                    self._reading,
                    self._nonce,
                    stderr,
                    self._open_screen,
                    lambda: control.send(b"."),
                    control.fileno(),
                )
                keeper.keep()
        except BaseException:
            if os.environ.get("KITARU_DEBUG") == "1":
                traceback.print_exc()
        finally:
            os._exit(0)


class _Marked(io.BufferedIOBase):
    """What is below `sys.stdout` while a run is driven."""

    def __init__(self, capture: Capture, number: int, is_terminal: bool) -> None:
        self._capture = capture
        self._number = number
        self._is_terminal = is_terminal

    @classmethod
    def stream(cls, capture: Capture, number: int, is_terminal: bool) -> io.TextIOWrapper:
        """Returns a text stream above one.

        Args:
            capture: Where what is printed goes.
            number: The descriptor that it stands for.
            is_terminal: What it says of itself: who sees it in the end is a terminal.
        """
        raw = cls(capture, number, is_terminal)
        return io.TextIOWrapper(
            raw, encoding="utf-8", errors="backslashreplace", line_buffering=True
        )

    @property
    def name(self) -> str:
        return "<stdout>" if self._number == 1 else "<stderr>"

    def writable(self) -> bool:
        return True

    def write(self, buffer: ReadableBuffer, /) -> int:
        data = bytes(buffer)
        self._capture.printed(data)
        return len(data)

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return self._is_terminal


def _flush(*streams: Any) -> None:
    for stream in streams:
        with contextlib.suppress(OSError, ValueError):
            stream.flush()


def _short(key: str) -> str:
    """A key that a frame has room for."""
    return key if len(key) <= _LONGEST_KEY else hashlib.sha256(key.encode()).hexdigest()


def _fork_aside() -> int:
    """Forks a process in a session of its own; returns its pid, in that process 0.

    A session of its own: Ctrl-C, and who ends what a dead holder left running, must not reach it.

    Raises:
        OSError: No process is to be had.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        child = os.fork()
        if child == 0:
            os.setsid()
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_IGN)
        return child
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _close_all_but(spared: set[int]) -> None:
    """Closes every descriptor but stderr and some others; the first two are of `/dev/null`."""
    low = 3
    for number in sorted(spared):
        os.closerange(low, number)
        low = number + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX"))
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.close(nothing)
    os.chdir("/")
