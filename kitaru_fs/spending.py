"""Money: what runs cost, summed by flow, by run, by model, by step or by day."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from kitaru_fs.clock import utc_now
from kitaru_fs.config.quantities import Cost as Limit
from kitaru_fs.entry import Usage
from kitaru_fs.errors import KitaruError
from kitaru_fs.run import Run
from kitaru_fs.rundir.costs import Cost

__all__ = ["Budget", "By", "Spending", "Today", "sum_up"]

By = Literal["flow", "run", "model", "step", "day"]


class Spending(NamedTuple):
    """What something cost in one currency.

    Attributes:
        what: A flow, a run, a model, a step or a day.
        requests: How many requests to models it made.
        input_tokens: What they were sent.
        output_tokens: What they answered.
        cost: The sum of the prices that are known.
        currency: Of the cost; None where no price is known.
        unpriced: How many of its steps have no known price.
    """

    what: str
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
    currency: str | None = None
    unpriced: int = 0

    def to_json(self) -> dict[str, Any]:
        """Returns it as the command line's `--json` has it."""
        return {**self._asdict(), "cost": self.cost if self.currency else None}

    def plus(self, cost: Cost) -> Spending:
        """Returns it with one more entry."""
        usage = cost.usage
        return self._replace(
            requests=self.requests + usage.requests,
            input_tokens=self.input_tokens + usage.input_tokens,
            output_tokens=self.output_tokens + usage.output_tokens,
            cost=round(self.cost + (usage.cost or 0.0), 9),
            unpriced=self.unpriced + (usage.cost is None),
        )


def sum_up(costs: Iterable[tuple[str, Cost]]) -> list[Spending]:
    """Returns sums by what the costs are named for, the dearest first.

    What has no known price goes with the currency that the rest of its name has.
    """
    sums: dict[tuple[str, str | None], Spending] = {}
    unpriced: list[tuple[str, Cost]] = []
    for what, cost in costs:
        if cost.usage.cost is None:
            unpriced.append((what, cost))
            continue
        currency = cost.usage.currency or "USD"
        empty = Spending(what, currency=currency)
        sums[what, currency] = sums.get((what, currency), empty).plus(cost)
    for what, cost in unpriced:
        key = next((found for found in sums if found[0] == what), (what, None))
        sums[key] = sums.get(key, Spending(what)).plus(cost)
    return sorted(sums.values(), key=lambda one: (-one.cost, -one.requests, one.what))


class Budget:
    """What a run may spend, and what all runs of a day (UTC) may.

    Args:
        limits: The limits in force, by name: `per_run`, `per_day`.
        today: Returns what all runs have spent today in a currency.
    """

    def __init__(self, limits: Mapping[str, Limit], today: Callable[[str], float]) -> None:
        self._limits = dict(limits)
        self._today = today

    @property
    def limits(self) -> tuple[str, ...]:
        """The names of the limits."""
        return tuple(self._limits)

    def reached(self, limit: str, spent: Usage, allowed: int) -> bool:
        """Says whether a limit is reached.

        Args:
            limit: Its name.
            spent: What the run has spent.
            allowed: How often a human allowed as much again.
        """
        most = self._limits[limit]
        if limit == "per_day":
            total = self._today(most.currency)
        else:
            total = spent.cost or 0.0 if spent.currency == most.currency else 0.0
        return total >= float(most.amount) * (1 + allowed)

    def question(self, limit: str, allowed: int) -> str:
        """Returns what a human is asked when a limit is reached."""
        most = self._limits[limit]
        who = "all runs of today have" if limit == "per_day" else "this run has"
        times = "" if not allowed else f" {allowed + 1} times over"
        return f"{who} reached the limit {limit} = {most}{times}; may as much again be spent?"


class Today:
    """What runs spend in a day (UTC); only those that changed are read again.

    Args:
        runs: Returns them all.
    """

    def __init__(self, runs: Callable[[], Iterable[Run]]) -> None:
        self._runs = runs
        self._known: dict[str, tuple[tuple[float, str], dict[str, float]]] = {}

    def spent(self, currency: str) -> float:
        """Returns what all runs have spent today; one that cannot be read is not counted."""
        day = utc_now().date()
        midnight = datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()
        total = 0.0
        for run in self._runs():
            try:
                private = run.path / ".git" / "kitaru"
                touched = max(place.stat().st_mtime for place in (private, *private.iterdir()))
            except (OSError, ValueError):
                continue
            if touched < midnight:
                continue
            known = self._known.get(run.id)
            if known is None or known[0] != (touched, str(day)):
                try:
                    known = (touched, str(day)), _sums_of(run, str(day))
                except KitaruError:
                    continue
                self._known[run.id] = known
            total += known[1].get(currency, 0.0)
        return total


def _sums_of(run: Run, day: str) -> dict[str, float]:
    sums: dict[str, float] = {}
    for what, cost in run.cost_items("day"):
        if what == day and cost.usage.cost is not None:
            currency = cost.usage.currency or "USD"
            sums[currency] = sums.get(currency, 0.0) + cost.usage.cost
    return sums
