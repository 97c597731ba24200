"""The command line is light: what is not needed is not imported."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from cli_program import PACKAGE_PARENT, Program

HEAVY = {"pydantic", "pydantic_ai", "git", "rich", "msgspec", "watchfiles", "asyncio", "subprocess"}
BARE = """
import runpy
import click, kitaru_fs
click.Group(commands=[click.Command("a", help="a " * 99)], help="b").main(["--help"])
"""


@pytest.fixture
def kitaru(tmp_path):
    return Program(tmp_path)


def imported(kitaru, *args):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *args],
        capture_output=True,
        text=True,
        env=kitaru.environment,
        cwd=kitaru.workspace,
        check=True,
    )
    return set(re.findall(r"\| +([\w.]+)$", done.stderr, re.MULTILINE))


def test_help_imports_click_and_little_else(kitaru):
    names = imported(kitaru, "-m", "kitaru_fs", "--help")
    bare = imported(kitaru, "-c", BARE)

    assert "click" in names
    assert not HEAVY & names
    assert {name for name in names - bare if name.startswith("kitaru_fs")} == {
        "kitaru_fs.cli",
        "kitaru_fs.cli.program",
        "kitaru_fs.errors",
    }
    assert {name for name in names - bare if not name.startswith("kitaru_fs")} == set()


def test_reading_a_run_needs_no_agent_library(kitaru):
    kitaru.good("run", "letter")
    names = imported(kitaru, "-m", "kitaru_fs", "status")

    assert not {"pydantic", "pydantic_ai", "git", "rich", "watchfiles"} & names


def test_every_command_is_summed_up_as_its_own_help_begins():
    from kitaru_fs.cli.program import COMMANDS, program

    assert set(program.list_commands(None)) == set(COMMANDS)  # type: ignore[arg-type]
    for name in COMMANDS:
        if name == "demo" and not (PACKAGE_PARENT / "kitaru_fs" / "cli" / "demo.py").exists():
            continue
        command = program.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None
        assert command.name == name
        assert command.help
