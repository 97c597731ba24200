"""git on a run reads what is there and runs nothing that an agent planted."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
from plain_git import git, make_run

from kitaru_fs.errors import GitError, RunDamagedError, UsageError
from kitaru_fs.git.config import ensure_canonical
from kitaru_fs.git.index import gitlinks
from kitaru_fs.git.safe import Git, check_git_version, user_identity


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = make_run(tmp_path / "run")
    ensure_canonical(path / ".git")
    return path


@pytest.fixture
def on_run(run: Path):
    with Git(run / ".git", run) as opened:
        yield opened


def plant(run: Path, canary: Path, *, submodule: bool = True) -> None:
    """Everything that an agent could write to have a program of its own executed."""
    head = git(run, "rev-parse", "HEAD").strip()
    if submodule:
        git(run, "update-index", "--add", "--cacheinfo", f"160000,{head},files/nested")
    program = run / "files" / "evil"
    program.write_text(f'#!/bin/sh\necho "$0 $*" >>{canary}\ncat\n')
    program.chmod(0o755)
    git_dir = run / ".git"
    for hooks in (git_dir / "hooks", run / "files" / "hooks"):
        hooks.mkdir(exist_ok=True)
        for name in (
            *("post-checkout", "pre-commit", "post-index-change", "reference-transaction"),
            *("post-commit", "prepare-commit-msg", "pre-auto-gc", "fsmonitor-watchman"),
        ):
            shutil.copy(program, hooks / name)
    for key, value in {
        "core.hooksPath": str(run / "files" / "hooks"),
        "core.fsmonitor": str(program),
        "core.pager": str(program),
        "core.editor": str(program),
        "core.sshCommand": str(program),
        "core.alternateRefsCommand": str(program),
        "core.askPass": str(program),
        "core.attributesFile": str(run / "files" / ".gitattributes"),
        "pager.log": str(program),
        "pager.status": str(program),
        "alias.log": f"!{program}",
        "alias.planted": f"!{program}",
        "credential.helper": f"!{program}",
        "diff.external": str(program),
        "diff.default.textconv": str(program),
        "diff.evil.textconv": str(program),
        "diff.evil.command": str(program),
        "filter.evil.clean": str(program),
        "filter.evil.smudge": str(program),
        "filter.evil.process": str(program),
        "filter.evil.required": "true",
        "merge.evil.driver": str(program),
        "gpg.program": str(program),
        "commit.gpgSign": "true",
        "log.showSignature": "true",
        "include.path": str(run / "files" / "included"),
        "remote.origin.url": f"ext::{program}",
        "remote.origin.fetch": "+refs/heads/*:refs/remotes/origin/*",
        "extensions.worktreeConfig": "true",
    }.items():
        git(run, "config", key, value)
    (run / "files" / "included").write_text(f"[core]\n\tfsmonitor = {program}\n")
    (git_dir / "config.worktree").write_text(f"[core]\n\tfsmonitor = {program}\n")
    attributes = "* filter=evil diff=evil merge=evil text eol=crlf ident\n"
    for folder in (run, run / "files", git_dir / "info"):
        (folder / ".gitattributes").write_text(attributes)
    (git_dir / "info" / "attributes").write_text(attributes)
    nested = run / "files" / "nested"
    shutil.copytree(run / ".git", nested / ".git", ignore=shutil.ignore_patterns("kitaru"))
    (nested / ".gitattributes").write_text(attributes)
    (nested / "tracked").write_text("x\n")
    (run / ".gitmodules").write_text(
        '[submodule "nested"]\n\tpath = files/nested\n\turl = ./nested\n\tignore = none\n'
    )
    os.utime(run / "files" / "notes.md", ns=(1, 1))
    (run / "files" / "notes.md").write_text("one\nTWO\n")
    canary.unlink(missing_ok=True)


READING = [
    ("log", "-p", "--stat", "--show-signature"),
    ("status", "--porcelain"),
    ("status", "--porcelain", "--ignore-submodules=none"),
    ("diff",),
    ("diff", "HEAD"),
    ("diff", "--submodule=diff"),
    ("show", "HEAD"),
    ("grep", "one"),
    ("blame", "files/notes.md"),
    ("cat-file", "--textconv", "HEAD:files/notes.md"),
    ("cat-file", "--filters", "HEAD:files/notes.md"),
    ("archive", "HEAD"),
    ("ls-files", "--others", "--modified"),
    ("fetch", "origin"),
    ("planted",),
]
WRITING = [
    ("add", "files/notes.md"),
    ("commit", "-a", "-m", "x"),
    ("checkout", "-f", "-b", "other", "HEAD"),
    ("checkout", "HEAD", "--", "files/notes.md"),
    ("stash",),
    ("merge", "--no-ff", "HEAD~1"),
    ("gc", "--auto"),
    ("submodule", "status"),
]


def test_nothing_planted_runs_even_when_the_config_is_tampered(run: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    plant(run, canary)
    with Git(run / ".git", run) as tampered:
        for args in (*READING, *WRITING):
            with contextlib.suppress(UsageError):
                tampered.execute("-c", "user.name=a", "-c", "user.email=b", *args)
            assert not canary.exists(), (args, canary.read_text())
        assert tampered.run("log", "--format=%s", "main").endswith(b"start: demo\n")
        head = tampered.run("rev-parse", "main").decode().strip()
        assert tampered.cat_file.read(head)[0] == "commit"
    assert not canary.exists()


def test_nothing_planted_runs_with_an_index_of_ours(run: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    plant(run, canary, submodule=False)
    with Git(run / ".git", run) as tampered:
        for args in (*READING, *WRITING):
            with contextlib.suppress(UsageError):
                tampered.execute("-c", "user.name=a", "-c", "user.email=b", *args)
            assert not canary.exists(), (args, canary.read_text())
        assert tampered.run("log", "-1", "--format=%an %s", "main") == b"a x\n"


@pytest.mark.parametrize("version", ["2", "4"])
def test_the_users_commands_refuse_an_index_with_submodules(run: Path, version: str) -> None:
    assert gitlinks(run / ".git") == []
    head = git(run, "rev-parse", "HEAD").strip()
    for name in ("files/a-nested", "files/a-nested-one", "zz"):
        git(run, "update-index", "--add", "--cacheinfo", f"160000,{head},{name}")
    git(run, "update-index", "--index-version", version)
    assert gitlinks(run / ".git") == [b"files/a-nested", b"files/a-nested-one", b"zz"]
    assert "update-index --force-remove files/a-nested`" in interactive(run, "status").stderr
    git(run, "update-index", "--split-index")
    assert gitlinks(run / ".git") != []


@pytest.mark.parametrize(
    "args",
    [
        ("submodule", "update"),
        ("-c", "a.b=c", "submodule"),
        ("diff", "--submodule=diff"),
        ("diff", "--subm"),
        ("status", "--ignore-submodules=none"),
        ("checkout", "--recurse-submodules"),
        ("grep", "--recurse", "x"),
    ],
)
def test_options_that_enter_nested_repositories_are_refused(
    on_run: Git, args: tuple[str, ...]
) -> None:
    with pytest.raises(UsageError, match="nested"):
        on_run.run(*args)
    on_run.run("diff", "--ignore-space-change", "--", "--submodule")


def test_plain_git_runs_nothing_planted_after_the_check(run: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    plant(run, canary)
    reported = {found.path.name for found in ensure_canonical(run / ".git")}
    assert reported >= {"config", "hooks", "attributes", "config.worktree", ".gitmodules"}
    git(run, "update-index", "--force-remove", "files/nested")
    shutil.rmtree(run / "files" / "nested")
    assert not canary.exists()
    for args in (*READING, *WRITING):
        git(run, *args, check=False)
        assert not canary.exists(), (args, canary.read_text())


def test_a_nested_repository_in_the_index_runs_nothing_in_plain_status(
    run: Path, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    plant(run, canary)
    ensure_canonical(run / ".git")
    git(run, "status")
    git(run, "diff")
    assert not canary.exists()


def test_a_hostile_environment_changes_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    canary = tmp_path / "canary"
    (home / ".gitconfig").write_text(
        f'[core]\n\tautocrlf = true\n\thooksPath = /x\n\tfsmonitor = "touch {canary}"\n'
        "[status]\n\tbranch = true\n[log]\n\tdecorate = full\n[diff]\n\tnoprefix = true\n"
    )
    for name, value in {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
        "GIT_DIR": str(tmp_path),
        "GIT_WORK_TREE": "/",
        "GIT_INDEX_FILE": "/dev/null",
        "GIT_OBJECT_DIRECTORY": "/nowhere",
        "GIT_EXTERNAL_DIFF": f"touch {canary}",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "diff.noprefix",
        "GIT_CONFIG_VALUE_0": "true",
        "GIT_PAGER": f"touch {canary}",
        "GIT_NAMESPACE": "other",
    }.items():
        monkeypatch.setenv(name, value)
    (run / "files" / "notes.md").write_text("one\nTWO\n")
    with Git(run / ".git", run) as on_run:
        assert on_run.run("status", "--porcelain") == b" M files/notes.md\n"
        assert b"--- a/files/notes.md" in on_run.run("diff")
        assert on_run.run("log", "--oneline").endswith(b" start: demo\n")
    assert not canary.exists()


def test_a_git_below_the_run_or_the_current_directory_is_never_used(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (run / "files", run / "files" / "bin"):
        folder.mkdir(exist_ok=True)
        (folder / "git").write_text("#!/bin/sh\necho planted\n")
        (folder / "git").chmod(0o755)
    monkeypatch.chdir(run / "files")
    monkeypatch.setenv(
        "PATH", os.pathsep.join(["", ".", "bin", f"{run}/files/bin", os.environ["PATH"]])
    )
    with Git(run / ".git", run) as on_run:
        assert on_run.run("rev-parse", "--abbrev-ref", "HEAD") == b"main\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_foreign_owner_does_not_matter(run: Path) -> None:
    for path in [run, *run.rglob("*")]:
        os.chown(path, 12345, 12345, follow_symlinks=False)
    with Git(run / ".git", run) as on_run:
        assert on_run.run("log", "--format=%s") == b"start: demo\n"
        assert on_run.run("status", "--porcelain") == b""


def test_reading_writes_nothing(run: Path, on_run: Git) -> None:
    def everything() -> list[tuple[str, int, int]]:
        found = [run, *sorted(run.rglob("*"))]
        return [(str(path), path.lstat().st_mtime_ns, path.lstat().st_ino) for path in found]

    os.utime(run / "files" / "notes.md")  # would have git refresh its index
    for before, name in ((everything(), None), (None, "alias.x")):
        if name:
            git(run, "config", name, "!true")
            before = everything()
        on_run.run("status")
        on_run.run("log", "-p")
        on_run.cat_file.read(git(run, "rev-parse", "HEAD").strip())
        assert everything() == before


def test_what_git_says_when_it_refuses_is_in_the_error(on_run: Git) -> None:
    with pytest.raises(GitError, match="unknown revision"):
        on_run.run("log", "nowhere")
    done = on_run.execute("log", "nowhere")
    assert done.status == 128
    assert b"unknown revision" in done.stderr
    assert on_run.run("log", "nowhere", check=False) == b""
    assert on_run.run("hash-object", "--stdin", input=b"").startswith(b"e69de29")


def test_a_run_that_is_gone(run: Path, on_run: Git) -> None:
    shutil.rmtree(run)
    with pytest.raises(RunDamagedError):
        on_run.run("log")
    with pytest.raises(RunDamagedError):
        on_run.cat_file.read("0" * 40)


@pytest.mark.parametrize(
    ("answer", "message"),
    [(None, "not found"), ("git version 2.30.2", "too old"), ("hello", "does not answer")],
)
def test_a_git_that_will_not_do(tmp_path: Path, answer: str | None, message: str) -> None:
    if answer:
        (tmp_path / "git").write_text(f"#!/bin/sh\necho {answer}\n")
        (tmp_path / "git").chmod(0o755)
    with pytest.raises(GitError, match=message) as caught:
        check_git_version(str(tmp_path))
    assert caught.value.exit_status == 2
    assert "Install git" in caught.value.hint
    assert check_git_version() >= (2, 34)


def test_the_users_identity(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "GIT_AUTHOR_NAME": "never"}
    found = user_identity(environ)
    assert found is not None
    assert found[1] == f"{found[0]}@localhost"
    (tmp_path / "more").write_text("[user]\n\temail = <ada@example.org>\n")
    (tmp_path / ".gitconfig").write_text(
        '[include]\n\tpath = more\n[user]\n\tname = "Ada\\n Lovelace"\n[alias]\n\tconfig = !false\n'
    )
    assert user_identity(environ) == ("Ada Lovelace", "ada@example.org")


# --- reading objects


@pytest.fixture
def blobs(run: Path) -> dict[str, bytes]:
    chooser = random.Random(7)
    contents = [chooser.randbytes(chooser.choice([0, 1, 100, 5000, 80_000])) for _ in range(150)]
    for number, content in enumerate(contents):
        (run / "files" / f"{number:03}").write_bytes(content)
    git(run, "add", "files")
    names = [git_line.split() for git_line in git(run, "ls-files", "-s", "files").splitlines()]
    return {line[1]: (run / line[3]).read_bytes() for line in names}


def test_many_objects_are_read_in_order_without_a_deadlock(
    on_run: Git, blobs: dict[str, bytes]
) -> None:
    asked = list(blobs) * 4
    found = list(on_run.cat_file.read_many(iter(asked)))
    assert [sha for sha, _, _ in found] == asked
    assert all(kind == "blob" and data == blobs[sha] for sha, kind, data in found)
    assert list(on_run.cat_file.read_many([])) == []
    for sha, content in list(blobs.items())[:20]:
        assert b"".join(on_run.cat_file.stream(sha)) == content


def test_reading_within_reading_and_stopping_half_way(on_run: Git, blobs: dict[str, bytes]) -> None:
    for sha, _, _ in on_run.cat_file.read_many(blobs):
        assert on_run.cat_file.read(sha)[1] == blobs[sha]
        break
    for piece in on_run.cat_file.stream(max(blobs, key=lambda sha: len(blobs[sha]))):
        assert piece
        break
    sha = next(iter(blobs))
    assert on_run.cat_file.read(sha) == ("blob", blobs[sha])


def test_many_threads_read_at_once(on_run: Git, blobs: dict[str, bytes]) -> None:
    wrong: list[str] = []

    def read() -> None:
        for sha, _, data in on_run.cat_file.read_many(blobs):
            if data != blobs[sha] or on_run.cat_file.read(sha)[1] != data:
                wrong.append(sha)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_missing_object_is_a_key_error(on_run: Git, blobs: dict[str, bytes]) -> None:
    with pytest.raises(KeyError, match="f" * 40):
        on_run.cat_file.read("f" * 40)
    with pytest.raises(KeyError):
        list(on_run.cat_file.read_many([*blobs, "f" * 40, *blobs]))
    with pytest.raises(KeyError):
        list(on_run.cat_file.stream("f" * 40))
    with pytest.raises(ValueError, match="not an object's id"):
        on_run.cat_file.read("HEAD\n" + "f" * 35)
    assert len(list(on_run.cat_file.read_many(blobs))) == len(blobs)


def test_packs_may_come_and_go_while_it_reads(
    run: Path, on_run: Git, blobs: dict[str, bytes]
) -> None:
    reader = on_run.cat_file
    assert len(list(reader.read_many(blobs))) == len(blobs)
    git(run, "commit", "-q", "-m", "blobs")
    git(run, "repack", "-q", "-a", "-d")
    assert all(data == blobs[sha] for sha, _, data in reader.read_many(blobs))
    (run / "files" / "000").write_bytes(b"new")
    git(run, "commit", "-q", "-a", "-m", "new")
    git(run, "repack", "-q", "-a", "-d")
    new = git(run, "rev-parse", "HEAD:files/000").strip()
    assert reader.read(new) == ("blob", b"new")
    assert all(data == blobs[sha] for sha, _, data in reader.read_many(blobs))


def test_it_starts_again_when_its_git_was_killed(on_run: Git, blobs: dict[str, bytes]) -> None:
    reading = on_run.cat_file.read_many(blobs)
    next(reading)
    for pid in children():
        os.kill(pid, signal.SIGKILL)
    assert len(list(reading)) == len(blobs) - 1
    for pid in children():
        os.kill(pid, signal.SIGKILL)
    assert len(list(on_run.cat_file.read_many(blobs))) == len(blobs)
    on_run.close()
    assert children() == []
    assert len(list(on_run.cat_file.read_many(blobs))) == len(blobs)


def children() -> list[int]:
    listed = subprocess.run(
        ["ps", "-o", "pid=,comm=", "--ppid", str(os.getpid())], capture_output=True, text=True
    ).stdout
    return [int(line.split()[0]) for line in listed.splitlines() if line.split()[1] == "git"]


@pytest.mark.parametrize("damage", [b"", b"torn", None])
def test_a_damaged_object_is_told_apart_from_a_missing_one(
    run: Path, on_run: Git, blobs: dict[str, bytes], damage: bytes | None
) -> None:
    sha = list(blobs)[10]
    path = run / ".git" / "objects" / sha[:2] / sha[2:]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-9] if damage is None else damage)
    with pytest.raises(RunDamagedError, match=sha) as caught:
        list(on_run.cat_file.read_many(blobs))
    assert "doctor" in caught.value.hint


def test_a_forked_child_reads_with_a_git_of_its_own(on_run: Git, blobs: dict[str, bytes]) -> None:
    sha, content = max(blobs.items(), key=lambda item: len(item[1]))
    on_run.cat_file.read(sha)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        good = all(on_run.cat_file.read(sha)[1] == content for _ in range(20))
        on_run.close()
        os._exit(0 if good else 1)
    for _ in range(20):
        assert on_run.cat_file.read(sha)[1] == content
    assert os.waitpid(pid, 0)[1] == 0
    assert on_run.cat_file.read(sha)[1] == content


# --- the user's own git commands


def interactive(run: Path, *args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys; from pathlib import Path; from kitaru_fs.git.safe import Git\n"
        "run = Path(sys.argv[1])\n"
        "identity = ('Ada', 'ada@example.org')\n"
        "sys.exit(Git(run / '.git', run).interactive(sys.argv[2:], identity=identity))\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code, str(run), *args],
        cwd=cwd or run.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_users_commands_run_where_they_are(run: Path) -> None:
    assert interactive(run, "log", "--format=%s").stdout == "start: demo\n"
    assert interactive(run, "log", "nowhere").returncode == 128
    assert interactive(run, "ls-files", "notes.md", cwd=run / "files").stdout == "notes.md\n"
    assert interactive(run, "commit", "--allow-empty", "-m", "mine").returncode == 0
    assert git(run, "log", "-1", "--format=%an %ce").strip() == "Ada ada@example.org"


def test_the_users_fetch_is_allowed_and_ext_is_not(run: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", "--bare", str(run), "bare.git")
    assert interactive(run, "fetch", str(tmp_path / "bare.git")).returncode == 0
    refused = interactive(run, "fetch", f"ext::touch {tmp_path / 'canary'}")
    assert "not allowed" in refused.stderr
    assert not (tmp_path / "canary").exists()


def test_the_users_commands_wait_for_the_config_to_be_put_right(run: Path) -> None:
    git(run, "config", "alias.log", "!false")
    assert "RunDamagedError" in interactive(run, "log").stderr
    ensure_canonical(run / ".git")
    assert interactive(run, "log").returncode == 0
