"""Which step an exception came from, in case it ends the run."""

from __future__ import annotations

from collections import deque
from typing import cast

__all__ = ["Causes"]

_REMEMBERED = 256


class Causes:
    """The failures of steps that an execution has raised in its flow."""

    def __init__(self) -> None:
        self._failures: deque[tuple[BaseException, int]] = deque(maxlen=_REMEMBERED)

    def remember(self, error: BaseException, step: int) -> None:
        """Notes the step whose failure an exception is."""
        self._failures.append((error, step))

    def find(self, error: BaseException) -> int | None:
        """Returns the step whose failure an exception is, groups, or was raised from."""
        steps = {id(known): step for known, step in self._failures}
        queue: deque[BaseException | None] = deque([error])
        seen: set[int] = set()
        while queue:
            one = queue.popleft()
            if one is None or id(one) in seen:
                continue
            seen.add(id(one))
            if id(one) in steps:
                return steps[id(one)]
            if isinstance(one, BaseExceptionGroup):
                queue += cast("BaseExceptionGroup[BaseException]", one).exceptions
            queue += [one.__cause__, one.__context__]
        return None
