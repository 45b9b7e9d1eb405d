"""Long sums with few results become partial sums over pieces fixed by the shape, then a sum.

Reassociates: the result differs in the last bits from one running sum (it is more accurate), but
never with the number of threads.
"""

from __future__ import annotations

from graphc.ir.equation import Equation, Guard, Read, read_symbol
from graphc.ir.graph import Graph, Node, op_node
from graphc.ir.index import Index, axis_index
from graphc.ir.types import Axis, element_count
from graphc.passes.classify import contraction_factors
from graphc.passes.rewrite import rebuild, with_inputs

_PIECES = 64
_FEW_RESULTS = 512
_LONG_SUM = 1 << 14


def split_reductions(graph: Graph) -> Graph:
    """Cut sums that would run on one core."""
    return rebuild(graph, _split)


def _split(node: Node, inputs: tuple[Node, ...]) -> Node:
    equation = node.op_equation()
    if not _should_split(equation):
        return with_inputs(node, equation, inputs)
    partial = _partial(equation)
    first = op_node(
        partial, inputs, node.dtype.arithmetic, label=f"partial sums of {node.label}",
        layer=node.layer, location=node.location,
    )  # fmt: skip
    return op_node(
        _combine(partial, equation.axes), (first,), node.dtype,
        label=node.label, layer=node.layer, location=node.location,
    )  # fmt: skip


def _should_split(equation: Equation) -> bool:
    if equation.reduction != "sum":
        return False
    results = element_count(equation.shape)
    terms = equation.points // results
    if contraction_factors(equation) is not None:
        return False
    return results <= _FEW_RESULTS and terms >= _LONG_SUM


def _partial(equation: Equation) -> Equation:
    """The first reduced axis becomes an output axis, whole or in pieces."""
    first, *rest = equation.reduce_axes
    if first.extent <= 4 * _PIECES:
        return _rebuilt(equation, first, tuple(rest), {}, ())
    size = -(-first.extent // _PIECES)
    piece = Axis(f"{first.name}_piece", -(-first.extent // size))
    inner = Axis(first.name, size)
    value = axis_index(piece.name) * size + axis_index(first.name)
    guards = (Guard(value, 0, first.extent),) if piece.extent * size != first.extent else ()
    return _rebuilt(equation, piece, (inner, *rest), {first.name: value}, guards)


def _rebuilt(
    equation: Equation, kept: Axis, summed: tuple[Axis, ...],
    values: dict[str, Index], guards: tuple[Guard, ...],
) -> Equation:  # fmt: skip
    moved = [
        Read(r.operand, tuple(i.substitute(values) for i in r.index), r.fill)
        for r in equation.reads
    ]
    old = (Guard(g.index.substitute(values), g.lower, g.upper, g.divisor) for g in equation.guards)
    return Equation(
        (kept, *equation.axes), "sum" if summed else "none", summed, equation.operands,
        tuple(moved), tuple(i.substitute(values) for i in equation.positions),
        (*old, *guards), equation.body,
    )  # fmt: skip


def _combine(partial: Equation, axes: tuple[Axis, ...]) -> Equation:
    kept = partial.axes[0]
    index = tuple(axis_index(a.name) for a in (kept, *axes))
    return Equation(
        axes, "sum", (kept,), (partial.shape,), (Read(0, index),), (), (), read_symbol(0)
    )
