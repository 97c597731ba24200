"""`KitaruDurability`: makes what an agent does in a flow durable."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Literal, cast

import anyio
from pydantic_ai.agent import AbstractAgent, Agent, EventStreamHandler
from pydantic_ai.capabilities import WrapModelRequestHandler, WrapRunHandler
from pydantic_ai.durable_exec import (
    JSON_CODEC,
    BaseDurabilityCapability,
    DurabilityEngineSpec,
    DurableOperationId,
    RoleBasedOperationConfig,
    conversation_id_from_run_id,
)
from pydantic_ai.exceptions import UserError
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model, ModelRequestContext, ModelResolutionContext, infer_model
from pydantic_ai.run import AgentRunResult
from pydantic_ai.tools import (
    AgentDepsT,
    DeferredToolRequests,
    DeferredToolResults,
    RunContext,
    ToolDefinition,
)
from pydantic_ai.toolsets import ToolsetTool

from kitaru_fs.engine.context import current_attempt, current_execution, now, uuid4
from kitaru_fs.engine.protocol import Policy
from kitaru_fs.errors import UsageError
from kitaru_fs.pydantic_ai.backend import StepBackend, no_json_form
from kitaru_fs.pydantic_ai.external import external_events
from kitaru_fs.pydantic_ai.humans import answer_requests, takes_requests
from kitaru_fs.pydantic_ai.known import known_in
from kitaru_fs.pydantic_ai.messages import new_requests, set_time
from kitaru_fs.pydantic_ai.models import alias_of
from kitaru_fs.pydantic_ai.policies import METADATA_KEY, make_policy, needs_approval, tool_policy
from kitaru_fs.pydantic_ai.releases import replay_scope
from kitaru_fs.pydantic_ai.usage import add, usage_of

__all__ = ["KitaruDurability", "OutsideFlowWarning"]

_DEFAULT = Policy()


async def _sleep(delay: float) -> None:
    """Waits between the polls of a suspended response; what is replayed has been waited for."""
    execution = current_execution()
    if execution is None or execution.replay.finished:
        await anyio.sleep(max(delay, 0))


class OutsideFlowWarning(UserWarning):
    """An agent with `KitaruDurability` was run outside a flow: nothing of that run is durable."""


class KitaruDurability(BaseDurabilityCapability[AgentDepsT]):
    """Makes each model request, tool call and MCP call of an agent a step of the flow it runs in.

        agent = Agent("openai:gpt-5", name="helper", capabilities=[KitaruDurability()])

    In a flow, what the journal holds is returned without asking the model or calling the tool; in a
    step (an agent that a tool runs, say) the agent is part of that step.

    A tool has settings of its own in its metadata: `{"kitaru": {"retries": 2, "timeout": 60}}`, or
    `{"kitaru": False}` to run inline, as no step. One that acts on the world outside of the run
    says so: `{"kitaru": {"effect": "sends the mail", "on_unknown": "ask"}}`, as `@step` does; it
    may pass `this_step().idempotency_key` on. `{"kitaru": {"approve": True}}` makes it wait for a
    human's yes, as Pydantic AI's `requires_approval` does: the run waits, and `kitaru answer` goes
    on, unless `DeferredToolRequests` is among the agent's output types.

    A plain `def` tool runs in a thread, which a timeout gives up and does not end: give a timeout
    to `async def` tools.

    Args:
        models: Further models by id, for runs that switch models.
        event_stream_handler: Told of what the agent does; each of its calls for a tool's event is a
            step, those for a model's events are part of the request's step.
        name: The agent's name in the journal; its own by default.
        outside: What an agent run outside a flow does: `warn` once, `error`, or `allow`.
        model_retries: How many further attempts follow a failed model request.
        model_timeout: Seconds that a request may take.
        model_backoff: Seconds before the second attempt; doubled for each further one, with jitter.
        model_max_backoff: The longest wait between attempts, in seconds.
        tool_retries: How many further attempts follow a tool call that raised; what a tool says by
            `ModelRetry` is an answer, and no failure.
        tool_timeout: Seconds that a tool call may take.
        tool_backoff: As `model_backoff`, for tool calls.
        tool_max_backoff: As `model_max_backoff`, for tool calls.

    Raises:
        UsageError: An option makes no sense.
    """

    shares_name: ClassVar[bool] = False
    """Whether other agents of a flow may have the same name."""

    engine_spec = DurabilityEngineSpec(
        engine_name="kitaru-fs",
        durable_unit_noun="step",
        durable_container_noun="flow",
        codec=JSON_CODEC,
        serialization_failure=no_json_form,
        toolset_lifecycles={
            "function": "enter-always",
            "mcp": "enter-in-durable-unit",
            "dynamic": "enter-never",
        },
        unsupported_runtime_toolset_kinds=frozenset({"function", "mcp", "dynamic"}),
        tool_config_key=METADATA_KEY,
    )

    def __init__(
        self,
        *,
        models: Mapping[str, Model] | None = None,
        event_stream_handler: EventStreamHandler[AgentDepsT] | None = None,
        name: str | None = None,
        outside: Literal["warn", "error", "allow"] = "warn",
        model_retries: int = 0,
        model_timeout: float | None = None,
        model_backoff: float = _DEFAULT.backoff,
        model_max_backoff: float = _DEFAULT.max_backoff,
        tool_retries: int = 0,
        tool_timeout: float | None = None,
        tool_backoff: float = _DEFAULT.backoff,
        tool_max_backoff: float = _DEFAULT.max_backoff,
    ) -> None:
        super().__init__(models=models, event_stream_handler=event_stream_handler, name=name)
        if outside not in ("warn", "error", "allow"):
            raise UsageError(
                f"KitaruDurability(outside={outside!r}) is not known",
                hint='it is "warn", "error" or "allow"',
            )
        self._outside = outside
        self._warned = False
        self._model_policy = make_policy(
            "KitaruDurability: model",
            _DEFAULT,
            retries=model_retries,
            timeout=model_timeout,
            backoff=model_backoff,
            max_backoff=model_max_backoff,
        )
        self._tool_policy = make_policy(
            "KitaruDurability: tool",
            _DEFAULT,
            retries=tool_retries,
            timeout=tool_timeout,
            backoff=tool_backoff,
            max_backoff=tool_max_backoff,
        )

    # What the engine is

    @property
    def in_durable_context(self) -> bool:
        """Whether the calling code is a flow's own: in a run, and not in a step of it."""
        return current_execution() is not None and current_attempt() is None

    def get_durable_operation_backend(self) -> StepBackend:
        """Returns what runs the agent's durable operations as steps."""

        def resolve(
            operation_id: DurableOperationId, tool: object | None, tool_name: str
        ) -> Policy | Literal[False]:
            metadata = None
            if isinstance(tool, ToolsetTool):
                metadata = cast("ToolsetTool[Any]", tool).tool_def.metadata
            return tool_policy(tool_name, metadata, self._tool_policy)

        return StepBackend(
            agent_name=self.name,
            default_model_id=self.default_model_id,
            config=RoleBasedOperationConfig(
                model=self._model_policy,
                event=_DEFAULT,
                capability=_DEFAULT,
                tool=self._tool_policy,
                resolve_tool=resolve,
            ),
        )

    async def resolve_model_id(
        self, ctx: ModelResolutionContext[AgentDepsT], *, model_id: str
    ) -> Model | None:
        """Returns the model of an id: a registered one, or what the settings name so."""
        found = await super().resolve_model_id(ctx, model_id=model_id)
        if found is None and (name := alias_of(model_id)) is not None:
            return infer_model(name)
        return found

    def _find_model_id(self, model: Model) -> str | None:
        try:
            return super()._find_model_id(model)
        except UserError as error:
            raise self._unknown(model) from error

    def _find_registered_model_id_for_hook(self, model: Model) -> str | None:
        try:
            return super()._find_registered_model_id_for_hook(model)
        except UserError as error:
            raise self._unknown(model) from error

    def _unknown(self, model: Model) -> UsageError:
        return UsageError(
            f"agent {self.name!r} was given a model object ({model.model_id}) that a resume could"
            " not find again",
            hint='register it, KitaruDurability(models={"mine": model}), and say model="mine"; or'
            ' name one, as model="openai:gpt-5" or, in a test, model="test"',
        )

    # What must be the same on replay

    def get_default_run_id(self) -> str | None:
        """Returns the id of an agent run: the same on replay, another for each run of a flow."""
        return str(uuid4()) if self.in_durable_context else None

    def get_default_conversation_id(self, run_id: str) -> str | None:
        """Returns the id of a conversation, which follows from its first run's."""
        return conversation_id_from_run_id(run_id) if self.in_durable_context else None

    async def get_run_start_time(self, run_id: str) -> datetime | None:
        """Returns when an agent run began first: what its `timeout` counts from."""
        return now() if self.in_durable_context else None

    async def before_model_request(
        self, ctx: RunContext[AgentDepsT], request_context: ModelRequestContext
    ) -> ModelRequestContext:
        """Gives the messages of a request a time that is the same on replay."""
        request_context = await super().before_model_request(ctx, request_context)
        self._set_time(ctx.messages, ctx.run_id)
        return request_context

    async def after_run(
        self, ctx: RunContext[AgentDepsT], *, result: AgentRunResult[Any]
    ) -> AgentRunResult[Any]:
        """Gives the messages after the last response a time that is the same on replay."""
        self._set_time(result.all_messages(), ctx.run_id)
        return await super().after_run(ctx, result=result)

    def _set_time(self, messages: Sequence[ModelMessage], run_id: str | None) -> None:
        if self.in_durable_context and (requests := new_requests(messages, run_id)):
            set_time(requests, run_id, now())

    # Around runs and requests

    async def before_run(self, ctx: RunContext[AgentDepsT]) -> None:
        """Looks where the agent runs.

        Raises:
            UsageError: It runs outside a flow, and `outside` is `error`; or another agent of the
                flow has its name.
        """
        execution = current_execution()
        if execution is None:
            self._run_outside()
        elif self.in_durable_context and not self.shares_name:
            known_in(execution).claim_name(self.name, self.agent, execution.run)
        await super().before_run(ctx)

    def _run_outside(self) -> None:
        message = f"agent {self.name!r} was run outside a flow: nothing of this is durable"
        hint = "call it in a function marked @flow, or say KitaruDurability(outside='allow')"
        if self._outside == "error":
            raise UsageError(message, hint=hint)
        if self._outside == "warn" and not self._warned:
            self._warned = True
            warnings.warn(f"{message}; {hint}", OutsideFlowWarning, stacklevel=2)

    async def wrap_run(
        self, ctx: RunContext[AgentDepsT], *, handler: WrapRunHandler
    ) -> AgentRunResult[Any]:
        """Runs the agent; what is replayed is kept out of traces."""
        if not self.in_durable_context:
            return await super().wrap_run(ctx, handler=handler)
        tools = ctx.tool_manager
        mode = "parallel" if tools is None else tools.get_parallel_execution_mode()
        if mode == "parallel":
            # Tools that finish at different times live may do so at once on replay: their events
            # come in the order of the calls, not of the endings.
            mode = "parallel_ordered_events"
        with (
            replay_scope(),
            AbstractAgent.parallel_tool_call_execution_mode(mode),
            Agent.using_sleep(_sleep),
            external_events(),
        ):
            return await super().wrap_run(ctx, handler=handler)

    async def prepare_tools(
        self, ctx: RunContext[AgentDepsT], tool_defs: list[ToolDefinition]
    ) -> list[ToolDefinition]:
        """Makes a human approve the tools whose metadata says so."""
        return [
            dataclasses.replace(tool, kind="unapproved")
            if tool.kind == "function" and needs_approval(tool.metadata)
            else tool
            for tool in tool_defs
        ]

    async def handle_deferred_tool_calls(
        self, ctx: RunContext[AgentDepsT], *, requests: DeferredToolRequests
    ) -> DeferredToolResults | None:
        """Asks humans, and others who execute calls, unless the agent's output are its requests."""
        execution = current_execution()
        if execution is None or not self.in_durable_context or self.agent is None:
            return None
        if takes_requests(self.agent.output_type):
            return None
        return await answer_requests(execution, self.name, requests)

    async def wrap_model_request(
        self,
        ctx: RunContext[AgentDepsT],
        *,
        request_context: ModelRequestContext,
        handler: WrapModelRequestHandler,
    ) -> ModelResponse:
        """Makes a request a step; in a step already, what it used is added to that step's entry."""
        attempt = current_attempt()
        response = await super().wrap_model_request(
            ctx, request_context=request_context, handler=handler
        )
        if attempt is not None:
            attempt.usage = add(attempt.usage, usage_of(response))
        return response
