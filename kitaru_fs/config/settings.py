"""The settings of a workspace: `kitaru.toml`, `KITARU_*` variables, and what a call overrides.

Every key has a default. Where a key is set more than once, the call wins over the environment,
the environment over the file, the file over the default; a list replaces the one below it.

The variable of a key is its path in capitals: `KITARU_DURABILITY`, `KITARU_FILES_MAX_FILE`,
`KITARU_REDACT_ENV` (lists are comma separated). An empty variable counts as not set. `[models]`,
`[[schedule]]` and `flows` of `[limits]` are tables and have no variable. `KITARU_SETTINGS` names
another file to be read instead.
"""

from __future__ import annotations

import difflib
import math
import re
import stat
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import msgspec

from kitaru_fs.config.quantities import Cost, Cron, Duration, Glob, Pattern, Size, Zone
from kitaru_fs.config.tomllines import KeyPath, key_lines
from kitaru_fs.errors import SettingsError

__all__ = [
    "DEFAULT_EXCLUDE",
    "SETTINGS_FILE",
    "FileSettings",
    "LimitSettings",
    "LogSettings",
    "RedactSettings",
    "ScheduleSettings",
    "Settings",
    "UpSettings",
    "load_settings",
]

SETTINGS_FILE = "kitaru.toml"

_SSH_KEYS = ["id_rsa", "id_dsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk"]
_KEY_FILES = ["*.pem", "*.key", "*.p12", "*.pfx"]
DEFAULT_EXCLUDE = tuple(map(Glob, [".env", *_SSH_KEYS, *_KEY_FILES, "__pycache__/"]))
"""What is left out of a run's history unless the settings say otherwise."""


_Count = Annotated[int, msgspec.Meta(ge=1, le=10_000)]


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class FileSettings(_Section, frozen=True, kw_only=True):
    """`[files]`: what of a run's `files/` is recorded, and how changes are found.

    Attributes:
        exclude: Names and globs that are left out, at any depth; one that ends in `/` means
            directories only.
        max_file: Bytes; a larger file is left out.
        scan: `"auto"` watches large trees and walks small ones; `"full"` always walks.
    """

    exclude: tuple[Glob, ...] = DEFAULT_EXCLUDE
    max_file: Size = Size(100_000_000)
    scan: Literal["auto", "full"] = "auto"


class LimitSettings(_Section, frozen=True, kw_only=True):
    """`[limits]`: how much runs may do and spend.

    Attributes:
        concurrency: How many runs the supervisor drives at a time.
        flows: How many of a flow's, by its name; without one, as many as of all.
        per_run: What one run may cost, or None for no limit.
        per_day: What all runs of a day (UTC) may cost, or None for no limit.
    """

    concurrency: _Count = 4
    flows: dict[str, _Count] = {}
    per_run: Cost | None = None
    per_day: Cost | None = None


class LogSettings(_Section, frozen=True, kw_only=True):
    """`[logs]`: what is kept of what runs print.

    Attributes:
        max_size: Bytes of each run; the oldest go.
    """

    max_size: Size = Size(16_000_000)


class RedactSettings(_Section, frozen=True, kw_only=True):
    """`[redact]`: secrets beyond those that are known by their names and shapes.

    Attributes:
        env: Names or globs of environment variables whose values never enter the history.
        patterns: Regular expressions; what they match never enters the history.
    """

    env: tuple[Annotated[str, msgspec.Meta(min_length=1)], ...] = ()
    patterns: tuple[Pattern, ...] = ()


class ScheduleSettings(_Section, frozen=True, kw_only=True):
    """One `[[schedule]]`: a flow that the supervisor starts by the clock.

    Attributes:
        flow: A target, as `kitaru run` takes it.
        cron: When to start it.
        timezone: Where the clock is that `cron` means. In the night in which it is set forward what
            was to start in between starts after it; set back, what names an hour starts once.
        input: The flow's arguments by name, all with a JSON form.
    """

    flow: Annotated[str, msgspec.Meta(min_length=1)]
    cron: Cron
    timezone: Zone = Zone("UTC")
    input: dict[str, Any] = {}


class UpSettings(_Section, frozen=True, kw_only=True):
    """`[up]`: how the supervisor treats what does not go as it should.

    Attributes:
        grace: Seconds that steps in flight get to finish when the supervisor is stopped.
        backoff: Seconds before a run is taken up whose process died twice at the same step;
            doubled each time.
        max_backoff: The longest wait, in seconds.
        crashes: After so many deaths at the same step a run is left to a human.
    """

    grace: Duration = Duration(30.0)
    backoff: Duration = Duration(1.0)
    max_backoff: Duration = Duration(300.0)
    crashes: _Count = 8


class Settings(_Section, frozen=True, kw_only=True):
    """All settings of a workspace, each with its value in force.

    Attributes:
        durability: `"fsync"` survives a power cut, `"process"` a killed process only.
        linger: Seconds that a process stays for a wait or a sleep before it leaves the rest to
            a resume.
        files: The `[files]` table.
        limits: The `[limits]` table.
        logs: The `[logs]` table.
        redact: The `[redact]` table.
        up: The `[up]` table.
        models: The `[models]` table: an alias of the user's, and the model it stands for.
        schedule: The `[[schedule]]` tables, in the order written.
    """

    durability: Literal["fsync", "process"] = "fsync"
    linger: Duration = Duration(2.0)
    files: FileSettings = FileSettings()
    limits: LimitSettings = LimitSettings()
    logs: LogSettings = LogSettings()
    redact: RedactSettings = RedactSettings()
    up: UpSettings = UpSettings()
    models: dict[str, Annotated[str, msgspec.Meta(min_length=1)]] = {}
    schedule: tuple[ScheduleSettings, ...] = ()


_SECTIONS: dict[str, type[_Section]] = {
    "files": FileSettings,
    "limits": LimitSettings,
    "logs": LogSettings,
    "redact": RedactSettings,
    "up": UpSettings,
}
_LISTS = ("files.exclude", "redact.env", "redact.patterns")
_NUMBERS = ("limits.concurrency", "up.crashes")
_TABLES = ("models", "schedule", "limits.flows")

# What a value has to be, for the sentence "KEY must be ..."; list elements under "KEY[]".
_EXPECTED = {
    "durability": '"fsync" or "process"',
    "files": "a table",
    "files.exclude": "a list of names and globs in quotes",
    "files.scan": '"auto" or "full"',
    "limits": "a table",
    "limits.concurrency": "a whole number from 1 to 10000",
    "limits.flows": "a table of flows' names and whole numbers",
    "limits.flows[]": "a whole number from 1 to 10000",
    "logs": "a table",
    "redact": "a table",
    "redact.env": "a list of variable names in quotes",
    "redact.env[]": "the name of an environment variable in quotes, not empty",
    "redact.patterns": "a list of regular expressions in quotes",
    "up": "a table",
    "up.crashes": "a whole number from 1 to 10000",
    "models": "a table of names in quotes",
    "models[]": "the name of a model in quotes, not empty",
    "schedule": "a list of tables, written [[schedule]]",
    "schedule[]": "a table, written [[schedule]]",
    "schedule[].flow": "the target of a flow in quotes",
    "schedule[].input": "a table of the flow's arguments",
}

_WHERE = re.compile(r" - at `\$(.*)`$")
_PATH_PART = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")
_TOML_LINE = re.compile(r" *\(at (?:line (\d+), column \d+|end of document)\)$")


def load_settings(
    path: Path | None,
    env: Mapping[str, str],
    overrides: Mapping[str, object] | None = None,
) -> Settings:
    """Read the settings in force.

    Args:
        path: The `kitaru.toml` to read; None for none.
        env: The environment; only the `KITARU_*` variables of known keys are looked at.
        overrides: Values by dotted key (`{"files.max_file": "1GB"}`), as the file would hold them.
            Durations may also be seconds and sizes bytes. A value of None overrides nothing.

    Raises:
        SettingsError: A key is unknown, a value is wrong, or the file cannot be read; the message
            names the file and line, the variable, or the argument.
    """
    merged: dict[str, Any] = {}
    if path is not None:
        text = _read(path)
        raw = _parse(path, text)

        def in_file(key: KeyPath) -> str:
            lines = key_lines(text)
            while key not in lines and key:
                key = key[:-1]
            return f"{path}:{lines.get(key, 1)}: "

        _check(raw, in_file)
        merged = raw
    for key, value in _from_env(env):
        variable = _variable(key)
        layer = _nest(key, value)
        _check(layer, lambda _, variable=variable: f"{variable}: ")
        _merge(merged, layer)
    for key, value in (overrides or {}).items():
        if value is None:
            continue
        layer = _nest(key, _plain(value))
        _check(layer, lambda _: "", lenient=True)
        _merge(merged, layer)
    return _convert(merged, lenient=True)


def _read(path: Path) -> str:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            kind = "a directory" if path.is_dir() else "not a regular file"
            raise SettingsError(
                f"{path} is {kind}, so no settings can be read from it",
                hint="Move it away; an empty kitaru.toml is valid.",
            )
        data = path.read_bytes()
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be read: {error.strerror or error}",
            hint="An empty kitaru.toml is valid: every setting has a default.",
        ) from error
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SettingsError(
            f"{path}:{line}: the file is not UTF-8 (byte {data[error.start]:#04x})",
            hint="Save it as UTF-8, which TOML asks for.",
        ) from error


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise SettingsError(f"{path}:1: the values are nested too deeply") from error
    except ValueError as error:
        # Beside TOMLDecodeError: a date or a number that Python refuses, without a position.
        found = _TOML_LINE.search(str(error))
        line = int(found[1]) if found and found[1] else text.rstrip().count("\n") + 1
        reason = str(error)[: found.start()] if found else f"a value is refused: {error}"
        where = f"{path}:{line}" if found else f"{path}"
        raise SettingsError(
            f"{where}: this is not valid TOML: {reason}",
            hint="Text values need quotes, tables a line such as [files].",
        ) from error


def _from_env(env: Mapping[str, str]) -> Iterator[tuple[str, object]]:
    for key in _keys():
        value = env.get(_variable(key), "")
        if not value.strip() or key in _TABLES:
            continue
        if key in _LISTS:
            yield key, [part.strip() for part in value.split(",") if part.strip()]
        elif key in _NUMBERS and value.strip().isdecimal() and len(value) < 20:
            yield key, int(value)
        else:
            yield key, value.strip()


def _keys() -> list[str]:
    keys: list[str] = []
    for field in msgspec.structs.fields(Settings):
        section = _SECTIONS.get(field.name)
        if section is None:
            keys.append(field.name)
        else:
            keys += [f"{field.name}.{inner.name}" for inner in msgspec.structs.fields(section)]
    return keys


def _variable(key: str) -> str:
    return "KITARU_" + key.replace(".", "_").upper()


def _nest(key: str, value: object) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return cast("dict[str, Any]", value)


def _merge(into: dict[str, Any], layer: dict[str, Any]) -> None:
    for key, value in layer.items():
        if key in _SECTIONS and key in into:
            into[key] = {**into[key], **value}
        else:
            into[key] = value


def _plain(value: object) -> object:
    """An override as the file would hold it: structs and tuples become tables and lists."""
    if isinstance(value, Cost):
        return str(value)
    if isinstance(value, msgspec.Struct):
        return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in cast("list[object]", value)]
    return value


def _check(raw: dict[str, Any], where: Callable[[KeyPath], str], *, lenient: bool = False) -> None:
    for path, allowed in _tables(raw):
        _check_keys(raw, path, allowed, where)
    try:
        settings = _convert(raw, lenient=lenient)
    except msgspec.ValidationError as error:
        path, reason = _explain(raw, error)
        raise SettingsError(f"{where(path)}{reason}") from error
    for index, schedule in enumerate(settings.schedule):
        problem = _no_json(schedule.input, ("schedule", index, "input"))
        if problem is not None:
            path, reason = problem
            raise SettingsError(f"{where(path)}{_dotted(path)} {reason}")


def _convert(raw: dict[str, Any], *, lenient: bool) -> Settings:
    def decode(kind: type[Any], value: object) -> object:
        if lenient and isinstance(value, (int, float)) and not isinstance(value, bool):
            if kind is Duration and 0 <= value < math.inf:
                return Duration(value)
            if kind is Size and 0 <= value < math.inf:
                return Size(value)
        return kind.parse(value)

    return msgspec.convert(raw, Settings, dec_hook=decode)


def _tables(raw: dict[str, Any]) -> Iterator[tuple[KeyPath, type[_Section]]]:
    yield (), Settings
    for name, section in _SECTIONS.items():
        if isinstance(raw.get(name), dict):
            yield (name,), section
    schedules: object = raw.get("schedule")
    if isinstance(schedules, list):
        for index, schedule in enumerate(cast("list[object]", schedules)):
            if isinstance(schedule, dict):
                yield ("schedule", index), ScheduleSettings


def _check_keys(
    raw: dict[str, Any], path: KeyPath, allowed: type[_Section], where: Callable[[KeyPath], str]
) -> None:
    names = [field.name for field in msgspec.structs.fields(allowed)]
    for key in cast("dict[str, object]", _at(raw, path)):
        if key in names:
            continue
        prefix = _dotted(path) + "." if path else ""
        elsewhere = {name.rpartition(".")[2]: name for name in _keys()}
        if key in elsewhere:
            hint = f'Did you mean "{elsewhere[key]}"?'
        elif near := difflib.get_close_matches(key.lower(), names, n=1):
            hint = f'Did you mean "{prefix}{near[0]}"?'
        elif near := difflib.get_close_matches(key.lower(), elsewhere, n=1):
            hint = f'Did you mean "{elsewhere[near[0]]}"?'
        else:
            hint = f"Known here: {', '.join(names)}."
        raise SettingsError(f'{where((*path, key))}unknown key "{prefix}{key}"', hint=hint)


def _explain(raw: dict[str, Any], error: msgspec.ValidationError) -> tuple[KeyPath, str]:
    """The path that a validation error is about, and a sentence about it."""
    message = str(error)
    found = _WHERE.search(message)
    path: KeyPath = ()
    for name, index in _PATH_PART.findall(found[1] if found else ""):
        if index == "...":
            table = cast("dict[str, object]", _at(raw, path))
            fits = _is_text if path == ("models",) else _is_count
            path = (*path, next((key for key in table if not fits(table[key])), ""))
        else:
            path = (*path, int(index) if index else name)
    if missing := re.search(r"missing required field `(\w+)`", message):
        return path, f'{_dotted(path)} lacks the key "{missing[1]}"'
    if isinstance(error.__cause__, ValueError):
        return path, f"{_dotted(path)} {error.__cause__}"
    kind = re.sub(r"\[\d+\]", "[]", _dotted(path))
    for table in (("models",), ("limits", "flows")):
        if path[: len(table)] == table and len(path) > len(table):
            kind = ".".join(table) + "[]"
    expected = _EXPECTED.get(kind, "of another kind")
    return path, f"{_dotted(path)} must be {expected}, not {_shown(_at(raw, path))}"


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 10_000


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _no_json(value: object, path: KeyPath) -> tuple[KeyPath, str] | None:
    if isinstance(value, dict):
        items: list[tuple[str | int, object]] = list(cast("dict[str, object]", value).items())
    elif isinstance(value, list):
        items = list(enumerate(cast("list[object]", value)))
    elif value is None or isinstance(value, (str, bool, int)):
        return None
    elif isinstance(value, float):
        return None if math.isfinite(value) else (path, f"has no JSON form: {value}")
    else:
        return path, f'has no JSON form; write it in quotes: "{value}"'
    return next(filter(None, (_no_json(item, (*path, key)) for key, item in items)), None)


def _at(raw: object, path: KeyPath) -> object:
    for part in path:
        raw = cast("dict[str | int, object]", raw)[part]
    return raw


def _dotted(path: KeyPath) -> str:
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return "".join(parts).removeprefix(".")


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a table"
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
