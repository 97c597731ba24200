"""A run's `files/` as the environment that an agent works in: what Pydantic AI calls a workspace.

With it the file and shell tools of `pydantic-ai-harness` work on the run's files, and what they
change is committed with the tool's step.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.tools import AgentDepsT, RunContext
from pydantic_ai.workspaces import (
    LocalWorkspaceBackend,
    ReadOnlyWorkspace,
    Workspace,
    WorkspaceBackend,
    WorkspaceRef,
)

from kitaru_fs.engine.context import current_execution
from kitaru_fs.errors import UsageError
from kitaru_fs.holding.processes import run_environment

__all__ = ["FILES_REF", "FilesBackend", "RunFiles", "sandboxed"]

FILES_REF = WorkspaceRef(provider="kitaru-fs", id="files")
"""Names the files of whatever run an agent is in: a copy of a run works on its own."""


class FilesBackend(LocalWorkspaceBackend):
    """A run's `files/`. Commands start there; git in them never finds the run's own repository.

    Args:
        run_path: The run's directory.
        nonce: Marks what is started, so that it can be found and ended if this process dies.
        env: Variables for every command, beside `PATH`, `HOME` and the locale.
    """

    def __init__(
        self, run_path: Path, *, nonce: str = "", env: Mapping[str, str] | None = None
    ) -> None:
        ours = run_environment(run_path, nonce)
        super().__init__(run_path / "files", env={**(env or {}), **ours})

    @property
    def ref(self) -> WorkspaceRef:
        """What names the environment in messages: the same in every run."""
        return FILES_REF


def sandboxed(backend: WorkspaceBackend, run_path: Path, *, network: bool = False) -> Workspace:
    """Returns a workspace whose commands can write to `files/` alone, and see no run's record.

    They run in bubblewrap: the machine is there to read, without its `/tmp` and `/run`, and without
    the directory of the runs but for this one's `files/`.

    Args:
        backend: The run's files.
        run_path: The run's directory.
        network: Whether commands have the network.

    Raises:
        UsageError: bubblewrap, or the harness, is not installed.
    """
    if shutil.which("bwrap") is None:
        raise UsageError(
            "a sandbox was asked for, and bubblewrap (bwrap) is not on this machine",
            hint="install it (on Debian: apt install bubblewrap; Linux only), or run the agent's"
            " commands without one: RunFiles(sandbox=False)",
        )
    try:
        from pydantic_ai_harness.bubblewrap_sandbox import BubblewrapWorkspace
    except ImportError as error:
        raise UsageError(
            f"a sandbox was asked for, and it needs the extra `harness`: {error}",
            hint="pip install 'kitaru-fs[harness]'",
        ) from error
    runs, files = str(run_path.parent.resolve()), str((run_path / "files").resolve())
    hidden = ("--tmpfs", runs, "--bind", files, files, "--remount-ro", runs)
    return BubblewrapWorkspace(Workspace(backend), network=network, bwrap_args=hidden)


@dataclass
class RunFiles(AbstractCapability[AgentDepsT]):
    """Gives an agent in a flow the run's `files/` as its workspace.

        agent = Agent(
            "openai:gpt-5", name="coder",
            capabilities=[RunFiles(sandbox=True), FileSystem(), Shell(), KitaruDurability()],
        )

    Without a sandbox its commands reach whatever this process can.
    """

    _: KW_ONLY

    sandbox: bool = False
    """Whether commands and file tools run in bubblewrap, where only `files/` can be written and
    neither the run's `.git` nor its journal, nor any other run, is there."""

    network: bool = False
    """Whether commands in the sandbox have the network; without one they have it anyway."""

    read_only: bool = False
    """Whether the agent may only look."""

    env: Mapping[str, str] | None = None
    """Variables for every command, beside `PATH`, `HOME` and the locale."""

    id: str | None = "run_files"

    def get_workspace(
        self, ctx: RunContext[AgentDepsT], *, ref: WorkspaceRef | None
    ) -> WorkspaceBackend | None:
        """Returns the files of the run that the agent is in.

        Raises:
            UsageError: It is in none, or the sandbox that was asked for is not to be had.
        """
        if ref is not None and ref.provider != FILES_REF.provider:
            return None
        execution = current_execution()
        if execution is None:
            raise UsageError(
                "RunFiles: the agent runs outside a flow, so there are no files of a run",
                hint="run it in a function marked @flow, or give it LocalWorkspace(...) instead",
            )
        backend: WorkspaceBackend = FilesBackend(
            execution.path, nonce=execution.nonce, env=self.env
        )
        if self.sandbox:
            backend = sandboxed(backend, execution.path, network=self.network)
        if not self.read_only:
            return backend
        return ReadOnlyWorkspace(backend if isinstance(backend, Workspace) else Workspace(backend))
