"""Running git on a run, so that nothing planted below the run is ever executed.

A step never runs git; this is for reading, for `export` and for `kitaru git`.

What keeps it safe: the environment is built from nothing (no `GIT_*`, no home, no user or system
config); the run's own `config` and `info/attributes` are compared with the canonical bytes before
each call (`gitconfig`), and where they differ git is pointed at a canonical copy instead
(`GIT_COMMON_DIR`, in a temporary directory: reading writes nothing into a run); and `-c` switches
off what could start a program. Only git's own commands are run, found on absolute entries of
`PATH` that are not below the run.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from kitaru_fs.errors import GitError, RunDamagedError, StorageError, UsageError
from kitaru_fs.git import config as gitconfig
from kitaru_fs.git.catfile import ObjectReader
from kitaru_fs.git.identity import user_identity
from kitaru_fs.git.index import gitlinks
from kitaru_fs.git.layout import check_layout
from kitaru_fs.git.program import BASE_ENVIRONMENT, check_git_version, clean_path, find_git
from kitaru_fs.quoting import printable, quote_path

__all__ = ["Completed", "Git", "ObjectReader", "check_git_version", "user_identity"]

_OVERRIDES = {
    "core.attributesFile": "/dev/null",
    "core.excludesFile": "/dev/null",
    "core.fsmonitor": "false",
    "core.hooksPath": "/dev/null",
    "core.pager": "cat",
    "core.sshCommand": "false",
    "core.useReplaceRefs": "false",
    "commit.gpgSign": "false",
    "credential.helper": "",
    "diff.ignoreSubmodules": "dirty",
    "fetch.recurseSubmodules": "false",
    "gc.auto": "0",
    "gpg.program": "false",
    "gpg.ssh.program": "false",
    "gpg.x509.program": "false",
    "index.threads": "1",  # then git reads what `gitlinks` reads
    "log.showSignature": "false",
    "maintenance.auto": "false",
    "protocol.allow": "never",
    "push.gpgSign": "false",
    "status.submoduleSummary": "false",
    "submodule.recurse": "false",
    "tag.gpgSign": "false",
}
# Options and a command that have git enter nested repositories and obey their config; git takes
# abbreviations as well.
_INTO_SUBMODULES = re.compile(
    r"--(?:sub(?:m(?:o(?:d(?:u(?:le?)?)?)?)?)?|(?:no-)?recurse(?:-s\w*)?|ignore-su\w*)(?:=.*)?\Z"
)
# A human who types `kitaru git RUN -- fetch` means the network; `ext::` stays forbidden.
_INTERACTIVE_OVERRIDES = {
    "core.sshCommand": "ssh",
    "protocol.allow": "always",
    "protocol.ext.allow": "never",
}
_TERMINAL_VARIABLES = (
    *("COLORTERM", "COLUMNS", "LINES", "NO_COLOR", "TERM", "TZ", "SSH_AUTH_SOCK"),
    *("all_proxy", "http_proxy", "https_proxy", "no_proxy"),
    *("ALL_PROXY", "HTTPS_PROXY", "NO_PROXY"),
)


class Completed(NamedTuple):
    """A git command that ended: its exit status and what it wrote."""

    status: int
    stdout: bytes
    stderr: bytes


class Git:
    """git on one run.

    Args:
        git_dir: The run's `.git`.
        work_tree: The run's directory.
        overrides: `-c` settings on top of the safe ones, such as `{"protocol.allow": "always"}`.
    """

    def __init__(
        self, git_dir: Path, work_tree: Path, *, overrides: Mapping[str, str] | None = None
    ) -> None:
        self.git_dir = git_dir.absolute()
        self.work_tree = work_tree.absolute()
        self._overrides = _OVERRIDES | dict(overrides or {})
        self._substitute: Path | None = None

    def __enter__(self) -> Git:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the object reader's processes; the object can be used again."""
        reader = self.__dict__.get("cat_file")
        if isinstance(reader, ObjectReader):
            reader.close()

    @cached_property
    def _path(self) -> str:
        return clean_path(os.environ, self.work_tree)

    @cached_property
    def cat_file(self) -> ObjectReader:
        """The reader of the run's objects; its git starts at the first read."""
        # A low threshold makes git stream large blobs instead of holding them in memory, and small
        # windows keep the pages of a large pack from being counted as its memory.
        streaming = (
            "core.bigFileThreshold=4m",
            "core.packedGitWindowSize=16m",
            "core.packedGitLimit=128m",
        )
        options = [part for setting in streaming for part in ("-c", setting)]
        command = self.command(*options, "cat-file", "--batch")
        return ObjectReader(command, self.environment, self.git_dir)

    def command(self, *args: str) -> list[str]:
        """The whole command line for a git command, with the safe settings.

        Raises:
            GitError: git is missing or too old.
        """
        check_git_version(self._path)
        settings = [part for pair in self._overrides.items() for part in ("-c", "=".join(pair))]
        return [find_git(self._path), *settings, *args]

    def environment(self) -> dict[str, str]:
        """The environment for a git command, with the run's config as it is now checked.

        Raises:
            RunDamagedError: The run's `.git` is no plain repository of its own.
            StorageError: The run's config was tampered with, and no temporary directory could be
                made to work without it.
        """
        check_layout(self.git_dir)
        return (
            BASE_ENVIRONMENT
            | {"PATH": self._path}
            | {"GIT_DIR": str(self.git_dir), "GIT_WORK_TREE": str(self.work_tree)}
            | {"GIT_CEILING_DIRECTORIES": str(self.work_tree)}
            | self._common_directory()
        )

    def execute(
        self,
        *args: str,
        input: bytes | None = None,
        objects_too: Path | Sequence[Path] = (),
        without_index: bool = False,
    ) -> Completed:
        """Runs a git command, whatever its exit status.

        Where the index names a nested repository as such, git gets an empty index: it would enter
        that repository and run what its config says.

        Args:
            args: A command of git's own and its arguments.
            input: Its standard input; None for an empty one.
            objects_too: Other repositories' `objects`, whose objects it sees as well.
            without_index: It gets an empty index.

        Raises:
            GitError: git is missing or too old.
            RunDamagedError: The run's directory is gone.
            UsageError: The arguments would have git enter nested repositories.
        """
        _refuse_submodules(args)
        command = self.command(*args)
        environment = self.environment()
        # It is read at its end: git need not write each line for itself.
        environment["GIT_FLUSH"] = "0"
        if without_index or gitlinks(self.git_dir):
            # A file that is not there; of an empty one git says that it is damaged.
            environment["GIT_INDEX_FILE"] = str(self.git_dir / f"no-index-{os.urandom(8).hex()}")
        if objects_too:
            others = [objects_too] if isinstance(objects_too, Path) else objects_too
            environment["GIT_ALTERNATE_OBJECT_DIRECTORIES"] = os.pathsep.join(map(str, others))
        try:
            done = subprocess.run(
                command,
                input=b"" if input is None else input,
                capture_output=True,
                env=environment,
                cwd=self.work_tree,
                check=False,
            )
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _no_directory(self.work_tree) from error
        return Completed(done.returncode, done.stdout, done.stderr)

    def run(
        self,
        *args: str,
        input: bytes | None = None,
        check: bool = True,
        objects_too: Path | Sequence[Path] = (),
    ) -> bytes:
        """Runs a git command and returns what it wrote to its standard output.

        Args:
            args: A command of git's own and its arguments.
            input: Its standard input; None for an empty one.
            check: Whether an exit status other than 0 is an error.
            objects_too: Other repositories' `objects`, whose objects it sees as well.

        Raises:
            GitError: git is missing, too old, or refused (with `check`).
            RunDamagedError: The run's directory is gone.
        """
        done = self.execute(*args, input=input, objects_too=objects_too)
        if check and done.status != 0:
            raise GitError(
                f"git {args[0] if args else ''} failed in {self.work_tree} (exit status "
                f"{done.status}): {_last_words(done.stderr)}",
                hint="`kitaru doctor` checks the run.",
            )
        return done.stdout

    def interactive(self, args: Sequence[str], *, identity: tuple[str, str] | None = None) -> int:
        """Runs the user's own git command on their terminal, for `kitaru git RUN -- ARGS`.

        Settings, hooks and programs of the run's and of the user's config stay off; the network
        is allowed, since they asked for it. Paths are relative to where they are in the run.

        Args:
            args: What to give to git.
            identity: The name and address for a commit that they make.

        Returns:
            git's exit status; 128 and the signal's number where a signal ended it.

        Raises:
            GitError: git is missing or too old.
            RunDamagedError: The run's config is not ours (`gitconfig.ensure_canonical` comes
                first), or its index names a nested repository as such.
            UsageError: The arguments would have git enter nested repositories.
        """
        _refuse_submodules(args)
        if not gitconfig.is_canonical(self.git_dir) and os.access(self.git_dir, os.W_OK):
            raise RunDamagedError(
                f"The git config in {self.git_dir} was changed.",
                hint="`kitaru doctor` puts it right and keeps the changed one aside.",
            )
        if nested := gitlinks(self.git_dir):
            name = quote_path(nested[0])
            raise RunDamagedError(
                f"The index in {self.git_dir} has the nested repository {name} as a submodule: "
                "git would run what its config says.",
                hint=f"`git update-index --force-remove {name}` in the run takes it out.",
                run=self.work_tree.name,
            )
        git = Git(self.git_dir, self.work_tree, overrides=self._overrides | _INTERACTIVE_OVERRIDES)
        environment = git.environment() | _terminal_environment(os.environ, git._path)
        if identity is not None:
            for role in ("AUTHOR", "COMMITTER"):
                environment[f"GIT_{role}_NAME"], environment[f"GIT_{role}_EMAIL"] = identity
        here = Path.cwd()
        inside = here.is_relative_to(self.work_tree.resolve())
        with subprocess.Popen(
            git.command(*args), env=environment, cwd=here if inside else self.work_tree
        ) as process:
            while True:
                # Ctrl-C goes to git and its pager as well: they decide whether to end.
                with contextlib.suppress(KeyboardInterrupt):
                    status = process.wait()
                    return status if status >= 0 else 128 - status

    def _common_directory(self) -> dict[str, str]:
        if gitconfig.is_canonical(self.git_dir):
            return {}
        if self._substitute is None or not self._substitute.is_dir():
            self._substitute = _make_substitute(self.git_dir)
            weakref.finalize(self, shutil.rmtree, self._substitute, ignore_errors=True)
        return {"GIT_COMMON_DIR": str(self._substitute)}


def _make_substitute(git_dir: Path) -> Path:
    """A directory with canonical config that leads to the run's objects and refs."""
    try:
        directory = Path(tempfile.mkdtemp(prefix="kitaru-git-"))
        for name, content in gitconfig.canonical_files().items():
            (directory / name).parent.mkdir(exist_ok=True)
            (directory / name).write_bytes(content)
        for name in ("objects", "refs", "packed-refs", "logs"):
            (directory / name).symlink_to(git_dir / name)
    except OSError as error:
        raise StorageError(
            f"The git config in {git_dir} was changed, and reading without it needs a temporary "
            f"directory, which could not be made: {error.strerror}.",
            hint="Make room there, or let `kitaru doctor` put the config right.",
        ) from error
    return directory


def _terminal_environment(environ: Mapping[str, str], path: str) -> dict[str, str]:
    result = {name: environ[name] for name in _TERMINAL_VARIABLES if name in environ}
    result["GIT_TERMINAL_PROMPT"] = "1"
    if sys.stdout.isatty() and shutil.which("less", path=path):
        secure = {"LESS": "FRX", "LESSSECURE": "1", "LESSCHARSET": "utf-8", "LESSHISTFILE": "-"}
        result |= {"GIT_PAGER": "less -FRX"} | secure
    return result


def _refuse_submodules(args: Sequence[str]) -> None:
    words = list(args)
    if "--" in words:
        words = words[: words.index("--")]
    values = {index + 1 for index, word in enumerate(words) if word in ("-c", "-C")}
    commands = [word for index, word in enumerate(words) if word[:1] != "-" and index not in values]
    refused = [word for word in words if _INTO_SUBMODULES.match(word)]
    if commands[:1] == ["submodule"] or refused:
        raise UsageError(
            f"`{printable((refused or commands)[0], 80)}` would have git enter nested repositories "
            "of the run and run what their config says.",
            hint="Leave it out; a run has no submodules.",
        )


def _last_words(stderr: bytes) -> str:
    lines = stderr.decode("utf-8", "replace").strip().splitlines()
    told = [line for line in lines if line.startswith(("fatal:", "error:"))] or lines[-1:]
    return printable(told[0] if told else "it did not say why", 300)


def _no_directory(path: Path) -> RunDamagedError:
    return RunDamagedError(f"{path} is not there any more.", hint="`kitaru runs` lists the runs.")
