"""What became of an attempt that was about to have an effect when its process died: a human says.

The question is a wait of the run's, under the call's key and a number: a call may come to be
unknown again. What was answered counts for the intent that it was asked about.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Literal, NamedTuple

import msgspec

from kitaru_fs.engine.asking import asking
from kitaru_fs.engine.effects import Effect
from kitaru_fs.engine.execution import Execution
from kitaru_fs.engine.pending import Question
from kitaru_fs.engine.replay import Call, asked_key
from kitaru_fs.entry import Entry
from kitaru_fs.rundir.arrivals import asked_of
from kitaru_fs.values import Codec, ValueSchemaError
from kitaru_fs.values.schema import json_schema

__all__ = ["Answers"]

_ANNOTATION: Any = Literal["retry", "skip"] | dict[str, Any]


class Answer(NamedTuple):
    """What a human said: to do it again, or what it came to, as JSON."""

    output: bytes | None


class Answers:
    """What was asked about one call, and answered.

    Args:
        execution: The run.
        call: The call.
        codec: Reads its output.
    """

    def __init__(self, execution: Execution, call: Call, codec: Codec) -> None:
        self._execution = execution
        self._call = call
        self._codec = codec
        self._asked = 0
        self._found: dict[int, Answer] = {}

    def replay(self) -> Generator[Effect, Any, None]:
        """Yields until what was asked before, and came of it, is replayed."""
        while opening := self._execution.replay.outcome(asked_key(self._next_key())):
            asked = asked_of(opening)
            step, effect = int(asked.get("intent", -1)), str(asked.get("effect", ""))
            yield from self._ask(step, effect)

    def about(self, intent: Entry) -> Generator[Effect, Any, Answer]:
        """Yields until it is known what became of an attempt; returns what was said.

        Args:
            intent: The attempt's entry.

        Raises:
            WaitRejected: A human refused to answer.
        """
        if intent.step not in self._found:
            yield from self._ask(intent.step, intent.effect or "")
        return self._found[intent.step]

    def _next_key(self) -> str:
        return f"{self._call.key}!{self._asked + 1}"

    def _ask(self, step: int, effect: str) -> Generator[Effect, Any, None]:
        name = self._call.name
        text = (
            f"step {step} ({name}) {effect}, and its process died: was it done? retry: do it again,"
            ' with the same idempotency key; skip: take it for done; {"done": OUTPUT}: it was, and'
            " returned this"
        )
        digest = f"intent {step}"
        recorded = {
            "question": text,
            "schema": json_schema(_ANNOTATION),
            "intent": step,
            "effect": effect,
            "digest": digest,
        }
        call = Call(self._next_key(), f"was-{name}-done", "wait", recorded)
        question = Question(call, _AnswerCodec(self._codec), digest=digest)
        self._asked += 1
        said = yield from asking(self._execution, question)
        self._found[step] = Answer(_output(said))


class _AnswerCodec(Codec):
    """Reads an answer; what it says that the step returned must fit the step."""

    def __init__(self, codec: Codec) -> None:
        super().__init__(_ANNOTATION)
        self._output = codec

    def decode(self, raw: bytes | msgspec.Raw) -> Any:
        said: Any = super().decode(raw)
        if said not in ("retry", "skip") and list(said) != ["done"]:
            raise ValueSchemaError('it is neither "retry", "skip" nor {"done": OUTPUT}')
        output = _output(said)
        try:
            if output is not None:
                self._output.decode(output)
        except ValueSchemaError as error:
            hint = ': say what it returned, {"done": OUTPUT}' if said == "skip" else ""
            raise ValueSchemaError(f"{error.message}{hint}") from error
        return said


def _output(said: Any) -> bytes | None:
    if said == "retry":
        return None
    return msgspec.json.encode(None if said == "skip" else said["done"])
