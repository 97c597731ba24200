"""What a function's signature says of its arguments and its output, as they are journaled."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from kitaru_fs.errors import OutputError, UsageError
from kitaru_fs.values import NoJsonForm, ValueSchemaError, codec_for, encode_arguments

__all__ = [
    "annotations_of",
    "bind_input",
    "parse_words",
    "read_input",
    "record_arguments",
]


def annotations_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Returns a function's resolved annotations; one that cannot be resolved is `Any`."""
    try:
        return typing.get_type_hints(function, include_extras=True)
    except Exception:
        # A name that exists for type checkers only: resolve what can be, one by one.
        return _resolve_each(function)


def _resolve_each(function: Callable[..., Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    scope = getattr(function, "__globals__", {})
    for name, annotation in inspect.get_annotations(function).items():
        holder = type("_", (), {"__annotations__": {name: annotation}})
        try:
            found[name] = typing.get_type_hints(holder, globalns=scope, include_extras=True)[name]
        except Exception:
            found[name] = Any
    return found


def record_arguments(
    arguments: Mapping[str, object],
    annotations: Mapping[str, Any],
    mask: Callable[[bytes], bytes] | None = None,
) -> msgspec.Raw:
    """Returns a call's arguments as one JSON object; what has no JSON form is named by its type.

    Args:
        arguments: The arguments by name.
        annotations: The parameters' types.
        mask: Takes secrets out of an argument of which only a digest is recorded.
    """
    return msgspec.Raw(msgspec.json.encode(encode_arguments(arguments, annotations, mask)))


def bind_input(
    name: str,
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> dict[str, msgspec.Raw]:
    """Checks a flow's arguments against its signature and returns them as JSON, by name.

    Raises:
        UsageError: They do not fit, or one has no JSON form.
    """
    signature = inspect.signature(function)
    annotations = annotations_of(function)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise UsageError(f"{name}: {error}", hint=f"its signature is {name}{signature}") from None
    recorded: dict[str, msgspec.Raw] = {}
    for parameter, value in bound.arguments.items():
        kind = signature.parameters[parameter].kind
        if kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            annotation: Any = Any
            value = list(value) if kind is inspect.Parameter.VAR_POSITIONAL else dict(value)
        else:
            annotation = annotations.get(parameter, Any)
        try:
            recorded[parameter] = msgspec.Raw(codec_for(annotation).encode(value))
        except NoJsonForm as error:
            raise UsageError(
                f"{name}: argument {parameter!r} cannot be journaled: {error}",
                hint="pass a value with a JSON form",
            ) from error
    return recorded


def read_input(
    name: str, function: Callable[..., Any], recorded: Mapping[str, Any]
) -> inspect.BoundArguments:
    """Returns a flow's arguments from their JSON, ready for `function(*b.args, **b.kwargs)`.

    Args:
        name: The flow's name, for the error.
        function: The flow's function.
        recorded: Each argument as JSON (`msgspec.Raw`) or as what JSON decodes to.

    Raises:
        UsageError: They do not fit the function's signature.
    """
    signature = inspect.signature(function)
    annotations = annotations_of(function)
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for parameter, value in recorded.items():
        raw = value if isinstance(value, msgspec.Raw) else msgspec.json.encode(value)
        known = signature.parameters.get(parameter)
        try:
            if known is None:
                named[parameter] = codec_for(Any).decode(raw)
            elif known.kind is inspect.Parameter.VAR_POSITIONAL:
                positional = list(codec_for(Any).decode(raw))
            elif known.kind is inspect.Parameter.VAR_KEYWORD:
                named.update(codec_for(Any).decode(raw))
            else:
                named[parameter] = codec_for(annotations.get(parameter, Any)).decode(raw)
        except (ValueSchemaError, OutputError) as error:
            raise UsageError(
                f"{name}: argument {parameter!r} does not fit: {error}",
                hint=f"its signature is {name}{signature}",
            ) from error
    try:
        return _bind(signature, positional, named)
    except TypeError as error:
        raise UsageError(f"{name}: {error}", hint=f"its signature is {name}{signature}") from None


def _bind(
    signature: inspect.Signature, extra: list[Any], named: dict[str, Any]
) -> inspect.BoundArguments:
    first: list[Any] = []
    for parameter in signature.parameters.values():
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY or (
            extra and parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        ):
            if parameter.name not in named:
                break
            first.append(named.pop(parameter.name))
    return signature.bind(*first, *extra, **named)


def parse_words(
    name: str, function: Callable[..., Any], words: Mapping[str, str]
) -> dict[str, Any]:
    """Returns the values of `name=value` words of a command line, by the function's annotations.

    A value is JSON where the parameter's type takes that, else the text itself.

    Raises:
        UsageError: A word fits no parameter, or a value no type.
    """
    signature = inspect.signature(function)
    annotations = annotations_of(function)
    takes_any = any(
        parameter.kind is inspect.Parameter.VAR_KEYWORD
        for parameter in signature.parameters.values()
    )
    values: dict[str, Any] = {}
    for word, text in words.items():
        if word not in signature.parameters and not takes_any:
            raise UsageError(
                f"{name} has no parameter {word!r}", hint=f"its signature is {name}{signature}"
            )
        values[word] = _parse_word(name, word, text, annotations.get(word, Any))
    return values


def _parse_word(name: str, word: str, text: str, annotation: Any) -> Any:
    codec = codec_for(annotation)
    as_text = msgspec.json.encode(text)
    first, second = (as_text, text.encode()) if annotation is str else (text.encode(), as_text)
    try:
        return codec.decode(first)
    except (ValueSchemaError, OutputError):
        try:
            return codec.decode(second)
        except (ValueSchemaError, OutputError) as error:
            raise UsageError(
                f"{name}: {word}={text!r} does not fit: {error}",
                hint="give a value of the parameter's type, as JSON or plain text",
            ) from error
