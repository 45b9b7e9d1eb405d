"""Which nodes share a kernel: a leader and the maps over the same space that read it in place.

Behind a product also reductions over windows of its results and maps of what these give, a sum
over all places along one of its factors, and scatters of its results to the places of windows, each
where ``refusal`` says nothing against it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from graphc.ir.graph import Graph, Node
from graphc.passes.classify import contraction_factors, memory_bases, shares_memory
from graphc.passes.scatters import window_scatter
from graphc.passes.sums import ArraySum, array_sums
from graphc.passes.windows import window_sizes

# Leader, and a reduction over windows, a sum or a scatter of its results -> why it runs on its own.
Refusal = Callable[[Node, Node | ArraySum], str | None]


@dataclass
class Group:
    """Nodes of one kernel; ``before`` has a bit for every group that must run earlier.

    ``nodes`` have the leader's shape, ``pooled`` that of the windows of its results, ``summed`` are
    a sum of them, ``placed`` scatters of them; each in order.
    """

    number: int
    nodes: list[Node] = field(default_factory=list)
    pooled: list[Node] = field(default_factory=list)
    summed: list[Node] = field(default_factory=list)
    placed: list[Node] = field(default_factory=list)
    total: ArraySum | None = None
    members: set[Node] = field(default_factory=set)
    before: int = 0

    def add(self, node: Node, total: ArraySum | None) -> None:
        """Take a node in; ``total`` is the sum that it belongs to, if it does."""
        if total is not None and self.sums(total):
            self.summed.append(node)
            self.total = total
        elif not self.nodes or node.shape == self.nodes[0].shape:
            self.nodes.append(node)
        else:
            (self.placed if self.places(node) else self.pooled).append(node)
        self.members.add(node)

    def sums(self, total: ArraySum) -> bool:
        """Whether a sum is the first of the group's values, that which is pooled, or its own."""
        alike = not self.pooled or self.pooled[0].inputs == (total.array,)
        return total.array in self.nodes and alike and self.total in (None, total)

    def places(self, node: Node) -> bool:
        """Whether a node puts the group's values, one a window, at places of windows."""
        scatter = window_scatter(node)
        return scatter is not None and scatter[1] in self.nodes and not self.pooled


def fuse(graph: Graph, refusal: Refusal) -> list[Group]:
    """Kernel groups in execution order. Reshapes belong to no group: they share memory."""
    groups: list[Group] = []
    home: dict[Node, Group] = {}
    windows: dict[object, list[Group]] = {}
    totals = array_sums(graph)
    for node in graph.nodes:
        if node.equation is None:
            continue
        needed = _needed(node, home)
        if shares_memory(node):
            _inherit(node, home)
            continue
        mates = windows.setdefault(_window(node), []) if not node.equation.is_map else []
        total = totals.get(node)
        group = _joinable(node, mates, home, needed, total, refusal)
        if group is None:
            group = Group(len(groups))
            groups.append(group)
        group.add(node, total)
        before = group.before
        for other in needed:
            if other is not group:
                group.before |= other.before | 1 << other.number
        if group.before != before and len(group.members) > 1:
            _propagate(groups, group)
        home[node] = group
        if not node.equation.is_map:
            mates.append(group)
    _write_after_reading(graph, groups, home)
    return _ordered(groups)


def _write_after_reading(graph: Graph, groups: Sequence[Group], home: dict[Node, Group]) -> None:
    """A kernel that makes a state's next value waits for the kernels that read the old one.

    Where that would be a circle the wait is left out; the value then gets memory of its own.
    """
    bases = memory_bases(graph)
    readers: dict[Node, list[Group]] = {}
    for node in graph.nodes:
        if node in home:
            for operand in node.inputs:
                readers.setdefault(bases[operand], []).append(home[node])
    for assignment in graph.assignments:
        writer = home.get(bases[assignment.value])
        for reader in readers.get(assignment.state, []):
            if writer is None or reader is writer or group_waits(reader, writer):
                continue
            writer.before |= reader.before | 1 << reader.number
            _propagate(groups, writer)


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
    node: Node, mates: Sequence[Group], home: dict[Node, Group], needed: Sequence[Group],
    total: ArraySum | None, refusal: Refusal,
) -> Group | None:  # fmt: skip
    """A group of the same space that the node may run in without a circle of waiting."""
    siblings = [] if contraction_factors(node.op_equation()) is not None else mates
    for group in (*needed[::-1], *siblings):
        others = [g for g in needed if g is not group]
        if any(other.before >> group.number & 1 for other in others):
            continue
        if any(other.number != group.number and group_waits(other, group) for other in others):
            continue
        if (node.op_equation().is_map or group in siblings) and _fits(node, group, home):
            return group
        if _pools(node, group) and refusal(group.nodes[0], node) is None:
            return group
        if total is not None and group.sums(total) and refusal(group.nodes[0], total) is None:
            return group
        if group.places(node) and refusal(group.nodes[0], node) is None:
            return group
    return None


def group_waits(waiting: Group, first: Group) -> bool:
    """Whether one group must run after another."""
    return bool(waiting.before >> first.number & 1)


def _window(node: Node) -> object:
    """What reductions over the same window of the same operands share (max and its argmax)."""
    equation = node.op_equation()
    return node.inputs, equation.reads, equation.axes, equation.reduce_axes


def _fits(node: Node, group: Group, home: dict[Node, Group]) -> bool:
    """Whether a node's space is that of some of the group, of which it reads nothing else."""
    mates = next((m for m in (group.nodes, group.pooled) if m and m[0].shape == node.shape), None)
    if mates is None:
        return False
    equation = node.op_equation()
    return all(
        home.get(node.inputs[read.operand]) is not group
        or (node.inputs[read.operand] in mates and equation.reads_identically(number))
        for number, read in enumerate(equation.reads)
    )


def _pools(node: Node, group: Group) -> bool:
    """Whether a node reduces windows of a value of the group: those of whoever does so already."""
    sizes = window_sizes(node.op_equation())
    if sizes is None or node.inputs[0] not in group.nodes or group.placed:
        return False
    if not group.pooled:
        alike = group.total is None or group.total.array is node.inputs[0]
        return alike and contraction_factors(group.nodes[0].op_equation()) is not None
    first = group.pooled[0]
    return first.inputs == node.inputs and window_sizes(first.op_equation()) == sizes


def _ordered(groups: Sequence[Group]) -> list[Group]:
    """Groups so that every one comes after those it waits for; stable in the graph's order."""
    done = 0
    order: list[Group] = []
    waiting = list(groups)
    while waiting:
        ready = next(g for g in waiting if g.before & ~done == 0)
        waiting.remove(ready)
        done |= 1 << ready.number
        order.append(ready)
    return order
