"""Side effects of values: what a state becomes when a value is part of a step that trains."""

from __future__ import annotations

from collections.abc import Iterable

from graphc.errors import user_error
from graphc.ir.graph import Assignment, Node
from graphc.ops.messages import check_values, describe


def assign(state: Node, value: Node, when: Node) -> None:
    """Let ``state`` take ``value`` after every step whose graph holds the node ``when``.

    Raises:
        UserError: shapes or types of state and value differ, or ``state`` is no state.
    """
    check_values("assign", state, value, when)
    if state.kind not in ("state", "parameter"):
        raise user_error(
            f"assign: `{state.label}` is neither a state nor a parameter",
            *describe([state], ["state"]),
            "only these keep a value from step to step: declare it with gx.state",
        )
    if (state.shape, state.dtype) != (value.shape, value.dtype):
        raise user_error(
            "assign: the value does not fit the state",
            *describe((state, value), ("state", "value")),
            "shape and element type must be equal",
        )
    if Assignment(state, value) not in when.effects:
        when.effects.append(Assignment(state, value))


def effects_of(nodes: Iterable[Node]) -> list[Assignment]:
    """The assignments of a graph's nodes, in the nodes' order.

    Raises:
        UserError: two assignments give one state different values.
    """
    found: dict[Node, Assignment] = {}
    for node in nodes:
        for assignment in node.effects:
            earlier = found.setdefault(assignment.state, assignment)
            if earlier.value is not assignment.value:
                raise user_error(
                    f"the state `{assignment.state.label}` would get two values in one step",
                    *describe(
                        (earlier.state, earlier.value, assignment.value),
                        ("state", "first", "second"),
                    ),
                    "is a layer that keeps running statistics applied twice? give each use its own",
                )
    return list(found.values())
