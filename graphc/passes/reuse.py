"""[p <= 0] is read from relu(p) where that exists, so that p need not be stored. Exact:
relu(p) <= 0 holds for the same floating-point numbers as p <= 0, infinities and NaN included.
"""

from __future__ import annotations

import sympy

from graphc.ir.equation import Equation, Read, read_symbol
from graphc.ir.graph import Graph, Node
from graphc.ir.scalar_functions import positive_part
from graphc.passes.rewrite import rebuild, with_inputs

_RELU = positive_part(read_symbol(0))


def reuse_relu_outputs(graph: Graph) -> Graph:
    """Test the sign of relu's output instead of its input."""
    relus = {node.inputs[0]: node for node in graph.nodes if _is_relu(node)}
    rewritten: dict[Node, Node] = {}

    def rewrite(node: Node, inputs: tuple[Node, ...]) -> Node:
        equation = node.op_equation()
        for number, read in enumerate(equation.reads):
            source = node.inputs[read.operand] if read.operand < len(node.inputs) else None
            relu = relus.get(source) if source is not None else None
            if relu is None or relu is node or not _only_sign(equation, number):
                continue
            new_relu = with_inputs(relu, relu.op_equation(), (inputs[read.operand],))
            equation = _redirect(equation, number, len(inputs))
            inputs = (*inputs, new_relu)
        rewritten[node] = with_inputs(node, equation, inputs)
        return rewritten[node]

    return rebuild(graph, rewrite)


def _is_relu(node: Node) -> bool:
    equation = node.equation
    return equation is not None and equation.body == _RELU and equation.reads_identically(0)


def _only_sign(equation: Equation, number: int) -> bool:
    """Whether the body uses the read in comparisons ``<= 0`` alone."""
    symbol = read_symbol(number)
    test = sympy.Le(symbol, 0)
    if not equation.body.has(test):
        return False
    return symbol not in equation.body.xreplace({test: sympy.Symbol("sign")}).free_symbols


def _redirect(equation: Equation, number: int, operand: int) -> Equation:
    """The equation with read ``number`` taken from a new last operand of the same shape."""
    reads = list(equation.reads)
    old = reads[number]
    reads[number] = Read(operand, old.index, old.fill)
    return Equation(
        equation.axes, equation.reduction, equation.reduce_axes,
        (*equation.operands, equation.operands[old.operand]), tuple(reads),
        equation.positions, equation.guards, equation.body,
    )  # fmt: skip
