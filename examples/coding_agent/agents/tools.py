"""The tools of a coding agent: it sees and changes one directory, and runs that project's tests.

Every path that the model gives is taken relative to the root and may not lead out of it, neither by
`..` nor through a symbolic link.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic_ai import FunctionToolset, Tool, ToolFailed

MAX_TEXT = 60_000
"""Characters of one file, or of one test run, that a tool hands to the model."""
MAX_LISTED = 500
MAX_HITS = 100
SKIPPED = {".git", ".hg", ".venv", "node_modules", "__pycache__"}


@dataclass(frozen=True)
class Tools:
    """What the agent can do in the directory that `root` gives.

    `root` is a function because a durable run moves: its directory is asked for at each call.
    """

    root: Callable[[], Path]
    test_timeout: float = 60.0
    """Seconds after which a test run is stopped."""
    pace: float = 0.0
    """Seconds between the two halves of a write (see `_write`)."""

    def list_files(self, path: str = ".") -> str:
        """List all files below a directory, one path a line.

        Args:
            path: The directory, relative to the project; `.` is the whole project.
        """
        start = self._inside(path)
        if not start.is_dir():
            raise ToolFailed(f"{path} is not a directory")
        names = [self._name(file) for file in project_files(start)]
        if len(names) > MAX_LISTED:
            names = [*names[:MAX_LISTED], f"(and {len(names) - MAX_LISTED} more)"]
        return "\n".join(names) or "(no files)"

    def read_file(self, path: str) -> str:
        """Read a text file.

        Args:
            path: The file, relative to the project.
        """
        text = self._read(path)
        if len(text) > MAX_TEXT:
            return f"{text[:MAX_TEXT]}\n(cut: the file has {len(text)} characters)"
        return text

    def search(self, pattern: str, path: str = ".") -> str:
        """Search the files for a regular expression; gives `path:line: text` for each line found.

        Args:
            pattern: A Python regular expression, matched anywhere in a line.
            path: The directory or file to search in.
        """
        try:
            wanted = re.compile(pattern)
        except re.error as error:
            raise ToolFailed(f"{pattern!r} is not a regular expression: {error}") from None
        start = self._inside(path)
        hits: list[str] = []
        for file in [start] if start.is_file() else project_files(start):
            try:
                lines = file.read_text("utf-8").splitlines()
            except (UnicodeDecodeError, OSError):
                continue
            name = self._name(file)
            hits += [
                f"{name}:{n}: {line}" for n, line in enumerate(lines, 1) if wanted.search(line)
            ]
            if len(hits) > MAX_HITS:
                return "\n".join([*hits[:MAX_HITS], "(more lines match: narrow the pattern)"])
        return "\n".join(hits) or "(no line matches)"

    async def write_file(self, path: str, text: str) -> str:
        """Write a whole file; it is made if it is not there.

        Args:
            path: The file, relative to the project.
            text: All that the file is to hold.
        """
        target = self._inside(path)
        if target.is_dir():
            raise ToolFailed(f"{path} is a directory")
        target.parent.mkdir(parents=True, exist_ok=True)
        await self._write(target, text)
        return f"wrote {len(text.splitlines())} lines to {path}"

    async def replace_in_file(self, path: str, old: str, new: str) -> str:
        """Replace a piece of a file. The old text must be in the file exactly once.

        Args:
            path: The file, relative to the project.
            old: The text to replace, with its indentation, with as many lines as make it unique.
            new: The text to put in its place.
        """
        text = self._read(path)
        found = text.count(old) if old else 0
        if found != 1:
            raise ToolFailed(
                f"{path} has the old text {found} times, not once: nothing was changed"
            )
        await self._write(self._inside(path), text.replace(old, new))
        return f"replaced in {path}, line {text[: text.index(old)].count(chr(10)) + 1}"

    async def run_tests(self) -> str:
        """Run all tests of the project; gives the exit status and what the tests printed."""
        root = self.root().resolve()
        # Bytecode is off: it would be one more changed file, and stale after a quick second edit.
        env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "NO_COLOR": "1"}
        status = f"stopped after {self.test_timeout:g} s: the tests hang"
        # A file, not a pipe: what a test leaves running would hold a pipe open.
        with tempfile.TemporaryFile() as printed:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "unittest", "-v"),
                cwd=root,
                env=env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=printed,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                async with asyncio.timeout(self.test_timeout):
                    status = f"exit status {await process.wait()}"
            except TimeoutError:
                pass
            finally:
                # The whole group, also when the call was cancelled: a test may have started others.
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
            # A character is four bytes at most.
            printed.seek(max(printed.seek(0, os.SEEK_END) - 4 * MAX_TEXT, 0))
            text = printed.read().decode("utf-8", "replace")
        output = text.replace(f"{root}{os.sep}", "")
        if len(output) > MAX_TEXT:
            output = f"(cut)\n{output[-MAX_TEXT:]}"
        return f"{status}\n{output}"

    def toolset(self) -> FunctionToolset[object]:
        """The tools, ready for `Agent(toolsets=[...])`. Those that write run one at a time."""
        return FunctionToolset(
            [
                Tool(self.list_files),
                Tool(self.read_file),
                Tool(self.search),
                Tool(self.write_file, sequential=True),
                Tool(self.replace_in_file, sequential=True),
                Tool(self.run_tests, sequential=True),
            ],
            id="project",
        )

    def _inside(self, path: str) -> Path:
        root = self.root().resolve()
        try:
            target = (root / path).resolve()
        except (ValueError, RuntimeError, OSError) as error:
            raise ToolFailed(f"{path!r} is not a usable path: {error}") from None
        if target != root and root not in target.parents:
            raise ToolFailed(f"{path} is outside of the project")
        if ".git" in target.relative_to(root).parts:
            raise ToolFailed(f"{path} belongs to git, not to the project")
        return target

    def _name(self, file: Path) -> str:
        return file.relative_to(self.root().resolve()).as_posix()

    def _read(self, path: str) -> str:
        try:
            # Bytes, not text mode: an edit must keep the file's own line ends.
            return self._inside(path).read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            raise ToolFailed(f"{path} is not a text file") from None
        except OSError as error:
            raise ToolFailed(f"cannot read {path}: {error.strerror}") from None

    async def _write(self, target: Path, text: str) -> None:
        # In place and in two halves, with no temporary file and no rename: a process killed here
        # leaves half a file, and it is the run's commit, not this code, that makes a step atomic.
        # `pace` only widens that moment so that a person can hit it.
        data = text.encode("utf-8")
        with target.open("wb") as stream:
            stream.write(data[: len(data) // 2])
            stream.flush()
            await asyncio.sleep(self.pace)
            stream.write(data[len(data) // 2 :])


def project_files(start: Path) -> Iterator[Path]:
    """The regular files below a directory, in order, without those of tools (`.git`, caches)."""
    for folder, folders, names in os.walk(start):
        folders[:] = sorted(set(folders) - SKIPPED)
        for name in sorted(names):
            file = Path(folder, name)
            if not file.is_symlink():
                yield file
