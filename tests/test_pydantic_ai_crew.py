"""An agent with everything, killed here and there; `campaigns/coder.py` does it at random."""

from __future__ import annotations

from pathlib import Path

import pytest
from campaigns.coder import Crew

from kitaru_fs import Run
from kitaru_fs.testing import differences

pytest.importorskip("pydantic_ai_harness")
pytest.importorskip("mcp")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Crew(tmp_path_factory.mktemp("whole")).to_the_end()


def test_an_agent_that_is_killed_ends_as_one_that_was_not(reference: Run, tmp_path: Path) -> None:
    crew = Crew(tmp_path)
    for what in ("check 2", "model scout 1", "publish The end"):
        journaled, since = crew.journaled(), len(crew.calls)
        crew.kill_at(what)
        assert crew.repeated(journaled, since) == []
    journaled, since = crew.journaled(), len(crew.calls)
    run = crew.to_the_end()
    assert crew.repeated(journaled, since) == []
    assert differences(reference, run) == []
    assert run.read("published.md") == b"# The end\n"
    # Tools that overlapped say so.
    checks = [line for line in run.log() if line.name == "check"]
    assert len(checks) == 3
    assert any(run.show(str(line.step)).entry.overlap for line in checks)
