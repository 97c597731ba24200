"""Which code of a project a failing test points at, read from the text of its files."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import PurePosixPath

from .failures import Failure

# As Python counts lines; `splitlines` also ends them at a form feed and others.
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")

MAX_DISTANCE = 4
MAX_FILES = 24

Body = ast.FunctionDef | ast.AsyncFunctionDef | ast.Assign | ast.AnnAssign


def is_test(path: str) -> bool:
    """Whether a file belongs to the tests: those say what is right and are never edited."""
    file = PurePosixPath(path)
    return file.name.startswith(("test_", "conftest")) or bool({"test", "tests"} & {*file.parts})


@dataclass(frozen=True)
class Unit:
    """A function, a method, or an assignment at the top of a module or class."""

    path: str
    owner: str
    name: str
    node: Body

    @cached_property
    def names(self) -> set[str]:
        """All names and attributes in it."""
        return _names(self.node)

    @property
    def label(self) -> str:
        """Its name as a person says it."""
        return f"{self.owner}.{self.name}" if self.owner else self.name


@dataclass(frozen=True)
class Suspect:
    """A unit that a failing test reaches, `distance` calls away from the line that failed."""

    unit: Unit
    distance: int


@dataclass(frozen=True)
class Module:
    """One file of Python: its text, its tree, and where each node stands in the text."""

    path: str
    text: str
    tree: ast.Module

    @cached_property
    def units(self) -> list[Unit]:
        """All units, in the order of the text."""
        return list(_units(self.path, "", self.tree.body))

    @cached_property
    def imports(self) -> list[str]:
        """The dotted names that it may import, relative ones resolved, in the order of the text."""
        package = PurePosixPath(self.path).parent
        names: list[str] = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    parts = package.parts[: len(package.parts) - node.level + 1]
                    base = ".".join([*parts, *([base] if base else [])])
                names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
        return names

    @cached_property
    def _starts(self) -> list[int]:
        starts = [0]
        for line in _LINE.findall(self.text):
            starts.append(starts[-1] + len(line))
        return starts

    @cached_property
    def lines(self) -> list[str]:
        """The lines, without their ends."""
        return [line.rstrip("\r\n") for line in _LINE.findall(self.text)]

    def line_start(self, line: int) -> int:
        """The offset of a line's first character; lines count from 1."""
        return self._starts[line - 1]

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        """The offsets of a node's first character and of the one after its last."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return (
            self._offset(node.lineno, node.col_offset),
            self._offset(node.end_lineno, node.end_col_offset),
        )

    def segment(self, node: ast.expr | ast.stmt) -> str:
        """The text of a node."""
        start, end = self.span(node)
        return self.text[start:end]

    def reads_back(self, node: ast.expr) -> bool:
        """Whether the text at a node's place is the node: inside an f-string not before 3.12."""
        try:
            again = ast.parse(f"({self.segment(node)})", mode="eval").body
        except (SyntaxError, ValueError):
            return False
        return ast.unparse(again) == ast.unparse(node)

    def _offset(self, line: int, column: int) -> int:
        # The tree counts columns in UTF-8 bytes.
        prefix = self.lines[line - 1].encode("utf-8")[:column]
        return self.line_start(line) + len(prefix.decode("utf-8", "replace"))


@lru_cache(maxsize=4096)
def parse_module(path: str, text: str) -> Module | None:
    """The module of a text, or None if it is not valid Python."""
    try:
        return Module(path, text, ast.parse(text))
    except (SyntaxError, ValueError):
        return None


@dataclass(frozen=True)
class Needs:
    """Files that must be read before anything can be said."""

    paths: tuple[str, ...]


def imported_files(module: Module, listed: frozenset[str]) -> list[str]:
    """The project's files that a module imports, in the order of the text."""
    found: dict[str, None] = {}
    for name in module.imports:
        stem = name.replace(".", "/")
        for prefix in ("", "src/"):
            for file in (f"{prefix}{stem}.py", f"{prefix}{stem}/__init__.py"):
                if file in listed and not is_test(file):
                    found[file] = None
    return list(found)


def reachable_files(
    failure: Failure, files: Mapping[str, str], listed: frozenset[str]
) -> list[str] | Needs:
    """The files that a failing test's code can be in: its own, and what that imports in turn."""
    level = list(dict.fromkeys(frame.path for frame in failure.frames if frame.path in listed))
    seen = dict.fromkeys(level)
    while level:
        if missing := tuple(path for path in level if path not in files):
            return Needs(missing)
        following: dict[str, None] = {}
        for path in level:
            module = parse_module(path, files[path])
            for file in imported_files(module, listed) if module else ():
                if file not in seen and len(seen) + len(following) < MAX_FILES:
                    following[file] = None
        level = list(following)
        seen |= following
    return list(seen)


def suspects(
    failure: Failure, files: Mapping[str, str], listed: frozenset[str]
) -> list[Suspect] | Needs:
    """The units that a failing test reaches, the closest first, or the files to read before."""
    paths = reachable_files(failure, files, listed)
    if isinstance(paths, Needs):
        return paths
    modules = [module for path in paths if (module := parse_module(path, files[path]))]
    code = [unit for module in modules if not is_test(module.path) for unit in module.units]
    distances: dict[int, Suspect] = {}

    def reach(units: list[Unit], distance: int) -> list[Unit]:
        fresh = [unit for unit in units if id(unit.node) not in distances]
        for unit in fresh:
            distances[id(unit.node)] = Suspect(unit, distance)
        return fresh

    # Where the exception came out of the code itself, the deepest line is the first to doubt.
    for frame in reversed(failure.frames):
        units = [u for u in code if u.path == frame.path and _holds(u.node, frame.line)]
        reach(units, 0)
    near, far = _test_names(failure, modules)
    level = reach(_named(code, near), 0)
    level += [suspect.unit for suspect in distances.values() if suspect.unit not in level]
    for distance in range(1, MAX_DISTANCE + 1):
        names = {name for unit in level for name in unit.names}
        names |= far if distance == 1 else set()
        level = reach(_named(code, names), distance)
    return sorted(distances.values(), key=lambda suspect: suspect.distance)


def failing_assertion(failure: Failure, files: Mapping[str, str]) -> ast.Call | None:
    """The call of an assert method, in the test's text, that the failure came from."""
    for frame in reversed(failure.frames):
        module = parse_module(frame.path, files.get(frame.path, ""))
        if module is None or not is_test(frame.path):
            continue
        for node in ast.walk(module.tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr.startswith("assert")
                and _holds(node, frame.line)
            ):
                return node
    return None


def _units(path: str, owner: str, body: list[ast.stmt]) -> Iterator[Unit]:
    for node in body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield Unit(path, owner, node.name, node)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                yield Unit(path, owner, name, node)
            case ast.ClassDef():
                yield from _units(path, node.name, node.body)
            case _:
                pass


def _holds(node: ast.expr | ast.stmt, line: int) -> bool:
    return node.lineno <= line <= (node.end_lineno or node.lineno)


def _named(units: list[Unit], names: set[str]) -> list[Unit]:
    # A class that is named may run its special methods: `Book(...)`, `len(book)`, `a == b`.
    return [
        unit
        for unit in units
        if unit.name in names or (unit.owner in names and unit.name.startswith("__"))
    ]


def _names(node: ast.AST) -> set[str]:
    names: set[str] = set()
    for child in ast.walk(node):
        if isinstance(child, ast.Name):
            names.add(child.id)
        elif isinstance(child, ast.Attribute):
            names.add(child.attr)
    return names


def _test_names(failure: Failure, modules: list[Module]) -> tuple[set[str], set[str]]:
    """Names that the failing line depends on, and those that the rest of the test case uses."""
    near: set[str] = set()
    far: set[str] = set()
    for frame in failure.frames:
        module = next((m for m in modules if m.path == frame.path), None)
        if module is None or not is_test(frame.path):
            continue
        for unit in module.units:
            if _holds(unit.node, frame.line) and not isinstance(unit.node, ast.Assign):
                near |= _slice(unit.node, frame.line)
                far |= unit.names
            elif unit.name in {"setUp", "setUpClass"}:
                far |= unit.names
    return near, far - near


def _slice(function: ast.AST, line: int) -> set[str]:
    """Names on a line, and, through local variables, on the lines before that fed it."""
    statements = [node for node in ast.walk(function) if isinstance(node, ast.stmt)]
    leaves = [s for s in statements if not any(isinstance(c, ast.stmt) for c in _children(s))]
    # The line of a `with self.assertRaises(...)` holds no leaf: take the whole block.
    at = [s for s in leaves if _holds(s, line)] or [s for s in statements if s.lineno == line]
    names = {name for statement in at for name in _names(statement)}
    for statement in sorted(leaves, key=lambda s: s.lineno, reverse=True):
        if statement.lineno < line and isinstance(statement, ast.Assign | ast.AugAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            if any(_names(target) & names for target in targets):
                names |= _names(statement.value)
    return names


def _children(node: ast.AST) -> Iterator[ast.AST]:
    children = ast.walk(node)
    next(children)
    return children
