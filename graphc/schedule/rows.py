"""Which kernels become one because they work row by row on the same rows (``passes/rows.py``).

A row is read once from memory and again from the nearest cache, what passes from one equation to
the next stays in registers, and several launches become one.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from graphc.ir.graph import Graph, Node
from graphc.ir.schedule import KernelPlan
from graphc.ir.types import element_count
from graphc.passes.classify import contraction_factors, memory_bases
from graphc.passes.rows import row_chain

_MOST_NODES = 24
_HELD = 1 << 20  # bytes of early results that no product has to wait for


def chain_rows(
    graph: Graph, kernels: Sequence[KernelPlan], scattered: AbstractSet[Node]
) -> list[tuple[Node, ...]]:
    """The kernels' nodes in an order that still holds, those that follow each other in rows merged.

    A kernel joins one whose values it reads, at the place of either, where nothing between them
    stands in the way. Kernels that make a parameter's or a state's next value are left alone, and
    so are those of arrays whose rows are ``scattered`` by their layout.
    """
    chains = _Chains(graph, kernels, scattered)
    number = 0
    while number < len(chains.groups):
        number = chains.merge(number)
    return chains.groups


def _is_cheap(late: Sequence[Node], between: Sequence[Sequence[Node]]) -> bool:
    """Whether what a group makes may be held in memory while the groups before it run."""
    held = sum(element_count(node.shape) * node.dtype.size for node in late)
    products = any(
        contraction_factors(node.op_equation()) is not None for group in between for node in group
    )
    return held <= _HELD or not products


class _Chains:
    """The groups so far, which of them may be merged, and what each node's memory is."""

    def __init__(
        self, graph: Graph, kernels: Sequence[KernelPlan], scattered: AbstractSet[Node]
    ) -> None:
        self.groups = [kernel.nodes for kernel in kernels]
        self.bases = memory_bases(graph)
        self.states: dict[Node, list[Node]] = {}
        for assignment in graph.assignments:
            self.states.setdefault(self.bases[assignment.value], []).append(assignment.state)
        self.able = {
            node for kernel in kernels for node in kernel.nodes
            if self._is_able(kernel, scattered)
        }  # fmt: skip

    def _is_able(self, kernel: KernelPlan, scattered: AbstractSet[Node]) -> bool:
        touched = {*kernel.nodes, *(o for node in kernel.nodes for o in node.inputs)}
        return (
            kernel.strategy == "nest"
            and scattered.isdisjoint(touched)
            and not any(node in self.states for node in kernel.nodes)
        )

    def merge(self, number: int) -> int:
        """Merge a group into an earlier one if it can be; the number of the next to look at."""
        late = self.groups[number]
        if late[0] in self.able:
            needed = self._operands(late)
            for place in range(number - 1, -1, -1):
                early = self.groups[place]
                if needed.isdisjoint(early) or early[0] not in self.able:
                    continue
                merged = (*early, *late)
                if not self._is_chain(merged):
                    continue
                between = self.groups[place + 1 : number]
                if not self._reads(late, between) and _is_cheap(late, between):
                    self.groups[place] = merged
                    del self.groups[number]
                    return number
                if not any(self._reads(group, [early]) for group in between) and not (
                    self._overwritten(between) & self._operands(early)
                ):
                    self.groups[number] = merged
                    del self.groups[place]
                    return number
        return number + 1

    def _is_chain(self, nodes: Sequence[Node]) -> bool:
        members = set(nodes)
        hidden = any(
            o not in members and self.bases[o] in members for node in nodes for o in node.inputs
        )
        return len(nodes) <= _MOST_NODES and not hidden and row_chain(nodes) is not None

    def _reads(self, group: Sequence[Node], others: Sequence[Sequence[Node]]) -> bool:
        made = {node for other in others for node in other}
        return not made.isdisjoint(self._operands(group))

    def _overwritten(self, groups: Sequence[Sequence[Node]]) -> set[Node]:
        """Parameters and states whose next value these groups make."""
        return {state for group in groups for node in group for state in self.states.get(node, ())}

    def _operands(self, group: Sequence[Node]) -> set[Node]:
        return {self.bases[o] for node in group for o in node.inputs} - set(group)
