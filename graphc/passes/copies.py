"""Rounded copies of parameters become states that each update makes anew, in its own kernel.

Mixed precision reads a 16-bit copy of every weight. Made at the start of a step it costs a launch,
and reads and writes all weights once more; where the update makes it, the new value is in a
register. Exact: the same rounding of the same value, at another time.

Only for a device, whose arrays tell when somebody else has written them (``Graph.copies``).
"""

from __future__ import annotations

from graphc.ir.equation import read_symbol
from graphc.ir.graph import Assignment, Copy, Graph, Node, op_node
from graphc.passes.rewrite import rebuild, with_inputs


def keep_copies(graph: Graph) -> Graph:
    """The graph with a state in place of every rounded parameter or state."""
    kept = {*graph.outputs, *(a.value for a in graph.assignments)}
    copies = {n: _state(n) for n in graph.nodes if _is_rounded_leaf(n) and n not in kept}

    def rewrite(node: Node, inputs: tuple[Node, ...]) -> Node:
        if node in copies:
            return copies[node]
        return with_inputs(node, node.op_equation(), inputs)

    moved = rebuild(graph, rewrite)
    values = {a.state: a.value for a in moved.assignments}
    updates = [
        Assignment(state, _rounded(node, values[node.inputs[0]]))
        for node, state in copies.items()
        if node.inputs[0] in values
    ]
    found = tuple(Copy(state, node) for node, state in copies.items())
    return Graph(moved.outputs, (*moved.assignments, *updates), found)


def _is_rounded_leaf(node: Node) -> bool:
    """Whether a node is a parameter or a state, element by element, in another type."""
    if node.equation is None or node.inputs == () or node.inputs[0].dtype is node.dtype:
        return False
    equation = node.equation
    plain = equation.is_map and equation.body == read_symbol(0) and not equation.guards
    leaf = node.inputs[0].kind in ("parameter", "state")
    return plain and leaf and len(equation.reads) == 1 and equation.reads_identically(0)


def _state(node: Node) -> Node:
    label = f"{node.inputs[0].label}.{node.dtype.value}"
    return Node("state", label, node.shape, node.dtype, layer=node.layer, location=node.location)


def _rounded(node: Node, value: Node) -> Node:
    """The copy of the leaf's next value."""
    return op_node(
        node.op_equation(), (value,), node.dtype,
        label=f"next {node.label}", layer=node.layer, location=node.location,
    )  # fmt: skip
