"""What runs cost: by flow, run, model, step and day, on every branch, once."""

from __future__ import annotations

import asyncio
import json

import pytest
from agentbench import AgentBench

PAID = """
    from decimal import Decimal
    from pydantic_ai.usage import RequestUsage

    def answer(messages, info):
        turn = sum(isinstance(message, ModelResponse) for message in messages)
        usage = RequestUsage(input_tokens=1000, output_tokens=100, cost=PRICE)
        if turn == 2:
            return ModelResponse(parts=[TextPart("done")], usage=usage)
        return ModelResponse(parts=[ToolCallPart("look", {})], usage=usage)

    agent = Agent(FunctionModel(answer, model_name="costly"), name="spender",
                  capabilities=[KitaruDurability()])

    @agent.tool_plain
    def look() -> str:
        return "nothing"

    @flow
    async def main() -> str:
        result = await agent.run("go")
        return result.output
"""


@pytest.fixture
def paid(place: AgentBench) -> AgentBench:
    place.write(PAID.replace("PRICE", 'Decimal("0.25")'))
    place.run()
    return place


def test_status_and_runs_say_what_a_run_cost(paid: AgentBench) -> None:
    usage = paid.last.state()["usage"]
    assert (usage["requests"], usage["cost"], usage["currency"]) == (3, 0.75, "USD")
    shown = paid.kitaru("runs").stdout
    assert "0.75 USD" in shown
    assert "0.75 USD" in paid.kitaru("status").stdout


@pytest.mark.parametrize(
    ("by", "what"), [("flow", "main"), ("model", "costly"), ("step", "spender.model")]
)
def test_costs_are_summed(paid: AgentBench, by: str, what: str) -> None:
    paid.run()
    done = paid.kitaru("cost", "--by", by, "--json")
    (row,) = json.loads(done.stdout)["rows"]
    assert (row["what"], row["requests"], row["cost"], row["currency"]) == (what, 6, 1.5, "USD")
    assert (row["input_tokens"], row["output_tokens"], row["unpriced"]) == (6000, 600, 0)


def test_one_run_s_costs_and_each_run_s_costs(paid: AgentBench) -> None:
    paid.run()
    (row,) = paid.last.costs()
    assert (row.what, row.cost) == ("spender.model", 0.75)
    rows, unread = paid.workspace.costs("run")
    assert [row.cost for row in rows] == [0.75, 0.75]
    assert unread == []
    assert len(paid.workspace.costs("day")[0]) == 1


def test_a_branch_that_was_left_was_paid_for(paid: AgentBench) -> None:
    run = paid.last
    run.rewind("look#1")
    run.refresh().resume()
    (row,) = run.refresh().costs()
    # One request before the rewind's step is shared; the two after it were made twice.
    assert (row.requests, row.cost) == (5, 1.25)


def test_a_fork_costs_what_it_did_itself(paid: AgentBench) -> None:
    forked = paid.last.fork("look#2")
    forked.resume()
    (row,) = forked.refresh().costs()
    assert (row.requests, row.cost) == (1, 0.25)


def test_what_has_no_known_price_is_said(place: AgentBench) -> None:
    place.write(PAID.replace("PRICE", "None"))
    place.run()
    shown = place.kitaru("cost").stdout
    assert "3 steps without a known price" in shown
    (row,) = place.workspace.costs()[0]
    assert row.to_json()["cost"] is None


def test_nothing_spent_is_said(place: AgentBench) -> None:
    assert "nothing was spent" in place.kitaru("cost").stderr


def test_a_run_that_cannot_be_read_is_named_and_not_counted(paid: AgentBench) -> None:
    paid.run()
    (paid.last.path / ".git" / "HEAD").write_text("ref: refs/heads/nowhere\n")
    rows, unread = paid.workspace.costs()
    assert [row.cost for row in rows] == [0.75]
    assert len(unread) == 1


def test_what_an_attempt_that_failed_had_spent_counts(place: AgentBench) -> None:
    place.write(
        PAID.replace("PRICE", 'Decimal("0.25")')
        + """
    tried = []

    @step(retries=1, backoff=0)
    async def asks() -> str:
        result = await agent.run("go")
        tried.append(1)
        if len(tried) == 1:
            raise OSError("after it was paid")
        return result.output

    @flow
    async def outer() -> str:
        return await asks()
    """
    )
    assert asyncio.run(place.load("outer")()) == "done"
    failed = next(entry for entry in place.entries if entry["kind"] == "failed")
    assert failed["usage"]["cost"] == 0.75
    assert place.last.state()["usage"]["cost"] == 1.5
    (row,) = place.last.costs()
    assert (row.requests, row.cost) == (6, 1.5)
