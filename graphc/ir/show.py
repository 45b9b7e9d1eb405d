"""Formulas as text: equations the way a person writes them."""

from __future__ import annotations

import re
from collections.abc import Sequence

import sympy
from sympy.core.parameters import distribute

from graphc.ir.equation import Equation, Guard, position_symbol, read_symbol
from graphc.ir.graph import Graph, Node


def plain_name(label: str) -> str:
    """A label without anything that could end a comment or a line."""
    return re.sub(r"[^A-Za-z0-9._ ()]", "?", label)[:60]


def equation_text(node: Node) -> str:
    """``name[i, j] = sum over k of a[i, k]*b[k, j]``."""
    equation = node.op_equation()
    names = _distinct([plain_name(operand.label).replace(" ", "_") for operand in node.inputs])
    target = plain_name(node.label).replace(" ", "_")
    return f"{target}[{', '.join(a.name for a in equation.axes)}] = {formula(equation, names)}"


def _distinct(names: Sequence[str]) -> list[str]:
    """Different operands of one label get primes: a, a', a''."""
    return [name + "'" * names[:number].count(name) for number, name in enumerate(names)]


def formula(equation: Equation, names: Sequence[str]) -> str:
    """The right-hand side with operand names filled in."""
    reads = {
        read_symbol(number): sympy.Symbol(_read_text(equation, number, names))
        for number in range(len(equation.reads))
    }
    positions = {
        position_symbol(number): sympy.Symbol(
            f"({index})" if len(index.terms) > 1 or index.const else str(index)
        )
        for number, index in enumerate(equation.positions)
    }
    with distribute(False):  # keep a factored body factored
        body = scalar_text(equation.body.xreplace(reads | positions))
    guards = f" [{' and '.join(guard_text(g) for g in equation.guards)}]" if equation.guards else ""
    if equation.is_map:
        return f"{body}{guards}"
    over = ", ".join(a.name for a in equation.reduce_axes)
    return f"{equation.reduction} over {over} of {body}{guards}"


def _read_text(equation: Equation, number: int, names: Sequence[str]) -> str:
    read = equation.reads[number]
    name = names[read.operand] if read.operand < len(names) else f"operand{read.operand}"
    if not read.index:
        return name
    return f"{name}[{', '.join(map(str, read.index))}]"


def guard_text(guard: Guard) -> str:
    """A guard as a condition."""
    if guard.divisor != 1:
        return f"{guard.divisor} divides {guard.index}"
    if guard.lower is not None and guard.upper is not None:
        if guard.upper == guard.lower + 1:
            return f"{guard.index} = {guard.lower}"
        return f"{guard.lower} <= {guard.index} < {guard.upper}"
    return (
        f"{guard.index} >= {guard.lower}"
        if guard.upper is None
        else f"{guard.index} < {guard.upper}"
    )


def scalar_text(expression: sympy.Basic) -> str:
    """A scalar expression; a piecewise value reads ``(a if condition else b)``."""
    if isinstance(expression, sympy.Eq | sympy.Ne):
        sign = "=" if isinstance(expression, sympy.Eq) else "!="
        return f"{scalar_text(expression.lhs)} {sign} {scalar_text(expression.rhs)}"
    if isinstance(expression, sympy.Piecewise):
        text = scalar_text(expression.args[-1].expr)
        for pair in reversed(expression.args[:-1]):
            text = f"({scalar_text(pair.expr)} if {scalar_text(pair.cond)} else {text})"
        return text
    inner = {part: sympy.Symbol(scalar_text(part)) for part in expression.atoms(sympy.Piecewise)}
    return str(expression.xreplace(inner)) if inner else str(expression)


def graph_text(graph: Graph) -> str:
    """One line a node: name, type, shape, formula, place in the user's program."""
    lines = []
    for node in graph.nodes:
        dims = ", ".join(map(str, node.shape))
        kind = f"{node.dtype.value}[{dims}]"
        if node.equation is None:
            lines.append(f"{node.kind} {node.label}: {kind}    {node.location}")
        else:
            lines.append(f"{equation_text(node)}: {kind}    {node.location}")
    for assignment in graph.assignments:
        lines.append(f"{assignment.state.label} <- {assignment.value.label}")
    return "\n".join(lines) + "\n"
