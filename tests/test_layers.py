"""The layers that CONTRIBUTING.md lists, held against every import of the package."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import kitaru_fs

PACKAGE = Path(kitaru_fs.__file__).parent
CONTRIBUTING = PACKAGE.parent / "CONTRIBUTING.md"


def layers() -> dict[str, int]:
    """Returns the layer of each top-level module and package."""
    _, _, rest = CONTRIBUTING.read_text().partition("imports make no cycles:\n")
    found: dict[str, int] = {}
    number = 0
    for line in rest.partition("`tests/test_layers.py`")[0].splitlines():
        if match := re.match(r"(\d)\. ", line):
            number = int(match[1])
        for name in re.findall(r"`(\w+)/?`", line):
            found.setdefault(name, number)
    return found


def modules() -> Iterator[tuple[str, ast.Module]]:
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        yield name, ast.parse(file.read_text())


def imports(tree: ast.AST, *, at_import: bool) -> Iterator[str]:
    """Yields what a module imports of the package; with `at_import`, as soon as it is imported."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kitaru_fs."):
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif not (at_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            yield from imports(node, at_import=at_import)


def test_every_module_has_a_layer_and_imports_from_its_own_or_lower_ones() -> None:
    layer = layers()
    assert set(layer.values()) == set(range(1, 9))
    wrong: list[str] = []
    for name, tree in modules():
        parts = name.split(".")
        if len(parts) == 1 or parts[1] == "__main__":
            continue
        assert parts[1] in layer, f"{name} is in no layer of CONTRIBUTING.md"
        for other in imports(tree, at_import=False):
            if layer[other.split(".")[1]] > layer[parts[1]]:
                wrong.append(f"{name} imports {other}")
    assert wrong == []


def test_imports_make_no_cycle() -> None:
    trees = dict(modules())
    graph = {
        name: {other for other in imports(tree, at_import=True) if other in trees}
        for name, tree in trees.items()
    }
    # Raises CycleError, which names it.
    assert len(list(TopologicalSorter(graph).static_order())) == len(trees)
