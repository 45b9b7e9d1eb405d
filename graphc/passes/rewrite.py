"""Rebuild a graph bottom-up: every pass is a function from one op node to its replacement."""

from __future__ import annotations

from collections.abc import Callable

from graphc.ir.equation import Equation
from graphc.ir.graph import Assignment, Graph, Node, op_node

Rewriter = Callable[[Node, tuple[Node, ...]], Node]


def rebuild(graph: Graph, rewrite: Rewriter) -> Graph:
    """The graph with each op node replaced by rewrite(node, new inputs)."""
    new: dict[Node, Node] = {}
    for node in graph.nodes:
        if node.equation is None:
            new[node] = node
        else:
            new[node] = rewrite(node, tuple(new[operand] for operand in node.inputs))
    return Graph(
        tuple(new[node] for node in graph.outputs),
        tuple(Assignment(a.state, new[a.value]) for a in graph.assignments),
    )


def with_inputs(node: Node, equation: Equation, inputs: tuple[Node, ...]) -> Node:
    """The same node with another equation and other inputs."""
    if equation is node.equation and inputs == node.inputs:
        return node
    return op_node(
        equation, inputs, node.dtype,
        label=node.label, layer=node.layer, location=node.location,
    )  # fmt: skip
