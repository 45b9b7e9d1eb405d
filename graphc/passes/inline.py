"""Inline maps into the equations that read them: views always, computed values with one reader."""

from __future__ import annotations

import sympy
from sympy.logic.boolalg import Boolean

from graphc.ir.equation import Equation
from graphc.ir.graph import Graph, Node, users
from graphc.ir.types import DType, element_count
from graphc.passes.classify import (
    contraction_factors,
    is_view,
    shares_memory,
    uniform_value,
)
from graphc.passes.rewrite import rebuild, with_inputs
from graphc.passes.substitute import inline_map

_MAX_READS = 12
_MAX_OPERATIONS = 30  # longer bodies stay statements of their own: sympy recurses over a body
_CHEAP_OPERATIONS = 3


def inline_maps(graph: Graph) -> Graph:
    """Exact: the same scalar operations in the same order, without the array in between."""
    table = users(graph.nodes)
    kept = {*graph.outputs, *(a.value for a in graph.assignments)}
    single = {n for n in graph.nodes if len(table[n]) == 1 and n not in kept}
    once: dict[Node, bool] = {}

    def rewrite(node: Node, inputs: tuple[Node, ...]) -> Node:
        equation = node.op_equation()
        old_inputs = list(node.inputs)
        number = 0
        while number < len(equation.reads):
            operand = equation.reads[number].operand
            producer = inputs[operand]
            alone = once.get(producer, False) or (
                operand < len(old_inputs) and old_inputs[operand] in single
            )
            if (
                producer.equation is None
                or not _same_arithmetic(node, producer)
                or not _worth(equation, number, producer, alone)
            ):
                number += 1
                continue
            inlined = inline_map(equation, number, producer.equation, len(inputs))
            if inlined is None:
                number += 1
                continue
            equation, inputs = inlined, (*inputs, *producer.inputs)
        return with_inputs(node, equation, inputs)

    return rebuild(graph, rewrite)


def _same_arithmetic(node: Node, producer: Node) -> bool:
    """Whether the node computes the producer's value in the producer's own element type."""
    made = producer.op_equation()
    if is_view(made) and producer.dtype == producer.inputs[0].dtype:
        return True
    if producer.dtype is DType.boolean:
        return isinstance(made.body, Boolean)
    floats = {n.dtype for n in (node, *node.inputs) if n.dtype.is_float}
    if producer.dtype.is_float:  # a 16-bit value is rounded, which a body cannot say
        return floats == {producer.dtype} and not producer.dtype.is_half
    return not floats and node.dtype is producer.dtype is DType.int64


def _worth(equation: Equation, number: int, producer: Node, alone: bool) -> bool:
    made = producer.op_equation()
    if not made.is_map or shares_memory(producer):
        return False
    if len(equation.reads) + len(made.reads) > _MAX_READS:
        return False
    if made.body.count_ops() > _MAX_OPERATIONS:
        return False
    if is_view(made):
        return True
    if not alone or contraction_factors(equation) is not None:
        return False
    if uniform_value(made) is not None:
        return True
    if equation.points > element_count(producer.shape) and not _cheap(made):
        return False
    return equation.is_map or not _fuses_upwards(producer)


def _cheap(made: Equation) -> bool:
    """Whether computing the value again costs no more than loading it: products and quotients."""
    return (
        made.body.count_ops() <= _CHEAP_OPERATIONS
        and not made.body.has(sympy.Function)
        and all(power.exp.is_Integer for power in made.body.atoms(sympy.Pow))
    )


def _fuses_upwards(producer: Node) -> bool:
    """Whether the map will be computed in the kernel of a reduction of the same shape."""
    return any(
        operand.equation is not None
        and not operand.equation.is_map
        and operand.shape == producer.shape
        for operand in producer.inputs
    )
