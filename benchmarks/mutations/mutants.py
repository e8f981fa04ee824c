r"""One-line changes of a program: how they are found and drawn."""

__all__ = ["Mutant", "draw", "mutants"]

import ast
import copy
import random
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

PACKAGES = ("constraints", "datamodules", "inverse", "mdm", "namm")
PAIRS = "Lt LtE, Gt GtE, Eq NotEq, Is IsNot, In NotIn, Add Sub, Mult Div, And Or, min max, any all"
OTHER = {a: b for pair in PAIRS.split(", ") for a, b in (pair.split(), pair.split()[::-1])}


class Mutant(NamedTuple):
    r"""A change of one line: the file, the number of the line, and the line before and after."""

    file: str
    line: int
    before: str
    after: str


def changed(node: ast.expr) -> Iterator[ast.expr]:
    r"""Yields the expressions that differ from an expression in one operator, constant, name or
    order of arguments."""
    new = copy.copy(node)
    match new:
        case ast.Compare(ops=[op]) if type(op).__name__ in OTHER:
            new.ops = [getattr(ast, OTHER[type(op).__name__])()]
            yield new
        case ast.BinOp(op=op) | ast.BoolOp(op=op) if type(op).__name__ in OTHER:
            new.op = getattr(ast, OTHER[type(op).__name__])()
            yield new
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield new.operand
        case ast.Constant(value=bool() as flag):
            yield ast.Constant(not flag)
        case ast.Constant(value=int() | float() as number):
            yield from (ast.Constant(number + 1), ast.Constant(number - 1))
        case ast.Call(func=ast.Name(id=name)) if name in OTHER:
            new.func = ast.Name(OTHER[name])
            yield new
        case ast.Call(func=ast.Attribute(value=owner, attr=name)) if name in OTHER:
            new.func = ast.Attribute(owner, OTHER[name])
            yield new
        case ast.Call(args=[ast.Name() as one, ast.Name() as two]):
            new.args = [two, one]
            yield new


def mutants(source: str, file: str, executed: Collection[int] | None = None) -> Iterator[Mutant]:
    r"""Yields the one-line changes of the functions of a file, without messages and types.

    Arguments:
        source: The text of the file.
        file: The path of the file from the root of the tree.
        executed: The numbers of the lines that the tests execute; all lines if missing.
    """
    lines, waiting = source.splitlines(), [*ast.walk(ast.parse(source))]
    waiting = [line for x in waiting if isinstance(x, ast.FunctionDef) for line in x.body]
    seen: set[ast.AST] = set()
    while waiting:
        node = waiting.pop(0)
        if node in seen or isinstance(node, ast.Raise | ast.JoinedStr | ast.FunctionDef):
            continue
        seen |= {node, getattr(node, "annotation", node)}
        waiting += ast.iter_child_nodes(node)
        if not isinstance(node, ast.expr) or node.lineno != node.end_lineno:
            continue
        before = lines[node.lineno - 1]
        head, tail = before.encode()[: node.col_offset], before.encode()[node.end_col_offset :]
        for new in changed(node) if executed is None or node.lineno in executed else ():
            after = (head + f"({ast.unparse(new)})".encode() + tail).decode()
            yield Mutant(file, node.lineno, before, after)


def draw(
    root: Path, seed: int, count: int, executed: Mapping[str, Collection[int]] | None = None
) -> list[Mutant]:
    r"""Returns mutants of the packages, drawn without replacement.

    Arguments:
        root: The root of the tree.
        seed: The seed of the draw.
        count: The number of mutants.
        executed: The lines that the tests execute, by file; all lines if missing.
    """
    found: list[Mutant] = []
    for file in sorted(x for package in PACKAGES for x in (root / package).rglob("*.py")):
        name = file.relative_to(root).as_posix()
        lines = None if executed is None else executed.get(name, ())
        found += mutants(file.read_text("utf-8"), name, lines)
    return random.Random(seed).sample(found, count)
