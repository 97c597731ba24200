"""Finding what to run: `path.py:name`, `module:name`, or the bare name of a flow under `agents/`.

A target found once is found again by its `spec`, in another process and on another machine: a path
relative to the workspace where there is one. What a run records under `code/` has the layout of the
workspace, so that the same spec finds the recorded flow there; code from elsewhere stands below
`code/_elsewhere/`.
"""

from __future__ import annotations

import difflib
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal, NoReturn, Protocol, cast, runtime_checkable

from kitaru_fs.errors import AmbiguousError, KitaruError, NotFoundError, UsageError
from kitaru_fs.targets.declarations import Declaration, declared_in, declared_under
from kitaru_fs.targets.modules import (
    import_file,
    import_name,
    is_user_code,
    module_file,
    modules_below,
)

__all__ = [
    "FlowObject",
    "Target",
    "declared_flows",
    "load_target",
    "load_target_from",
    "source_files",
    "target_of",
]

_ELSEWHERE = "_elsewhere"
_INSTALLED = frozenset({"site-packages", "dist-packages"})
_SHOWN_NAMES = 12


@runtime_checkable
class FlowObject(Protocol):
    """What `@flow` makes: a callable that knows its flow's name."""

    __kitaru_flow__: str


@dataclass(frozen=True)
class Target:
    """Something that can be run.

    Attributes:
        kind: A flow, or a bare Pydantic AI agent.
        name: The name of its runs: the flow's or the agent's name.
        object: The flow or the agent itself.
        module: The name that its module is imported as.
        file: The module's source file; None if it has none (a notebook, a shell).
        spec: What finds it again, for `load_target` and `load_target_from`; empty if nothing does,
            as for a flow that is defined inside a function.
        root: The directory that recorded code is relative to: the workspace.
    """

    kind: Literal["flow", "agent"]
    name: str
    object: object
    module: str
    file: Path | None
    spec: str
    root: Path


def load_target(workspace_root: Path, target: str, *, cwd: Path | None = None) -> Target:
    """Find a target and import its module.

    Args:
        workspace_root: The workspace's directory.
        target: `path.py:name`, `module:name` or a bare name of a flow or agent under `agents/`; of
            a flow and an agent with one name it is the flow, which as a rule runs the agent.
        cwd: Where a relative path is looked up before the workspace.

    Raises:
        NotFoundError: There is no such file, module or name; the hint has the nearest ones.
        AmbiguousError: A bare name fits more than one; the message lists them.
        UsageError: The module raises when it is imported (the original is the `__cause__`), or the
            name is neither a flow nor an agent.
    """
    root = _absolute(workspace_root)
    place, colon, name = target.rpartition(":")
    if not colon:
        if target.endswith(".py") or "/" in target:
            return _no_name(_find_file(root, target, cwd), target)
        return _load_bare(root, target)
    if not place or not name:
        raise UsageError(
            f'"{target}" is no target',
            hint="Write path.py:name, module:name, or the bare name of a flow under agents/.",
        )
    if place.endswith(".py") or "/" in place:
        return _load_file(root, _find_file(root, place, cwd), name)
    return _load_module(root, place, name)


def load_target_from(code_dir: Path, spec: str, *, workspace_root: Path | None = None) -> Target:
    """Load a target from the code that a run has recorded.

    Args:
        code_dir: The run's `code/`.
        spec: The target's `spec` when it was recorded.
        workspace_root: Where modules are found that were not recorded.

    Raises:
        NotFoundError: The recorded code does not hold it.
        UsageError: As for `load_target`.
    """
    code = _absolute(code_dir)
    elsewhere = code / _ELSEWHERE
    place, _, name = spec.rpartition(":")
    if not place.endswith(".py"):
        path = elsewhere.joinpath(*place.split("."))
        file = path / "__init__.py" if path.is_dir() else path.with_name(path.name + ".py")
    elif place.startswith("/"):
        parts = Path(place).parts[1:]
        suffixes = (elsewhere.joinpath(*parts[start:]) for start in range(len(parts)))
        file = next((path for path in suffixes if path.is_file()), elsewhere / parts[-1])
    else:
        file = code / place
    if not file.is_file():
        raise NotFoundError(
            f'The recorded code does not hold "{spec}"',
            hint="Resume with the workspace's code: leave out --recorded-code.",
        )
    base = elsewhere if file.is_relative_to(elsewhere) else _base_for(code, file)
    module = _import(file, lambda: import_file(base, file, fallback=workspace_root))
    return _pick(code, module, file, name, spec)


def target_of(workspace_root: Path, thing: object) -> Target:
    """Describe a flow or an agent that the caller holds already, so that a resume finds it.

    Args:
        workspace_root: The workspace's directory.
        thing: The flow or the agent.

    Raises:
        UsageError: It is neither.
    """
    root = _absolute(workspace_root)
    kind = _kind(thing)
    if kind is None:
        raise UsageError(
            f"{_described(thing)} is neither a flow nor a Pydantic AI agent",
            hint="Mark the function with @flow.",
        )
    function = getattr(thing, "__wrapped__", thing)
    where = getattr(function, "__module__", None) if kind == "flow" else _module_holding(thing)
    module = sys.modules.get(where) if isinstance(where, str) else None
    if module is None:
        return Target(kind, _name(thing, ""), thing, str(where or ""), None, "", root)
    file = module_file(module)
    held = [name for name, value in vars(module).items() if value is thing]
    spec = _spec(root, module.__name__, file, held[0]) if held else ""
    attribute = held[0] if held else ""
    return Target(kind, _name(thing, attribute), thing, module.__name__, file, spec, root)


def source_files(target: Target) -> list[tuple[str, Path]]:
    """The user's modules that are loaded for a target: what a run records under `code/`.

    These are the modules under `agents/` of the workspace and, where the target lies elsewhere,
    those of its package or beside its file. Runs, virtualenvs and installed packages are left out,
    but for the package of the target itself.

    Returns:
        Names relative to `code/`, with `/`, in order; and where each file is.
    """
    root = target.root
    agents = root / "agents"
    found = {
        file.relative_to(root).as_posix(): file
        for directory in (agents, root / _ELSEWHERE)
        for _, file in modules_below(directory)
    }
    if target.file is not None and not is_user_code(target.file, agents):
        base = _base_of_module(target.module, target.file)
        package = base / target.file.relative_to(base).parts[0]
        files = {target.file}
        if package != target.file:
            files |= {file for _, file in modules_below(package)}
        elif _INSTALLED.isdisjoint(base.parts):
            below = modules_below(base)
            files |= {file for name, file in below if _base_of_module(name, file) == base}
        for file in files:
            if is_user_code(file, root):
                found[file.relative_to(root).as_posix()] = file
            else:
                found[f"{_ELSEWHERE}/{file.relative_to(base).as_posix()}"] = file
    return sorted(found.items())


def declared_flows(workspace_root: Path) -> list[Declaration]:
    """The flows and agents under `agents/` by their source, without importing anything."""
    return declared_under(_absolute(workspace_root) / "agents").found


def _load_bare(root: Path, name: str) -> Target:
    agents = root / "agents"
    declared = declared_under(agents)
    fitting = [one for one in declared.found if one.name == name]
    fitting = fitting or [one for one in declared.found if one.attribute == name]
    # A decorator whose name only ends like ours is told apart once its module is loaded.
    loaded = [_try_declared(root, one) for one in fitting] if len(fitting) > 1 else None
    if loaded is not None:
        found = [pair for pair in zip(fitting, loaded, strict=True) if pair[1] is not None]
        flows = [pair for pair in found if pair[1] is not None and pair[1].kind == "flow"]
        fitting = [one for one, _ in flows or found]
    if len(fitting) > 1:
        specs = [f"{one.file.relative_to(root).as_posix()}:{one.attribute}" for one in fitting]
        raise AmbiguousError(
            f'"{name}" is the name of more than one: {", ".join(specs)}',
            hint="Name one of these in full.",
        )
    if fitting:
        return _load_file(root, fitting[0].file, fitting[0].attribute)
    unread = "".join(
        f" {file.relative_to(root)} could not be read: {why}." for file, why in declared.unread
    )
    names = sorted({one.name for one in declared.found})
    if not agents.is_dir():
        hint = "There is no agents/ in it. Write path.py:name or module:name."
    elif "." in name:
        hint = f"For a module write {name}:FLOW. " + _nearest(name, names)
    else:
        hint = _nearest(name, names)
    raise NotFoundError(
        f'There is no flow or agent "{name}" in the workspace {root}', hint=(hint + unread).strip()
    )


def _try_declared(root: Path, declared: Declaration) -> Target | None:
    try:
        return _load_file(root, declared.file, declared.attribute)
    except NotFoundError:
        return None
    except UsageError as error:
        if error.__cause__ is not None:
            raise
        return None


def _load_file(root: Path, file: Path, name: str) -> Target:
    base = _base_for(root, file)
    module = _import(file, lambda: import_file(base, file, fallback=root))
    return _pick(root, module, file, name)


def _load_module(root: Path, module_name: str, name: str) -> Target:
    try:
        module = _import(None, lambda: import_name(root, module_name), module_name)
    except UsageError as error:
        missing = error.__cause__
        if not isinstance(missing, ModuleNotFoundError) or missing.name is None:
            raise
        if not f"{module_name}.".startswith(f"{missing.name}."):
            raise
        raise NotFoundError(
            f'There is no module "{module_name}", looked up from {root}',
            hint="Write a path (agents/hello.py:hello) or a module that Python can import.",
        ) from missing
    file = module_file(module)
    inside = file is not None and is_user_code(file, root)
    return _pick(root, module, file, name, None if inside else f"{module_name}:{name}")


def _pick(
    root: Path, module: ModuleType, file: Path | None, name: str, spec: str | None = None
) -> Target:
    where = str(file.relative_to(root)) if file and file.is_relative_to(root) else None
    where = where or str(file or module.__name__)
    thing: object = module
    for part in name.split("."):
        try:
            thing = getattr(thing, part)
        except AttributeError:
            names = sorted(key for key, value in vars(module).items() if _kind(value))
            raise NotFoundError(
                f'{where} has no "{name}"', hint=_nearest(name, names, "It has")
            ) from None
    kind = _kind(thing)
    if kind is None:
        names = sorted(key for key, value in vars(module).items() if _kind(value))
        has = f"It has: {', '.join(names)}. " if names else ""
        raise UsageError(
            f"{where}:{name} is {_described(thing)}, neither a flow nor a Pydantic AI agent",
            hint=has + "A flow is a function that is marked with @flow.",
        )
    spec = spec or _spec(root, module.__name__, file, name)
    return Target(kind, _name(thing, name), thing, module.__name__, file, spec, root)


def _spec(root: Path, module: str, file: Path | None, attribute: str) -> str:
    if file is not None and is_user_code(file, root):
        return f"{file.relative_to(root).as_posix()}:{attribute}"
    importable = module != "__main__" and not module.startswith("kitaru_workspace.")
    if importable and (file is None or not _INSTALLED.isdisjoint(file.parts)):
        return f"{module}:{attribute}"
    return f"{file}:{attribute}" if file is not None else ""


def _kind(thing: object) -> Literal["flow", "agent"] | None:
    if isinstance(thing, type):
        return None
    if isinstance(getattr(thing, "__kitaru_flow__", None), str):
        return "flow"
    # An agent exists only where pydantic_ai has been imported: no need to import it to find out.
    agents = sys.modules.get("pydantic_ai.agent")
    base = getattr(agents, "AbstractAgent", None)
    return "agent" if isinstance(base, type) and isinstance(thing, base) else None


def _name(thing: object, attribute: str) -> str:
    if isinstance(thing, FlowObject):
        return thing.__kitaru_flow__
    return str(getattr(thing, "name", None) or attribute.rpartition(".")[2] or "agent")


def _described(thing: object) -> str:
    if isinstance(thing, type):
        return f"the class {thing.__name__}"
    if isinstance(thing, ModuleType):
        return f"the module {thing.__name__}"
    kind = "function" if hasattr(thing, "__code__") else type(thing).__name__
    return f"a plain {kind}" if kind == "function" else f"of type {kind}"


def _module_holding(thing: object) -> str | None:
    holding = (
        name
        for name, module in sys.modules.copy().items()
        if (file := module_file(module)) is not None
        and _INSTALLED.isdisjoint(file.parts)
        and any(value is thing for value in list(vars(module).values()))
    )
    return next(holding, None)


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))


def _find_file(root: Path, place: str, cwd: Path | None) -> Path:
    candidates = [_absolute(base / place) for base in (cwd, root) if base is not None]
    file = next((path for path in candidates if path.is_file()), None)
    if file is None:
        known = {one.file.relative_to(root).as_posix() for one in declared_flows(root)}
        kind = "is a directory" if candidates[-1].is_dir() else "does not exist"
        raise NotFoundError(f"{place} {kind}", hint=_nearest(place, sorted(known)))
    if file.suffix != ".py":
        raise UsageError(f"{place} is no Python source file", hint="Its name must end in .py.")
    real, real_root = Path(os.path.realpath(file)), Path(os.path.realpath(root))
    if not file.is_relative_to(root) and real.is_relative_to(real_root):
        return root / real.relative_to(real_root)
    return file


def _no_name(file: Path, target: str) -> NoReturn:
    try:
        names = [one.attribute for one in declared_in(file)]
    except (SyntaxError, ValueError):
        names = []
    raise UsageError(
        f"{target} does not say which flow",
        hint=f"Write {target}:{names[0] if names else 'NAME'}."
        + (f" It has: {', '.join(names)}." if len(names) > 1 else ""),
    )


def _base_for(root: Path, file: Path) -> Path:
    """The directory that a file's dotted name starts from; `agents.x` for what is in `agents/`."""
    if is_user_code(file, root / "agents"):
        return root
    base = file.parent
    while (base / "__init__.py").is_file() and base != base.parent:
        base = base.parent
    return root if base == file.parent and is_user_code(file, root) else base


def _base_of_module(module: str, file: Path) -> Path:
    """The directory that a loaded module's dotted name starts from."""
    parts = module.split(".")
    path = file.parent if file.name == "__init__.py" else file.with_suffix("")
    fits = path.parts[-len(parts) :] == tuple(parts)
    return path.parents[len(parts) - 1] if fits else _base_for(file.parent, file)


def _nearest(name: str, names: Iterable[str], lead: str = "There are") -> str:
    known = list(names)
    near = difflib.get_close_matches(name, known, n=3)
    if near:
        return f"Did you mean {' or '.join(near)}?"
    if not known:
        return "No flow was found. A flow is a function that is marked with @flow."
    more = ", ..." if len(known) > _SHOWN_NAMES else "."
    return f"{lead}: {', '.join(known[:_SHOWN_NAMES])}{more}"


def _import(file: Path | None, load: Callable[[], ModuleType], name: str = "") -> ModuleType:
    try:
        return load()
    except (Exception, SystemExit) as error:
        said = f"{type(error).__name__}: {error}"
        if isinstance(error, KitaruError):
            said = error.message
        what, _, more = said.partition("\n")
        raise UsageError(
            f"{file or name} raised when it was imported: {what}",
            hint=_user_traceback(error, ends=bool(more)),
        ) from error


def _user_traceback(error: BaseException, *, ends: bool) -> str:
    """The traceback of an exception with the user's own frames only.

    Args:
        error: The exception.
        ends: Whether what it says stands in the end.
    """
    own = str(Path(__file__).parents[1])
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((own, "<frozen", os.path.dirname(os.__file__)))
        and _INSTALLED.isdisjoint(Path(frame.filename).parts)
    ]
    lines = ["Traceback (most recent call last):\n", *traceback.format_list(frames)]
    lines = lines if frames else []
    if ends or isinstance(error, SyntaxError):
        lines += traceback.format_exception_only(cast("Exception", error))
    elif isinstance(error, KitaruError) and error.hint:
        lines.append(error.hint)
    return "".join(lines).rstrip()
