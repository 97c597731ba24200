"""`run --files DIR`: a project comes as it is; nothing of its owner's is changed or executed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from plain_git import git

from kitaru_fs.errors import NotFoundError, UsageError
from kitaru_fs.intake.intake import Intake
from kitaru_fs.workspace import Workspace

Seen = dict[str, tuple[int, int, int, str]]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "files"
    path.mkdir(parents=True)
    return path


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path / "project")


def make_project(path: Path) -> Path:
    """A work tree with a bit of everything: committed, staged, changed, untracked, ignored."""
    (path / "src").mkdir(parents=True)
    (path / ".gitignore").write_text("*.o\n/build/\nlogs/*.log\nkept/\n")
    (path / "src" / "main.c").write_text("int main;\n")
    (path / "src" / "gone.c").write_text("gone\n")
    (path / "tool").write_text("#!/bin/sh\n")
    (path / "tool").chmod(0o755)
    (path / "crlf.txt").write_bytes(b"a\r\nb\r\n")
    (path / "kept").mkdir()
    (path / "kept" / "tracked").write_text("in the index, and ignored\n")
    git(path, "init", "-q", "-b", "main")
    git(path, "add", "-A")
    git(path, "add", "-f", "kept/tracked")
    git(path, "commit", "-q", "-m", "one")
    git(path, "branch", "other")
    git(path, "tag", "-a", "v1", "-m", "v1")
    (path / "src" / "main.c").write_text("int main; // changed\n")
    (path / "src" / "gone.c").unlink()
    (path / "staged").write_text("staged\n")
    git(path, "add", "staged")
    (path / "staged").write_text("staged, then changed\n")
    (path / "new dir").mkdir()
    (path / "new dir" / "a\nb").write_text("odd\n")
    Path(os.fsdecode(os.fsencode(path) + b"/latin-\xe9")).write_text("odd\n")
    (path / "secret").write_text("x")
    (path / "secret").chmod(0o600)
    (path / "link").symlink_to("src/main.c")
    (path / "dangling").symlink_to("/nowhere/at all")
    (path / "empty" / "below").mkdir(parents=True)
    (path / "build" / "deep").mkdir(parents=True)
    (path / "build" / "deep" / "out").write_text("ignored")
    (path / "src" / "main.o").write_text("ignored")
    (path / "logs").mkdir()
    (path / "logs" / "x.log").write_text("ignored")
    (path / "kept" / "untracked").write_text("ignored")
    (path / "info").mkdir()
    (path / "info" / "local").write_text("ignored by info/exclude")
    (path / ".git" / "info" / "exclude").write_text("/info/local\n")
    return path


def seen(directory: Path) -> Seen:
    """Every path of a directory, with what `lstat` says and what it holds."""
    found: Seen = {}
    for folder, directories, names in os.walk(directory):
        for name in (*directories, *names):
            path = Path(folder, name)
            status = path.lstat()
            content = ""
            if stat.S_ISREG(status.st_mode):
                content = hashlib.sha1(path.read_bytes()).hexdigest()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
            shown = os.fsencode(path.relative_to(directory)).decode("latin-1")
            found[shown] = (status.st_mode, size, status.st_mtime_ns, content)
    return found


def without_git(directory: Path) -> Seen:
    return {path: what for path, what in seen(directory).items() if path.split("/")[0] != ".git"}


def take(directory: Path, files: Path, *skip: Path) -> Intake:
    """Takes a directory in, and holds that nothing in it changed."""
    before = seen(directory)
    intake = Intake.inspect(directory, skip)
    intake.copy_into(files)
    assert seen(directory) == before
    return intake


def assert_same_state(directory: Path, files: Path) -> None:
    for command in (
        ("status", "--porcelain", "--branch"),
        ("diff", "--binary"),
        ("diff", "--binary", "--cached"),
        ("for-each-ref",),
        ("log", "--all", "--format=%H %s"),
        ("ls-files", "--stage"),
        ("ls-files", "-o", "--exclude-standard"),
    ):
        assert git(files, *command) == git(directory, *command), command
    assert "missing" not in git(files, "fsck", "--full", "--strict")


def test_a_work_tree_comes_with_its_history_and_its_uncommitted_changes(
    project: Path, files: Path
) -> None:
    intake = take(project, files)

    assert_same_state(project, files)
    assert intake.source == {
        "directory": str(project),
        "commit": git(project, "rev-parse", "HEAD").strip(),
    }
    assert intake.left_out == {}
    was, now = without_git(project), without_git(files)
    ignored = {
        *("build", "build/deep", "build/deep/out", "src/main.o", "logs/x.log"),
        *("kept/untracked", "info/local"),
    }
    assert {path: found for path, found in was.items() if path not in ignored} == now


def test_what_is_ignored_is_listed(project: Path) -> None:
    (project / "odd\tdir").mkdir()
    (project / "odd\tdir" / "x.o").write_text("")

    listed = Intake.inspect(project).ignored

    assert listed == [
        *("build/", "info/local", "kept/untracked", "logs/x.log"),
        *('"odd\\tdir/x.o"', "src/main.o"),
    ]


def test_a_directory_without_git_comes_whole(tmp_path: Path, files: Path) -> None:
    plain = tmp_path / "plain"
    (plain / "a" / "empty").mkdir(parents=True)
    (plain / ".gitignore").write_text("*\n")
    (plain / "a" / "x.o").write_text("not ignored here")
    (plain / "a" / "script").write_text("")
    (plain / "a" / "script").chmod(0o750)
    (plain / "a").chmod(0o500)
    (plain / "loop").symlink_to(".")

    intake = take(plain, files)

    assert seen(files) == seen(plain)
    assert intake.source == {"directory": str(plain)}
    assert (intake.ignored, intake.left_out) == ([], {})


def test_what_is_no_file_is_left_out_and_listed(project: Path, files: Path) -> None:
    os.mkfifo(project / "src" / "pipe\n")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(project / "sock"))
        intake = take(project, files)

    assert intake.left_out == {'"src/pipe\\n"': "FIFO", "sock": "socket"}
    assert_same_state(project, files)


def test_what_cannot_be_read_is_left_out_and_listed(project: Path, files: Path) -> None:
    (project / "secret").chmod(0)
    (project / "empty").chmod(0)
    if os.access(project / "secret", os.R_OK):
        pytest.skip("this user can read everything")
    try:
        intake = Intake.inspect(project)
        intake.copy_into(files)
        assert intake.left_out == {"secret": "unreadable", "empty/": "unreadable"}
        (project / ".git" / "config").chmod(0)
        with pytest.raises(UsageError, match="cannot be read"):
            Intake.inspect(project).copy_into(files.parent)
    finally:
        (project / "empty").chmod(0o755)
        (project / ".git" / "config").chmod(0o644)


# Kinds of repositories


def test_a_linked_worktree_gets_a_repository_of_its_own(
    project: Path, tmp_path: Path, files: Path
) -> None:
    git(project, "config", "extensions.worktreeConfig", "true")
    worktree = tmp_path / "worktree"
    git(project, "worktree", "add", "-q", "-b", "feature", str(worktree))
    git(worktree, "config", "--worktree", "core.logAllRefUpdates", "always")
    (worktree / "new").write_text("new\n")
    (worktree / "x.o").write_text("ignored\n")
    git(worktree, "add", "new")
    git(worktree, "commit", "-q", "-m", "two")
    (worktree / "tool").write_text("changed\n")
    git(worktree, "add", "-N", "tool")
    main_before = seen(project)

    intake = take(worktree, files)

    assert seen(project) == main_before
    assert intake.ignored == ["x.o"]
    assert_same_state(worktree, files)
    assert git(files, "symbolic-ref", "HEAD") == "refs/heads/feature\n"
    assert git(files, "config", "--worktree", "core.logAllRefUpdates") == "always\n"
    assert git(files, "reflog") == git(worktree, "reflog")
    assert git(files, "worktree", "list").count("\n") == 1
    shutil.rmtree(project)
    git(files, "commit", "-q", "-a", "-m", "three")
    assert_free_of(files, project)


def assert_free_of(files: Path, path: Path) -> None:
    for folder, _, names in os.walk(files):
        for name in names:
            file = Path(folder, name)
            if not file.is_symlink() and "logs" not in file.parts:
                assert os.fsencode(path) not in file.read_bytes(), file


def test_a_worktree_of_a_bare_repository(project: Path, tmp_path: Path, files: Path) -> None:
    git(tmp_path, "clone", "-q", "--bare", str(project), "bare.git")
    git(tmp_path / "bare.git", "worktree", "add", "-q", str(tmp_path / "worktree"), "other")

    take(tmp_path / "worktree", files)

    assert_same_state(tmp_path / "worktree", files)
    assert git(files, "rev-parse", "--is-bare-repository") == "false\n"


def test_a_repository_whose_work_tree_is_said_to_be_elsewhere(project: Path, files: Path) -> None:
    git(project, "config", "core.worktree", str(project))

    take(project, files)

    assert git(files, "rev-parse", "--show-toplevel") == f"{files}\n"
    assert_same_state(project, files)
    assert_free_of(files, project)


@pytest.mark.parametrize("absolute", [False, True])
def test_submodules_work_in_the_copy(
    project: Path, tmp_path: Path, files: Path, absolute: bool
) -> None:
    library = make_project(tmp_path / "library")
    allow = ("-c", "protocol.file.allow=always")
    git(project, *allow, "submodule", "--quiet", "add", str(library), "deps/lib")
    git(project, "commit", "-q", "-m", "with a submodule")
    sub = project / "deps" / "lib"
    if absolute:
        (sub / ".git").write_text(f"gitdir: {project}/.git/modules/deps/lib\n")
        git(sub, "config", "core.worktree", str(sub))
    (sub / "tool").write_text("changed in the submodule\n")
    (sub / "y.o").write_text("ignored in the submodule, which comes as it is\n")

    take(project, files)

    assert_same_state(project, files)
    assert_same_state(sub, files / "deps" / "lib")
    assert (files / "deps" / "lib" / "y.o").exists()
    assert (files / "deps" / "lib" / ".git").is_dir() == absolute
    before = seen(project)
    git(files / "deps" / "lib", "commit", "-q", "-a", "-m", "in the copy")
    git(files / "deps" / "lib", "checkout", "-q", "other")
    assert seen(project) == before


def test_a_submodule_alone_and_a_worktree_with_submodules(
    project: Path, tmp_path: Path, files: Path
) -> None:
    library = make_project(tmp_path / "library")
    allow = ("-c", "protocol.file.allow=always")
    git(project, *allow, "submodule", "--quiet", "add", str(library), "lib")
    git(project, "commit", "-q", "-m", "with a submodule")
    worktree = tmp_path / "worktree"
    git(project, "worktree", "add", "-q", str(worktree))
    git(worktree, *allow, "submodule", "--quiet", "update", "--init")

    take(worktree, files)
    assert_same_state(worktree, files)
    assert_same_state(worktree / "lib", files / "lib")
    assert_free_of(files / "lib" / ".git", project / ".git")

    alone = tmp_path / "alone"
    alone.mkdir()
    take(project / "lib", alone)
    assert_same_state(project / "lib", alone)
    assert git(alone, "rev-parse", "--show-toplevel") == f"{alone}\n"


def test_nested_repositories_and_worktrees_come_as_they_are(project: Path, files: Path) -> None:
    nested = make_project(project / "nested")
    git(project, "worktree", "add", "-q", str(project / "trees" / "other"), "other")
    (project / "trees" / "other" / "tool").write_text("changed\n")
    git(project, "init", "-q", "unborn")

    intake = take(project, files)

    assert_same_state(nested, files / "nested")
    assert (files / "nested" / "src" / "main.o").exists()
    assert_same_state(project / "trees" / "other", files / "trees" / "other")
    assert git(files, "status", "--porcelain") == git(project, "status", "--porcelain")
    assert "?? unborn/" in git(files, "status", "--porcelain")
    assert intake.left_out == {}
    before = seen(project)
    git(files / "trees" / "other", "commit", "-q", "-a", "-m", "in the copy")
    assert seen(project) == before


def test_objects_from_elsewhere_become_its_own(project: Path, tmp_path: Path, files: Path) -> None:
    git(project, "gc", "-q")
    git(project, "commit", "-q", "--allow-empty", "-m", "loose")
    git(tmp_path, "clone", "-q", "--shared", str(project), "middle")
    git(tmp_path / "middle", "commit", "-q", "--allow-empty", "-m", "in the middle")
    git(tmp_path, "clone", "-q", "--shared", str(tmp_path / "middle"), "shared")
    shared = tmp_path / "shared"
    git(shared, "commit", "-q", "--allow-empty", "-m", "its own")
    git(shared, "gc", "-q")
    git(shared, "commit-graph", "write", "--reachable")

    take(shared, files)

    assert_same_state(shared, files)
    shutil.rmtree(project)
    shutil.rmtree(tmp_path / "middle")
    assert "missing" not in git(files, "fsck", "--full", "--strict")
    assert git(files, "log", "--format=%s") == "its own\nin the middle\nloose\none\n"


def test_a_shallow_clone_stays_one(project: Path, tmp_path: Path, files: Path) -> None:
    git(project, "commit", "-q", "--allow-empty", "-m", "two")
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{project}", "shallow")

    take(tmp_path / "shallow", files)

    assert_same_state(tmp_path / "shallow", files)
    assert git(files, "rev-parse", "--is-shallow-repository") == "true\n"


def test_a_repository_of_links_becomes_one_of_files(
    project: Path, tmp_path: Path, files: Path
) -> None:
    git(project, "pack-refs", "--all")
    linked = tmp_path / "linked"
    (linked / ".git" / "logs").mkdir(parents=True)
    for name in ("config", "refs", "objects", "hooks", "packed-refs", "logs/refs"):
        (linked / ".git" / name).symlink_to(project / ".git" / name)
    (linked / ".git" / "HEAD").write_text("ref: refs/heads/other\n")
    (linked / ".git" / "gone").symlink_to("/nowhere")
    (linked / ".git" / "description").symlink_to(linked / ".git" / "HEAD")
    git(linked, "reset", "-q", "--hard")

    intake = take(linked, files)

    assert intake.left_out == {".git/gone": "a link that leads out of the repository"}
    assert_same_state(linked, files)
    before = seen(project)
    git(files, "commit", "-q", "--allow-empty", "-m", "in the copy")
    assert seen(project) == before
    assert not [path for path in (files / ".git").rglob("*") if path.is_symlink()]


@pytest.mark.parametrize("setting", ["split", "untracked-cache", "sparse", "detached", "unborn"])
def test_states_of_a_work_tree(project: Path, files: Path, setting: str) -> None:
    if setting == "split":
        git(project, "update-index", "--split-index")
    elif setting == "untracked-cache":
        git(project, "update-index", "--untracked-cache")
        git(project, "status")
    elif setting == "sparse":
        git(project, "stash", "-q")
        git(project, "sparse-checkout", "set", "--cone", "--sparse-index", "kept")
    elif setting == "detached":
        git(project, "checkout", "-q", "--detach")
    else:
        git(project, "symbolic-ref", "HEAD", "refs/heads/unborn")

    intake = take(project, files)

    assert ("commit" in intake.source) == (setting != "unborn")
    assert "build/" in intake.ignored
    if setting == "unborn":
        assert git(files, "status", "--porcelain") == git(project, "status", "--porcelain")
    else:
        assert_same_state(project, files)


def test_a_merge_in_progress_goes_on_in_the_copy(project: Path, files: Path) -> None:
    git(project, "stash", "-q")
    git(project, "checkout", "-q", "other")
    (project / "tool").write_text("theirs\n")
    git(project, "commit", "-q", "-a", "-m", "theirs")
    git(project, "checkout", "-q", "main")
    (project / "tool").write_text("ours\n")
    git(project, "commit", "-q", "-a", "-m", "ours")
    git(project, "merge", "other", check=False)

    take(project, files)

    assert_same_state(project, files)
    assert git(files, "stash", "list") == git(project, "stash", "list")
    git(files, "add", "tool")
    git(files, "commit", "-q", "-m", "merged")
    assert git(files, "log", "-1", "--format=%P").count(" ") == 1


def test_a_repository_with_sha256_objects(tmp_path: Path, files: Path) -> None:
    path = tmp_path / "sha256"
    git(tmp_path, "init", "-q", "--object-format=sha256", str(path))
    (path / ".gitignore").write_text("*.o\n")
    (path / "x.o").write_text("")
    git(path, "add", "-A")
    git(path, "commit", "-q", "-m", "one")

    intake = take(path, files)

    assert intake.source["commit"] == git(path, "rev-parse", "HEAD").strip()
    assert intake.ignored == ["x.o"]
    assert_same_state(path, files)


# Safety


def test_nothing_of_the_owners_is_executed_or_obeyed(
    project: Path, tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = make_project(tmp_path / "library")
    allow = ("-c", "protocol.file.allow=always")
    git(project, *allow, "submodule", "--quiet", "add", str(library), "lib")
    sentinel = tmp_path / "executed"
    script = tmp_path / "script"
    script.write_text(f'#!/bin/sh\necho "$0 $*" >> {sentinel}\ncat\n')
    script.chmod(0o755)
    everything = tmp_path / "everything"
    everything.write_text("*\n")
    settings = {
        "core.fsmonitor": str(script),
        "core.excludesFile": str(everything),
        "core.hooksPath": str(tmp_path / "hooks"),
        "core.pager": str(script),
        "core.sshCommand": str(script),
        "diff.external": str(script),
        "filter.planted.clean": str(script),
        "filter.planted.smudge": str(script),
    }
    (tmp_path / "hooks").mkdir()
    shutil.copy(script, tmp_path / "hooks" / "post-index-change")
    for key, value in settings.items():
        for repository in (project, project / "lib"):
            git(repository, "config", key, value)
        git(project, "config", "--global", key, value, home=tmp_path)
    (project / ".gitattributes").write_text("* filter=planted diff=planted\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_DIR", str(library / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(library / ".git" / "index"))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.fsmonitor")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", str(script))
    sentinel.unlink(missing_ok=True)

    intake = take(project, files)

    assert not sentinel.exists()
    assert "src/" not in intake.ignored
    assert (files / "src" / "main.c").exists()
    git(project, "status")
    assert sentinel.exists()  # plain git does execute it


def test_a_lock_of_git_is_waited_for_by_its_owner(project: Path, files: Path) -> None:
    (project / ".git" / "index.lock").write_text("")
    with pytest.raises(UsageError, match=r"index\.lock exists") as caught:
        Intake.inspect(project)
    assert "\n" not in caught.value.message
    assert "remove that file" in caught.value.hint
    (project / ".git" / "index.lock").unlink()

    (project / ".git" / "refs" / "heads" / "other.lock").write_text("")
    take(project, files)
    git(files, "branch", "-D", "other")


def test_a_repack_meanwhile_loses_nothing(project: Path, tmp_path: Path) -> None:
    for number in range(30):
        (project / "staged").write_text(f"{number}\n" * 500)
        git(project, "commit", "-q", "-a", "-m", f"commit {number}")
        git(project, "branch", f"branch-{number}")
    refs = git(project, "for-each-ref")
    script = (
        "while :; do git repack -qadf; git unpack-objects -q < $(ls .git/objects/pack/*.pack); "
    )
    script += "git repack -qad; git gc -q --prune=now; done"
    noise = subprocess.Popen(
        ["sh", "-c", script], cwd=project, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        for number in range(8):
            copy = tmp_path / f"copy-{number}"
            copy.mkdir()
            Intake.inspect(project).copy_into(copy)
            assert "missing" not in git(copy, "fsck", "--full", "--connectivity-only")
            assert git(copy, "for-each-ref") == refs
    finally:
        os.killpg(noise.pid, 9)
        noise.wait()


def test_what_vanishes_meanwhile_is_skipped(tmp_path: Path) -> None:
    busy = tmp_path / "busy"
    (busy / "stays").mkdir(parents=True)
    (busy / "stays" / "file").write_text("x")
    script = (
        "import os, shutil, sys\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    for n in range(50):\n"
        "        os.makedirs(f'd{n}', exist_ok=True); open(f'd{n}/f', 'w').close()\n"
        "    for n in range(50):\n"
        "        shutil.rmtree(f'd{n}')\n"
    )
    noise = subprocess.Popen([sys.executable, "-c", script], cwd=busy, stdout=subprocess.PIPE)
    assert noise.stdout is not None
    try:
        noise.stdout.readline()
        for number in range(40):
            copy = tmp_path / f"copy-{number}"
            copy.mkdir()
            Intake.inspect(busy).copy_into(copy)
            assert (copy / "stays" / "file").read_text() == "x"
    finally:
        noise.kill()
        noise.communicate()


# What is refused


def damage_head(project: Path) -> None:
    (project / ".git" / "HEAD").write_text("nonsense\n")


def damage_branch(project: Path) -> None:
    (project / ".git" / "refs" / "heads" / "main").write_text("")


def damage_commit(project: Path) -> None:
    sha = git(project, "rev-parse", "HEAD").strip()
    (project / ".git" / "objects" / sha[:2] / sha[2:]).unlink()


def damage_index(project: Path) -> None:
    (project / ".git" / "index").write_text("nonsense")


def remove_objects(project: Path) -> None:
    shutil.rmtree(project / ".git" / "objects")


def empty_git(project: Path) -> None:
    shutil.rmtree(project / ".git")
    (project / ".git").mkdir()


def lead_nowhere(project: Path) -> None:
    shutil.rmtree(project / ".git")
    (project / ".git").write_text("gitdir: ../pruned/.git/worktrees/x\n")


@pytest.mark.parametrize(
    "damage",
    [
        *(damage_head, damage_branch, damage_commit, damage_index),
        *(remove_objects, empty_git, lead_nowhere),
    ],
)
def test_a_damaged_repository_is_one_clear_sentence(project: Path, damage: object) -> None:
    assert callable(damage)
    damage(project)
    with pytest.raises(UsageError, match="is no whole git repository") as caught:
        Intake.inspect(project)
    assert str(project) in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_a_place_that_is_no_project_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotFoundError, match="does not exist"):
        Intake.inspect(tmp_path / "missing")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is not a directory"):
        Intake.inspect(tmp_path / "file")
    with pytest.raises(NotFoundError):
        Intake.inspect(tmp_path / "file" / "below")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "link").symlink_to(tmp_path)
    for place in (tmp_path, tmp_path / "link", Path("/")):
        with pytest.raises(UsageError) as caught:
            Intake.inspect(place)
        assert caught.value.hint == "name a project directory"


# In a workspace


FLOW = """\
from kitaru_fs import flow

@flow
def nothing() -> None:
    pass
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    Workspace.init(tmp_path / "ws")
    (tmp_path / "ws" / "agents" / "nothing.py").write_text(FLOW)
    return Workspace(tmp_path / "ws")


def create(workspace: Workspace, files: Path) -> Path:
    flow, target = workspace.load("agents/nothing.py:nothing")
    return workspace.create(flow, {}, files=files, target=target)


def test_the_first_commit_holds_the_project(workspace: Workspace, project: Path) -> None:
    run = create(workspace, project)

    request = json.loads(git(run, "show", "HEAD:run.json"))
    assert request["source"]["commit"] == git(project, "rev-parse", "HEAD").strip()
    assert git(run, "rev-list", "--count", "HEAD") == "1\n"
    assert git(run, "show", "HEAD:files/src/main.c") == "int main; // changed\n"
    assert_same_state(project, run / "files")

    again = create(workspace, run / "files")
    assert_same_state(project, again / "files")
    (run / "files" / "sub").mkdir()
    create(workspace, run / "files" / "sub")
    for refused in (run, run / ".git", run / "journal", workspace.runs_dir):
        with pytest.raises(UsageError, match="workspace's own data"):
            create(workspace, refused)
    assert not [path for path in workspace.runs_dir.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("with_git", [False, True])
def test_a_directory_that_holds_the_workspace(workspace: Workspace, with_git: bool) -> None:
    outside = workspace.path.parent
    if with_git:
        git(outside, "init", "-q")
    (workspace.path / ".kitaru").mkdir(exist_ok=True)

    create(workspace, outside)
    run = create(workspace, workspace.path)
    first = create(workspace, outside)

    assert (run / "files" / "agents" / "nothing.py").exists()
    copied = first / "files" / workspace.path.name
    assert (copied / "kitaru.toml").exists()
    for name in ("runs", ".kitaru"):
        assert not (run / "files" / name).exists()
        assert not (copied / name).exists()
