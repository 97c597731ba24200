"""Every code block of the README runs, in order, in one shell session's directory."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"(<!-- [a-z-]+ -->\n)?```(\w*)([^\n]*)\n(.*?)```", re.DOTALL)


def test_every_block_of_the_tour_runs(tmp_path: Path) -> None:
    programs = Path(sys.executable).parent
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("KITARU_")
    }
    environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"
    where = tmp_path
    ran = 0
    for marker, language, attributes, body in BLOCK.findall(README.read_text()):
        options = dict(re.findall(r"(\w+)=(\S+)", attributes))
        if marker or not language:
            continue
        if language == "python":
            (where / options["file"]).write_text(body)
        elif language == "bash":
            script = f"set -eo pipefail\n{body}\npwd > {tmp_path}/.where\n"
            done = subprocess.run(
                ["bash", "-c", script],
                cwd=where,
                env=environment,
                capture_output=True,
                text=True,
                timeout=120,
            )
            expected = int(options.get("status", 0))
            assert done.returncode == expected, f"{body}\n{done.stdout}\n{done.stderr}"
            if expected == 0:
                where = Path((tmp_path / ".where").read_text().strip())
        else:
            raise AssertionError(f"no test runs a block of {language!r}")
        ran += 1
    assert ran >= 13


def test_the_two_commands_are_marked_for_continuous_integration() -> None:
    text = README.read_text()
    for marker in ("demo-command", "test-command"):
        assert re.search(rf"<!-- {marker} -->\n```bash\n[^\n]+\n```", text), marker


def test_every_command_is_in_the_readme() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "kitaru_fs", "--help"], capture_output=True, text=True, check=True
    ).stdout
    commands = re.findall(r"^  ([a-z]+) ", listed.partition("Commands:")[2], re.MULTILINE)
    assert len(commands) >= 13
    table = README.read_text().partition("## Commands")[2].partition("## What is")[0]
    missing = [name for name in commands if not re.search(rf"\b{name}\b", table)]
    assert not missing
