"""What an agent plants in a run's own directory leads nowhere outside of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from flowbench import FlowBench, listing
from plain_git import git

from kitaru_fs import step
from kitaru_fs.entry import Entry, decode_entry, encode_entry
from kitaru_fs.errors import ConflictError, FormatError, KitaruError


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    place = tmp_path / "outside"
    (place / "0000").mkdir(parents=True)
    (place / "empty").touch()
    (place / "0000" / "mine.json").write_text("mine")
    return place


@pytest.mark.parametrize("name", ["journal", "journal/0000", "code"])
@pytest.mark.parametrize("die", [False, True])
def test_a_link_in_place_of_what_is_shown_is_not_followed(
    bench: FlowBench, outside: Path, name: str, die: bool
) -> None:
    @step
    def plant() -> None:
        place = bench.run.path / name
        if place.exists() and not place.is_symlink():
            shutil.move(place, bench.root / "moved")
        if not place.is_symlink():
            place.parent.mkdir(exist_ok=True)
            place.symlink_to(outside)

    @step
    def act(number: int) -> int:
        return number

    def main() -> int:
        plant()
        total = act(1)
        if die:
            bench.die()
        return total + act(2)

    before = listing(outside)
    if die:
        bench.crash(main)
        assert bench.resume(main) == 3
    else:
        bench.start(main)
    assert bench.run.checkup(repair=True).in_order
    assert listing(outside) == before
    assert not (bench.run.path / name).is_symlink()
    assert bench.git("status", "--porcelain") == ""
    assert "step 2: act" in bench.log()


def test_a_directory_in_place_of_an_entry_is_set_aside(bench: FlowBench) -> None:
    @step
    def plant() -> None:
        (bench.run.path / "journal" / "0000" / "000002-act.json" / "deep").mkdir(parents=True)

    @step
    def act() -> None:
        return

    bench.start(lambda: [plant(), act()])
    assert (bench.run.path / "journal" / "0000" / "000002-act.json").is_file()


def test_recorded_code_that_was_changed_is_not_run(bench: FlowBench) -> None:
    @step
    def act() -> None:
        return

    def main() -> None:
        act()
        raise RuntimeError("not yet")

    with pytest.raises(RuntimeError, match="not yet"):
        bench.start(main)
    (planted, *_) = sorted((bench.run.path / "code").rglob("*.py"))
    planted.write_text("import os\nos.mkdir('canary')\n")
    with pytest.raises(ConflictError, match=r"is not what run .* recorded"):
        bench.run.resume(recorded_code=True)
    assert not os.path.exists("canary")


@pytest.fixture
def stopped(bench: FlowBench) -> FlowBench:
    """A run of two steps that can be resumed."""

    @step
    def act(number: int) -> int:
        (bench.files / f"{number}.txt").write_text(f"{number}\n")
        return number

    def main() -> int:
        total = act(1) + act(2)
        if (bench.root / "stop").exists():
            raise RuntimeError("not yet")
        return total

    (bench.root / "stop").touch()
    with pytest.raises(RuntimeError, match="not yet"):
        bench.start(main)
    (bench.root / "stop").unlink()
    return bench


def crafted(run: Path, *names: bytes, inside: bytes) -> str:
    """A commit on top of HEAD, as another program may push it: with a path that leads elsewhere."""

    def write(kind: str, data: bytes) -> str:
        args = ["git", "hash-object", "-t", kind, "-w", "--literally", "--stdin"]
        return (
            subprocess.run(args, input=data, cwd=run, capture_output=True, check=True)
            .stdout.decode()
            .strip()
        )

    sha = write("blob", b"planted\n")
    mode = b"100644"
    for name in reversed(names):
        sha = write("tree", b"%s %s\0%s" % (mode, name, bytes.fromhex(sha)))
        mode = b"40000"
    entries = git(run, "ls-tree", "HEAD").splitlines()
    tree = b""
    for line in entries:
        about, _, name = line.partition("\t")
        found_mode, _, found = about.split()
        if name.encode() == inside:
            found = sha
        tree += b"%s %s\0%s" % (
            found_mode.lstrip("0").encode(),
            name.encode(),
            bytes.fromhex(found),
        )
    root = write("tree", tree)
    message = git(run, "log", "-1", "--format=%B")
    return git(run, "commit-tree", root, "-p", "HEAD", "-m", message).strip()


@pytest.mark.parametrize(
    ("inside", "names"),
    [
        *((inside, (b"..", b"..", b"evil")) for inside in (b"journal", b"code", b"files")),
        *((inside, (b"a/../../evil",)) for inside in (b"journal", b"code", b"files")),
        *((inside, (b".git", b"hooks")) for inside in (b"journal", b"code")),
    ],
)
def test_a_crafted_commit_writes_nothing_outside(
    stopped: FlowBench, inside: bytes, names: tuple[bytes, ...]
) -> None:
    run = stopped.run.path
    planted = crafted(run, *names, inside=inside)
    stopped.git("update-ref", "refs/heads/main", planted)
    stopped.git("update-ref", "refs/kitaru/tips/main", planted)
    outside = listing(stopped.root.parent)
    with contextlib.suppress(KitaruError):
        stopped.run.rewind("1")
    with contextlib.suppress(KitaruError):
        stopped.run.resume()
    new = {name for name in listing(stopped.root.parent) if name not in outside}
    assert all(name.startswith(f"workspace/runs/{run.name}/") for name in new), new
    assert not any("evil" in name or name.endswith(".git/hooks") for name in new - {""}), new


@pytest.mark.parametrize("how", ["directory", "below"])
def test_a_rewind_follows_no_link_out_of_files(bench: FlowBench, outside: Path, how: str) -> None:
    @step
    def make() -> None:
        (bench.files / "d" / "0000").mkdir(parents=True)
        (bench.files / "d" / "empty").write_text("of the run")
        (bench.files / "d" / "0000" / "mine.json").write_text("of the run")

    @step
    def swap() -> None:
        shutil.rmtree(bench.files / "d")
        if how == "directory":
            (bench.files / "d").symlink_to(outside)
        else:
            (bench.files / "d").mkdir()
            (bench.files / "d" / "0000").symlink_to(outside / "0000")
            (bench.files / "d" / "empty").symlink_to(outside / "empty")

    bench.start(lambda: [make(), swap()])
    before = listing(outside)
    bench.run.rewind("make")
    assert bench.text("d/empty") == bench.text("d/0000/mine.json") == "of the run"
    bench.run.undo()
    assert (bench.files / "d" / "0000" / "mine.json").read_text() == "mine"
    assert listing(outside) == before


@pytest.mark.parametrize("child", ["../outside", "..", "a/b", ""])
def test_a_crafted_child_is_no_way_out(child: str) -> None:
    entry = Entry(step=1, key="k", name="n", kind="child", status="waiting", child=child)
    with pytest.raises(FormatError, match="no directory can be"):
        decode_entry(encode_entry(entry))


@pytest.mark.parametrize(
    "name",
    ["HEAD", "packed-refs", "refs/heads/other", "refs/heads/main", "config", "info/attributes"],
)
def test_a_fifo_in_place_of_a_file_of_gits_does_not_hang_us(stopped: FlowBench, name: str) -> None:
    place = stopped.run.path / ".git" / name
    place.unlink(missing_ok=True)
    os.mkfifo(place)
    with contextlib.suppress(KitaruError):
        stopped.run.state()
    with contextlib.suppress(KitaruError):
        stopped.run.log()
    assert stopped.workspace.run().checkup(repair=True).in_order
    assert stopped.resume() == 3


def test_a_fifo_in_place_of_an_object_does_not_hang_us(stopped: FlowBench) -> None:
    sha = stopped.git("rev-parse", "HEAD:files/1.txt").strip()
    place = stopped.run.path / ".git" / "objects" / sha[:2] / sha[2:]
    place.parent.mkdir(exist_ok=True)
    os.mkfifo(place)
    assert stopped.run.checkup(repair=True).in_order
    assert stopped.run.read("1.txt") == b"1\n"
    assert stopped.resume() == 3


@pytest.mark.parametrize("name", ["files", "inbox"])
def test_a_link_in_place_of_files_is_set_aside(
    stopped: FlowBench, outside: Path, name: str
) -> None:
    before = listing(outside)
    shutil.rmtree(stopped.run.path / name)
    (stopped.run.path / name).symlink_to(outside)
    with contextlib.suppress(KitaruError):
        stopped.resume()
    assert stopped.workspace.run().checkup(repair=True).in_order
    assert listing(outside) == before
    assert not (stopped.run.path / name).is_symlink()


@pytest.mark.parametrize("name", ["objects", "objects/pack", "refs", "refs/heads", "kitaru"])
def test_a_link_in_place_of_a_directory_of_gits_is_not_written_through(
    stopped: FlowBench, outside: Path, name: str
) -> None:
    place = stopped.run.path / ".git" / name
    shutil.move(place, outside / "moved")
    place.symlink_to(outside / "moved")
    before = listing(outside)
    with pytest.raises(KitaruError, match=r"not a (directory of its own|plain file in a plain)"):
        stopped.resume()
    assert listing(outside) == before
    assert stopped.workspace.run().checkup(repair=True).in_order
    assert stopped.resume() == 3
    assert listing(outside) == before


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_what_is_no_file_in_place_of_the_log_is_said_and_set_aside(
    stopped: FlowBench, outside: Path, kind: str
) -> None:
    log = stopped.run.path / ".git" / "kitaru" / "wal"
    shutil.move(log, outside / "wal")
    before = listing(outside)
    if kind == "link":
        log.symlink_to(outside / "wal")
    else:
        os.mkfifo(log)
    assert stopped.run.status == "failed"
    assert len(stopped.run.log()) > 1
    with pytest.raises(KitaruError, match="no write-ahead log"):
        stopped.resume()
    assert stopped.workspace.run().checkup(repair=True).in_order
    assert stopped.resume() == 3
    assert listing(outside) == before


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("name", ["left.new", "driven", "unfinished", "charge", "seen.new", "twin"])
def test_a_link_in_place_of_a_note_of_kitarus_is_not_written_through(
    stopped: FlowBench, outside: Path, name: str, there: bool
) -> None:
    note = stopped.run.path / ".git" / "kitaru" / name
    note.unlink(missing_ok=True)
    if there:
        (outside / "mine").write_text("mine")
    note.symlink_to(outside / "mine")
    before = listing(outside)
    stopped.workspace.run().rewind("1")
    stopped.workspace.run().undo()
    assert stopped.resume() == 3
    assert listing(outside) == before
    assert stopped.git("status", "--porcelain") == ""
