"""Uniform constants become numbers inside the equations that read them. Exact but for the sign
of -0.0 + 0: infinities, NaN, -0.0 and numbers that make another value vanish (0*x) stay arrays.
"""

from __future__ import annotations

import math

import sympy

from graphc.ir.equation import Equation, read_symbol, tidy
from graphc.ir.graph import Graph, Node
from graphc.passes.classify import uniform_value
from graphc.passes.rewrite import rebuild, with_inputs
from graphc.passes.substitute import replace_read_by_number


def fold_constants(graph: Graph) -> Graph:
    """Replace reads of one-element constants and of uniform maps by their value."""
    return rebuild(graph, _fold)


def _fold(node: Node, inputs: tuple[Node, ...]) -> Node:
    equation = node.op_equation()
    for number in reversed(range(len(equation.reads))):
        read = equation.reads[number]
        producer = inputs[read.operand]
        value = _number(producer)
        if value is not None and _same_type(node, producer) and read.fill is None:
            equation = replace_read_by_number(equation, number, value) or equation
    equation = equation if _all_used(equation) else tidy(equation)
    return with_inputs(node, equation, inputs)


def _same_type(node: Node, producer: Node) -> bool:
    """Whether the value takes part in the node's arithmetic without a conversion that rounds it."""
    if producer.equation is None:
        return True
    return producer.dtype.is_float and (node.dtype is producer.dtype or not node.dtype.is_float)


def _all_used(equation: Equation) -> bool:
    symbols = equation.body.free_symbols
    return all(read_symbol(number) in symbols for number in range(len(equation.reads)))


def _number(node: Node) -> sympy.Expr | None:
    if node.equation is not None:
        uniform = uniform_value(node.equation)
        if uniform is None or not node.dtype.is_half:
            return uniform
        return _finite(node.dtype.numpy.type(float(uniform)).item())
    if node.kind == "constant" and node.value is not None and node.value.size == 1:
        return _finite(node.value.reshape(-1)[0].item())
    return None


def _finite(value: float | int) -> sympy.Expr | None:
    """The value as sympy holds it; None for infinities, NaN and -0.0."""
    if not math.isfinite(value) or (value == 0 and math.copysign(1, value) < 0):
        return None
    whole = isinstance(value, int) or float(value).is_integer()
    return sympy.Integer(int(value)) if whole else sympy.Float(value)
