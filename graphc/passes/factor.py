"""a/m - b/m becomes (a - b)/m: the gradient of softmax with cross-entropy reads (p - y)/m.

Not exact: one rounding less for each term.
"""

from __future__ import annotations

import sympy
from sympy.core.parameters import distribute

from graphc.ir.equation import Equation
from graphc.ir.graph import Graph, Node
from graphc.passes.rewrite import rebuild, with_inputs


def factor_numbers(graph: Graph) -> Graph:
    """Take a number that all terms of a sum share out of the sum."""
    return rebuild(graph, _factor)


def _factor(node: Node, inputs: tuple[Node, ...]) -> Node:
    equation = node.op_equation()
    if not isinstance(equation.body, sympy.Add):
        return with_inputs(node, equation, inputs)
    number, rest = equation.body.primitive()
    if number == 1:
        return with_inputs(node, equation, inputs)
    with distribute(False):
        body = sympy.Mul(number, rest)
    factored = Equation(
        equation.axes, equation.reduction, equation.reduce_axes, equation.operands,
        equation.reads, equation.positions, equation.guards, body,
    )  # fmt: skip
    return with_inputs(node, factored, inputs)
