"""Pydantic AI's durable operations as steps of a flow."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar, cast

from pydantic_ai import RunContext
from pydantic_ai.durable_exec import (
    JSON_CODEC,
    BoundDurableOperation,
    DurableOperation,
    DurableOperationConfig,
    DurableOperationId,
    JournalCallableOperationBackend,
    ResultCodec,
    WorkspaceCall,
)
from pydantic_ai.messages import ModelResponse

from kitaru_fs.engine.attempts import Attempt
from kitaru_fs.engine.context import current_attempt, current_execution
from kitaru_fs.engine.execution import Execution
from kitaru_fs.engine.protocol import Policy
from kitaru_fs.engine.replay import Call
from kitaru_fs.errors import OutputError
from kitaru_fs.pydantic_ai.binary import put_back, take_out
from kitaru_fs.pydantic_ai.budgets import stay_within
from kitaru_fs.pydantic_ai.known import Known, Scope, known_in
from kitaru_fs.pydantic_ai.messages import digest_of, shortened, text_of
from kitaru_fs.pydantic_ai.operations import Operation, context_of, describe, scope_of
from kitaru_fs.pydantic_ai.releases import record_durable_unit
from kitaru_fs.pydantic_ai.runfiles import FILES_REF
from kitaru_fs.pydantic_ai.servers import watch_server
from kitaru_fs.pydantic_ai.usage import add, usage_of
from kitaru_fs.quoting import printable
from kitaru_fs.steps import call_step_async
from kitaru_fs.values import codec_for

__all__ = ["StepBackend", "no_json_form"]

ParamsT = TypeVar("ParamsT")
WireT = TypeVar("WireT")
ResultT = TypeVar("ResultT")

_ASKED = 200


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
        if execution is None or current_attempt() is not None or _finds_files(cache_key):
            return await body()
        known = known_in(execution)
        scope = self._scope(execution, known, context_of(cache_key))
        operation = describe(self._agent, operation_id, name, cache_key, known, scope.name)
        # Reserved before the first await: it must not depend on who runs first.
        key = execution.secrecy.key(
            f"{scope.name}/{operation.name}:{digest_of(*operation.identity)}",
            lambda: (
                f"{scope.unmasked}/{operation.name}:{digest_of(*operation.identity, masked=False)}"
            ),
        )
        call = Call(key, operation.name, operation.kind, operation.input)
        if operation.asked is not None:
            await stay_within(execution, known, key)
        outcome = execution.replay.outcome(key)
        made: list[object] = []

        async def attempt() -> object:
            watched = functools.partial(watch_server, operation_id, cache_key, body)
            payload = await self._attempt(execution, operation, watched)
            made[:] = [payload]
            current = current_attempt()
            assert current is not None
            taken: dict[str, bytes] = {}
            recorded = take_out(payload, taken)
            _put_beside(execution, current, taken)
            return recorded

        try:
            recorded = await call_step_async(execution, call, codec_for(Any), attempt, config)
        finally:
            record_durable_unit(executed=bool(made))
        payload = made[0] if made else put_back(recorded, execution.beside.read)
        if operation.asked is not None and outcome is not None:
            payload = _response(payload, outcome.started)
        if operation.call is not None and not _is_call_result(payload):
            # Set by hand, or of a call that is not made again: the tool's value as it is.
            payload = {"kind": "tool_return", "result": payload}
        _remember(known, scope.name, key, operation, payload)
        return payload

    def _scope(self, execution: Execution, known: Known, context: RunContext[Any] | None) -> Scope:
        """What tells the calls of one agent run from the equal ones of another."""
        if context is None or context.run_id is None:
            return Scope(self._agent, self._agent)
        if context.run_id not in known.scopes:
            base = scope_of(self._agent, context)
            unmasked = scope_of(self._agent, context, masked=False)
            name = execution.secrecy.key(base)
            earlier = name if unmasked == base else execution.secrecy.key(unmasked)
            known.scopes[context.run_id] = Scope(name, earlier)
        return known.scopes[context.run_id]

    async def _attempt(
        self, execution: Execution, operation: Operation, body: Callable[[], Awaitable[object]]
    ) -> object:
        attempt = current_attempt()
        assert attempt is not None
        attempt.author = self._agent
        _put_beside(execution, attempt, operation.beside)
        try:
            payload = await body()
        except _NoJsonForm as error:
            raise OutputError(
                f"the result of {operation.name!r} of agent {self._agent!r} cannot be journaled:"
                f" {error.message}",
                hint="return what has a JSON form: text, numbers, lists, dicts, a pydantic model",
            ) from error
        attempt.body = _body(operation)
        if operation.kind == "model":
            attempt.usage = add(attempt.usage, usage_of(JSON_CODEC.load(ModelResponse, payload)))
        return payload


def _finds_files(cache_key: Sequence[object]) -> bool:
    """Whether a call only finds the run's files: where they are may be elsewhere on a resume."""
    if len(cache_key) < 2 or not isinstance(cache_key[0], WorkspaceCall):
        return False
    return cache_key[0].method == "ensure" and cache_key[1] == FILES_REF


def _response(payload: object, moment: str) -> object:
    """A recorded response; one that was set by hand may be its text, or lack its time."""
    if isinstance(payload, str):
        payload = {"parts": [{"part_kind": "text", "content": payload}]}
    if not isinstance(payload, dict):
        return payload
    return {"timestamp": moment, **cast("dict[str, Any]", payload)}


def _is_call_result(payload: object) -> bool:
    return isinstance(payload, dict) and "kind" in payload


def _put_beside(execution: Execution, attempt: Attempt, files: Mapping[str, bytes]) -> None:
    for end, data in files.items():
        if end.partition(".")[0] not in execution.beside:
            attempt.beside[end] = data


def _remember(known: Known, scope: str, key: str, operation: Operation, payload: Any) -> None:
    """Notes what the entry of an operation holds, so that later ones can name it."""
    if operation.asked is not None:
        # What does not fit is the caller's to find, who reads it as well.
        with suppress(ValueError):
            known.asked(key, operation.asked, JSON_CODEC.load(ModelResponse, payload))
    elif operation.call is not None and isinstance(payload, dict):
        result = cast("dict[str, Any]", payload).get("result")
        if isinstance(result, dict) and "return_value" in result:
            result = cast("dict[str, Any]", result)["return_value"]
        known.returned(scope, operation.call, result)


def _body(operation: Operation) -> str:
    context = operation.context
    if operation.kind == "model" or context is None or context.prompt is None:
        return operation.body
    asked = shortened(text_of(context.prompt), _ASKED)
    return f"{operation.body}\nasked: {printable(asked, _ASKED)}"


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
                hint="use the release of pydantic-ai that recorded it, or rewind to before it; what"
                " was set by hand must have the form that `kitaru show` shows",
            ) from error
