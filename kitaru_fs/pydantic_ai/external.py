"""In-run external events: an agent hands out a token, and waits for whoever resolves it.

The token is `RUN NAME`: `kitaru answer RUN VALUE --wait NAME` resolves it, as does a reply from
Python or a file in the inbox.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

from kitaru_fs.engine.context import current_execution
from kitaru_fs.engine.protocol import Policy
from kitaru_fs.engine.replay import Call
from kitaru_fs.errors import WaitRejected, WaitTimeout
from kitaru_fs.pydantic_ai.humans import ask as ask_human
from kitaru_fs.pydantic_ai.releases import ExternalEventError, ExternalEventWaiter, event_scope
from kitaru_fs.steps import call_step_async
from kitaru_fs.values import codec_for

__all__ = ["external_events"]

_ONCE = Policy()


def external_events() -> AbstractContextManager[Any]:
    """Makes the waits of the agent run inside waits of the run, where Pydantic AI knows of them."""
    return nullcontext() if event_scope is None else event_scope(_Waiter())


class _Waiter(ExternalEventWaiter):
    async def wait(
        self,
        name: str,
        *,
        ask: Callable[[str], Awaitable[Any]],
        timeout: timedelta | None,
    ) -> Any:
        """Hands out a token, once; returns what it is resolved with.

        Raises:
            ExternalEventError: Nothing came in time, or a human refused.
        """
        execution = current_execution()
        assert execution is not None
        token = f"{execution.run} {name}"
        asking = Call(
            execution.secrecy.text_key("event", name), f"ask {name}", "step", {"event": name}
        )
        # Reserved before the first await.
        _, asked = ask_human(execution, name, f"external event {name}", Any, timeout=timeout)
        try:
            answer = await call_step_async(
                execution, asking, codec_for(Any), lambda: ask(token), _ONCE
            )
            if answer is not None:
                return answer
            return await asked
        except (WaitRejected, WaitTimeout) as error:
            raise ExternalEventError(error.message) from error
        finally:
            asked.close()
