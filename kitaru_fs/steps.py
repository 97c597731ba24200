"""`@step`: a function whose output, with what it does to `files/`, is one commit."""

from __future__ import annotations

import functools
import inspect
import sys
import weakref
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Generic, ParamSpec, TypeVar, cast, get_args, overload

from kitaru_fs.engine.asking import refuse_in_loop
from kitaru_fs.engine.context import current_attempt, current_execution
from kitaru_fs.engine.execution import Execution
from kitaru_fs.engine.protocol import OnUnknown, Policy, drive, drive_async, travel
from kitaru_fs.engine.replay import Call
from kitaru_fs.errors import UsageError
from kitaru_fs.mapping import map_async, map_plain
from kitaru_fs.values import Codec, ValueSchemaError, codec_for
from kitaru_fs.values.signatures import annotations_of, record_arguments

__all__ = ["Step", "call_step", "call_step_async", "step", "steps_named"]

P = ParamSpec("P")
R = TypeVar("R")


_known: dict[str, weakref.WeakSet[Step[Any, Any]]] = {}


def steps_named(name: str) -> list[Step[Any, Any]]:
    """Returns the steps of a name in the modules that are loaded."""
    return list(_known.get(name, ()))


class Step(Generic[P, R]):
    """A function made durable by `@step`. Called as the function is.

    In a flow a call returns what the journal holds of it, or runs the function and commits its
    output.
    Outside a flow, and inside another step, it is the plain function.
    """

    __name__: str

    def __init__(
        self,
        function: Callable[P, R],
        *,
        name: str | None,
        kind: str,
        policy: Policy,
        approve: bool = False,
    ) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.name = name or function.__name__
        self.kind = kind
        self.policy = policy
        self.approve = approve
        self.is_async = inspect.iscoroutinefunction(function)
        _mark_async(self, self.is_async)
        _known.setdefault(self.name, weakref.WeakSet()).add(self)

    @functools.cached_property
    def _annotations(self) -> dict[str, Any]:
        return annotations_of(self.function)

    @functools.cached_property
    def _signature(self) -> inspect.Signature:
        return inspect.signature(self.function)

    @functools.cached_property
    def codec(self) -> Codec:
        """Writes and reads its output."""
        return codec_for(self._annotations.get("return", Any))

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        execution = current_execution()
        if execution is None or current_attempt() is not None:
            return self.function(*args, **kwargs)
        # The key is reserved here, before the first await: it must not depend on who runs first.
        call = self._call(execution, args, kwargs)
        body = functools.partial(self.function, *args, **kwargs)
        if self.is_async:
            running = call_step_async(
                execution,
                call,
                self.codec,
                cast("Callable[[], Awaitable[Any]]", body),
                self.policy,
            )
            return cast("R", running)
        return cast("R", call_step(execution, call, self.codec, body, self.policy))

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else BoundStep(self, instance)

    def map(self, *iterables: Iterable[Any], limit: int | None = None) -> Any:
        """Calls the step for each item, at most `limit` at the same time.

        Args:
            iterables: The arguments, as for the built-in `map`.
            limit: How many run at the same time; None for all (of a plain step, 32).

        Returns:
            The outputs in the order of the items: a list, to be awaited if the step is async. The
            first failure is raised; what has not begun then does not begin, and what is in flight
            is cancelled (async) or waited for (plain).

        Raises:
            UsageError: `limit` is less than 1.
        """
        return self.map_items(list(zip(*iterables, strict=False)), limit)

    def map_items(self, items: list[tuple[Any, ...]], limit: int | None) -> Any:
        """Calls the step for each tuple of arguments; otherwise as `map`."""
        if limit is not None and limit < 1:
            raise UsageError(f"map(limit={limit}): the limit must be at least 1")
        call = cast("Callable[..., Any]", self)
        if self.is_async:
            # All keys are reserved here, in the order of the items.
            return map_async([call(*item) for item in items], limit)
        execution = current_execution()
        if execution is None or current_attempt() is not None or not items:
            return [call(*item) for item in items]
        calls = [self._call(execution, item, {}) for item in items]

        def run(number: int) -> Any:
            body = functools.partial(cast("Callable[..., Any]", self.function), *items[number])
            return call_step(execution, calls[number], self.codec, body, self.policy)

        return map_plain(execution, calls, run, limit)

    @functools.cached_property
    def _may_be_skipped(self) -> bool:
        try:
            return self.codec.decode(b"null") is None
        except ValueSchemaError:
            return False

    def _call(self, execution: Execution, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        if self.approve and not self.is_async:
            refuse_in_loop(execution, f"the plain step {self.name!r}, which is to be approved,")
        if self.policy.on_unknown == "skip" and not self._may_be_skipped:
            raise UsageError(
                f"a step that is skipped returns None, and {self.name!r} must not",
                hint="annotate it as returning `... | None`",
            )
        arguments = self._bind(args, kwargs)
        recorded = record_arguments(arguments, self._annotations, execution.secrecy.mask)
        key = execution.secrecy.call_key(self.name, recorded)
        # Not by its arguments: if they change before it is executed, it is approved anew.
        approval = execution.secrecy.text_key("approve", self.name) if self.approve else ""
        return Call(key, self.name, self.kind, recorded, approval)

    @functools.cached_property
    def _plain_names(self) -> tuple[str, ...] | None:
        """The names of the parameters, if each is a positional one without a default."""
        parameters = self._signature.parameters.values()
        plain = inspect.Parameter.POSITIONAL_OR_KEYWORD
        if all(one.kind is plain and one.default is one.empty for one in parameters):
            return tuple(one.name for one in parameters)
        return None

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        names = self._plain_names
        if names is not None and not kwargs and len(args) == len(names):
            return dict(zip(names, args, strict=True))
        try:
            return self._signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"{self.name}(): {error}") from None


class BoundStep:
    """A step that is a method, of an instance. Called as the method is."""

    def __init__(self, step: Step[Any, Any], instance: object) -> None:
        functools.update_wrapper(self, step.function)
        self.__self__ = instance
        self._step = step
        _mark_async(self, step.is_async)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._step(self.__self__, *args, **kwargs)

    def map(self, *iterables: Iterable[Any], limit: int | None = None) -> Any:
        """Calls the method for each item; see `Step.map`."""
        items = [(self.__self__, *item) for item in zip(*iterables, strict=False)]
        return self._step.map_items(items, limit)


def _mark_async(thing: Any, is_async: bool) -> None:
    # So that frameworks await it, which ask `inspect.iscoroutinefunction`.
    if is_async and sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(thing)


def call_step(
    execution: Execution,
    call: Call,
    codec: Codec,
    body: Callable[[], Any],
    policy: Policy,
) -> Any:
    """Takes one call of plain code through the journal; see `protocol`."""
    return drive(execution, travel(execution, call, codec, policy), body, policy.timeout)


async def call_step_async(
    execution: Execution,
    call: Call,
    codec: Codec,
    body: Callable[[], Awaitable[Any]],
    policy: Policy,
) -> Any:
    """Takes one call of async code through the journal; see `protocol`."""
    steps = travel(execution, call, codec, policy)
    return await drive_async(execution, steps, body, policy.timeout)


@overload
def step(function: Callable[P, R], /) -> Step[P, R]: ...
@overload
def step(
    *,
    name: str | None = None,
    retries: int = 0,
    timeout: float | None = None,
    backoff: float = 1.0,
    max_backoff: float = 60.0,
    retry_on: type[BaseException] | tuple[type[BaseException], ...] = Exception,
    effect: str = "",
    on_unknown: OnUnknown = "ask",
    approve: bool = False,
) -> Callable[[Callable[P, R]], Step[P, R]]: ...
def step(
    function: Callable[P, R] | None = None,
    /,
    *,
    name: str | None = None,
    retries: int = 0,
    timeout: float | None = None,
    backoff: float = 1.0,
    max_backoff: float = 60.0,
    retry_on: type[BaseException] | tuple[type[BaseException], ...] = Exception,
    effect: str = "",
    on_unknown: OnUnknown = "ask",
    approve: bool = False,
) -> Any:
    """Makes a function a durable step of the flows that call it.

    Args:
        function: The function, `def` or `async def`.
        name: Its name in the journal; the function's own by default.
        retries: How many further attempts follow one that raised.
        timeout: Seconds that an attempt may take.
        backoff: Seconds before the second attempt; doubled for each further one, with jitter.
        max_backoff: The longest wait between attempts, in seconds.
        retry_on: Which exceptions are tried again.
        effect: What the step does outside of the run, in the words that a rewind says it with
            (`sends the mail`). That it is about to is committed, durable, before each attempt.
        on_unknown: What a resume does with an attempt that may have had its effect when its process
            died: `ask`; `retry`, with the same `this_step().idempotency_key`; or `skip`, and the
            step returns None.
        approve: Ask a human first, each time that the step is about to be executed, with its
            arguments and the files that it will see. A refusal is raised as `WaitRejected`. An
            approval is for that call: if its arguments or its files differ when a resume comes to
            it, it is asked for again.

    Raises:
        UsageError: An option does not make sense, or the function is a generator.
    """
    if retries < 0 or backoff < 0 or max_backoff < 0:
        raise UsageError("@step: retries, backoff and max_backoff must not be negative")
    if timeout is not None and timeout <= 0:
        raise UsageError("@step: timeout must be more than 0 seconds")
    types = retry_on if isinstance(retry_on, tuple) else (retry_on,)
    if on_unknown not in get_args(OnUnknown):
        raise UsageError(f'@step: on_unknown must be "ask", "retry" or "skip", not {on_unknown!r}')
    if on_unknown != "ask" and not effect:
        raise UsageError(
            "@step: on_unknown is for a step with an effect",
            hint='say what it does that cannot be undone: effect="sends the mail"',
        )
    policy = Policy(retries, timeout, backoff, max_backoff, types, effect, on_unknown)

    def decorate(function: Callable[P, R]) -> Step[P, R]:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise UsageError(
                f"@step: {function.__name__} is a generator, whose output cannot be journaled",
                hint="return a list instead of yielding",
            )
        return Step(function, name=name, kind="step", policy=policy, approve=approve)

    return decorate if function is None else decorate(function)
