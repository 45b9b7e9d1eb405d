"""Checks of a user's graph before it is compiled or evaluated."""

from __future__ import annotations

from graphc.errors import user_error
from graphc.ir.graph import Graph, Node


def check_graph(graph: Graph) -> None:
    """Inputs, parameters and states must differ in name; assignments must fit."""
    seen: dict[str, Node] = {}
    for node in graph.nodes:
        if node.kind not in ("input", "parameter", "state"):
            continue
        first = seen.setdefault(node.label, node)
        if first is not node:
            raise user_error(
                f"two {node.kind}s are named '{node.label}'",
                f"first:  {first!r} ({first.location})",
                f"second: {node!r} ({node.location})",
                "give each its own name; to share one, use the same node twice",
                at=node.location,
            )
    for assignment in graph.assignments:
        state, value = assignment.state, assignment.value
        if (state.shape, state.dtype) != (value.shape, value.dtype):
            raise user_error(
                f"the new value of '{state.label}' does not fit it",
                f"it is {state!r}, the value {value!r}", at=state.location,
            )  # fmt: skip
