"""Reading a repository's objects through long-lived `git cat-file --batch` processes.

git knows loose objects, packs that come and go, and deltas; a request over a pipe costs a fraction
of a process. `cat-file` by id runs no filter, hook or textconv.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from kitaru_fs.errors import RunDamagedError
from kitaru_fs.quoting import printable

__all__ = ["ObjectReader"]

# So many requests of 41 bytes fit the smallest pipe (4096 bytes): writing them never blocks,
# however much of the answers is not read yet.
_WINDOW = 96
_CHUNK = 1 << 20
_ID = re.compile(r"[0-9a-f]{40}")


class _EndedError(Exception):
    """The git process ended instead of answering."""


class ObjectReader:
    """Reads objects by their ids. Any number of threads may use one at the same time.

    Args:
        command: The `git cat-file --batch` to run.
        environment: Makes the environment for it, each time one is started.
        directory: Where to run it.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Callable[[], dict[str, str]],
        directory: Path,
    ) -> None:
        self._command = list(command)
        self._environment = environment
        self._directory = directory
        self._idle: list[_Batch] = []
        self._guard = threading.Lock()
        self._owner = os.getpid()
        weakref.finalize(self, _end_all, self._idle)

    def __enter__(self) -> ObjectReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the idle git processes. A later read starts one again."""
        _end_all(self._idle)

    def read(self, sha: str) -> tuple[str, bytes]:
        """Reads one object.

        Args:
            sha: Its id, 40 hexadecimal digits.

        Returns:
            Its type (`blob`, `tree`, `commit`, `tag`) and its content.

        Raises:
            KeyError: There is no such object.
            RunDamagedError: It cannot be read.
        """
        for _, kind, data in self.read_many((sha,)):
            return kind, data
        raise KeyError(sha)

    def read_many(self, shas: Iterable[str]) -> Iterator[tuple[str, str, bytes]]:
        """Reads many objects, in the order asked, with many requests on their way at once.

        Args:
            shas: Their ids, 40 hexadecimal digits each.

        Yields:
            Each one's id, type and content.

        Raises:
            KeyError: There is no such object.
            RunDamagedError: One cannot be read.
        """
        source = iter(shas)
        waiting: deque[str] = deque()
        batch = self._borrow()
        try:
            while True:
                if len(waiting) <= _WINDOW // 2:
                    more = [_checked(sha) for sha in islice(source, _WINDOW - len(waiting))]
                    waiting.extend(more)
                    batch.ask(more)
                if not waiting:
                    return
                sha = waiting[0]
                try:
                    found = batch.answer()
                except _EndedError:
                    found = self._read_alone(sha)
                    batch.end()
                    batch = self._start()
                    batch.ask(list(waiting)[1:])
                # A pack that took the object in a moment ago may be new to a long-lived git.
                kind, data = found or self._read_alone(sha)
                waiting.popleft()
                yield sha, kind, data
        finally:
            self._give_back(batch, clean=not waiting)

    def stream(self, sha: str) -> Iterator[bytes]:
        """Reads one object in pieces, so that its size does not matter.

        Args:
            sha: Its id, 40 hexadecimal digits.

        Yields:
            Its content, a megabyte at a time.

        Raises:
            KeyError: There is no such object.
            RunDamagedError: It cannot be read.
        """
        batch = self._borrow()
        clean = False
        try:
            batch.ask([_checked(sha)])
            try:
                header = batch.header()
                if header is None:
                    clean = True
                    yield self._read_alone(sha)[1]
                    return
                left = header[1]
                while left > 0:
                    piece = batch.take(min(left, _CHUNK))
                    left -= len(piece)
                    yield piece
                batch.take(1)
                clean = True
            except _EndedError:
                raise self._unreadable(sha) from None
        finally:
            self._give_back(batch, clean=clean)

    def _borrow(self) -> _Batch:
        if self._owner != os.getpid():
            # After a fork the pipes are the parent's, and its other threads' lock is nobody's.
            self._guard = threading.Lock()
            self._idle = []
            self._owner = os.getpid()
            weakref.finalize(self, _end_all, self._idle)
        with self._guard:
            while self._idle:
                batch = self._idle.pop()
                if batch.runs():
                    return batch
                batch.end()
        return self._start()

    def _give_back(self, batch: _Batch, *, clean: bool) -> None:
        if clean and batch.owner == os.getpid():
            with self._guard:
                self._idle.append(batch)
        else:
            batch.end()

    def _start(self) -> _Batch:
        try:
            return _Batch(self._command, self._environment(), self._directory)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise RunDamagedError(
                f"{self._directory} is not there any more.", hint="`kitaru runs` lists the runs."
            ) from error

    def _read_alone(self, sha: str) -> tuple[str, bytes]:
        done = self._run_alone(sha)
        header, _, rest = done.stdout.partition(b"\n")
        words = header.decode("ascii", "replace").split(" ")
        if len(words) == 3 and len(rest) == int(words[2]) + 1:
            return words[1], rest[:-1]
        # git calls a damaged object missing as well, but complains.
        if done.returncode == 0 and words[-1] == "missing" and b"error:" not in done.stderr:
            raise KeyError(sha)
        raise self._unreadable(sha, done.stderr)

    def _run_alone(self, sha: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            self._command,
            input=sha.encode("ascii") + b"\n",
            capture_output=True,
            env=self._environment(),
            cwd=self._directory,
            check=False,
        )

    def _unreadable(self, sha: str, stderr: bytes | None = None) -> RunDamagedError:
        if stderr is None:
            stderr = self._run_alone(sha).stderr
        words = stderr.decode("utf-8", "replace").strip().splitlines()
        why = printable(words[0], 200) if words else "git ended without a word"
        return RunDamagedError(
            f"The object {sha} in {self._directory} cannot be read: {why}",
            hint="`kitaru doctor` checks the run and repairs what it can.",
        )


class _Batch:
    """One `git cat-file --batch` and its pipes; one user at a time."""

    def __init__(self, command: list[str], environment: dict[str, str], directory: Path) -> None:
        self.owner = os.getpid()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=1 << 16,
            env=environment,
            cwd=directory,
            start_new_session=True,  # Ctrl-C is for kitaru, not for its reader
        )

    def runs(self) -> bool:
        return self._process.poll() is None

    def ask(self, shas: list[str]) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        if shas:
            try:
                pipe.write("".join(f"{sha}\n" for sha in shas).encode("ascii"))
                pipe.flush()
            except (BrokenPipeError, ValueError):
                return  # the answer will say that it ended

    def answer(self) -> tuple[str, bytes] | None:
        """The next object; None where git does not have it."""
        header = self.header()
        if header is None:
            return None
        data = self.take(header[1] + 1)
        return header[0], data[:-1]

    def header(self) -> tuple[str, int] | None:
        pipe = self._process.stdout
        assert pipe is not None
        line = pipe.readline()
        if not line.endswith(b"\n"):
            raise _EndedError
        words = line.decode("ascii", "replace").split()
        return (words[1], int(words[2])) if len(words) == 3 else None

    def take(self, size: int) -> bytes:
        pipe = self._process.stdout
        assert pipe is not None
        data = pipe.read(size)
        if len(data) != size:
            raise _EndedError
        return data

    def end(self) -> None:
        if self.owner != os.getpid():
            return
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                continue  # what it was not asked yet does not matter any more
        self._process.wait()


def _end_all(idle: list[_Batch]) -> None:
    while idle:
        idle.pop().end()


def _checked(sha: str) -> str:
    if not _ID.fullmatch(sha):
        raise ValueError(f"{sha!r} is not an object's id")
    return sha
