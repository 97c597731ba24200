"""A run's git settings are exactly ours, whatever an agent, a human or `git clone` left there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain_git import git, make_run

from kitaru_fs.errors import FormatError, RunDamagedError
from kitaru_fs.git.config import canonical_config, canonical_files, ensure_canonical, is_canonical
from kitaru_fs.git.configfile import parse_config


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = make_run(tmp_path / "run")
    ensure_canonical(path / ".git")
    return path


def settings_of(run: Path) -> dict[str, bytes]:
    return {name: (run / ".git" / name).read_bytes() for name in canonical_files()}


def test_a_repository_of_git_init_is_adopted_without_a_word(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert not is_canonical(run / ".git")
    assert ensure_canonical(run / ".git") == []
    assert settings_of(run) == canonical_files()
    assert is_canonical(run / ".git")
    assert git(run, "status", "--porcelain") == ""


def test_a_clone_keeps_its_remote(run: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", str(run), "copy")
    copy = tmp_path / "copy"
    assert ensure_canonical(copy / ".git") == []
    assert git(copy, "remote", "get-url", "origin").strip() == str(run)
    assert git(copy, "rev-parse", "--abbrev-ref", "main@{upstream}").strip() == "origin/main"
    git(run, "commit", "-q", "--allow-empty", "-m", "step 1: next")
    git(copy, "pull", "-q")
    assert git(copy, "log", "-1", "--format=%s").strip() == "step 1: next"


def test_remotes_that_a_human_adds_stay(run: Path) -> None:
    for name, url in {
        "origin": "https://example.org/run.git",
        "team": "git@example.org:team/run.git",
        "ssh": "ssh://git@example.org:22/run.git",
        "disk": '/a path/with #odd; "signs\\',
        "near": "../near",
    }.items():
        git(run, "remote", "add", name, url)
    git(run, "config", "branch.main.remote", "team")
    git(run, "config", "branch.main.merge", "refs/heads/main")
    before = settings_of(run)
    assert is_canonical(run / ".git")
    assert ensure_canonical(run / ".git") == []
    assert settings_of(run) == before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("remote.x.url", "ext::sh -c 'touch canary'"),
        ("remote.x.url", "-oProxyCommand=touch"),
        ("remote.x.url", "ssh://-oProxyCommand=touch/x"),
        ("remote.x.url", "host:-x"),
        ("remote.x.url", "fd::7"),
        ("remote.x.url", "https://example.org/a\nb"),
        ("remote.x.uploadpack", "touch canary"),
        ("remote.x.vcs", "ext"),
        ("remote.origin.fetch", "+refs/heads/*:refs/heads/*"),
        ("remote.origin.fetch", "+refs/kitaru/*:refs/kitaru/*"),
        ("remote.-x.url", "https://example.org"),
        ("branch.main.remote", "ext::sh"),
        ("branch.main.merge", "-x"),
        ("alias.log", "!touch canary"),
        ("include.path", "/dev/zero"),
        ("includeIf.gitdir:/.path", "evil"),
        ("core.sshCommand", "touch canary"),
        ("core.hooksPath", "files/hooks"),
        ("core.worktree", "/"),
        ("filter.x.clean", "touch canary"),
        ("url.ext::sh .insteadOf", "https://"),
        ("user.name", "Mallory"),
    ],
)
def test_what_could_start_a_program_goes_and_is_reported(run: Path, key: str, value: str) -> None:
    git(run, "remote", "add", "origin", "https://example.org/run.git")
    before = settings_of(run)
    git(run, "config", "--add", key, value)
    tampered = (run / ".git" / "config").read_bytes()
    assert not is_canonical(run / ".git")
    [found] = ensure_canonical(run / ".git")
    assert found.path == run / ".git" / "config"
    assert found.kept_as is not None
    assert found.kept_as.read_bytes() == tampered
    assert settings_of(run) == before
    assert ensure_canonical(run / ".git") == []


@pytest.mark.parametrize("name", list(canonical_files()))
@pytest.mark.parametrize("content", [b"* text=auto filter=x\n", b"[core\n", b"\0\xff", None])
def test_each_settings_file_is_put_right(run: Path, name: str, content: bytes | None) -> None:
    path = run / ".git" / name
    if content is None:
        path.unlink()
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    assert [found.path for found in ensure_canonical(run / ".git")] == [path]
    assert settings_of(run) == canonical_files()


@pytest.mark.parametrize(
    "name",
    ["hooks/post-checkout", "config.worktree", "info/grafts", "remotes/x", "modules/m/config"],
)
def test_what_git_would_read_or_run_is_moved_aside(run: Path, name: str) -> None:
    path = run / ".git" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("evil\n")
    [found] = ensure_canonical(run / ".git")
    assert not path.exists()
    assert found.kept_as is not None
    assert found.kept_as.parent == run / ".git" / "kitaru" / "tampered"


def test_a_linked_info_directory_is_replaced(run: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    shutil.move(run / ".git" / "info", outside)
    (outside / "attributes").write_text("theirs")
    (run / ".git" / "info").symlink_to(outside)
    assert [found.path for found in ensure_canonical(run / ".git")] == [run / ".git" / "info"]
    assert settings_of(run) == canonical_files()
    assert (outside / "attributes").read_text() == "theirs"


@pytest.mark.parametrize(
    "name", ["commondir", "objects/info/alternates", "shallow"], ids=lambda name: Path(name).name
)
def test_a_repository_that_leads_elsewhere_is_refused(run: Path, name: str) -> None:
    path = run / ".git" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("/somewhere\n")
    with pytest.raises(RunDamagedError, match=path.name):
        ensure_canonical(run / ".git")


@pytest.mark.parametrize("kind", ["missing", "file", "link", "linked objects"])
def test_a_git_that_is_no_directory_is_refused(run: Path, tmp_path: Path, kind: str) -> None:
    git_dir = run / ".git"
    moved = tmp_path / "moved"
    if kind == "linked objects":
        shutil.move(git_dir / "objects", moved)
        (git_dir / "objects").symlink_to(moved)
    else:
        shutil.move(git_dir, moved)
        if kind == "file":
            git_dir.write_text(f"gitdir: {moved}\n")
        if kind == "link":
            git_dir.symlink_to(moved)
    with pytest.raises(RunDamagedError) as caught:
        ensure_canonical(git_dir)
    assert caught.value.hint


def test_other_repository_formats_are_told_apart_from_planted_config(
    run: Path, tmp_path: Path
) -> None:
    git(run, "config", "core.repositoryformatversion", "1")
    git(run, "config", "extensions.objectFormat", "sha256")
    assert len(ensure_canonical(run / ".git")) == 1
    assert settings_of(run) == canonical_files()

    git(tmp_path, "init", "-q", "--object-format=sha256", "other")
    other = tmp_path / "other"
    git(other, "commit", "-q", "--allow-empty", "-m", "x")
    with pytest.raises(FormatError, match="SHA-256"):
        ensure_canonical(other / ".git")
    (run / ".git" / "reftable").mkdir()
    with pytest.raises(FormatError, match="reftable"):
        ensure_canonical(run / ".git")


def test_plain_git_obeys_the_settings(run: Path) -> None:
    (run / "inbox").mkdir()
    (run / "inbox" / "answer.json").write_text("true")
    (run / "files" / ".gitattributes").write_text("* text=auto eol=crlf working-tree-encoding=x\n")
    (run / "files" / "crlf").write_bytes(b"a\r\nb\r\n")
    git(run, "add", "files")
    git(run, "commit", "-q", "-m", "crlf")
    assert git(run, "cat-file", "-s", "HEAD:files/crlf").strip() == "6"
    (run / "files" / "crlf").write_bytes(b"a\nc\r\n")
    assert "+c" in git(run, "diff")
    git(run, "checkout", "-q", "--", "files/crlf")
    assert (run / "files" / "crlf").read_bytes() == b"a\r\nb\r\n"
    assert git(run, "status", "--porcelain") == ""


VALUES = st.text(
    st.characters(codec="utf-8", exclude_characters="\n\r\0", exclude_categories=["Cc", "Cs"])
)


@given(value=VALUES)
def test_values_are_read_as_they_were_written(value: str) -> None:
    remotes = {("remote", "x"): {"url": (value,)}}
    entries, whole = parse_config(canonical_config(remotes))
    assert whole
    assert entries[-1].value == value


@given(content=st.binary())
def test_any_bytes_can_be_parsed(content: bytes) -> None:
    parse_config(content)
    parse_config(canonical_config() + content)
