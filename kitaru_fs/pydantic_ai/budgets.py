"""What a run may spend: a limit that is reached is a wait, and not a bill."""

from __future__ import annotations

from kitaru_fs.engine.execution import Execution
from kitaru_fs.engine.replay import asked_key
from kitaru_fs.errors import BudgetReached
from kitaru_fs.pydantic_ai.humans import ask
from kitaru_fs.pydantic_ai.known import Known

__all__ = ["stay_within"]


async def stay_within(execution: Execution, known: Known, request: str) -> None:
    """Asks a human before a request that is beyond a limit; a yes allows as much again.

    Args:
        execution: The run.
        known: Knows what was allowed before.
        request: The request's key.

    Raises:
        BudgetReached: The human said no.
    """
    budget = execution.options.budget
    for limit in budget.limits if budget is not None else ():
        assert budget is not None
        key = f"budget {limit}:{request}"
        recorded = execution.replay.recorded
        asked = recorded(key) is not None or recorded(asked_key(key)) is not None
        if not asked and (not execution.replay.finished or not budget.reached(
            limit, execution.spent, known.allowed[limit]
        )):  # fmt: skip
            continue
        question = budget.question(limit, known.allowed[limit])
        _, reply = ask(execution, f"budget {limit}", question, bool, key=key)
        if not await reply:
            raise BudgetReached(
                f"{question.partition(';')[0]}, and the answer was no",
                hint=f"to go on after all: kitaru undo {execution.run} takes the answer back, and"
                " answer yes; [limits] in kitaru.toml sets the limit for new runs",
                run=execution.run,
            )
        known.allowed[limit] += 1
