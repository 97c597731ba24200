"""What a newcomer gets wrong with an agent: a sentence at the terminal, and a run that goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_program import Done, Program

CODE = """
import os
from pathlib import Path
from pydantic_ai import Agent
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.models.test import TestModel
from kitaru_fs import flow
from kitaru_fs.pydantic_ai import KitaruDurability


def durable(model, name, **options):
    return Agent(model, name=name, capabilities=[KitaruDurability(**options)])


def mended():
    return (Path(__file__).parent / "mended").exists()


def refuse(messages, info):
    if not mended():
        raise ModelHTTPError(429, "gpt", {"error": "slow down"})
    return TestModel()._request(messages, None, info.model_request_parameters)


refused = durable(FunctionModel(refuse), "refused", model_retries=1)
choosy = durable(TestModel(), "choosy")
odd = durable(TestModel(), "odd")


@odd.tool_plain
def look() -> object:
    return "seen" if mended() else object()


@flow
async def provider() -> str:
    return (await refused.run("go")).output


@flow
async def other_model() -> str:
    model = None if mended() else TestModel()
    return (await choosy.run("go", model=model)).output


@flow
async def no_json() -> str:
    return (await odd.run("go")).output


@flow
async def twice() -> str:
    for name in ("same", "other" if mended() else "same"):
        result = await durable(TestModel(), name).run("go")
    return result.output
"""


@pytest.fixture
def kitaru(tmp_path: Path) -> Program:
    program = Program(tmp_path)
    (program.workspace / "agents" / "newcomer.py").write_text(CODE)
    return program


def goes_on(kitaru: Program, flow: str) -> Done:
    """Runs a flow that fails, and resumes it when its mistake is mended."""
    done = kitaru("run", flow)
    assert (done.status, done.out) == (1, ""), done
    assert "/site-packages/kitaru_fs" not in done.err
    assert f"kitaru resume {kitaru.runs[0].name}" in done.err
    (kitaru.workspace / "agents" / "mended").touch()
    again = kitaru("resume")
    assert again.status == 0, again
    return done


@pytest.mark.parametrize(
    ("flow", "said", "hint"),
    [
        ("no_json", "OutputError: the result of 'look' of agent 'odd' cannot be journaled: Unable",
         "return what has a JSON form"),
        ("twice", "UsageError: two agents of this flow are named 'same', and their steps could",
         "give each its own Agent(name=...)"),
        ("other_model", "UsageError: agent 'choosy' was given a model object (test:test) that a",
         "register it, KitaruDurability(models="),
    ],
)  # fmt: skip
def test_a_mistake_is_a_sentence_said_once(
    kitaru: Program, flow: str, said: str, hint: str
) -> None:
    shown = goes_on(kitaru, flow).err
    assert f"kitaru: the flow '{flow}' failed: {said}" in shown
    # In the end, and where the step failed.
    assert shown.count(said.partition(": ")[2]) <= 2
    assert f"\n  {hint}" in shown
    trace = shown.partition("Traceback")[2]
    assert "Traceback" not in trace
    # The user's line, and who raised; what is between is one line.
    assert trace.count("  File ") <= 2
    assert "newcomer.py" in trace


def test_a_provider_s_error_is_said_at_each_attempt_and_once_in_the_end(kitaru: Program) -> None:
    shown = goes_on(kitaru, "provider").err
    said = "status_code: 429, model_name: gpt, body: {'error': 'slow down'}"
    lines = [line for line in shown.splitlines() if said in line]
    assert lines == [
        f"step 1: refused.model failed: {said}",
        f"step 2: refused.model failed (attempt 2): {said}",
        f"kitaru: the flow 'provider' failed: ModelHTTPError: {said}",
    ]
    log = kitaru("log", "--json").json
    assert [(entry["kind"], entry["name"]) for entry in log[1:3]] == [
        ("failed", "refused.model")
    ] * 2


def test_an_agent_without_a_name_is_refused_where_it_is_made(kitaru: Program) -> None:
    code = CODE.replace('"choosy"', "None")
    (kitaru.workspace / "agents" / "newcomer.py").write_text(code)
    done = kitaru("run", "other_model")
    assert (done.status, kitaru.runs) == (2, [])
    first = done.err.splitlines()[0]
    assert (
        "newcomer.py raised when it was imported: UserError: An agent needs to have a unique"
        in first
    )
    assert done.err.count("An agent needs") == 1
    assert "choosy = durable(TestModel(), None)" in done.err


def test_a_response_is_shown_without_what_says_nothing(kitaru: Program) -> None:
    (kitaru.workspace / "agents" / "mended").touch()
    kitaru.good("run", "no_json")
    shown = kitaru.good("show", "@1")
    assert '"tool_name": "look"' in shown
    assert "null" not in shown.partition("output")[2]
    assert kitaru("show", "@1", "--json").json["output"]["provider_url"] is None
