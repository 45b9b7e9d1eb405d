"""A kernel by itself, numbered where it was named: kernels that do the same work look the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from graphc.backends.c.emit import routine_source
from graphc.ir.graph import Node
from graphc.ir.loops import BlockSizes
from graphc.ir.routine import Routine
from graphc.ir.schedule import KernelPlan, Schedule
from graphc.lower.access import rename_axes
from graphc.lower.routines import buffer_order, lower
from graphc.passes.scatters import window_scatter
from graphc.schedule.choose import MAX_ERROR

NAME = "kernel"


def alone(plan: KernelPlan, schedule: Schedule) -> Schedule:
    """The schedule of one kernel, with numbers for the names of nodes, axes and buffers."""
    nodes: dict[Node, Node] = {}
    scattered = dict(plan.scattered)
    for node in plan.nodes:
        for operand in node.inputs:
            if operand in scattered and operand not in nodes:
                nodes[operand] = _numbered_scatter(scattered[operand], nodes)
            elif operand not in nodes:
                nodes[operand] = _input(operand, nodes)
        nodes[node] = _numbered(node, len(nodes), nodes)
    order = buffer_order(plan, schedule)
    buffers = tuple(replace(schedule.buffers[p], name=f"b{n}") for n, p in enumerate(order))
    places = {
        new: order.index(schedule.places[old])
        for old, new in nodes.items()
        if schedule.places.get(old) in order
    }
    renamed = replace(
        plan, name=NAME, nodes=tuple(nodes[n] for n in plan.nodes),
        stored=tuple(nodes[n] for n in plan.stored), pooled=tuple(nodes[n] for n in plan.pooled),
        summed=tuple(nodes[n] for n in plan.summed),
        scattered=tuple((nodes[operand], nodes[operand]) for operand, _ in plan.scattered),
    )  # fmt: skip
    return Schedule(schedule.graph, (renamed,), buffers, places, 0)


def signature(single: Schedule, block: BlockSizes, exact: bool) -> str:
    """SHA-256 of what the kernel does, in which types and layouts: of its untuned source."""
    (routine,) = lower(single, block)
    limit = None if exact else MAX_ERROR.get(single.kernels[0].nodes[0].dtype.arithmetic)
    text = f"error limit {limit}\n{kernel_source(routine, block)[0]}"
    return hashlib.sha256(text.encode()).hexdigest()


def kernel_source(routine: Routine, block: BlockSizes, name: str = NAME) -> tuple[str, int, int]:
    """As ``routine_source``, under a name and without the formulas that come from the user."""
    return routine_source(replace(routine, name=name, title=()), block)


def _input(node: Node, known: Mapping[Node, Node]) -> Node:
    return Node("input", f"v{len(known)}", node.shape, node.dtype)


def _numbered_scatter(scatter: Node, nodes: dict[Node, Node]) -> Node:
    """The scatter, whose argmax still says what its windows are."""
    found = window_scatter(scatter)
    assert found is not None
    argmax, value = found
    if argmax not in nodes:
        nodes[argmax] = _numbered(argmax, len(nodes), {o: _input(o, nodes) for o in argmax.inputs})
    if value not in nodes:
        nodes[value] = _input(value, nodes)
    return _numbered(scatter, len(nodes), nodes)


def _numbered(node: Node, number: int, known: Mapping[Node, Node]) -> Node:
    """The same op over numbered operands and axes, without anything for people."""
    equation = node.op_equation()
    names = {axis.name: f"i{n}" for n, axis in enumerate(equation.axes)}
    names |= {axis.name: f"k{n}" for n, axis in enumerate(equation.reduce_axes)}
    return Node(
        "op", f"v{number}", node.shape, node.dtype, tuple(known[o] for o in node.inputs),
        rename_axes(equation, names),
    )  # fmt: skip
