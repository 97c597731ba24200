"""What a run's `.git` takes: trees as deltas, versions of a large file as deltas, few packs; and
what a resume takes of memory."""

from __future__ import annotations

import os
import random
import subprocess
import tracemalloc
import zlib
from pathlib import Path

import pytest
from flowbench import FlowBench
from harness import git

from kitaru_fs import files, step
from kitaru_fs.storage.deltas import block_delta, difference, git_apply, git_delta, line_delta
from kitaru_fs.storage.loose import LooseObjects
from kitaru_fs.storage.maintenance import consolidate
from kitaru_fs.storage.objects import object_id
from kitaru_fs.storage.pack import Whole, write_pack
from kitaru_fs.storage.packs import Packs

_WORDS = [f"{word}{end}" for word in ("flow", "step", "run", "git", "file") for end in range(40)]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FlowBench:
    bench = FlowBench(tmp_path / "workspace")
    monkeypatch.chdir(bench.root)
    return bench


@step
def speak(number: int) -> str:
    dice = random.Random(number)
    return " ".join(dice.choice(_WORDS) for _ in range(160))


@step
def rewrite(number: int) -> int:
    """Writes a page of a file of 2 MB over, and appends a little."""
    place = files() / "database"
    if number == 0:
        place.write_bytes(random.Random(1).randbytes(2_000_000))
    with open(place, "r+b") as file:
        file.seek(random.Random(number).randrange(400) * 4096)
        file.write(random.Random(number).randbytes(4096))
        file.seek(0, os.SEEK_END)
        file.write(b"more")
    return number


def size_of(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def loose(folder: Path) -> list[Path]:
    return [path for path in folder.glob("objects/??/*") if path.is_file()]


def test_a_journal_takes_less_than_twice_its_compressed_entries(bench: FlowBench) -> None:
    def main() -> None:
        for number in range(600):
            speak(number)

    bench.start(main)
    path = bench.run.path
    entries = sum(len(zlib.compress(file.read_bytes())) for file in path.glob("journal/*/*.json"))
    assert size_of(path / ".git/objects") <= 2 * entries
    assert loose(path / ".git") == []
    assert git(path, "fsck", "--strict", "--full", "--no-dangling") == ""
    indexes = map(str, (path / ".git").glob("objects/pack/*.idx"))
    shown = git(path, "verify-pack", "-v", *indexes).splitlines()
    chains = [int(line.split()[3].rstrip(":")) for line in shown if line.startswith("chain length")]
    assert 1 < max(chains) <= 50


def test_what_killed_processes_left_is_swept(bench: FlowBench) -> None:
    fixed: list[bool] = []

    def main() -> None:
        for number in range(30):
            speak(number)
        if fixed:
            return
        bench.die()
        raise ValueError("not yet")

    with pytest.raises(ValueError, match="not yet"):
        bench.start(main)
    path = bench.run.path
    objects = path / ".git" / "objects"
    # As one does that was killed after it had packed the log, and before it dropped what is loose.
    for line in git(path, "cat-file", "--batch-all-objects", "--batch-check").splitlines():
        sha, kind, _ = line.split()
        content = subprocess.check_output(["git", "-C", path, "cat-file", kind, sha])
        LooseObjects(objects).write(bytes.fromhex(sha), kind, content)  # type: ignore[arg-type]
    ours = [objects / "pack/tmp_pack_4711-0a1b2c3d", objects / "tmp_obj_4711_0a1b2c3d4e5f"]
    gits = objects / "pack/tmp_pack_Zx9Qw1"
    for place in (*ours, gits):
        place.write_bytes(b"half of it")
    bench.crash(main, resume=True)
    assert len(loose(path / ".git")) > 100

    fixed.append(True)
    bench.resume(main)
    assert loose(path / ".git") == []
    assert [place.exists() for place in (*ours, gits)] == [False, False, True]
    assert git(path, "fsck", "--strict", "--full", "--no-dangling") == ""


def test_versions_of_a_large_file_are_deltas(bench: FlowBench) -> None:
    def main() -> None:
        for number in range(12):
            rewrite(number)

    bench.start(main)
    path = bench.run.path
    assert size_of(path / ".git") < 2 * 2_000_000
    assert loose(path / ".git") == []
    assert git(path, "fsck", "--strict", "--full", "--no-dangling") == ""
    last = (path / "files/database").read_bytes()
    assert bench.run.read("database") == last
    earlier = bench.run.read("database", at="rewrite#3")
    assert len(earlier) == 2_000_000 + 4 * 3
    bench.git("checkout", "-q", bench.run.log()[3].commit)
    assert (path / "files/database").read_bytes() == earlier


def test_many_packs_become_one(bench: FlowBench) -> None:
    bodies: list[int] = []

    def main() -> None:
        for number in bodies:
            speak(number)
        raise ValueError("again")

    for number in range(20):
        bodies.append(number)
        with pytest.raises(ValueError, match="again"):
            bench.resume(main) if number else bench.start(main)
    packs = list((bench.run.path / ".git/objects/pack").glob("*.pack"))
    assert len(packs) < 17
    assert len(bench.run.log()) > 40
    assert bench.git("fsck", "--strict", "--full", "--no-dangling") == ""


def test_a_large_pack_is_not_written_anew_for_many_small_ones(bench: FlowBench) -> None:
    bench.start(lambda: None)
    objects = bench.run.path / ".git/objects"

    def pack(first: int, count: int) -> Path:
        contents = [b"%d" % number for number in range(first, first + count)]
        items = [Whole(object_id("blob", content), "blob", content) for content in contents]
        written = write_pack(objects, items, count, sync=False)
        assert written is not None
        return written

    large = pack(0, 39_000)
    small = [pack(100_000 + 50 * number, 50) for number in range(80)]
    packs = Packs(objects)
    assert consolidate(objects, packs, sync=False) > 16
    assert large.exists()
    assert not any(one.exists() for one in small)
    assert packs.read(object_id("blob", b"103999")) == ("blob", b"103999")
    packs.close()
    assert bench.git("fsck", "--strict", "--full", "--no-dangling") == ""


def test_packs_of_another_git_are_read_and_merged(bench: FlowBench) -> None:
    def main() -> None:
        for number in range(40):
            speak(number)

    bench.start(main)
    path = bench.run.path
    before = [line.commit for line in bench.run.log()]
    bench.git("repack", "-a", "-d", "-f", "--depth=20", "-q")
    assert [line.commit for line in bench.run.log()] == before
    for sha in before[:20]:
        # A pack of one commit each.
        command = ["git", "pack-objects", "-q", ".git/objects/pack/pack"]
        subprocess.run(command, input=sha.encode(), cwd=path, check=True, capture_output=True)
    packs = Packs(path / ".git/objects")
    assert consolidate(path / ".git/objects", packs, sync=False) > 16
    packs.close()
    assert [line.commit for line in bench.run.log()] == before
    assert bench.git("fsck", "--strict", "--full", "--no-dangling") == ""


def test_deltas_are_exact() -> None:
    dice = random.Random(7)
    for _ in range(200):
        old = dice.randbytes(dice.randrange(60_000))
        new = bytearray(old)
        for _ in range(dice.randrange(3)):
            at = dice.randrange(len(new) + 1)
            new[at : at + dice.randrange(300)] = dice.randbytes(dice.randrange(300))
        found = difference(b"", old, bytes(new))
        assert git_apply(git_delta(found, len(old)), old) == new
        delta = block_delta(old, bytes(new))
        if delta is not None:
            assert git_apply(delta, old) == new
        words = [dice.choice([b"", b"a", b"bb", b"abc" * 90]) for _ in range(20)]
        lines = b"\n".join(words)
        words[dice.randrange(20)] = b"other"
        written_over = line_delta(lines, b"\n".join(words))
        assert written_over is not None
        assert git_apply(written_over, lines) == b"\n".join(words)
    assert block_delta(dice.randbytes(9000), dice.randbytes(9000)) is None


def test_a_resume_holds_little_of_a_long_journal(bench: FlowBench) -> None:
    length, size = 500, 60_000

    @step
    def read(number: int) -> str:
        bench.did(number)
        return f"{number:08d}" * (size // 8)

    def main() -> int:
        total = sum(len(read(number)) for number in range(length))
        if bench.done:
            raise RuntimeError("stopped here")
        return total

    with pytest.raises(RuntimeError, match="stopped here"):
        bench.start(main)
    assert sum(path.stat().st_size for path in bench.run.path.glob("journal/*/*")) > length * size
    bench.forget()
    tracemalloc.start()
    try:
        assert bench.resume() == length * size
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert bench.done == []
    assert most < length * size / 2
