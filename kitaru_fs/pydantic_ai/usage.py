"""What a model's response cost, as an entry records it."""

from __future__ import annotations

import warnings
from decimal import Decimal

from pydantic_ai.messages import ModelResponse

from kitaru_fs.entry import Usage

__all__ = ["add", "usage_of"]


def usage_of(response: ModelResponse) -> Usage:
    """Returns a response's tokens, and its price where the price table knows the model."""
    used = response.usage
    price = _price(response)
    return Usage(
        requests=1,
        input_tokens=used.input_tokens,
        output_tokens=used.output_tokens,
        cost=None if price is None else float(price),
        currency=None if price is None else "USD",
    )


def add(one: Usage | None, other: Usage) -> Usage:
    """Returns the sum of what was used; a cost that is not known adds nothing."""
    if one is None:
        return other
    costs = [cost for cost in (one.cost, other.cost) if cost is not None]
    return Usage(
        requests=one.requests + other.requests,
        input_tokens=one.input_tokens + other.input_tokens,
        output_tokens=one.output_tokens + other.output_tokens,
        cost=sum(costs) if costs else None,
        currency="USD" if costs else None,
    )


def _price(response: ModelResponse) -> Decimal | None:
    if response.usage.cost is not None:
        # What the provider itself charged.
        return response.usage.cost
    if not response.model_name:
        return None
    try:
        return response.cost().total_price
    except (LookupError, ValueError):
        # A model that the price table does not know, or usage that it cannot price.
        return None
    except Exception as error:
        # A paid answer is not thrown away because its price could not be looked up.
        warnings.warn(f"the price of a request is not known: {error}", stacklevel=2)
        return None
