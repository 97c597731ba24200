"""Importing the user's modules under names that another process finds again.

A file is imported as the dotted name of its path below its base (the workspace, or for a file
elsewhere the directory that holds its outermost package): `agents/hello.py` is `agents.hello`. The
base comes first on `sys.path` and the file's own directory last, so both `from agents.common import
x` and `import common` work, and `agents/openai.py` does not hide the installed `openai`.

One base is active at a time in a process: importing below another one lets go of the modules of the
one before, since both have an `agents`. Flows that are running keep the modules that they have.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import re
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

__all__ = ["import_file", "import_name", "is_user_code", "module_file", "modules_below"]

_PACKAGE = "kitaru_workspace"
_OWN = str(Path(__file__).parents[1]) + os.sep
_SKIPPED = {".git", ".kitaru", "site-packages", "dist-packages", "node_modules"}

_lock = threading.RLock()
_base: str | None = None
_added_to_path: list[str] = []
_digests: dict[str, tuple[str, bytes]] = {}
_found: tuple[dict[str, ModuleType], list[tuple[str, str]]] = {}, []


def import_file(base: Path, file: Path, *, fallback: Path | None = None) -> ModuleType:
    """Import a source file, or give the module that it is loaded as, if it has not changed.

    Args:
        base: The directory that the module's dotted name starts from.
        file: The source file, below `base`.
        fallback: A further directory to find modules in that `base` does not have.

    Raises:
        BaseException: Whatever the module raises.
    """
    with _lock, _activated(base, file.parent, fallback):
        name = _name_of(base, file)
        for known in (name, f"{_PACKAGE}.{name}"):
            loaded = sys.modules.get(known)
            if loaded is not None and module_file(loaded) == file:
                return loaded
        main = sys.modules.get("__main__")
        if main is not None and module_file(main) == file and main.__spec__ is None:
            return main
        if _finds(name, base, file):
            return importlib.import_module(name)
        return _import_aliased(name, base, file)


def import_name(base: Path, name: str, *, fallback: Path | None = None) -> ModuleType:
    """Import a module by its dotted name, with `base` first on `sys.path`.

    Raises:
        BaseException: Whatever the module raises.
    """
    with _lock, _activated(base, None, fallback):
        return importlib.import_module(name)


def module_file(module: ModuleType) -> Path | None:
    """The source file of a module, absolute; None for what is built in, compiled or a namespace."""
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or not file.endswith(".py"):
        return None
    return Path(os.path.abspath(file))


def modules_below(directory: Path) -> Iterator[tuple[str, Path]]:
    """The loaded modules that are the user's code below a directory: names and source files."""
    inside = str(directory) + os.sep
    for name, place in _loaded():
        # Most of a thousand modules are told by the text alone, which is much cheaper than a Path.
        if place.startswith(inside) and is_user_code(file := Path(place), directory):
            yield name, file


def _loaded() -> list[tuple[str, str]]:
    """Returns the names and source files of all loaded modules that are not ours."""
    global _found
    # A copy is made in one go, also while another thread imports.
    modules = sys.modules.copy()
    if modules != _found[0]:
        places = ((name, module_file(module)) for name, module in modules.items())
        found = [(name, str(file)) for name, file in places if file is not None]
        _found = modules, [one for one in found if not one[1].startswith(_OWN)]
    return _found[1]


def is_user_code(file: Path, directory: Path) -> bool:
    """Says whether a file below a directory is the user's own, not of a run or an installation."""
    if not file.is_relative_to(directory) or str(file).startswith(_OWN):
        return False
    inside = file.relative_to(directory).parts[:-1]
    if not _SKIPPED.isdisjoint(inside):
        return False
    if inside[:1] == ("runs",) and (directory / "kitaru.toml").exists():
        return False
    folders = (directory.joinpath(*inside[: count + 1]) for count in range(len(inside)))
    return not any((folder / "pyvenv.cfg").exists() for folder in folders)


@contextmanager
def _activated(
    base: Path, beside: Path | None, fallback: Path | None
) -> Generator[None, None, None]:
    global _base
    if _base != str(base):
        if _base is not None:
            _let_go(Path(_base))
        _base = str(base)
    elif _has_changed():
        _let_go(base)
        _base = str(base)
    _add_to_path(base, first=True)
    for folder in (beside, fallback):
        if folder is not None:
            _add_to_path(folder, first=False)
    importlib.invalidate_caches()
    before = set(sys.modules)
    writes_no_bytecode = sys.dont_write_bytecode
    # A cache is compared by seconds and size: an edit within the second would not be seen.
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = writes_no_bytecode
        for name, file in modules_below(base):
            if name not in before and name not in _digests:
                _digests[name] = (str(file), _digest(file))


def _let_go(base: Path) -> None:
    """Forget the modules that were imported below a base, and its places on `sys.path`."""
    gone = {_PACKAGE, *_digests}
    gone.update(name for name, _ in modules_below(base / "agents"))
    # A copy is made in one go, also while another thread imports.
    for name, module in sys.modules.copy().items():
        if any(Path(place).is_relative_to(base) for place in _namespace_places(module)):
            gone.add(name)
    for name in gone - {"__main__"}:
        sys.modules.pop(name, None)
    for place in _added_to_path:
        if place in sys.path:
            sys.path.remove(place)
    _added_to_path.clear()
    _digests.clear()


def _namespace_places(module: ModuleType) -> list[str]:
    if getattr(module, "__file__", None) is not None:
        return []
    try:
        return [str(place) for place in getattr(module, "__path__", [])]
    except KeyError:
        # A namespace looks its parent up in `sys.modules`, where it is no more.
        return []


def _has_changed() -> bool:
    return any(_digest(Path(file)) != digest for file, digest in _digests.values())


def _digest(file: Path) -> bytes:
    try:
        return hashlib.sha256(file.read_bytes()).digest()
    except OSError:
        return b""


def _add_to_path(folder: Path, *, first: bool) -> None:
    place = str(folder)
    if place in sys.path and (place in _added_to_path or not first):
        return
    sys.path.insert(0 if first else len(sys.path), place)
    _added_to_path.append(place)


def _name_of(base: Path, file: Path) -> str:
    return ".".join(_parts(base, file))


def _parts(base: Path, file: Path) -> tuple[str, ...]:
    parts = file.relative_to(base).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts


def _finds(name: str, base: Path, file: Path) -> bool:
    """Says whether importing a dotted name would give this file, not something installed."""
    top = name.partition(".")[0]
    loaded = sys.modules.get(top)
    if loaded is not None:
        own = module_file(loaded)
        places = _namespace_places(loaded) if own is None else [str(own)]
    elif (found := importlib.util.find_spec(top)) is not None:
        places = list(found.submodule_search_locations or ()) or [found.origin or ""]
    else:
        return False
    if not any(Path(os.path.abspath(place)).is_relative_to(base) for place in places):
        return False
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        if error.name is not None and name.startswith(error.name):
            return False
        raise
    return spec is not None and Path(os.path.abspath(spec.origin or "")) == file


def _import_aliased(name: str, base: Path, file: Path) -> ModuleType:
    """Import below a package of our own that stands for `base`: its own name is taken, or odd."""
    if _PACKAGE not in sys.modules:
        package = ModuleType(_PACKAGE)
        package.__path__ = [str(base)]
        sys.modules[_PACKAGE] = package
    alias = f"{_PACKAGE}.{name}"
    if name.count(".") + 1 == len(_parts(base, file)):
        return importlib.import_module(alias)
    # A folder or file with a dot in its name is no dotted name: load it by its place alone.
    alias = f"{_PACKAGE}.{re.sub(r'[^A-Za-z0-9_]', '_', name)}"
    if (loaded := sys.modules.get(alias)) is not None:
        return loaded
    spec = importlib.util.spec_from_file_location(alias, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[alias] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(alias, None)
        raise
    return module
