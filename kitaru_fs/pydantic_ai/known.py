"""What is known of the agents that run in one execution of a flow.

So that an entry names what an earlier one holds, and does not hold it again: a request names the
messages that it adds and the request that it goes on from, a tool's return names the tool's entry.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from pydantic_ai.messages import ModelResponse

from kitaru_fs.engine.execution import Execution
from kitaru_fs.errors import UsageError
from kitaru_fs.pydantic_ai.messages import Conversation, digest_of, extended

__all__ = ["Before", "Known", "Scope", "known_in"]


class Before(NamedTuple):
    """The part of a conversation that earlier entries hold.

    Attributes:
        key: The key of the request that it goes on from; empty if there is none.
        messages: How many messages that request and those before it hold, responses included.
    """

    key: str
    messages: int


class Scope(NamedTuple):
    """What tells an agent run from others; and the same as it was before secrets were known."""

    name: str
    unmasked: str


class Known:
    """The agents, conversations and results of one execution. Used in its event loop only."""

    def __init__(self) -> None:
        self._agents: dict[str, object] = {}
        self.scopes: dict[str, Scope] = {}
        self._requests: dict[str, str] = {}
        self._results: dict[tuple[str, str], str] = {}
        self.allowed: Counter[str] = Counter()
        self._told: dict[tuple[str, str], str] = {}

    def claim_name(self, name: str, agent: object, run: str) -> None:
        """Notes that an agent runs under a name.

        Raises:
            UsageError: Another agent has it.
        """
        if self._agents.setdefault(name, agent) is not agent:
            raise UsageError(
                f"two agents of this flow are named {name!r}, and their steps could not be told"
                " apart",
                hint="give each its own Agent(name=...), or make the agent once, outside the"
                " function",
                run=run,
            )

    def before(self, conversation: Conversation) -> Before:
        """Returns what earlier requests hold of a conversation."""
        found = conversation.beginnings
        for count in range(len(found), 0, -1):
            key = self._requests.get(found[count - 1])
            if key is not None:
                return Before(key, count)
        return Before("", 0)

    def asked(self, key: str, conversation: Conversation, response: ModelResponse) -> None:
        """Notes a request that has its response."""
        digest = conversation.digest()
        self._requests[digest] = key
        self._requests[extended(digest, response)] = key

    def returned(self, scope: str, call: str, result: Any) -> None:
        """Notes what a tool call returned."""
        self._results[scope, call] = digest_of(result)

    def holds(self, scope: str, call: str, content: Any) -> bool:
        """Says whether the entry of a tool call holds a content."""
        found = self._results.get((scope, call))
        return found is not None and found == digest_of(content)

    def once(self, scope: str, name: str, value: Any) -> Any:
        """Returns a value; what names it, if the entry before has the same."""
        digest = digest_of(value)
        if self._told.get((scope, name)) == digest:
            return {"as_before": digest}
        self._told[scope, name] = digest
        return value


_known: WeakKeyDictionary[Execution, Known] = WeakKeyDictionary()


def known_in(execution: Execution) -> Known:
    """Returns what is known in an execution."""
    return _known.setdefault(execution, Known())
