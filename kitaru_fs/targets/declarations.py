"""Which flows and agents the files under `agents/` declare, read without running them.

A bare name is looked up here first, so that only the module that holds it is imported. What is
found is a guess from the source; whether an object is a flow is known once its module is loaded.
"""

from __future__ import annotations

import ast
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["Declaration", "Declarations", "declared_in", "declared_under"]

_SKIPPED_DIRECTORIES = {"__pycache__", "node_modules", "site-packages"}


@dataclass(frozen=True)
class Declaration:
    """A flow or an agent that a source file declares at its top level.

    Attributes:
        kind: What it seems to be.
        name: What it is run by: the name given to `@flow` or `Agent`, or else `attribute`.
        attribute: The module's attribute that holds it.
        file: The source file.
        line: Where it is declared, counted from 1.
    """

    kind: Literal["flow", "agent"]
    name: str
    attribute: str
    file: Path
    line: int


@dataclass(frozen=True)
class Declarations:
    """What a directory's files declare.

    Attributes:
        found: In the order of files and lines.
        unread: Files that could not be read as Python, and why.
    """

    found: list[Declaration]
    unread: list[tuple[Path, str]]


def declared_under(directory: Path) -> Declarations:
    """Look through all Python files below a directory; caches, virtualenvs and dot files apart."""
    found: list[Declaration] = []
    unread: list[tuple[Path, str]] = []
    for file in _python_files(directory):
        try:
            found.extend(declared_in(file))
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
            unread.append((file, str(error)))
    return Declarations(found, unread)


def declared_in(file: Path) -> list[Declaration]:
    """The flows and agents that one source file declares.

    Raises:
        OSError: It cannot be read.
        SyntaxError, ValueError: It is not Python.
    """
    with warnings.catch_warnings():
        # The same warnings come again, to the user, when the module is imported.
        warnings.simplefilter("ignore")
        tree = ast.parse(file.read_bytes(), filename=str(file))
    return [
        Declaration(kind, name, attribute, file, line)
        for kind, name, attribute, line in _declarations(tree.body)
    ]


def _python_files(directory: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(directory):
        folders[:] = sorted(
            name
            for name in folders
            if name not in _SKIPPED_DIRECTORIES
            and not name.startswith(".")
            and not os.path.exists(os.path.join(folder, name, "pyvenv.cfg"))
        )
        for name in sorted(names):
            if name.endswith(".py") and not name.startswith("."):
                yield Path(folder, name)


_Found = tuple[Literal["flow", "agent"], str, str, int]


def _declarations(body: list[ast.stmt]) -> Iterator[_Found]:
    for statement in body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for decorator in statement.decorator_list:
                if _called(decorator).endswith("flow"):
                    name = _given_name(decorator) or statement.name
                    yield "flow", name, statement.name, statement.lineno
                    break
        elif isinstance(statement, ast.Assign):
            for target in statement.targets:
                yield from _assigned(target, statement.value)
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            yield from _assigned(statement.target, statement.value)
        else:
            # The branches of a top-level `if`, `try` or `with` declare in the module too.
            for block in ("body", "orelse", "handlers", "finalbody"):
                if not isinstance(statement, ast.ClassDef):
                    yield from _declarations(getattr(statement, block, []))


def _assigned(target: ast.expr, value: ast.expr) -> Iterator[_Found]:
    if not isinstance(target, ast.Name) or not isinstance(value, ast.Call):
        return
    called = _called(value)
    if called.endswith("flow"):
        wrapped = value.args[0].id if value.args and isinstance(value.args[0], ast.Name) else ""
        yield "flow", _given_name(value) or wrapped or target.id, target.id, target.lineno
    elif called.endswith("Agent"):
        yield "agent", _given_name(value) or target.id, target.id, target.lineno


def _called(node: ast.expr) -> str:
    """The last part of the name that a decorator or a call uses: `kitaru_fs.flow(...)` → `flow`."""
    while isinstance(node, (ast.Call, ast.Subscript)):
        node = node.func if isinstance(node, ast.Call) else node.value
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _given_name(node: ast.expr) -> str:
    """The literal `name=` of a call, or of the call that it calls: `flow(name="x")(f)`."""
    while isinstance(node, ast.Call):
        for keyword in node.keywords:
            value = keyword.value
            if keyword.arg == "name" and isinstance(value, ast.Constant):
                return value.value if isinstance(value.value, str) else ""
        node = node.func
    return ""
