"""Small changes of code that repair common mistakes: operators, bounds, calls and values.

A rule looks at one node of the tree and yields changes. It does not know which test fails; what a
failure speaks for is weighed in `repairs`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from .source import Module, Unit

Edit = tuple[int, int, str]
"""Start offset, end offset, new text."""


@dataclass(frozen=True)
class Change:
    """One possible repair of one file."""

    kind: str
    """The family of mistakes that it belongs to; `repairs` weighs by it."""
    line: int
    edits: tuple[Edit, ...]
    what: str
    """What it does, in words."""


COMPARISONS = {
    ast.Lt: ("<", (("<=", "loosen"), (">", "compare"))),
    ast.LtE: ("<=", (("<", "tighten"), (">=", "compare"))),
    ast.Gt: (">", ((">=", "loosen"), ("<", "compare"))),
    ast.GtE: (">=", ((">", "tighten"), ("<=", "compare"))),
    ast.Eq: ("==", (("!=", "compare"),)),
    ast.NotEq: ("!=", (("==", "compare"),)),
    ast.In: ("in", (("not in", "compare"),)),
    ast.NotIn: ("not in", (("in", "compare"),)),
    ast.Is: ("is", (("is not", "compare"),)),
    ast.IsNot: ("is not", (("is", "compare"),)),
}
OPERATORS = {
    ast.Add: ("+", (("-", "arithmetic"), ("*", "arithmetic"))),
    ast.Sub: ("-", (("+", "arithmetic"),)),
    ast.Mult: ("*", (("/", "arithmetic"), ("+", "arithmetic"))),
    ast.Div: ("/", (("//", "division"), ("*", "arithmetic"))),
    ast.FloorDiv: ("//", (("/", "division"), ("%", "arithmetic"))),
    ast.Mod: ("%", (("//", "arithmetic"),)),
    ast.Pow: ("**", (("*", "arithmetic"),)),
}
SIBLINGS = (
    ("min", "max"),
    ("any", "all"),
    ("append", "extend"),
    ("add", "update"),
    ("upper", "lower"),
    ("lstrip", "rstrip"),
    ("startswith", "endswith"),
    ("title", "capitalize"),
    ("find", "rfind"),
    ("split", "rsplit"),
    ("partition", "rpartition"),
    ("removeprefix", "removesuffix"),
    ("ljust", "rjust"),
    ("floor", "ceil"),
    ("keys", "values"),
    ("union", "intersection"),
    ("appendleft", "append"),
    ("pop", "popleft"),
    ("setdefault", "get"),
)
ORDERLESS = {"min", "max", "print", "isinstance", "hasattr", "getattr", "zip", "super", "round"}


def changes(module: Module, unit: Unit) -> Iterator[Change]:
    """All changes of a unit that these rules know, in the order of the text."""
    formatted = {
        id(child)
        for node in ast.walk(unit.node)
        if isinstance(node, ast.JoinedStr)
        for child in ast.walk(node)
    }
    notes = {
        id(child)
        for node in ast.walk(unit.node)
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None))
        if isinstance(part, ast.AST)
        for child in ast.walk(part)
    }
    for node in ast.walk(unit.node):
        if id(node) in notes:
            continue
        # Python 3.11 may give wrong places for what stands inside an f-string.
        if id(node) in formatted and not (isinstance(node, ast.expr) and module.reads_back(node)):
            continue
        yield from _expression(module, node)
        yield from _statement(module, node)
    if isinstance(unit.node, ast.FunctionDef | ast.AsyncFunctionDef):
        yield from _defaults(module, unit.node)
        yield from _returns(module, unit.node)


def guard(module: Module, at: ast.stmt, condition: str, action: str) -> Edit:
    """Two lines before a statement: `if condition:` and, indented, the action."""
    start = module.line_start(at.lineno)
    indent = " " * at.col_offset
    step = "    "
    return start, start, f"{indent}if {condition}:\n{indent}{step}{action}\n"


def _expression(module: Module, node: ast.AST) -> Iterator[Change]:
    match node:
        case ast.Compare():
            operands = [node.left, *node.comparators]
            for left, operator, right in zip(operands, node.ops, node.comparators, strict=False):
                old, others = COMPARISONS[type(operator)]
                for new, kind in others:
                    yield from _between(module, left, right, old, new, kind)
        case ast.BinOp():
            yield from _arithmetic(module, node)
        case ast.BoolOp():
            old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
            for left, right in pairwise(node.values):
                yield from _between(module, left, right, old, new, "junction")
        case ast.UnaryOp(op=ast.Not()):
            yield _new(module, "boolean", node, module.segment(node.operand), "drop the `not`")
        case ast.UnaryOp(op=ast.USub()) if not isinstance(node.operand, ast.Constant):
            yield _new(module, "arithmetic", node, module.segment(node.operand), "drop the minus")
        case ast.Constant(value=bool()):
            yield _new(module, "boolean", node, str(not node.value), f"{not node.value} instead")
        case ast.Constant(value=int() as number):
            for step in (1, -1):
                yield _new(module, "digit", node, str(number + step), f"{number + step} instead")
        case ast.Subscript(slice=ast.Slice(lower=lower, upper=upper, step=step)):
            for bound in (upper, lower):
                if bound is not None:
                    yield from _shift(module, bound)
            if step is not None and module.segment(step).startswith("-"):
                text = module.segment(node.value)
                yield _new(module, "order", node, text, "keep the order")
        case ast.Subscript(ctx=ast.Load()):
            if not isinstance(node.slice, ast.Tuple) and not _is_text(node.slice):
                yield from _shift(module, node.slice)
        case ast.Call():
            yield from _call(module, node)
        case _:
            pass


def _arithmetic(module: Module, node: ast.BinOp) -> Iterator[Change]:
    if type(node.op) not in OPERATORS or _is_text(node.left) or _is_text(node.right):
        return
    old, others = OPERATORS[type(node.op)]
    by_one = isinstance(node.right, ast.Constant) and node.right.value == 1
    for new, kind in others:
        # Times one is nothing done, and hardly what was meant.
        if not by_one or new in "+-":
            yield from _between(module, node.left, node.right, old, new, kind)
    left, right = module.segment(node.left), module.segment(node.right)
    if by_one and old in "+-":
        yield _new(module, "extra one", node, left, f"drop the `{old} 1`")
    if isinstance(node.op, ast.Sub | ast.Div | ast.FloorDiv | ast.Mod):
        start, end = module.span(node)
        gap = module.text[module.span(node.left)[1] : module.span(node.right)[0]]
        if "(" not in gap and ")" not in gap:
            text = f"{_wrapped(node.right, right)}{gap}{_wrapped(node.left, left)}"
            what = f"swap the sides of `{old}`"
            yield Change("swap", node.lineno, ((start, end, text),), what)


def _call(module: Module, node: ast.Call) -> Iterator[Change]:
    name = node.func
    called = name.id if isinstance(name, ast.Name) else ""
    called = name.attr if isinstance(name, ast.Attribute) else called
    # The name is the last thing before the bracket, with or without a dot before it.
    end = module.span(name)[1]
    for pair in SIBLINGS:
        if called in pair:
            other = pair[1 - pair.index(called)]
            edit = (end - len(called), end, other)
            what = f"`{other}` instead of `{called}`"
            yield Change("sibling", name.lineno, (edit,), what)
    plain = [arg for arg in node.args if not isinstance(arg, ast.Starred)]
    if called == "range" and plain:
        for bound in reversed(plain[:2]):
            yield from _shift(module, bound)
    if called in {"sorted", "sort"}:
        reverse = next((k for k in node.keywords if k.arg == "reverse"), None)
        if reverse is None:
            at = module.span(node)[1] - 1
            text = ", reverse=True" if node.args or node.keywords else "reverse=True"
            yield Change("order", node.lineno, ((at, at, text),), "sort the other way round")
        elif isinstance(reverse.value, ast.Constant):
            text = str(not reverse.value.value)
            yield _new(module, "order", reverse.value, text, "sort the other way round")
    if len(plain) == len(node.args) and called not in ORDERLESS:
        for one, two in pairwise(plain):
            if isinstance(one, ast.Constant) and isinstance(two, ast.Constant):
                continue
            edits = (
                (*module.span(one), module.segment(two)),
                (*module.span(two), module.segment(one)),
            )
            what = f"swap `{module.segment(one)}` and `{module.segment(two)}`"
            yield Change("swap", node.lineno, edits, what)


def _statement(module: Module, node: ast.AST) -> Iterator[Change]:
    match node:
        case ast.AugAssign(op=ast.Add() | ast.Sub()) if not _is_text(node.value):
            old, new = ("+=", "-=") if isinstance(node.op, ast.Add) else ("-=", "+=")
            yield from _between(module, node.target, node.value, old, new, "arithmetic")
        case ast.If() | ast.While() | ast.IfExp():
            test = node.test
            if not isinstance(test, ast.Compare | ast.UnaryOp | ast.BoolOp):
                text = f"not {_wrapped(test, module.segment(test))}"
                yield _new(module, "boolean", test, text, "turn the condition round")
            elif isinstance(test, ast.BoolOp):
                text = f"not ({module.segment(test)})"
                yield _new(module, "boolean", test, text, "turn the condition round")
        case ast.For():
            for inner in ast.walk(node):
                match inner:
                    case ast.Assign(targets=[ast.Name() as target], value=value):
                        yield from _between(module, target, value, "=", "+=", "accumulate")
                    case _:
                        pass
            if isinstance(node.body[-1], ast.Return):
                yield _dedent(module, node.body[-1], node)
        case ast.Break():
            yield _new(module, "loop", node, "continue", "`continue` instead of `break`")
        case ast.Continue():
            yield _new(module, "loop", node, "break", "`break` instead of `continue`")
        case ast.Return(value=value) if value is not None:
            yield from _returned(module, value)
        case _:
            pass


def _returned(module: Module, value: ast.expr) -> Iterator[Change]:
    text = module.segment(value)
    if isinstance(value, ast.Compare | ast.BoolOp):
        what = "return the opposite"
        yield _new(module, "boolean", value, f"not ({text})", what)
    elif isinstance(value, ast.Tuple) and len(value.elts) == 2:
        one, two = (module.segment(item) for item in value.elts)
        yield _new(module, "swap", value, f"{two}, {one}", "return them the other way round")
    elif not isinstance(value, ast.Constant | ast.List | ast.Dict | ast.JoinedStr | ast.ListComp):
        whole = _wrapped(value, text, allow=ast.BinOp)
        for sign, kind in (("+", "one less"), ("-", "one more")):
            yield _new(module, kind, value, f"{whole} {sign} 1", f"return `{whole} {sign} 1`")
        what = "return it sorted"
        yield _new(module, "order", value, f"sorted({text})", what)


def _defaults(module: Module, function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Change]:
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args]
    with_default = list(zip(reversed(named), reversed(arguments.defaults), strict=False))
    with_default += [
        (name, value)
        for name, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        if value is not None
    ]
    documented = ast.get_docstring(function, clean=False) is not None
    first = function.body[1 if documented and len(function.body) > 1 else 0]
    for argument, value in with_default:
        text = module.segment(value)
        if text.replace(" ", "") not in {"[]", "{}", "set()", "list()", "dict()"}:
            continue
        edits: list[Edit] = [(*module.span(value), "None")]
        if argument.annotation is not None:
            end = module.span(argument.annotation)[1]
            edits.append((end, end, " | None"))
        edits.append(guard(module, first, f"{argument.arg} is None", f"{argument.arg} = {text}"))
        what = f"make `{argument.arg}` anew in each call, not once for all"
        yield Change("default", function.lineno, tuple(edits), what)


def _returns(module: Module, function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Change]:
    if function.name == "__init__":
        return
    documented = ast.get_docstring(function, clean=False) is not None
    body = function.body[1:] if documented else function.body
    for node in (child for statement in body for child in ast.walk(statement)):
        if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant):
            at = module.span(node)[0]
            what = f"return `{module.segment(node)}`"
            yield Change("return", node.lineno, ((at, at, "return "),), what)
    if not body or isinstance(body[-1], ast.Return | ast.Raise):
        return
    names: dict[str, None] = {}
    for statement in body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AugAssign(target=ast.Name(id=name)):
                names[name] = None
            case ast.AnnAssign(target=ast.Name(id=name)):
                names[name] = None
            case _:
                pass
    end = module.span(body[-1])[1]
    for name in names:
        text = f"\n{' ' * body[-1].col_offset}return {name}"
        line = body[-1].end_lineno or body[-1].lineno
        yield Change("return", line, ((end, end, text),), f"return `{name}` at the end")


def _dedent(module: Module, inner: ast.Return, loop: ast.For) -> Change:
    start = module.line_start(inner.lineno)
    end = module.span(inner)[1]
    text = " " * loop.col_offset + module.text[start:end].lstrip()
    return Change("loop", inner.lineno, ((start, end, text),), "return after the loop, not in it")


def _shift(module: Module, bound: ast.expr) -> Iterator[Change]:
    match bound:
        case ast.Constant() | ast.UnaryOp():
            return
        case ast.BinOp(right=ast.Constant(value=1), op=ast.Add() | ast.Sub()):
            return
        case _:
            pass
    text = _wrapped(bound, module.segment(bound), allow=ast.BinOp)
    for sign in "+-":
        new = f"{text} {sign} 1"
        yield _new(module, "bound", bound, new, f"`{new}` as the bound")


def _between(
    module: Module, left: ast.expr, right: ast.expr, old: str, new: str, kind: str
) -> Iterator[Change]:
    start, end = module.span(left)[1], module.span(right)[0]
    at = module.text.find(old, start, end)
    if at >= 0:
        what = f"`{new}` instead of `{old}`"
        yield Change(kind, left.lineno, ((at, at + len(old), new),), what)


def _new(module: Module, kind: str, node: ast.expr | ast.stmt, text: str, what: str) -> Change:
    return Change(kind, node.lineno, ((*module.span(node), text),), what)


def _wrapped(node: ast.expr, text: str, allow: type[ast.expr] = ast.Name) -> str:
    simple = ast.Name | ast.Attribute | ast.Call | ast.Subscript | ast.Constant
    return text if isinstance(node, simple | allow) else f"({text})"


def _is_text(node: ast.expr) -> bool:
    if isinstance(node, ast.JoinedStr):
        return True
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
