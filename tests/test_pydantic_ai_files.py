"""A run's files as the workspace of its agents, with and without a sandbox."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
from agentbench import AgentBench
from packaging.requirements import Requirement
from plain_git import git
from pydantic_ai.workspaces import (
    Workspace,
    WorkspaceBackend,
    WorkspaceRef,
    WorkspaceUnavailableError,
)
from pydantic_ai.workspaces.conformance import WorkspaceBackendSuite

from kitaru_fs.errors import UsageError
from kitaru_fs.pydantic_ai.runfiles import FILES_REF, FilesBackend, sandboxed


def _is_pinned() -> bool:
    """Whether the harness is installed with the release of Pydantic AI that it asks for."""
    try:
        pinned = [Requirement(one) for one in requires("pydantic-ai-harness") or []]
    except PackageNotFoundError:
        return False
    ours = version("pydantic-ai-slim")
    return all(one.specifier.contains(ours) for one in pinned if one.name == "pydantic-ai-slim")


# Its sandbox is a workspace of its own, which newer releases may ask for more than it can.
needs_sandbox = pytest.mark.skipif(
    shutil.which("bwrap") is None or not _is_pinned(),
    reason="needs bubblewrap, and the harness with the release of Pydantic AI that it asks for",
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def run_path(tmp_path: Path) -> Path:
    path = tmp_path / "runs" / "one"
    for name in ("files", ".git", "journal"):
        (path / name).mkdir(parents=True)
    return path


class TestConformance(WorkspaceBackendSuite):
    """Pydantic AI's own rules for what an agent works in."""

    @pytest.fixture
    def has_real_posix_shell(self) -> bool:
        return True

    @pytest.fixture
    def backend(self, run_path: Path) -> WorkspaceBackend:
        return FilesBackend(run_path)

    @pytest.fixture
    def destructive_backend(self, tmp_path: Path) -> Callable[[], WorkspaceBackend]:
        def make() -> WorkspaceBackend:
            path = tmp_path / "runs" / "other"
            (path / "files").mkdir(parents=True)
            return FilesBackend(path)

        return make

    @pytest.fixture
    def attach_backend(
        self, run_path: Path, request: pytest.FixtureRequest
    ) -> Callable[[WorkspaceRef], WorkspaceBackend]:
        def attach(ref: WorkspaceRef) -> WorkspaceBackend:
            assert ref == FILES_REF
            other = run_path.parent / "other"
            return FilesBackend(other if "destroyed" in request.node.name else run_path)

        return attach

    @pytest.fixture
    def destroy_environment(self) -> Callable[[WorkspaceBackend], Awaitable[None]]:
        async def destroy(backend: WorkspaceBackend) -> None:
            try:
                shutil.rmtree(await backend.working_dir())
            except WorkspaceUnavailableError:
                pytest.fail("it was gone already")

        return destroy


@needs_sandbox
class TestConformanceOfTheSandbox(WorkspaceBackendSuite):
    """The same rules in bubblewrap."""

    @pytest.fixture
    def has_real_posix_shell(self) -> bool:
        return True

    @pytest.fixture
    def backend(self, run_path: Path) -> WorkspaceBackend:
        return sandboxed(FilesBackend(run_path), run_path)


@needs_sandbox
def test_in_the_sandbox_only_the_files_can_be_written_and_no_record_is_there(
    run_path: Path,
) -> None:
    (run_path / ".git" / "config").write_text("secret")
    other = run_path.parent / "two" / "files"
    other.mkdir(parents=True)
    outside = run_path.parents[1] / "outside"
    outside.write_text("as it was")
    workspace = sandboxed(FilesBackend(run_path, env={"MINE": "yes"}), run_path)

    async def look() -> list[str]:
        done = [
            await workspace.run(command, shell=True)
            for command in (
                "echo hello > made.txt; cat made.txt; echo $MINE",
                "ls -a ..",
                "ls -a ../..",
                "cat ../.git/config",
                "echo no > ../journal/x || echo refused",
                f"echo no > {outside}",
                "echo no > /usr/x || echo refused",
                "git -C . rev-parse --git-dir || echo no repository",
                "(echo > /dev/tcp/127.0.0.1/9) 2>/dev/null || echo no network",
            )
        ]
        return [result.stdout for result in done]

    shown = asyncio.run(look())
    assert shown[0] == "hello\nyes\n"
    assert shown[1].split() == [".", "..", "files"]
    assert shown[2].split() == [".", "..", "one"]
    assert shown[3] == ""
    # What it writes into /tmp goes with it.
    assert shown[4:7] == ["refused\n", "", "refused\n"]
    assert shown[7] == "no repository\n"
    assert shown[8] == "no network\n"
    assert (run_path / "files" / "made.txt").read_text() == "hello\n"
    assert outside.read_text() == "as it was"
    assert list((run_path / "journal").iterdir()) == []


def test_a_sandbox_that_is_not_there_is_one_clear_error(
    run_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(run_path))
    with pytest.raises(UsageError, match="bubblewrap") as caught:
        sandboxed(FilesBackend(run_path), run_path)
    assert "apt install bubblewrap" in caught.value.hint


def test_git_in_the_files_never_finds_the_run(run_path: Path) -> None:
    (run_path / ".git").rmdir()
    git(run_path, "init", "-q", home=run_path)
    workspace = Workspace(FilesBackend(run_path))
    result = asyncio.run(workspace.run(["git", "rev-parse", "--git-dir"]))
    assert result.exit_code == 128


CODER = """
    from pydantic_ai_harness import FileSystem, Shell
    from kitaru_fs.pydantic_ai import RunFiles

    agent = Agent(
        scripted(
            [("write_file", {"path": "a.txt", "content": "one\\n"})],
            [("run_command", {"command": "cat a.txt && echo two >> a.txt && pwd"})],
            [("read_file", {"path": "a.txt"})],
            lambda m: m[-1].parts[0].content,
        ),
        name="coder",
        capabilities=[RunFiles(SANDBOX), FileSystem(), Shell(), KitaruDurability()],
    )

    @flow
    async def main() -> str:
        result = await agent.run("write")
        saved(result)
        await fragile()
        return result.output
"""


@pytest.mark.parametrize("sandbox", ["", pytest.param("sandbox=True", marks=needs_sandbox)])
def test_the_harness_works_on_the_run_s_files(place: AgentBench, sandbox: str) -> None:
    pytest.importorskip("pydantic_ai_harness")
    place.write(CODER.replace("SANDBOX", sandbox))
    assert "two" in place.resumes_alike()
    assert place.named("write_file")["files"] == ["a.txt"]
    assert place.named("run_command")["files"] == ["a.txt"]
    assert place.last.read("a.txt", at="write_file") == b"one\n"
    assert place.last.read("a.txt") == b"one\ntwo\n"
    # Where the files are is no step: a copy of the run works on its own.
    assert not any(entry["name"].startswith("workspace.") for entry in place.entries)


def test_a_copy_of_a_run_works_on_its_own_files(place: AgentBench) -> None:
    pytest.importorskip("pydantic_ai_harness")
    last = "lambda m: m[-1].parts[0].content,"
    code = CODER.replace("SANDBOX", "").replace("await fragile()", "")
    code = code.replace(last, 'go_on, "over",').replace(
        "    agent = Agent(",
        """
    def go_on(messages):
        if broken():
            raise RuntimeError("not yet")
        return [("run_command", {"command": "echo three >> a.txt"})]

    agent = Agent(""",
        1,
    )
    place.write(code)
    with pytest.raises(RuntimeError, match="not yet"):
        place.run()
    origin = place.last.path
    copy = origin.with_name(f"{origin.name}-copy")
    shutil.copytree(origin, copy, symlinks=True)
    place.mend()
    assert place.workspace.run(copy.name).resume() == "over"
    assert (copy / "files" / "a.txt").read_text() == "one\ntwo\nthree\n"
    assert (origin / "files" / "a.txt").read_text() == "one\ntwo\n"


def test_the_flow_s_own_code_uses_the_workspace_in_steps(place: AgentBench) -> None:
    place.write("""
        from kitaru_fs.pydantic_ai import RunFiles
        from pydantic_ai.capabilities import AbstractCapability

        class Notes(AbstractCapability):
            async def before_run(self, ctx):
                await ctx.workspace.write_text("notes.txt", "begun")
                called("before")
                self.said = await ctx.workspace.read_text("notes.txt")

        notes = Notes()
        agent = Agent(scripted("done"), name="noter",
                      capabilities=[RunFiles(), notes, KitaruDurability()])

        @flow
        async def main() -> str:
            await agent.run("go")
            return notes.said
        """)
    assert place.run() == "begun"
    named = [entry["name"] for entry in place.entries]
    assert named[1:3] == ["workspace.write_bytes", "workspace.read_bytes"]
    assert place.named("workspace.write_bytes")["files"] == ["notes.txt"]


def test_an_agent_with_run_files_outside_a_flow_is_told_so(place: AgentBench) -> None:
    place.write("""
        from kitaru_fs.pydantic_ai import RunFiles
        agent = Agent(scripted("done"), name="lost",
                      capabilities=[RunFiles(), KitaruDurability(outside="allow")])
        """)
    import importlib.util

    spec = importlib.util.spec_from_file_location(
        "them", place.workspace.path / "agents" / "them.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(UsageError, match="outside a flow"):
        asyncio.run(module.agent.run("go"))
