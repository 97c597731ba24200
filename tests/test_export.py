"""What a run changed comes out as a patch that fits its source, and its files as they are."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import msgspec
import pytest
from plain_git import git

from kitaru_fs.engine.runner import drive_run
from kitaru_fs.errors import ConflictError, RunDamagedError, StorageError, UsageError
from kitaru_fs.run import Run
from kitaru_fs.workspace import Workspace

FLOW = """\
import os
import signal
import subprocess

from kitaru_fs import files, flow, step


@step
def shell(script: str) -> None:
    subprocess.run(["bash", "-euc", script], cwd=files(), check=True)


@flow
def edit(scripts: list[str]) -> None:
    for script in scripts:
        shell(script)


@step
def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@flow
def killed(scripts: list[str]) -> None:
    edit.function(scripts)
    dies()
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    Workspace.init(tmp_path / "ws")
    (tmp_path / "ws" / "agents" / "edit.py").write_text(FLOW)
    return Workspace(tmp_path / "ws")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    path = tmp_path / "project"
    (path / "src" / "deep").mkdir(parents=True)
    (path / ".gitignore").write_text("*.o\n/build/\n")
    (path / "src" / "main.c").write_text("".join(f"line {number}\n" for number in range(50)))
    (path / "src" / "deep" / "gone.c").write_text("gone\n")
    (path / "crlf.txt").write_bytes(b"one\r\ntwo\r\nthree\r\n")
    (path / "image.png").write_bytes(bytes(range(256)) * 40)
    (path / "no newline").write_bytes(b"no newline at the end")
    (path / "script").write_text("#!/bin/sh\n")
    (path / "empty").write_text("")
    (path / "link").symlink_to("src/main.c")
    (path / "to-directory").write_text("a file\n")
    (path / "to-file").mkdir()
    (path / "to-file" / "below").write_text("below\n")
    (path / "a b\tc\nd").write_text("odd\n")
    Path(os.fsdecode(os.fsencode(path) + b"/caf\xe9.txt")).write_text("odd\n")
    git(path, "init", "-q", "-b", "main")
    git(path, "add", "-A")
    git(path, "commit", "-q", "-m", "one")
    (path / "src" / "main.o").write_text("the user's own build")
    (path / "build").mkdir()
    (path / "build" / "out").write_text("the user's own build")
    return path


def run_edits(workspace: Workspace, *scripts: str, files: Path | None = None) -> Run:
    """Runs a flow whose steps are shell scripts in `files/`."""
    flow, target = workspace.load("agents/edit.py:edit")
    recorded = {"scripts": msgspec.Raw(msgspec.json.encode(scripts))}
    path = workspace.create(flow, recorded, files=files, target=target)
    drive_run(path, flow, workspace.options(purpose="run", target=target))
    return Run(path, workspace)


def apply(directory: Path, patch: bytes, *options: str) -> None:
    done = subprocess.run(
        ["git", "-c", "core.hooksPath=/dev/null", "apply", *options],
        cwd=directory,
        input=patch,
        capture_output=True,
        env=os.environ | {"GIT_CEILING_DIRECTORIES": str(directory.parent), "HOME": "/nowhere"},
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()


def content(directory: Path) -> dict[bytes, tuple[str, bytes]]:
    """What git would see of a directory: files with content and executability, links."""
    found: dict[bytes, tuple[str, bytes]] = {}
    root = os.fsencode(directory)
    for folder, directories, names in os.walk(root):
        directories[:] = [name for name in directories if name != b".git"]
        for name in (*names, *directories):
            path = os.path.join(folder, name)
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                found[os.path.relpath(path, root)] = ("link", os.readlink(path))
            elif stat.S_ISREG(mode):
                kind = "executable" if mode & 0o100 else "file"
                found[os.path.relpath(path, root)] = (kind, Path(os.fsdecode(path)).read_bytes())
    return found


def exact(directory: Path) -> dict[bytes, tuple[int, bytes]]:
    """Everything below a directory: modes, links, empty directories, repositories."""
    found: dict[bytes, tuple[int, bytes]] = {}
    root = os.fsencode(directory)
    for folder, directories, names in os.walk(root):
        for name in (*names, *directories):
            path = os.path.join(folder, name)
            mode = os.lstat(path).st_mode
            data = b""
            if stat.S_ISLNK(mode):
                data = os.readlink(path)
            elif stat.S_ISREG(mode):
                data = Path(os.fsdecode(path)).read_bytes()
            found[os.path.relpath(path, root)] = (mode, data)
    return found


CHANGES = {
    "changed": "sed -i 's/line 7$/line seven/; s/line 41$/&!/' src/main.c",
    "added": "mkdir -p new/deep; echo new > new/deep/file; echo x > 'with space'",
    "removed": "rm src/deep/gone.c 'no newline'",
    "emptied": "true > 'no newline'; true > new-empty; rm empty",
    "binary": r"printf '\0\1\2' >> image.png; head -c 3000 /dev/urandom > random.bin",
    "binary removed": "rm image.png",
    "mode": "chmod +x src/main.c; echo more >> script; chmod +x script",
    "mode back": "chmod +x script; chmod -x script; chmod 600 crlf.txt",
    "links": "ln -sf script link; ln -s /nowhere/at/all dangling; rm script; ln -s link script",
    "link to file": "rm link; echo file > link",
    "crlf": r"printf 'one\r\n2\r\nthree\r\nfour\n' > crlf.txt; printf 'a\r\n' > new-crlf.txt",
    "no newline": "printf changed > 'no newline'; printf x >> crlf.txt",
    "odd names": r"echo x >> $'a b\tc\nd'; echo x >> $'caf\xe9.txt'; echo x > $'\xff\\\"\e.txt'",
    "odd names removed": r"rm $'a b\tc\nd' $'caf\xe9.txt'",
    "file to directory": "rm to-directory; mkdir to-directory; echo x > to-directory/below",
    "directory to file": "rm -r to-file; echo x > to-file",
    "directory to link": "rm -r to-file; ln -s src to-file",
    "moved": "git mv src other 2>/dev/null || mv src other",
    "nothing": "echo x > x; rm x; mkdir only-empty",
    "like a path of git": "mkdir -p .github inbox; echo x > .github/x; echo x > .gitattributes;"
    " echo x > inbox/x",
    "everything gone": "rm -r -- *",
}


@pytest.mark.parametrize("script", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("options", [(), ("--index",)], ids=["plain", "index"])
def test_git_applies_the_patch_to_the_source(
    workspace: Workspace, project: Path, script: str, options: tuple[str, ...]
) -> None:
    run = run_edits(workspace, script, files=project)
    ignored = {b"src/main.o": ("file", b"the user's own build")}
    ignored[b"build/out"] = ignored[b"src/main.o"]

    patch = run.export_patch()

    if patch:
        apply(project, patch, *options)
    assert content(project) == content(run.path / "files") | ignored
    if patch and options:
        assert git(project, "diff", "--stat") == ""


def test_every_change_at_once_and_back(workspace: Workspace, project: Path) -> None:
    names = ["binary removed", "odd names removed", "directory to link", "link to file", "nothing"]
    scripts = [CHANGES[name] for name in CHANGES if name not in (*names, "everything gone")]
    before = content(project)
    run = run_edits(workspace, *scripts, "git checkout -q . ; git clean -qfd", files=project)

    assert run.export_patch() == b""
    patch = run.export_patch(str(run.state()["step"] - 2))
    apply(project, patch, "--index")
    assert content(project) != before
    apply(project, patch, "--index", "-R")
    assert content(project) == before


def test_changes_that_were_not_committed_are_where_the_patch_begins(
    workspace: Workspace, project: Path
) -> None:
    (project / "src" / "main.c").write_text("rewritten, not committed\n")
    (project / "untracked").write_text("one\n")
    run = run_edits(workspace, "echo two >> untracked; echo two >> src/main.c", files=project)

    apply(project, run.export_patch())

    assert (project / "untracked").read_text() == "one\ntwo\n"
    assert (project / "src" / "main.c").read_text() == "rewritten, not committed\ntwo\n"


def test_each_step_has_its_patch(workspace: Workspace, project: Path) -> None:
    run = run_edits(workspace, "echo 1 > one", "echo 2 > two", files=project)

    assert run.export_patch("0") == b""
    assert b"b/two" not in run.export_patch("shell#1")
    assert b"b/one" in run.export_patch("shell#2")
    assert run.export_patch("shell#2") == run.export_patch()


def test_new_files_that_the_project_ignores_are_not_in_the_patch(
    workspace: Workspace, project: Path
) -> None:
    (project / ".git" / "info" / "exclude").write_text("/local\n")
    script = (
        "mkdir -p build sub/below; echo theirs > build/out; echo x > src/main.o; echo x > local;"
        " echo '*.tmp' > sub/.gitignore; echo x > sub/below/x.tmp; echo x > sub/below/x.c;"
        " echo x > forced.o; git add -f forced.o; echo y >> script; echo x > ':(top)x.o';"
        " echo x > ':(bad)y'"
    )
    run = run_edits(workspace, script, files=project)

    patch = run.export_patch()

    apply(project, patch)
    assert (project / "build" / "out").read_text() == "the user's own build"
    names = {line.split(b" b/")[-1] for line in patch.splitlines() if line.startswith(b"diff")}
    expected = {b"forced.o", b"script", b"sub/.gitignore", b"sub/below/x.c", b":(bad)y"}
    assert names == expected


def test_without_git_at_the_source_nothing_is_ignored(workspace: Workspace, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / ".gitignore").write_text("*\n")
    (plain / "x").write_text("one\n")
    run = run_edits(workspace, "echo two >> x; echo y > y; mkdir inbox; cp y inbox", files=plain)

    apply(plain, run.export_patch())

    assert content(plain) == content(run.path / "files")
    alone = run_edits(workspace, "git init -q .; echo '*' > .gitignore; echo y > y")
    target = tmp_path / "target"
    target.mkdir()
    apply(target, alone.export_patch())
    assert content(target) == content(alone.path / "files")


def test_what_is_left_out_of_a_commit_is_not_in_the_patch(
    workspace: Workspace, tmp_path: Path
) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "grows").write_bytes(b"x" * 100)
    (plain / "shrinks").write_bytes(b"x" * 4000)
    (plain / ".env").write_text("A=1\n")
    settings = workspace.path / "kitaru.toml"
    settings.write_text('[files]\nmax_file = "1KB"\nexclude = [".env"]\n')
    script = "head -c 4000 /dev/zero > grows; echo x > shrinks; echo B=2 >> .env; echo y > y"
    run = run_edits(Workspace(workspace.path), script, files=plain)

    apply(plain, run.export_patch())

    assert (plain / "y").exists()
    assert (plain / "grows").stat().st_size == 100
    assert (plain / "shrinks").stat().st_size == 4000
    assert (plain / ".env").read_text() == "A=1\n"


def test_line_ends_that_attributes_convert(workspace: Workspace, project: Path) -> None:
    (project / ".gitattributes").write_text("crlf.txt text eol=crlf\n*.c text\n")
    git(project, "add", "-A")
    git(project, "commit", "-q", "-m", "attributes")
    shutil.rmtree(project / "src" / "deep")
    git(project, "checkout", "-q", "--", ".")
    run = run_edits(workspace, r"sed -i 's/two/2/' crlf.txt; printf 'a\r\n' > n.txt", files=project)

    apply(project, run.export_patch())

    assert (project / "crlf.txt").read_bytes() == b"one\r\n2\r\nthree\r\n"
    assert (project / "n.txt").read_bytes() == b"a\r\n"


def test_nested_repositories_files_are_in_the_patch_and_their_state_is_not(
    workspace: Workspace, project: Path
) -> None:
    git(project, "init", "-q", "nested")
    (project / "nested" / "x").write_text("one\n")
    commit = "git -c user.name=a -c user.email=a@b commit -qam agent"
    script = (
        f"cd nested; echo two >> x; git add x; {commit}; cd ..; echo y > y; git add y; {commit}"
    )
    run = run_edits(workspace, script, files=project)

    patch = run.export_patch()

    assert b".git/" not in patch
    apply(project, patch)
    assert (project / "nested" / "x").read_text() == "one\ntwo\n"


@pytest.mark.parametrize("planted", ["config", "attributes", "both"])
def test_nothing_planted_is_executed_and_the_patch_is_the_same(
    workspace: Workspace, project: Path, tmp_path: Path, planted: str
) -> None:
    sentinel = tmp_path / "executed"
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\ntouch {sentinel}\ncat\n")
    script.chmod(0o755)
    run = run_edits(workspace, CHANGES["changed"], CHANGES["binary"], files=project)
    patch = run.export_patch()
    if planted != "attributes":
        for key in ("diff.external", "diff.x.textconv", "core.fsmonitor", "filter.x.clean"):
            git(run.path, "config", key, str(script))
            git(run.path / "files", "config", key, str(script))
    if planted != "config":
        (run.path / ".git" / "info" / "attributes").write_text("* diff=x filter=x -text\n")
        (run.path / ".gitattributes").write_text("* diff=x filter=x\n")

    assert Run(run.path, workspace).export_patch() == patch
    assert not sentinel.exists()


def kill_a_run(workspace: Workspace, project: Path, script: str) -> Run:
    """A run whose process was killed: its last commits are synced in its log."""
    program = f"""
        import sys
        from pathlib import Path
        import msgspec
        from kitaru_fs.engine.runner import drive_run
        from kitaru_fs.workspace import Workspace
        workspace = Workspace({str(workspace.path)!r})
        flow, target = workspace.load("agents/edit.py:killed")
        recorded = {{"scripts": msgspec.Raw(msgspec.json.encode([{script!r}]))}}
        path = workspace.create(flow, recorded, files=Path({str(project)!r}), target=target)
        drive_run(path, flow, workspace.options(purpose="run", target=target))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False)
    assert done.returncode == -signal.SIGKILL
    return workspace.run("last")


def test_commits_that_are_in_the_log_only(
    workspace: Workspace, project: Path, tmp_path: Path
) -> None:
    run = kill_a_run(workspace, project, CHANGES["changed"] + "; " + CHANGES["binary"])
    expected = run.export_patch()
    assert b"b/random.bin" in expected
    # A power cut loses what was written and not synced: here, all but packs and the log.
    for folder in (run.path / ".git" / "objects").glob("[0-9a-f][0-9a-f]"):
        shutil.rmtree(folder)
    assert "step" not in git(run.path, "log", "--format=%s", check=False)
    before = exact(run.path)

    again = workspace.run("last")
    assert again.export_patch() == expected
    assert again.export_into(tmp_path / "out") > 0

    assert content(tmp_path / "out") == content(run.path / "files")
    assert exact(run.path) == before


# Into a directory


EXACT = (
    "mkdir -p none/below locked; chmod 700 none/below; echo x > locked/x; chmod 500 locked;"
    " echo s > secret; chmod 600 secret; echo s > own; chmod 4711 own;"
    " ln -s nowhere dangling; ln -s .. up; git init -q nested; cd nested;"
    " git config user.name a; git config user.email a@b; echo x > x; git add x;"
    " git commit -qm one; echo y > y; cd ..; head -c 1000000 /dev/urandom > large"
)


@pytest.mark.parametrize("existing", [False, True])
def test_files_come_out_exactly(
    workspace: Workspace, project: Path, tmp_path: Path, existing: bool
) -> None:
    run = run_edits(workspace, EXACT, "rm -r src; true > x", files=project)
    expected = exact(run.path / "files")
    before = exact(run.path)
    target = tmp_path / "out" if existing else tmp_path / "some" / "new" / "out"
    if existing:
        target.mkdir(mode=0o700)

    count = run.export_into(target)

    assert exact(target) == expected
    assert exact(run.path) == before
    assert count == sum(not stat.S_ISDIR(mode) for mode, _ in expected.values())
    assert git(target / "nested", "status", "--porcelain") == "?? y\n"
    assert git(target, "status", "--porcelain") == git(run.path / "files", "status", "--porcelain")
    assert stat.S_IMODE(target.stat().st_mode) == (0o700 if existing else 0o755)
    assert os.listdir(target.parent).count(target.name) == 1
    assert not [name for name in os.listdir(target.parent) if name.startswith(".kitaru")]
    run.export_into(tmp_path / "early", "shell#1")
    assert (tmp_path / "early" / "src").exists()


def test_no_file_at_all(workspace: Workspace, tmp_path: Path) -> None:
    run = run_edits(workspace, "true")
    assert run.export_into(tmp_path / "out") == 0
    assert list((tmp_path / "out").iterdir()) == []
    assert run.export_patch() == b""


def test_nothing_is_overwritten(workspace: Workspace, project: Path, tmp_path: Path) -> None:
    run = run_edits(workspace, "true", files=project)
    full = tmp_path / "full"
    full.mkdir()
    for number in range(7):
        (full / f"file {number}\n").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to("nowhere")
    before = exact(tmp_path)

    with pytest.raises(ConflictError, match="is not empty") as caught:
        run.export_into(full)
    assert '"file 0\\n"' in caught.value.message
    assert caught.value.message.endswith("…")
    for name in ("file", "dangling"):
        with pytest.raises(ConflictError, match="is not a directory"):
            run.export_into(tmp_path / name)
    with pytest.raises(UsageError, match="cannot be made"):
        run.export_into(tmp_path / "file" / "below")
    for inside in (run.path / "files" / "out", run.path / "out"):
        with pytest.raises(UsageError, match="inside the run"):
            run.export_into(inside)
    assert exact(tmp_path) == before


def test_a_link_to_an_empty_directory(workspace: Workspace, project: Path, tmp_path: Path) -> None:
    run = run_edits(workspace, "true", files=project)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")

    run.export_into(tmp_path / "link")

    assert exact(tmp_path / "real") == exact(run.path / "files")


@pytest.mark.parametrize("existing", [False, True])
def test_an_error_leaves_nothing_behind(
    workspace: Workspace, project: Path, tmp_path: Path, existing: bool
) -> None:
    run = run_edits(workspace, EXACT, files=project)
    target = tmp_path / "a" / "b"
    if existing:
        target.mkdir(parents=True)
    sha = git(run.path, "rev-parse", "HEAD:files/to-file/below").strip()
    run.path.joinpath(".git/kitaru/wal").unlink()
    loose = run.path / ".git" / "objects" / sha[:2] / sha[2:]
    if not loose.exists():
        for pack in (run.path / ".git" / "objects" / "pack").iterdir():
            pack.unlink()
    loose.unlink(missing_ok=True)
    before = exact(tmp_path)

    with pytest.raises(RunDamagedError):
        Run(run.path, workspace).export_into(target)

    assert exact(tmp_path) == before


@pytest.mark.parametrize("existing", [False, True])
def test_a_full_disk_leaves_nothing_behind(
    workspace: Workspace, project: Path, tmp_path: Path, existing: bool
) -> None:
    run_edits(workspace, EXACT, files=project)
    target = tmp_path / "a" / "b"
    if existing:
        target.mkdir(parents=True)
    before = exact(tmp_path)
    program = f"""
        import resource, signal
        from pathlib import Path
        from kitaru_fs.errors import StorageError
        from kitaru_fs.workspace import Workspace
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
        try:
            Workspace({str(workspace.path)!r}).run("last").export_into(Path({str(target)!r}))
        except StorageError as error:
            print(error.message)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True
    )

    assert done.stdout == f"writing {target} failed: File too large\n"
    assert exact(tmp_path) == before


def test_an_error_names_the_place_for_scratch_files(
    workspace: Workspace, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_edits(workspace, "echo x > x", files=project)
    monkeypatch.setattr("tempfile.tempdir", "/nowhere/at/all")
    with pytest.raises(StorageError, match="making the patch failed"):
        run.export_patch()
