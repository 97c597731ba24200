"""What an agent plants in a run's own directory leads nowhere outside of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from flowbench import FlowBench, listing

from kitaru_fs import step
from kitaru_fs.errors import ConflictError


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
