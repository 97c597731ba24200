"""`kitaru doctor`: what is damaged or tampered with is put right, kept, and told."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from flowbench import FlowBench, listing
from plain_git import git

from kitaru_fs import Workspace, step
from kitaru_fs.cli import main as kitaru
from kitaru_fs.git.locks import LOCK_MODE
from kitaru_fs.holding.lock import RunLock
from kitaru_fs.rundir.checkup.doctor import Checkup


def written(bench: FlowBench, *, die: bool = False) -> Callable[[], str]:
    @step
    def write(number: int) -> int:
        bench.did(number)
        (bench.files / "deep").mkdir(exist_ok=True)
        (bench.files / "deep" / f"{number}.txt").write_text(f"content of {number}\n")
        (bench.files / "private").write_text(f"private {number}\n")
        (bench.files / "private").chmod(0o600)
        return number

    @step
    def tear() -> None:
        bench.did("tear")
        # A kill while git is shown the steps would leave half an object.
        while "step 4: write\n" not in bench.git("log", "--format=%s", "--all"):
            time.sleep(0.01)
        (bench.files / "half.txt").write_text("half")
        (bench.files / "deep" / "1.txt").write_text("changed")
        bench.die()

    def main() -> str:
        for number in range(4):
            write(number)
        if die:
            tear()
        return "done"

    return main


@pytest.fixture
def stopped(bench: FlowBench) -> FlowBench:
    """A run that came to rest in order, and is not at its end."""
    main = written(bench)

    def paused() -> str:
        main()
        raise RuntimeError("not yet")

    with pytest.raises(RuntimeError, match="not yet"):
        bench.start(paused)
    return bench


@pytest.fixture
def crashed(bench: FlowBench) -> FlowBench:
    bench.crash(written(bench, die=True))
    return bench


def told(checkup: Checkup) -> list[tuple[str, str]]:
    return [(finding.check, finding.state) for finding in checkup.findings]


def resumes(bench: FlowBench) -> None:
    """Asserts that the run goes on, that no step of its journal runs again, and git is happy."""
    before = bench.counts
    assert bench.resume(written(bench)) == "done"
    assert bench.counts == before
    assert bench.git("fsck", "--strict", "--full") == ""
    assert bench.git("status", "--porcelain") == ""
    assert sorted(bench.tree()) == [*(f"deep/{n}.txt" for n in range(4)), "private"]


def loosen(run: Path) -> None:
    """Makes every object of a run a loose one."""
    packs = run.parent / "packs"
    shutil.move(run / ".git" / "objects" / "pack", packs)
    (run / ".git" / "objects" / "pack").mkdir()
    for pack in packs.glob("*.pack"):
        os.system(f"git -C {run} unpack-objects -q < {pack}")
    shutil.rmtree(packs)


def loose(run: Path, name: str) -> Path:
    sha = git(run, "rev-parse", name).strip()
    return run / ".git" / "objects" / sha[:2] / sha[2:]


def cut(path: Path, size: int = 0) -> None:
    path.chmod(0o644)
    os.truncate(path, size)


# Nothing to do


def test_a_run_at_rest_is_in_order_and_a_look_writes_nothing(stopped: FlowBench) -> None:
    before = listing(stopped.run.path)
    assert told(stopped.run.checkup()) == []
    assert listing(stopped.run.path) == before
    assert told(stopped.run.checkup(repair=True)) == []
    resumes(stopped)


def test_a_look_at_a_crashed_and_tampered_run_writes_nothing(crashed: FlowBench) -> None:
    (crashed.run.path / ".git" / "config").write_text("[core]\n\tfsmonitor = touch canary\n")
    before = listing(crashed.run.path)
    assert told(crashed.run.checkup()) == [("settings", "found"), ("crash", "found")]
    assert listing(crashed.run.path) == before


# A crash


def test_after_a_crash_git_finds_the_run_clean_and_the_torn_step_is_kept(
    crashed: FlowBench,
) -> None:
    checkup = crashed.run.checkup(repair=True)
    assert checkup.in_order
    assert told(checkup) == [("crash", "repaired"), ("crash", "repaired")]
    assert crashed.git("status", "--porcelain") == ""
    assert crashed.git("fsck", "--strict") == ""
    ref = checkup.findings[1].kept_as
    assert crashed.git("show", f"{ref}:files/half.txt") == "half"
    assert crashed.text("deep/1.txt") == "content of 1\n"
    assert crashed.log()[-1] == "step 4: write"
    assert told(crashed.run.checkup(repair=True)) == []
    crashed.resume(written(crashed, die=True))
    assert crashed.done == ["0", "1", "2", "3", "tear", "tear"]
    assert crashed.log()[5] == "resume 5: asked"


def test_a_head_that_was_moved_after_a_crash_stays(crashed: FlowBench) -> None:
    # What git could not see of the crash is completed first.
    crashed.run.checkup(repair=True)
    crashed.crash(written(crashed, die=True), resume=True)
    first = crashed.git("rev-list", "--max-parents=0", "HEAD").strip()
    crashed.git("checkout", "-q", "-f", first)
    checkup = crashed.run.checkup(repair=True)
    assert ("crash", "refused") in told(checkup)
    assert not checkup.in_order
    assert crashed.git("rev-parse", "HEAD").strip() == first


def test_an_edit_of_a_human_stays_theirs(stopped: FlowBench) -> None:
    (stopped.files / "mine.txt").write_text("mine")
    assert told(stopped.run.checkup(repair=True)) == []
    assert stopped.text("mine.txt") == "mine"
    stopped.resume(written(stopped))
    assert "edit 6: 1 file" in stopped.log()


def test_a_clone_is_left_to_resume(stopped: FlowBench) -> None:
    clone = stopped.root / "runs" / "clone"
    git(stopped.root, "clone", "-q", str(stopped.run.path), str(clone))
    (clone / "files" / "private").chmod(0o644)
    copied = Workspace(stopped.root).run("clone")
    checkup = copied.checkup(repair=True)
    assert checkup.in_order
    assert {check for check, _ in told(checkup)} <= {"permissions", "log"}
    with pytest.raises(RuntimeError, match="not yet"):
        copied.resume()
    assert (clone / "files" / "private").stat().st_mode & 0o777 == 0o600


# Tampering


def _linked(name: str) -> Callable[[Path, Path], None]:
    def tamper(git_dir: Path, outside: Path) -> None:
        shutil.move(git_dir / name, outside / "moved")
        (git_dir / name).symlink_to(outside / "moved")

    return tamper


def _alternates(git_dir: Path, outside: Path) -> None:
    shutil.copytree(git_dir / "objects", outside / "objects")
    for pack in (git_dir / "objects" / "pack").iterdir():
        pack.unlink()
    (git_dir / "objects" / "info" / "alternates").write_text(f"{outside / 'objects'}\n")


def _empty_alternates(git_dir: Path, outside: Path) -> None:
    (git_dir / "objects" / "info" / "alternates").write_text(f"{outside}/nothing\n/dev/zero\n")


def _replaced(git_dir: Path, outside: Path) -> None:
    first, last = git(git_dir.parent, "log", "--format=%H", "-2").split()
    git(git_dir.parent, "replace", first, last)


def _shallow(git_dir: Path, outside: Path) -> None:
    (git_dir / "shallow").write_text(git(git_dir.parent, "rev-parse", "HEAD"))


def _writes(name: str, text: str, mode: int = 0o644) -> Callable[[Path, Path], None]:
    def tamper(git_dir: Path, outside: Path) -> None:
        (git_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (git_dir / name).write_text(text)
        (git_dir / name).chmod(mode)

    return tamper


def _opened_up(git_dir: Path, outside: Path) -> None:
    git_dir.parent.chmod(0o755)
    (git_dir / "kitaru" / "vault").write_text('{"format": 1, "named": {}, "found": {}}')
    (git_dir / "kitaru" / "vault").chmod(0o644)


TAMPERING = {
    "config": ("settings", _writes("config", "[core]\n\tfsmonitor = touch canary\n")),
    "hooks": ("settings", _writes("hooks/post-checkout", "#!/bin/sh\ntouch canary\n", 0o755)),
    "attributes": ("settings", _writes("info/attributes", "* filter=x\n")),
    "grafts": ("settings", _writes("info/grafts", "0" * 40 + "\n")),
    "worktree config": ("settings", _writes("config.worktree", "[core]\n\tpager = x\n")),
    "commondir": ("layout", _writes("commondir", "/tmp\n")),
    "alternates": ("layout", _alternates),
    "alternates of nothing": ("layout", _empty_alternates),
    "objects": ("layout", _linked("objects")),
    "pack": ("layout", _linked("objects/pack")),
    "refs": ("layout", _linked("refs")),
    "heads": ("layout", _linked("refs/heads")),
    "replace": ("layout", _replaced),
    "shallow": ("layout", _shallow),
    "permissions": ("permissions", _opened_up),
}


@pytest.mark.parametrize("name", TAMPERING)
def test_tampering_is_put_right_kept_aside_and_told(
    stopped: FlowBench, tmp_path: Path, name: str
) -> None:
    check, tamper = TAMPERING[name]
    (tmp_path / "outside").mkdir()
    tamper(stopped.run.path / ".git", tmp_path / "outside")
    assert (check, "found") in told(stopped.run.checkup())
    checkup = stopped.run.checkup(repair=True)
    assert checkup.in_order, checkup.findings
    found = next(finding for finding in checkup.findings if finding.check == check)
    if check != "permissions":
        assert os.path.lexists(stopped.run.path / found.kept_as)
    assert told(stopped.run.checkup(repair=True)) == []
    assert not any(path.name == "canary" for path in tmp_path.rglob("*"))
    assert stopped.run.path.stat().st_mode & 0o777 == 0o700
    resumes(stopped)


def test_a_repository_that_is_elsewhere_is_not_made_one(stopped: FlowBench, tmp_path: Path) -> None:
    git_dir = stopped.run.path / ".git"
    shutil.move(git_dir, tmp_path / "moved")
    git_dir.write_text(f"gitdir: {tmp_path / 'moved'}\n")
    assert told(stopped.workspace.run().checkup(repair=True)) == [("layout", "refused")]
    assert git_dir.read_text() == f"gitdir: {tmp_path / 'moved'}\n"


# Locks, HEAD, refs, the log


def test_stale_locks_of_ours_go(stopped: FlowBench) -> None:
    for name in ("index.lock", "HEAD.lock", "refs/heads/main.lock"):
        os.close(os.open(stopped.run.path / ".git" / name, os.O_CREAT, LOCK_MODE))
    assert told(stopped.run.checkup(repair=True)) == [("locks", "repaired")] * 3
    resumes(stopped)


@pytest.mark.parametrize("content", ["", "garbage\n", "ref: refs/heads/none\n", None])
def test_a_head_that_names_nothing_is_put_where_it_was(
    stopped: FlowBench, content: str | None
) -> None:
    head = stopped.run.path / ".git" / "HEAD"
    if content is None:
        head.unlink()
    else:
        head.write_text(content)
    assert told(stopped.workspace.run().checkup(repair=True)) == [("head", "repaired")]
    assert head.read_text() == "ref: refs/heads/main\n"
    resumes(stopped)


def test_a_head_that_nothing_explains_is_left(stopped: FlowBench) -> None:
    stopped.git("branch", "other")
    head = stopped.run.path / ".git" / "HEAD"
    head.write_text("garbage\n")
    (stopped.run.path / ".git" / "kitaru" / "left.json").unlink()
    assert ("head", "refused") in told(stopped.workspace.run().checkup(repair=True))
    assert head.read_text() == "garbage\n"


def test_a_commit_that_a_branch_was_on_when_its_process_died_stays_reachable(
    crashed: FlowBench,
) -> None:
    head = crashed.git("rev-parse", "main").strip()
    mine = crashed.git("commit-tree", "-m", "Mine", "-p", head, f"{head}^{{tree}}").strip()
    # Without a word in the reflog, as a power cut leaves it.
    (crashed.run.path / ".git" / "refs" / "heads" / "main").write_text(mine + "\n")
    assert crashed.workspace.run().checkup(repair=True).findings
    assert mine in crashed.git("rev-list", "--all").split()
    resumes(crashed)
    assert mine in crashed.git("rev-list", "--all").split()


@pytest.mark.parametrize("name", ["refs/heads/main", "refs/kitaru/tips/main"])
def test_an_empty_ref_is_put_where_its_twin_is(stopped: FlowBench, name: str) -> None:
    before = stopped.refs()
    (stopped.run.path / ".git" / name).write_text("")
    assert told(stopped.workspace.run().checkup(repair=True)) == [("refs", "repaired")]
    # That it moved a branch is in the log of operations, itself a ref.
    after = [line for line in stopped.refs().splitlines() if "refs/kitaru/ops/" not in line]
    assert after == before.splitlines()
    resumes(stopped)


def test_a_branch_that_nothing_explains_is_left(stopped: FlowBench) -> None:
    for name in ("refs/heads/main", "refs/kitaru/tips/main"):
        (stopped.run.path / ".git" / name).write_text("")
    shutil.rmtree(stopped.run.path / ".git" / "logs", ignore_errors=True)
    (stopped.run.path / ".git" / "kitaru" / "left.json").unlink()
    checkup = stopped.workspace.run().checkup(repair=True)
    assert told(checkup)[:2] == [("refs", "refused")] * 2
    assert (stopped.run.path / ".git" / "refs/heads/main").read_text() == ""


def test_empty_refs_of_a_crashed_run_come_from_the_log(crashed: FlowBench) -> None:
    for name in ("refs/heads/main", "refs/kitaru/tips/main"):
        path = crashed.run.path / ".git" / name
        if path.exists():
            path.write_text("")
    assert crashed.workspace.run().checkup(repair=True).in_order
    assert crashed.log()[-1] == "step 4: write"


def test_a_log_whose_headers_are_lost_is_read_all_the_same(crashed: FlowBench) -> None:
    wal = crashed.run.path / ".git" / "kitaru" / "wal"
    with wal.open("r+b") as file:
        file.write(bytes(1024))
    checkup = crashed.workspace.run().checkup(repair=True)
    assert checkup.in_order
    assert told(checkup)[0] == ("log", "repaired")
    assert (crashed.run.path / checkup.findings[0].kept_as).read_bytes()[:1024] == bytes(1024)
    assert crashed.log()[-1] == "step 4: write"


@pytest.mark.parametrize("content", [b"", b"garbage" * 4000])
def test_a_log_that_is_none_is_kept_and_made_anew(stopped: FlowBench, content: bytes) -> None:
    wal = stopped.run.path / ".git" / "kitaru" / "wal"
    wal.write_bytes(content)
    checkup = stopped.run.checkup(repair=True)
    assert told(checkup) == [("log", "repaired")]
    assert (stopped.run.path / checkup.findings[0].kept_as).read_bytes() == content
    resumes(stopped)


def test_a_vault_that_cannot_be_read_is_set_aside(stopped: FlowBench) -> None:
    vault = stopped.run.path / ".git" / "kitaru" / "vault"
    vault.write_text("garbage")
    vault.chmod(0o600)
    assert told(stopped.run.checkup(repair=True)) == [("vault", "repaired")]
    resumes(stopped)


# Objects


def test_damaged_objects_of_a_crashed_run_come_from_the_log(crashed: FlowBench) -> None:
    objects = crashed.run.path / ".git" / "objects"
    damaged = list(objects.glob("??/*"))
    for number, path in enumerate(damaged):
        cut(path, number % 3 * 10)
    checkup = crashed.run.checkup(repair=True)
    assert checkup.in_order
    assert crashed.git("fsck", "--strict") == ""
    assert crashed.git("status", "--porcelain") == ""


@pytest.mark.parametrize(
    "name",
    [
        "HEAD:files/deep/2.txt",
        "HEAD:files/deep",
        "HEAD:files",
        "HEAD:state",
        "HEAD:journal/0000",
        "HEAD:journal/0000/000002-write.json",
        "HEAD:run.json",
        "HEAD^{tree}",
    ],
)
@pytest.mark.parametrize("how", ["empty", "short", "missing"])
def test_an_object_that_the_directory_still_has_comes_back(
    stopped: FlowBench, name: str, how: str
) -> None:
    run = stopped.run.path
    loosen(run)
    place = loose(run, name)
    if how == "missing":
        place.unlink()
    else:
        cut(place, 0 if how == "empty" else place.stat().st_size - 4)
    assert ("objects", "found") in told(stopped.workspace.run().checkup())
    checkup = stopped.workspace.run().checkup(repair=True)
    assert checkup.in_order, checkup.findings
    assert ("objects", "repaired") in told(checkup)
    resumes(stopped)


def test_an_object_that_nothing_has_is_told_with_what_needs_it(stopped: FlowBench) -> None:
    run = stopped.run.path
    loosen(run)
    first = stopped.git("log", "--format=%H", "--grep=^step 2:").strip()
    place = loose(run, f"{first}:files/private")
    place.unlink()
    checkup = stopped.workspace.run().checkup(repair=True)
    assert told(checkup) == [("objects", "refused")]
    assert "files/private" in checkup.findings[0].what
    assert first[:12] in checkup.findings[0].what
    assert not place.exists()


def test_a_damaged_copy_of_an_object_that_a_pack_has_is_set_aside(stopped: FlowBench) -> None:
    place = loose(stopped.run.path, "HEAD:files/deep/2.txt")
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(b"")
    assert told(stopped.run.checkup(repair=True)) == [("objects", "repaired")]
    resumes(stopped)


def test_a_pack_gets_its_index_back(stopped: FlowBench) -> None:
    for index in (stopped.run.path / ".git" / "objects" / "pack").glob("*.idx"):
        index.unlink()
    checkup = stopped.workspace.run().checkup(repair=True)
    assert checkup.in_order, checkup.findings
    assert ("objects", "repaired") in told(checkup)
    resumes(stopped)


def test_what_a_killed_kitaru_was_writing_goes(stopped: FlowBench) -> None:
    objects = stopped.run.path / ".git" / "objects"
    for name in ("tmp_obj_123_0123456789ab", "pack/tmp_pack_123-01234567", "tmp_obj_of_git"):
        (objects / name).write_bytes(b"half")
    assert told(stopped.run.checkup(repair=True)) == [("leftovers", "repaired")] * 2
    assert (objects / "tmp_obj_of_git").exists()


# The index


@pytest.mark.parametrize("how", ["missing", "short", "garbage", "of an earlier step", "no marks"])
def test_an_index_that_is_wrong_is_written_anew(stopped: FlowBench, how: str) -> None:
    index = stopped.run.path / ".git" / "index"
    if how == "missing":
        index.unlink()
    elif how == "short":
        cut(index, index.stat().st_size // 2)
    elif how == "garbage":
        index.write_bytes(b"garbage")
    elif how == "no marks":
        stopped.git("read-tree", "HEAD")
        stopped.git("ls-files", "-z", "state")
        stopped.git("update-index", "--no-skip-worktree", "state/=dir")
    else:
        stopped.git("read-tree", "HEAD~2")
    assert told(stopped.run.checkup()) == [("index", "found")]
    assert told(stopped.run.checkup(repair=True)) == [("index", "repaired")]
    assert stopped.git("status", "--porcelain") == ""
    resumes(stopped)


def test_an_index_that_a_human_staged_something_in_stays(stopped: FlowBench) -> None:
    (stopped.files / "mine.txt").write_text("mine")
    stopped.git("add", "files/mine.txt")
    assert told(stopped.run.checkup(repair=True)) == []
    assert stopped.git("diff", "--cached", "--name-only") == "files/mine.txt\n"


def test_what_shows_the_commits_is_put_right(stopped: FlowBench, tmp_path: Path) -> None:
    run = stopped.run.path
    (run / "run.json").write_text('{"run": "mine"}')
    (run / "journal" / "0000" / "000001-write.json").write_text("{}")
    outside = tmp_path / "outside"
    shutil.copytree(run / "code", outside)
    (outside / "empty").touch()
    shutil.rmtree(run / "code")
    (run / "code").symlink_to(outside)
    before = listing(outside)
    assert told(stopped.run.checkup()) == [("shown", "found")]
    checkup = stopped.workspace.run().checkup(repair=True)
    assert checkup.in_order
    assert {check for check, _ in told(checkup)} == {"shown"}
    kept = [run / one.kept_as for one in checkup.findings if one.kept_as]
    assert '{"run": "mine"}' in [path.read_text() for path in kept if path.is_file()]
    assert listing(outside) == before
    assert not (run / "code").is_symlink()
    assert stopped.git("status", "--porcelain") == ""
    resumes(stopped)


def test_runs_that_were_never_made_to_an_end_go_once_they_are_old(stopped: FlowBench) -> None:
    runs = stopped.root / "runs"
    for name in (".new-old", ".new-young"):
        (runs / name / "files").mkdir(parents=True)
    for path in (runs / ".new-old" / "files", runs / ".new-old"):
        os.utime(path, (0, 0))
    assert [one.run for one in stopped.workspace.checkup()] == [stopped.run.id, ".new-old"]
    stopped.workspace.checkup(repair=True)
    assert sorted(os.listdir(runs)) == [".new-young", stopped.run.id]


# A run that is driven, and the command line


def test_a_run_that_is_driven_is_only_looked_at(stopped: FlowBench) -> None:
    (stopped.run.path / ".git" / "config").write_text("[core]\n\tfsmonitor = touch canary\n")
    with RunLock.acquire(stopped.run.path / ".git", "test"):
        before = listing(stopped.run.path)
        checkup = stopped.run.checkup(repair=True)
        assert listing(stopped.run.path) == before
    assert checkup.looked_only
    assert checkup.holder is not None
    assert checkup.holder.pid == os.getpid()
    assert told(checkup) == [("settings", "found")]


def test_the_command(stopped: FlowBench, capsys: pytest.CaptureFixture[str]) -> None:
    def doctor(*args: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stop:
            kitaru(["--workspace", str(stopped.root), "doctor", *args])
        return int(stop.value.code or 0), capsys.readouterr().out

    run = stopped.run
    assert doctor() == (0, f"run {run.id}: in order\n")
    config = run.path / ".git" / "config"
    config.write_text("[core]\n\tfsmonitor = touch canary\n")
    status, shown = doctor("--check", "last")
    assert status == 1
    assert "found: .git/config is not as kitaru left it" in shown
    status, shown = doctor("--json")
    assert status == 0
    (found,) = json.loads(shown)
    assert found["in_order"]
    assert found["findings"][0]["state"] == "repaired"
    assert (run.path / found["findings"][0]["kept_as"]).exists()
