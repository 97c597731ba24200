"""The arguments of `kitaru run`: words and `--input`, checked before a run exists."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from kitaru_fs.errors import UsageError
from kitaru_fs.values import codec_for
from kitaru_fs.values.signatures import annotations_of, bind_input, parse_words, read_input

__all__ = ["read_arguments", "read_input_json"]


def read_arguments(
    name: str,
    function: Callable[..., Any],
    words: Sequence[str],
    given: str | None,
    *,
    is_agent: bool,
) -> dict[str, msgspec.Raw]:
    """Returns a flow's arguments as JSON, by name.

    Args:
        name: The flow's name, for errors.
        function: Its function.
        words: `name=value`, or the prompt of a bare agent.
        given: `--input`: JSON, `@FILE` or `-`.
        is_agent: The flow is a bare agent's.

    Raises:
        UsageError: They do not fit the signature, or one is given twice.
    """
    annotations = annotations_of(function)
    typed = parse_words(name, function, _named(name, function, words, is_agent=is_agent))
    recorded = {
        word: msgspec.Raw(codec_for(annotations.get(word, Any)).encode(value))
        for word, value in typed.items()
    }
    for key, value in read_input_json(given).items() if given is not None else ():
        if key in recorded:
            raise UsageError(
                f"{name}: {key!r} is given twice, as a word and in --input", hint="give it once"
            )
        recorded[key] = msgspec.Raw(msgspec.json.encode(value))
    bound = read_input(name, function, recorded)
    return bind_input(name, function, bound.args, bound.kwargs)


def _named(
    name: str, function: Callable[..., Any], words: Sequence[str], *, is_agent: bool
) -> dict[str, str]:
    parameters = inspect.signature(function).parameters
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if is_agent and (not equals or key not in parameters):
            # A prompt may well hold an equals sign.
            key, value = next(iter(parameters)), word
            if key in found:
                raise UsageError(
                    f"{name} takes one prompt, and here are more words",
                    hint=f'put it in quotes: kitaru run {name} "{" ".join(words)}"',
                )
        elif not equals or not key:
            only = next(iter(parameters)) if len(parameters) == 1 else "name"
            raise UsageError(
                f"{word!r} is no argument for {name}: it must be name=value",
                hint=f"for instance {only}={word or 'value'}; "
                f"its signature is {name}{inspect.signature(function)}",
            )
        elif key in found:
            raise UsageError(f"{name}: {key!r} is given twice", hint="give it once")
        found[key] = value
    return found


def read_input_json(given: str) -> dict[str, Any]:
    """Returns what `--input` names: JSON, `@FILE`, or `-` for the standard input.

    Raises:
        UsageError: It cannot be read, or is no JSON object.
    """
    where, text = "--input", given
    if given == "-":
        where, text = "the standard input", sys.stdin.read()
    elif given.startswith("@"):
        where = given[1:]
        try:
            text = Path(where).expanduser().read_text("utf-8")
        except UnicodeDecodeError:
            raise UsageError(f"--input: {where} is no UTF-8 text") from None
        except OSError as error:
            raise UsageError(
                f"--input: {where or '@'} cannot be read: {error.strerror}",
                hint="write --input @FILE, --input - for the standard input, or the JSON itself",
            ) from error
    try:
        value: Any = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"--input: {where} is not valid JSON: {error}",
            hint="""write for instance --input '{"topic": "git"}'""",
        ) from None
    if not isinstance(value, dict):
        raise UsageError(
            f"--input: {where} is no JSON object",
            hint="""name the arguments, for instance {"topic": "git"}""",
        )
    return {str(key): one for key, one in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
