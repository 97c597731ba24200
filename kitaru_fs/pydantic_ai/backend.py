"""Pydantic AI's durable operations as steps of a flow."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from pydantic_ai import RunContext
from pydantic_ai.durable_exec import (
    JSON_CODEC,
    BoundDurableOperation,
    DurableOperation,
    DurableOperationConfig,
    DurableOperationId,
    JournalCallableOperationBackend,
    ResultCodec,
)
from pydantic_ai.messages import ModelResponse

from kitaru_fs.engine.attempts import Attempt
from kitaru_fs.engine.context import current_attempt, current_execution
from kitaru_fs.engine.execution import Execution
from kitaru_fs.engine.protocol import Policy
from kitaru_fs.engine.replay import Call
from kitaru_fs.errors import OutputError, UsageError
from kitaru_fs.pydantic_ai.messages import digest_of, text_of
from kitaru_fs.pydantic_ai.operations import Operation, describe, scope_of
from kitaru_fs.pydantic_ai.releases import record_durable_unit
from kitaru_fs.pydantic_ai.usage import add, usage_of
from kitaru_fs.quoting import printable
from kitaru_fs.steps import call_step_async
from kitaru_fs.values import codec_for

__all__ = ["StepBackend", "claim_name", "no_json_form"]

ParamsT = TypeVar("ParamsT")
WireT = TypeVar("WireT")
ResultT = TypeVar("ResultT")

_ASKED = 200


class _Known:
    """What is known of the agents that run in one execution of a flow."""

    def __init__(self) -> None:
        self.agents: dict[str, object] = {}
        self.scopes: dict[str, str] = {}


_known: WeakKeyDictionary[Execution, _Known] = WeakKeyDictionary()


def claim_name(execution: Execution, name: str, agent: object) -> None:
    """Notes that an agent runs in a flow under a name.

    Raises:
        UsageError: Another agent has it.
    """
    agents = _known.setdefault(execution, _Known()).agents
    if agents.setdefault(name, agent) is not agent:
        raise UsageError(
            f"two agents of this flow are named {name!r}, and their steps could not be told apart",
            hint="give each its own Agent(name=...), or make the agent once, outside the function",
            run=execution.run,
        )


def no_json_form(error: Exception) -> OutputError:
    """Returns the error for a result that has no JSON form; the step that has it is named later."""
    return _NoJsonForm(str(error))


class _NoJsonForm(OutputError):
    pass


class StepBackend(JournalCallableOperationBackend[Policy]):
    """Runs each durable operation as one step of the flow that it is called in."""

    def __init__(
        self,
        *,
        agent_name: str,
        default_model_id: str | None,
        config: DurableOperationConfig[Policy],
    ) -> None:
        super().__init__(agent_name=agent_name, default_model_id=default_model_id, config=config)
        self._agent = agent_name

    def bind(
        self, operation: DurableOperation[ParamsT, WireT, ResultT]
    ) -> BoundDurableOperation[ParamsT, WireT, ResultT]:
        """Binds an operation; see the base class."""
        codec = _RecordedResult(operation.result_codec)
        return super().bind(dataclasses.replace(operation, result_codec=codec))

    async def execute(
        self,
        *,
        operation_id: DurableOperationId,
        name: str,
        body: Callable[[], Awaitable[object]],
        cache_key: tuple[object, ...],
        config: Policy,
    ) -> object:
        """Returns the operation's recorded payload, or runs it and commits its payload.

        Raises:
            OutputError: The operation's result has no JSON form.
            Exception: What it failed with, live exactly as on replay.
        """
        execution = current_execution()
        if execution is None or current_attempt() is not None:
            return await body()
        operation = describe(self._agent, operation_id, name, cache_key)
        # Reserved before the first await: it must not depend on who runs first.
        call = self._call(execution, operation)
        executed = False

        async def attempt() -> object:
            nonlocal executed
            executed = True
            return await self._attempt(operation, body)

        try:
            return await call_step_async(execution, call, codec_for(Any), attempt, config)
        finally:
            record_durable_unit(executed=executed)

    def _call(self, execution: Execution, operation: Operation) -> Call:
        scope = self._scope(execution, operation.context)
        digest = digest_of(operation.input, operation.identity)
        key = execution.key(f"{scope}/{operation.name}:{digest}")
        return Call(key, operation.name, operation.kind, operation.input)

    def _scope(self, execution: Execution, context: RunContext[Any] | None) -> str:
        """What tells the calls of one agent run from the equal ones of another."""
        if context is None or context.run_id is None:
            return self._agent
        scopes = _known.setdefault(execution, _Known()).scopes
        if context.run_id not in scopes:
            scopes[context.run_id] = execution.key(scope_of(self._agent, context))
        return scopes[context.run_id]

    async def _attempt(self, operation: Operation, body: Callable[[], Awaitable[object]]) -> object:
        attempt = current_attempt()
        assert attempt is not None
        attempt.author = self._agent
        try:
            payload = await body()
        except _NoJsonForm as error:
            raise OutputError(
                f"the result of {operation.name!r} of agent {self._agent!r} cannot be journaled:"
                f" {error.message}",
                hint="return what has a JSON form: text, numbers, lists, dicts, a pydantic model",
            ) from error
        attempt.body = _body(operation)
        _count(attempt, operation, payload)
        return payload


def _body(operation: Operation) -> str:
    context = operation.context
    if operation.kind == "model" or context is None or context.prompt is None:
        return operation.body
    return f"{operation.body}\nasked: {printable(text_of(context.prompt), _ASKED)}"


def _count(attempt: Attempt, operation: Operation, payload: object) -> None:
    if operation.kind == "model":
        attempt.usage = add(attempt.usage, usage_of(JSON_CODEC.load(ModelResponse, payload)))


class _RecordedResult(ResultCodec[ResultT]):
    """Reads recorded results so that one that does not fit is never taken for a model's mistake."""

    def __init__(self, codec: ResultCodec[ResultT]) -> None:
        self._codec = codec

    def dump(self, value: ResultT) -> object:
        return self._codec.dump(value)

    def load(self, payload: object) -> ResultT:
        try:
            return self._codec.load(payload)
        except (TypeError, ValueError, LookupError) as error:
            first = str(error).partition("\n")[0]
            raise OutputError(
                f"a recorded result of an agent's step cannot be read: {first}",
                hint="use the release of pydantic-ai that recorded it, or rewind to before it",
            ) from error
