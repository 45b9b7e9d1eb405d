"""Which nodes share a kernel: a leader and the maps over the same space that read it in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from graphc.ir.graph import Graph, Node
from graphc.passes.classify import contraction_factors, is_reshape


@dataclass
class Group:
    """Nodes of one kernel in order; ``before`` has a bit for every group that must run earlier."""

    number: int
    nodes: list[Node] = field(default_factory=list)
    before: int = 0


def fuse(graph: Graph) -> list[list[Node]]:
    """Kernel groups in execution order. Reshapes belong to no group: they share memory."""
    groups: list[Group] = []
    home: dict[Node, Group] = {}
    for node in graph.nodes:
        if node.equation is None:
            continue
        needed = _needed(node, home)
        if is_reshape(node.equation):
            _inherit(node, home)
            continue
        group = _joinable(node, groups, home, needed)
        if group is None:
            group = Group(len(groups))
            groups.append(group)
        group.nodes.append(node)
        for other in needed:
            if other is not group:
                group.before |= other.before | 1 << other.number
        _propagate(groups, group)
        home[node] = group
    _write_after_reading(graph, groups, home)
    return _ordered(groups)


def _write_after_reading(graph: Graph, groups: Sequence[Group], home: dict[Node, Group]) -> None:
    """A kernel that makes a state's next value waits for the kernels that read the old one.

    Where that would be a circle the wait is left out; the value then gets memory of its own.
    """
    readers: dict[Node, list[Group]] = {}
    for node in graph.nodes:
        if node in home:
            for operand in node.inputs:
                readers.setdefault(_base(operand), []).append(home[node])
    for assignment in graph.assignments:
        writer = home.get(_base(assignment.value))
        for reader in readers.get(assignment.state, []):
            if writer is None or reader is writer or group_waits(reader, writer):
                continue
            writer.before |= reader.before | 1 << reader.number
            _propagate(groups, writer)


def _base(node: Node) -> Node:
    while node.equation is not None and is_reshape(node.equation):
        node = node.inputs[0]
    return node


def _needed(node: Node, home: dict[Node, Group]) -> list[Group]:
    found: list[Group] = []
    for operand in node.inputs:
        if operand in home and home[operand] not in found:
            found.append(home[operand])
    return found


def _inherit(node: Node, home: dict[Node, Group]) -> None:
    """A reshape is ready when its operand's group has run."""
    if node.inputs[0] in home:
        home[node] = home[node.inputs[0]]


def _propagate(groups: Sequence[Group], changed: Group) -> None:
    """Whoever waits for the changed group waits for what it waits for."""
    bit = 1 << changed.number
    for group in groups:
        if group.before & bit:
            group.before |= changed.before


def _joinable(
    node: Node, groups: Sequence[Group], home: dict[Node, Group], needed: Sequence[Group]
) -> Group | None:
    """A group of the same space that the node may run in without a circle of waiting."""
    candidates = [*needed[::-1], *(_siblings(node, groups) if not needed_only(node) else [])]
    for group in candidates:
        others = [g for g in needed if g is not group]
        if any(other.before >> group.number & 1 for other in others):
            continue
        if any(other.number != group.number and group_waits(other, group) for other in others):
            continue
        if _fits(node, group, home):
            return group
    return None


def needed_only(node: Node) -> bool:
    """Contractions never join a sibling."""
    return contraction_factors(node.op_equation()) is not None


def group_waits(waiting: Group, first: Group) -> bool:
    """Whether one group must run after another."""
    return bool(waiting.before >> first.number & 1)


def _siblings(node: Node, groups: Sequence[Group]) -> list[Group]:
    """Groups with a reduction over the same window of the same operands (max and its argmax)."""
    equation = node.op_equation()
    if equation.is_map:
        return []
    return [
        g for g in groups
        if any(
            not n.op_equation().is_map
            and n.inputs == node.inputs
            and n.op_equation().reads == equation.reads
            and n.op_equation().reduce_axes == equation.reduce_axes
            and n.op_equation().axes == equation.axes
            for n in g.nodes
        )
    ]  # fmt: skip


def _fits(node: Node, group: Group, home: dict[Node, Group]) -> bool:
    leader = group.nodes[0]
    if leader.shape != node.shape:
        return False
    equation = node.op_equation()
    if not equation.is_map and group not in _siblings(node, [group]):
        return False
    return all(
        home.get(node.inputs[read.operand]) is not group
        or (node.inputs[read.operand] in group.nodes and equation.reads_identically(number))
        for number, read in enumerate(equation.reads)
    )


def _ordered(groups: Sequence[Group]) -> list[list[Node]]:
    """Groups so that every one comes after those it waits for; stable in the graph's order."""
    done = 0
    order: list[list[Node]] = []
    waiting = list(groups)
    while waiting:
        ready = next(g for g in waiting if g.before & ~done == 0)
        waiting.remove(ready)
        done |= 1 << ready.number
        order.append(ready.nodes)
    return order
