"""Checks of a user's graph before it is compiled or evaluated."""

from __future__ import annotations

import sympy

from graphc.errors import user_error
from graphc.ir.equation import position_symbol, read_symbol
from graphc.ir.graph import Graph, Node
from graphc.ops.messages import describe


def check_graph(graph: Graph) -> None:
    """Inputs, parameters and states must differ in name; assignments must fit."""
    seen: dict[str, Node] = {}
    for node in graph.nodes:
        if node.kind not in ("input", "parameter", "state"):
            continue
        first = seen.setdefault(node.label, node)
        if first is not node:
            kind = f"{node.kind}s" if node.kind == first.kind else "arrays"
            raise user_error(
                f"two {kind} are named '{node.label}'",
                *describe((first, node), ("first", "second")),
                "give each its own name; to share one, use the same node twice",
                at=node.location,
            )
    for assignment in graph.assignments:
        state, value = assignment.state, assignment.value
        if (state.shape, state.dtype) != (value.shape, value.dtype):
            raise user_error(
                f"the new value of '{state.label}' does not fit it",
                *describe((state, value), ("array", "value")),
                "shape and element type must be equal",
            )


def label_ranges(graph: Graph) -> dict[Node, int]:
    """Integer inputs that are compared with a position: each value must be below the extent."""
    found: dict[Node, int] = {}
    for node in graph.nodes:
        if node.equation is None:
            continue
        for test in node.equation.body.atoms(sympy.Eq):
            for number, read in enumerate(node.equation.reads):
                source = node.inputs[read.operand]
                if (
                    source.kind != "input"
                    or source.dtype.is_float
                    or not test.has(read_symbol(number))
                ):
                    continue
                for place, index in enumerate(node.equation.positions):
                    if test.has(position_symbol(place)):
                        extent = index.bounds(node.equation.extents)[1] + 1
                        found[source] = min(extent, found.get(source, extent))
    return found
