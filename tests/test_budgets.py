"""Limits on what runs may spend: a wait instead of a bill."""

from __future__ import annotations

import pytest
from agentbench import AgentBench
from test_cost import PAID

from kitaru_fs.errors import BudgetReached, RunWaiting

# Each run makes three requests at 0.25 USD each.
CODE = PAID.replace("PRICE", 'Decimal("0.25")')


def test_a_run_that_spent_its_limit_asks_before_the_next_request(place: AgentBench) -> None:
    place.settings('linger = "0s"\n[limits]\nper_run = "0.5 USD"\n')
    place.write(CODE)
    with pytest.raises(RunWaiting):
        place.run()
    (wait,) = place.last.waits
    assert wait["name"] == "budget per_run"
    assert wait["question"] == (
        "this run has reached the limit per_run = 0.5 USD; may as much again be spent?"
    )
    assert place.last.state()["usage"]["cost"] == 0.5
    place.kitaru("answer", "last", "yes")
    assert place.last.resume() == "done"
    assert place.last.state()["usage"]["cost"] == 0.75


def test_a_limit_is_asked_about_each_time_it_is_reached_again(place: AgentBench) -> None:
    place.settings('linger = "0s"\n[limits]\nper_run = "0.25 USD"\n')
    place.write(CODE)
    with pytest.raises(RunWaiting):
        place.run()
    place.last.answer(True)
    with pytest.raises(RunWaiting):
        place.last.resume()
    assert "0.25 USD 2 times over" in place.last.waits[0]["question"]
    place.last.answer(True)
    assert place.last.resume() == "done"


def test_a_no_ends_the_run_in_one_sentence(place: AgentBench) -> None:
    place.settings('linger = "0s"\n[limits]\nper_run = "0.5 USD"\n')
    place.write(CODE)
    with pytest.raises(RunWaiting):
        place.run()
    place.last.answer(False)
    with pytest.raises(BudgetReached, match="and the answer was no"):
        place.last.resume()
    assert place.last.status == "failed"
    assert place.last.state()["usage"]["cost"] == 0.5


def test_the_runs_of_a_day_share_a_limit(place: AgentBench) -> None:
    place.settings('linger = "0s"\n[limits]\nper_day = "1 USD"\n')
    place.write(CODE)
    assert place.run() == "done"
    with pytest.raises(RunWaiting):
        place.run()
    assert place.last.waits[0]["name"] == "budget per_day"
    assert place.last.state()["usage"]["cost"] == 0.25
    place.last.answer(True)
    assert place.last.resume() == "done"


def test_another_currency_is_not_counted(place: AgentBench) -> None:
    place.settings('linger = "0s"\n[limits]\nper_run = "0.5 EUR"\nper_day = "0.5 EUR"\n')
    place.write(CODE)
    assert place.run() == "done"
