"""What slipped into a run's history is found, all of it, and `scrub` makes a copy without it."""

from __future__ import annotations

import json
import os
import sqlite3
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from flowbench import FlowBench, listing
from plain_git import git

from kitaru_fs import Run, Workspace, flow, step
from kitaru_fs.cli import main as kitaru
from kitaru_fs.errors import SecretMissingError
from kitaru_fs.redaction.credentials import shared_credentials
from kitaru_fs.rundir.leaks import inflated

# Put together here, so that no line of the recorded code holds it.
WORD = " ".join(("correct", "horse", "battery", "staple"))
TOKEN = "ghp_" + "a1B2" * 9


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_PASSWORD", raising=False)
    shared_credentials.cache_clear()


@step
def ask(word: str, place: Path) -> str:
    with (place / "asked").open("a") as log:
        log.write("ask\n")
    return f"the word is {word}"


@step
def write(text: str, place: Path) -> None:
    with (place / "asked").open("a") as log:
        log.write("write\n")
    (Path.cwd() / "notes.txt").write_text(f"{text}\n")
    (Path.cwd() / "deep").mkdir(exist_ok=True)
    (Path.cwd() / "deep" / f"{text[-7:]}.txt").write_text("harmless\n")


@flow
def secretive(place: Path) -> int:
    got = ask(WORD, place)
    write(got, place)
    if (place / "stop").exists():
        raise RuntimeError("not yet")
    return len(got)


@pytest.fixture
def slipped(bench: FlowBench, monkeypatch: pytest.MonkeyPatch) -> FlowBench:
    """A run from before its secret was known as one, and the secret known."""
    (bench.root / "stop").touch()
    with pytest.raises(RuntimeError, match="not yet"):
        in_files(bench, lambda: secretive(bench.root))
    (bench.root / "stop").unlink()
    monkeypatch.setenv("MY_PASSWORD", WORD)
    return bench


def in_files(bench: FlowBench, act: Callable[[], object]) -> None:
    """Does something with a directory of its own as the current one, as `kitaru run` has it."""
    here = Path.cwd()
    make = Workspace.create

    def create(self: Workspace, *args: object, **more: object) -> Path:
        path = make(self, *args, **more)  # type: ignore[arg-type]
        os.chdir(path / "files")
        return path

    Workspace.create = create  # type: ignore[method-assign]
    try:
        act()
    finally:
        Workspace.create = make  # type: ignore[method-assign]
        os.chdir(here)


def resume(run: Run) -> object:
    here = Path.cwd()
    os.chdir(run.path / "files")
    try:
        return run.resume()
    finally:
        os.chdir(here)


def places(run: Run) -> set[str]:
    return {f"{leak.secret}: {leak.step} {leak.path}" for leak in run.leaks()}


def scrubbed(run: Run, **how: bool) -> Run:
    found = run.scrub(**how)
    assert found.path is not None
    return Run(found.path, run.workspace)


def test_what_slipped_through_is_told_with_commit_and_path(slipped: FlowBench) -> None:
    before = listing(slipped.run.path)
    assert places(slipped.run) == {
        "MY_PASSWORD: 1 journal/0000/000001-ask.json",
        "MY_PASSWORD: 2 journal/0000/000002-write.json",
        "MY_PASSWORD: 2 files/notes.txt",
    }
    assert listing(slipped.run.path) == before
    commits = {leak.commit for leak in slipped.run.leaks()}
    assert all(slipped.git("cat-file", "-t", commit) == "commit\n" for commit in commits)


def test_a_history_without_secrets_is_told_so_and_not_copied(
    slipped: FlowBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_PASSWORD", " ".join(("quite", "another", "word")))
    shared_credentials.cache_clear()
    assert slipped.run.leaks() == []
    assert slipped.run.scrub().path is None
    assert len(slipped.workspace.runs()) == 1


def test_the_copy_has_no_secret_and_goes_on(slipped: FlowBench) -> None:
    old = slipped.run
    before = listing(old.path)
    copy = scrubbed(old)
    assert listing(old.path) == before
    assert copy.leaks() == []
    assert git(copy.path, "fsck", "--strict", "--full") == ""
    assert git(copy.path, "status", "--porcelain") == ""
    assert copy.checkup().findings == []
    assert [line.subject for line in copy.log()] == [line.subject for line in old.log()]
    assert (copy.path / "files/notes.txt").read_text() == (
        "the word is {kitaru:secret:MY_PASSWORD}\n"
    )
    entry = copy.show("ask").entry
    assert entry.input["word"] == "{kitaru:secret:MY_PASSWORD}"
    assert entry.secrets == ["output"]
    assert entry.key != old.show("ask").entry.key
    assert entry.key in git(copy.path, "log", "--format=%B")
    assert resume(copy) == len(f"the word is {WORD}")
    assert (slipped.root / "asked").read_text() == "ask\nwrite\n"
    assert copy.refresh().leaks() == []


def test_the_copy_has_a_vault_or_none(slipped: FlowBench, monkeypatch: pytest.MonkeyPatch) -> None:
    run = slipped.run
    with_vault, without = scrubbed(run), scrubbed(run, with_vault=False)
    assert not (without.path / ".git" / "kitaru" / "vault").exists()
    monkeypatch.delenv("MY_PASSWORD")
    shared_credentials.cache_clear()
    with pytest.raises(SecretMissingError, match="MY_PASSWORD"):
        resume(without)
    assert resume(with_vault) == len(f"the word is {WORD}")
    assert (slipped.root / "asked").read_text() == "ask\nwrite\n"


def test_branches_torn_steps_moves_and_commits_by_hand(slipped: FlowBench) -> None:
    run = slipped.run
    resume(run)
    run = run.refresh()
    run.rewind("ask")
    (run.path / "files" / "mine.txt").write_text(f"mine: {WORD}")
    git(run.path, "add", "files/mine.txt")
    git(run.path, "commit", "-q", "-m", f"by hand: {WORD}")
    git(run.path, "branch", "aside")
    git(run.path, "tag", "-a", "-m", f"tagged {WORD}", "tagged")
    shown = places(run)
    assert "MY_PASSWORD: None files/mine.txt" in shown
    assert "MY_PASSWORD: None " in shown
    assert any("a tag of no commit" in place for place in shown)
    copy = scrubbed(run)
    assert copy.leaks() == []
    assert git(copy.path, "fsck", "--strict", "--full") == ""
    assert sorted(git(copy.path, "branch", "--format=%(refname:short)").split()) == sorted(
        git(run.path, "branch", "--format=%(refname:short)").split()
    )
    assert git(copy.path, "log", "-1", "--format=%s").strip() == (
        "by hand: {kitaru:secret:MY_PASSWORD}"
    )
    subjects = "--format=%s", "--all"
    assert len(git(copy.path, "log", *subjects).split("\n")) == len(
        git(run.path, "log", *subjects).split("\n")
    )
    assert resume(copy) == len(f"the word is {WORD}")
    moves = git(copy.path, "for-each-ref", "--format=%(refname)", "refs/kitaru/ops").split()
    move = json.loads(git(copy.path, "cat-file", "blob", moves[0]))
    assert git(copy.path, "cat-file", "-t", move["before"]["commit"]) == "commit\n"


def test_files_of_all_kinds(slipped: FlowBench) -> None:
    run = slipped.run
    files = run.path / "files"
    (files / f"named {WORD}.txt").write_text("a name that tells")
    (files / "link").symlink_to(f"/nowhere/{WORD}")
    (files / "binary").write_bytes(b"\0\1\2" + WORD.encode() + b"\xff" * 9)
    (files / "loose").write_bytes(zlib.compress(f"blob 99\0{WORD}".encode()))
    with sqlite3.connect(files / "data.db") as base:
        base.execute("create table words (word text)")
        base.execute("insert into words values (?)", (WORD,))
    base.close()
    nested = files / "nested"
    nested.mkdir()
    git(nested, "init", "-q")
    (nested / "a.txt").write_text(f"{WORD}\n")
    git(nested, "add", "a.txt")
    git(nested, "commit", "-q", "-m", "in the nested repository")
    git(nested, "gc", "-q")
    os.environ.pop("MY_PASSWORD")
    shared_credentials.cache_clear()
    resume(run)
    os.environ["MY_PASSWORD"] = WORD
    run = run.refresh()
    assert any(".pack" in place for place in places(run))
    found = run.scrub()
    assert found.path is not None
    copy = Run(found.path, run.workspace)
    assert copy.leaks() == []
    assert git(copy.path, "fsck", "--strict", "--full") == ""
    files = copy.path / "files"
    assert (files / "named {kitaru:secret:MY_PASSWORD}.txt").read_text() == "a name that tells"
    assert os.readlink(files / "link") == "/nowhere/{kitaru:secret:MY_PASSWORD}"
    starred = b"\0\1\2" + b"*" * len(WORD) + b"\xff" * 9
    assert (files / "binary").read_bytes() == starred
    with sqlite3.connect(files / "data.db") as base:
        assert base.execute("select word from words").fetchall() == [("*" * len(WORD),)]
    base.close()
    assert not (files / "loose").exists()
    assert "loose" in found.left_out
    assert any(name.endswith(".pack") for name in found.left_out)
    assert git(copy.path, "status", "--porcelain") == ""


def test_a_token_that_only_its_shape_gives_away(bench: FlowBench) -> None:
    def main() -> None:
        (bench.files / "fixture.txt").write_text(f"a token: {TOKEN}\n")

    @step
    def act() -> None:
        main()

    bench.start(lambda: act())
    assert places(bench.run) == {"github-token: 1 files/fixture.txt"}
    copy = scrubbed(bench.run)
    assert (copy.path / "files/fixture.txt").read_text() == (
        "a token: {kitaru:secret:github-token}\n"
    )


def test_a_run_that_crashed_is_looked_through_as_well(
    bench: FlowBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    @step
    def act() -> str:
        return f"the word is {WORD}"

    def main() -> None:
        act()
        bench.die()

    bench.crash(main)
    monkeypatch.setenv("MY_PASSWORD", WORD)
    assert places(bench.run) == {"MY_PASSWORD: 1 journal/0000/000001-act.json"}
    copy = scrubbed(bench.run)
    assert copy.leaks() == []
    assert [line.subject for line in copy.log()][-1] == "step 1: act"


def test_a_scrubbed_run_is_not_scrubbed_twice(slipped: FlowBench) -> None:
    copy = scrubbed(slipped.run)
    resume(copy)
    assert copy.refresh().scrub().path is None


def test_what_stands_beside_the_history_is_looked_at(slipped: FlowBench) -> None:
    slipped.git("branch", "with-ghp_" + "a1B2" * 9)
    assert "github-token: None .git/refs/heads/with-{kitaru:secret:github-token}" in places(
        slipped.run
    )
    copy = scrubbed(slipped.run)
    assert copy.leaks() == []


@pytest.mark.parametrize("deltas", [False, True])
def test_packs_are_read_to_their_end(tmp_path: Path, deltas: bool) -> None:
    git(tmp_path, "init", "-q", "repo")
    repo = tmp_path / "repo"
    for number in range(6):
        (repo / "file").write_text("\n".join(f"line {n}" for n in range(200)) + f"\n{number}\n")
        git(repo, "add", "file")
        git(repo, "commit", "-q", "-m", f"commit {number}")
    git(repo, "repack", "-q", "-a", "-d", "-f", f"--depth={50 if deltas else 0}")
    (pack,) = (repo / ".git" / "objects" / "pack").glob("*.pack")
    count = int(git(repo, "rev-list", "--all", "--objects", "--count"))
    found = list(inflated(pack.read_bytes()))
    assert len(found) == count
    assert sum(b"commit " in one for one in found) == 6


def test_the_commands(slipped: FlowBench, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*args: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            kitaru(["--workspace", str(slipped.root), *args])
        shown = capsys.readouterr()
        return int(stop.value.code or 0), shown.out, shown.err

    status, out, err = run("doctor", "--secrets", "last")
    assert status == 1
    assert "MY_PASSWORD in step 2" in out
    assert WORD not in out + err
    status, out, err = run("scrub", "last", "--json")
    assert status == 0
    told = json.loads(out)
    assert told["of"] != told["run"]
    assert told["objects"] == 3
    assert run("doctor", "--secrets", told["run"])[0] == 0
    status, out, err = run("scrub", told["run"])
    assert (status, "so there is no copy" in out) == (0, True)
