"""What a failing test says about the mistake: the values it compared, the exception it met."""

from __future__ import annotations

import ast
import difflib
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from .failures import UNKNOWN, Failure
from .rules import Change, guard
from .source import Module, Unit, failing_assertion

BOUNDARY = ("loosen", "tighten")
CASES = ("lower", "upper", "title", "capitalize")
NOT_TEXT = {"len", "int", "float", "sum", "list", "dict", "set", "range", "sorted", "split"}
NOT_TEXT |= {"splitlines", "items", "keys", "values", "startswith", "endswith", "append", "find"}
NEUTRAL = {"str": '""', "int": "0", "float": "0.0", "bool": "False", "list": "[]", "dict": "{}"}


@dataclass(frozen=True)
class Evidence:
    """A failure, with the two values told apart."""

    failure: Failure
    actual: Any
    expected: Any

    @property
    def difference(self) -> Any:
        """Expected less actual, or None if they are not numbers."""
        if _is_number(self.actual) and _is_number(self.expected):
            return Decimal(str(self.expected)) - Decimal(str(self.actual))
        return None

    @property
    def said(self) -> str:
        """The failure in words."""
        if UNKNOWN in (self.actual, self.expected):
            return self.failure.brief
        return f"expected {_short(self.expected)}, got {_short(self.actual)}"

    def weight(self, kind: str) -> float:
        """How much the failure speaks for a kind of change, from 0 to 1."""
        return max((weight for kinds, weight in self._favours() if kind in kinds), default=0.0)

    def _favours(self) -> Iterator[tuple[set[str], float]]:
        actual, expected = self.actual, self.expected
        if self.difference is not None:
            yield {"swap", "extra one", "digit", "accumulate", "loop"}, 0.3
            yield {"bound"}, 0.35
            yield {"loosen" if self.difference > 0 else "tighten"}, 0.2
            if self.difference in (1, -1):
                yield {"one less" if self.difference == 1 else "one more"}, 0.65
                yield {"loosen" if self.difference == 1 else "tighten"}, 0.6
                yield {"bound", "extra one", *BOUNDARY}, 0.5
                yield {"division"}, 0.4
                yield {"arithmetic"}, 0.2
            else:
                yield {"arithmetic"}, 0.3
            if isinstance(actual, float) or isinstance(expected, float):
                yield {"division"}, 0.7
            if expected == -actual:
                yield {"swap", "arithmetic"}, 0.6
        elif isinstance(actual, bool) and isinstance(expected, bool):
            yield {*BOUNDARY, "compare", "boolean", "junction"}, 0.4
            yield {"loosen" if expected else "tighten"}, 0.5
        elif actual is None and expected is not UNKNOWN:
            yield {"return"}, 0.9
        elif isinstance(actual, str) and isinstance(expected, str):
            yield {"sibling"}, 0.3
        elif isinstance(actual, list | tuple | set | dict) and isinstance(expected, type(actual)):
            yield {"default"}, 0.5
            if len(actual) != len(expected):
                yield {"bound", *BOUNDARY, "extra one", "compare", "loop"}, 0.4
                yield {"loosen" if len(expected) > len(actual) else "tighten"}, 0.5
            elif sorted(map(repr, actual)) == sorted(map(repr, expected)):
                yield {"order", "swap"}, 0.7
            else:
                yield {"arithmetic", "digit", "swap"}, 0.2
        error = self.failure.error
        if "not raised" in self.failure.message:
            yield {*BOUNDARY, "compare", "boolean", "junction"}, 0.5
        elif error == "IndexError":
            yield {"bound", *BOUNDARY, "extra one"}, 0.6
        elif error in {"ZeroDivisionError", "RecursionError"}:
            yield {*BOUNDARY, "compare", "digit", "bound"}, 0.3
        elif error in {"TypeError", "AttributeError"} and "NoneType" in self.failure.message:
            yield {"return"}, 0.5
        if error not in {"AssertionError", "IndexError"}:
            yield {"swap"}, 0.2


def gather(failure: Failure, files: Mapping[str, str]) -> Evidence:
    """The evidence of a failure; the test's text says which of two values was the expected one."""
    first, second = failure.values
    assertion = failing_assertion(failure, files)
    if assertion is not None and len(assertion.args) >= 2:
        literal = [_literal(arg) for arg in assertion.args[:2]]
        if literal[0] and not literal[1]:
            first, second = second, first
    return Evidence(failure, *_narrowed(first, second))


def _narrowed(actual: Any, expected: Any) -> tuple[Any, Any]:
    """The only two elements that differ, where two collections are otherwise alike."""
    if type(actual) is not type(expected):
        return actual, expected
    pairs: list[tuple[Any, Any]] = []
    if isinstance(actual, dict) and actual.keys() == expected.keys():
        pairs = [(actual[key], expected[key]) for key in actual]
    elif isinstance(actual, list | tuple) and len(actual) == len(expected) > 1:
        pairs = list(zip(actual, expected, strict=True))
    differing = [pair for pair in pairs if pair[0] != pair[1]]
    return _narrowed(*differing[0]) if len(differing) == 1 else (actual, expected)


def directed(module: Module, unit: Unit, evidence: Evidence) -> Iterator[tuple[Change, float]]:
    """Changes that the failure itself names, each with how strongly."""
    yield from _constants(module, unit, evidence)
    yield from _texts(module, unit, evidence)
    frames = [f for f in evidence.failure.frames if f.path == module.path]
    for frame in reversed(frames):
        if unit.node.lineno <= frame.line <= (unit.node.end_lineno or 0):
            yield from _raised(module, unit, evidence.failure, frame.line)


def _constants(module: Module, unit: Unit, evidence: Evidence) -> Iterator[tuple[Change, float]]:
    actual, expected = evidence.actual, evidence.expected
    for node in ast.walk(unit.node):
        if not isinstance(node, ast.Constant) or not module.reads_back(node):
            continue
        for value in _other_constants(node.value, actual, expected):
            change = Change(
                "constant",
                node.lineno,
                ((*module.span(node), repr(value)),),
                f"`{value!r}` instead of `{node.value!r}`",
            )
            # A text that the test shows is telling; a number can be made to fit almost anywhere.
            named = isinstance(unit.node, ast.Assign | ast.AnnAssign)
            yield change, 0.7 if isinstance(value, str) else 0.5 if named else 0.35


def _other_constants(value: Any, actual: Any, expected: Any) -> Iterator[Any]:
    if isinstance(value, str) and isinstance(actual, str) and isinstance(expected, str):
        at = actual.find(value) if value else -1
        if at >= 0:
            new = expected[at : len(expected) - len(actual) + at + len(value)]
            if new != value and actual.replace(value, new) == expected:
                yield new
    elif _is_number(value) and _is_number(actual) and _is_number(expected) and value not in (0, 1):
        number, had, want = (Decimal(str(item)) for item in (value, actual, expected))
        for new in (number * want / had, number * had / want) if had and want else ():
            short = new.normalize()
            if new != number and len(short.as_tuple().digits) <= 6:
                yield int(new) if isinstance(value, int) and new == int(new) else float(new)


def _texts(module: Module, unit: Unit, evidence: Evidence) -> Iterator[tuple[Change, float]]:
    actual, expected = evidence.actual, evidence.expected
    methods: dict[str, float] = {}
    if isinstance(actual, str) and isinstance(expected, str):
        for name in ("strip", "lstrip", "rstrip", *CASES):
            if getattr(actual, name)() == expected:
                methods[name] = 0.7
        for name in ("strip", "lower"):
            if getattr(actual, name)() == getattr(expected, name)() and not methods:
                methods[name] = 0.4
    elif evidence.failure.error in {"KeyError", "ValueError"}:
        methods = {"strip": 0.3, "lower": 0.3}
    elif isinstance(actual, bool | dict | list):
        methods = {"lower": 0.1, "strip": 0.1}
    for node, place in _places(unit) if methods else ():
        text = module.segment(node)
        known = any(f".{name}(" in text for name in ("strip", "split", "replace", "get", *CASES))
        for name, weight in methods.items():
            if f".{name}(" in text or not module.reads_back(node):
                continue
            plain = ast.Name | ast.Attribute | ast.Call | ast.Subscript
            whole = text if isinstance(node, plain) else f"({text})"
            change = Change(
                "text",
                node.lineno,
                ((*module.span(node), f"{whole}.{name}()"),),
                f"`.{name}()` on `{text}`",
            )
            yield change, weight + (0.1 if known else 0.0) + place


def _may_be_text(node: ast.expr) -> bool:
    match node:
        case ast.Call(func=ast.Name(id=name)):
            return name.islower() and name not in NOT_TEXT
        case ast.Call(func=ast.Attribute(attr=name)):
            return name not in NOT_TEXT
        case _:
            return True


def _places(unit: Unit) -> Iterator[tuple[ast.expr, float]]:
    simple = ast.Name | ast.Attribute | ast.Call | ast.Subscript | ast.BinOp
    for node in ast.walk(unit.node):
        found: list[tuple[ast.expr, float]] = []
        match node:
            case ast.Return(value=value) if value is not None:
                found = [(value, 0.1)]
            case ast.Assign(value=value):
                found = [(value, 0.05)]
            case ast.Compare(ops=[ast.Eq() | ast.NotEq() | ast.In() | ast.NotIn()]):
                found = [(side, 0.1) for side in (node.left, *node.comparators)]
            case ast.Subscript(slice=index):
                found = [(index, 0.05)]
            case ast.Call():
                found = [(arg, 0.0) for arg in node.args]
            case ast.ListComp(elt=item) | ast.GeneratorExp(elt=item) | ast.SetComp(elt=item):
                found = [(item, 0.05)]
            case _:
                pass
        for place, weight in found:
            if isinstance(place, simple) and _may_be_text(place):
                yield place, weight


def _raised(
    module: Module, unit: Unit, failure: Failure, line: int
) -> Iterator[tuple[Change, float]]:
    statement = _statement_at(unit, line)
    nodes = [n for n in ast.walk(unit.node) if isinstance(n, ast.expr) and n.lineno == line]
    nodes = [n for n in nodes if module.reads_back(n)]
    message = failure.message
    if failure.error in {"NameError", "AttributeError", "UnboundLocalError"}:
        for change in _misspelt(module, nodes, message):
            yield change, 0.9
    if "NoneType" in message:
        for node, default in _maybe_none(nodes, message):
            text = module.segment(node)
            edits = ((*module.span(node), f"({text} or {default})"),)
            closer = 0.1 if isinstance(node, ast.Attribute) else 0.0
            what = f"take `{default}` where `{text}` is None"
            yield Change("none", line, edits, what), 0.7 + closer
            if statement is not None:
                edits = (guard(module, statement, f"{text} is None", f"return {_empty(unit)}"),)
                what = f"return early where `{text}` is None"
                yield Change("none", line, edits, what), 0.6 + closer
    if failure.error == "ZeroDivisionError" and statement is not None:
        for node in nodes:
            if isinstance(node, ast.BinOp) and isinstance(
                node.op, ast.Div | ast.FloorDiv | ast.Mod
            ):
                text = module.segment(node.right)
                edits = (guard(module, statement, f"not {text}", f"return {_empty(unit, '0')}"),)
                yield Change("none", line, edits, f"return early where `{text}` is zero"), 0.7
    if failure.error in {"KeyError", "IndexError"} and statement is not None:
        for node in nodes:
            if not isinstance(node, ast.Subscript):
                continue
            held, index = module.segment(node.value), module.segment(node.slice)
            if failure.error == "KeyError":
                for default in ("0", "None", '""', "[]"):
                    edits = ((*module.span(node), f"{held}.get({index}, {default})"),)
                    what = f"take `{default}` where `{held}` has no such key"
                    yield Change("none", line, edits, what), 0.5 if default == "0" else 0.4
            else:
                edits = (guard(module, statement, f"not {held}", f"return {_empty(unit)}"),)
                yield Change("none", line, edits, f"return early where `{held}` is empty"), 0.4
    if failure.error == "TypeError" and ("concatenate" in message or "unsupported" in message):
        for node in nodes:
            if isinstance(node, ast.BinOp):
                for side in (node.left, node.right):
                    for kind in ("str", "int") if "concatenate" in message else ("int", "float"):
                        text = module.segment(side)
                        edits = ((*module.span(side), f"{kind}({text})"),)
                        yield Change("convert", line, edits, f"`{kind}()` of `{text}`"), 0.6


def _misspelt(module: Module, nodes: list[ast.expr], message: str) -> Iterator[Change]:
    unknown = re.search(r"(?:name|attribute) '(\w+)'", message)
    if unknown is None:
        return
    wrong = unknown[1]
    if wrong in sys.stdlib_module_names and "name" in message:
        yield _import(module, wrong)
    known = {n.id for n in ast.walk(module.tree) if isinstance(n, ast.Name)}
    known |= {n.attr for n in ast.walk(module.tree) if isinstance(n, ast.Attribute)}
    known |= {n.arg for n in ast.walk(module.tree) if isinstance(n, ast.arg)}
    known |= {unit.name for unit in module.units}
    near = difflib.get_close_matches(wrong, sorted(known - {wrong}), n=2)
    for node in nodes:
        if wrong in (getattr(node, "id", ""), getattr(node, "attr", "")):
            end = module.span(node)[1]
            for name in near:
                edits = ((end - len(wrong), end, name),)
                yield Change("name", node.lineno, edits, f"`{name}`, not `{wrong}`,")


def _import(module: Module, name: str) -> Change:
    body = module.tree.body
    first = next((n for n in body if not _leads(n)), body[-1])
    start = module.line_start(first.lineno)
    return Change("name", first.lineno, ((start, start, f"import {name}\n"),), f"`import {name}`")


def _leads(node: ast.stmt) -> bool:
    """Whether nothing may be put before a statement: the docstring, a future import."""
    if isinstance(node, ast.ImportFrom):
        return node.module == "__future__"
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _maybe_none(nodes: list[ast.expr], message: str) -> Iterator[tuple[ast.expr, str]]:
    wanted = re.search(r"has no attribute '(\w+)'", message)
    for node in nodes:
        match node:
            case ast.Attribute(value=value, attr=name) if wanted and name == wanted[1]:
                text = hasattr(str, name)
                yield value, '""' if text else "{}" if hasattr(dict, name) else "[]"
            case ast.BinOp() if "unsupported operand" in message:
                yield from ((side, "0") for side in (node.left, node.right) if _plain(side))
            case ast.Compare() if "not supported between" in message:
                sides = (node.left, *node.comparators)
                yield from ((side, "0") for side in sides if _plain(side))
            case ast.Compare(comparators=[held]) if "is not iterable" in message:
                yield held, '""'
                yield held, "[]"
            case ast.Call(func=ast.Name(), args=[held, *_]) if "iterable" in message:
                yield held, "[]"
            case ast.Call(func=ast.Name(id="len"), args=[held]) if "len()" in message:
                yield held, '""'
            case ast.Subscript(value=held) if "not subscriptable" in message:
                yield held, "{}"
            case _:
                pass


def _empty(unit: Unit, otherwise: str = "None") -> str:
    returns = getattr(unit.node, "returns", None)
    return NEUTRAL.get(ast.unparse(returns).split("[")[0], otherwise) if returns else otherwise


def _statement_at(unit: Unit, line: int) -> ast.stmt | None:
    found = None
    for node in ast.walk(unit.node):
        if not isinstance(node, ast.stmt) or node is unit.node:
            continue
        if node.lineno <= line <= (node.end_lineno or node.lineno):
            found = node  # Walked from the outside in: the last is the innermost.
    return found


def _plain(node: ast.expr) -> bool:
    return isinstance(node, ast.Name | ast.Attribute | ast.Subscript | ast.Call)


def _literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        return False
    return True


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
