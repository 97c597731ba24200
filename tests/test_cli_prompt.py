"""On a terminal, a run asks its user; the reply is a commit by their name like every other."""

from __future__ import annotations

import re
import signal

import pytest
from cli_program import Program, Terminal

FLOWS = """
import asyncio
from kitaru_fs import flow, step, wait


@step
async def work() -> str:
    await asyncio.sleep(0.3)
    return "worked"


@flow
async def publish() -> str:
    sure, done = await asyncio.gather(wait("publish", "Publish this?", schema=bool), work())
    return f"{sure}, {await wait('name', 'Whose?', schema=str)}, {done}"
"""


@pytest.fixture
def kitaru(tmp_path):
    program = Program(tmp_path)
    (program.workspace / "agents" / "asking.py").write_text(FLOWS)
    (program.workspace / "kitaru.toml").write_text('linger = "0"\n')
    return program


def test_asks_and_goes_on(kitaru):
    terminal = Terminal(kitaru, "run", "publish")
    terminal.until(r"Publish this\?")
    terminal.until("> ")
    terminal.type("perhaps\n")
    terminal.until(r"is not of type 'boolean'")
    terminal.type("yes\n")
    terminal.until(r"Whose\?")
    terminal.type("Ada's\n")
    assert terminal.end() == 0
    assert "True, Ada's, worked" in terminal.seen
    log = kitaru.good("git", "last", "--", "log", "--format=%s|%an")
    assert len(re.findall(r"reply \d+: (?:publish|name)\|Ada\n", log)) == 2


def test_end_of_file_leaves_the_question_open(kitaru):
    terminal = Terminal(kitaru, "run", "publish")
    terminal.until("> ")
    terminal.type("\x04")
    assert terminal.end() == 3
    assert kitaru("status", "--json").json["status"] == "waiting"
    assert len(kitaru("waits", "--json").json) == 1


def test_an_interrupt_leaves_it_open_too(kitaru):
    terminal = Terminal(kitaru, "run", "publish")
    terminal.until("> ")
    terminal.until("worked|work")
    while "work" not in [line["name"] for line in kitaru("log", "--json").json]:
        pass
    terminal.type("\x03")
    assert terminal.end() == 130
    assert kitaru("status", "--json").json["status"] == "waiting"


def test_an_answer_from_elsewhere_ends_the_question(kitaru):
    terminal = Terminal(kitaru, "run", "publish")
    terminal.until("> ")
    assert kitaru("answer", "no", "--wait", "publish").status == 0
    terminal.until(r"Whose\?")
    terminal.type("nobody\n")
    assert terminal.end() == 0
    assert "False, nobody, worked" in terminal.seen


def test_nobody_is_asked_where_a_program_reads(kitaru):
    terminal = Terminal(kitaru, "run", "publish", "--json")
    assert terminal.end() == 3
    assert '"status": "waiting"' in terminal.seen
    assert terminal.process.returncode != -signal.SIGTTIN
