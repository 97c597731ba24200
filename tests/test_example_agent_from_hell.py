"""The agent from hell, and the tour that rewinds it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOUR = Path(__file__).parents[1] / "examples" / "agent_from_hell" / "tour.py"


@pytest.fixture
def tour() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tour_of_hell", TOUR)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tour_finds_all_as_it_was(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(TOUR), str(tmp_path / "hell")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("byte for byte") == 4
    for said in ("stays: fifo", "cannot undo: mails all customers", "none was run"):
        assert said in done.stdout


def test_the_tour_would_notice(tmp_path: Path, tour: ModuleType) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").write_text("one")
    (tmp_path / "link").symlink_to("nowhere")
    before = tour.inventory(tmp_path)
    assert tour.differing(before, tour.inventory(tmp_path)) == []
    (tmp_path / "dir").chmod(0o700)
    (tmp_path / "file").write_text("two")
    (tmp_path / "link").unlink()
    (tmp_path / "new").touch()
    found = tour.inventory(tmp_path)
    assert tour.differing(before, found) == ["dir", "file", "link", "new"]

    guide = tour.Tour(tmp_path)
    guide._check("files/ are as they were", found, before)
    assert len(guide.wrong) == 4
