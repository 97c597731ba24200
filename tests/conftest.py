"""What holds for all tests."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from agentbench import AgentBench
from flowbench import FlowBench
from hypothesis import HealthCheck, settings

from kitaru_fs import Workspace

# A shell starts background jobs with SIGINT ignored, nohup ignores SIGHUP, and what tests start
# would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# No test asserts a speed: a loaded machine is no failure. Continuous integration tries the same
# examples each time; new ones are the campaigns' business.
settings.register_profile(
    "kitaru",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
    max_examples=50,
)
# For campaigns: pytest --hypothesis-profile=long
settings.register_profile(
    "long", settings.get_profile("kitaru"), derandomize=False, max_examples=2000
)
settings.load_profile("kitaru")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FlowBench:
    """A workspace for runs of flows that the test gives."""
    made = FlowBench(tmp_path / "workspace")
    monkeypatch.setenv("KITARU_WORKSPACE", str(made.root))
    return made


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AgentBench:
    """A workspace for runs of agents from a module that the test writes."""
    Workspace.init(tmp_path / "ws")
    monkeypatch.setenv("KITARU_WORKSPACE", str(tmp_path / "ws"))
    monkeypatch.setenv("OUTSIDE", str(tmp_path))
    return AgentBench(tmp_path)
