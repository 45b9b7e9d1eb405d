"""Small kernels that do not depend on each other run in one launch, side by side (for a device).

The updates of biases and of scales, the mean of a loss, the count of steps: each is a few blocks of
threads, and a launch of its own would cost more than its work. A kernel is moved to a later place,
to the last where nobody waits for it, if little memory has to be kept for it meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from graphc.ir.graph import Graph, Node
from graphc.ir.schedule import KernelPlan
from graphc.ir.types import element_count
from graphc.passes.classify import memory_bases

FEW_TERMS = 64  # of a sum that one thread adds up alone
_HELD = 1 << 20  # bytes of operands that may wait for a kernel
_SMALL = 1 << 20  # points of a kernel that may wait
_MOST_ARRAYS = 400  # of one launch, whose arguments fit into 4 KiB


def side_by_side(graph: Graph, kernels: Sequence[KernelPlan]) -> tuple[KernelPlan, ...]:
    """The kernels in an order that still holds, those that can run together as one plan's parts."""
    return _Merger(graph).merged(kernels)


class _Merger:
    """Goes through the kernels in order and keeps back those that may run later."""

    def __init__(self, graph: Graph) -> None:
        self.bases = memory_bases(graph)
        self.states: dict[Node, set[Node]] = {}
        for assignment in graph.assignments:
            self.states.setdefault(self.bases[assignment.value], set()).add(assignment.state)

    def merged(self, kernels: Sequence[KernelPlan]) -> tuple[KernelPlan, ...]:
        """All kernels, each where it runs: small ones when somebody needs them, or at the end."""
        done: list[KernelPlan] = []
        waiting: list[list[KernelPlan]] = []  # each reads what those before it make
        heavy: list[KernelPlan] = []  # these only join their neighbours
        for kernel in kernels:
            able = _is_able(kernel)
            if not able or any(self._depends(kernel, other) for other in heavy):
                done += _together(heavy)
                heavy = []
            level = self._level(kernel, waiting)
            if able and self._may_wait(kernel):
                if level == len(waiting):
                    waiting.append([])
                waiting[level].append(kernel)
                continue
            for queue in waiting[:level]:
                done += _together(queue)
            waiting = waiting[level:]
            (heavy if able else done).append(kernel)
        first, *others = waiting or [[]]
        rest = [kernel for queue in others for kernel in _together(queue)]
        return (*done, *_together([*heavy, *first]), *rest)

    def _level(self, kernel: KernelPlan, waiting: Sequence[Sequence[KernelPlan]]) -> int:
        """How many of the queues have to run before a kernel."""
        for number in range(len(waiting), 0, -1):
            if any(self._depends(kernel, other) for other in waiting[number - 1]):
                return number
        return 0

    def _depends(self, late: KernelPlan, early: KernelPlan) -> bool:
        """Whether one reads what the other makes, or overwrites what it reads."""
        read, written = self._reads(late), self._overwrites(late)
        return bool(
            read & set(early.nodes)
            or written & self._reads(early)
            or self._overwrites(early) & read
        )

    def _may_wait(self, kernel: KernelPlan) -> bool:
        points = sum(node.op_equation().points for node in kernel.nodes)
        operands = (n for n in self._reads(kernel) if n.equation is not None)
        return points <= _SMALL and _bytes(operands) <= _HELD

    def _reads(self, kernel: KernelPlan) -> set[Node]:
        return {self.bases[o] for node in kernel.nodes for o in node.inputs} - set(kernel.nodes)

    def _overwrites(self, kernel: KernelPlan) -> set[Node]:
        return {state for node in kernel.nodes for state in self.states.get(node, ())}


def _is_able(kernel: KernelPlan) -> bool:
    """Whether each of its outputs is the work of one thread."""
    leader = kernel.nodes[0].op_equation()
    outputs = max(1, element_count(leader.shape))
    return kernel.strategy == "nest" and all(
        node.op_equation().points <= FEW_TERMS * outputs for node in kernel.nodes
    )


def _together(kernels: Sequence[KernelPlan]) -> list[KernelPlan]:
    """One plan, or as many as their arrays take."""
    kernels = _twins(kernels)
    done: list[KernelPlan] = []
    parts: list[KernelPlan] = []
    for kernel in kernels:
        if parts and sum(map(_array_count, (*parts, kernel))) > _MOST_ARRAYS:
            done.append(_one(parts))
            parts = []
        parts.append(kernel)
    return [*done, _one(parts)] if parts else done


def _twins(kernels: Sequence[KernelPlan]) -> list[KernelPlan]:
    """Maps over the same space that read the same array in place become one nest."""
    found: list[KernelPlan] = []
    for kernel in kernels:
        for number, other in enumerate(found):
            shared = _plain_reads(kernel) & _plain_reads(other)
            if shared and kernel.nodes[0].shape == other.nodes[0].shape:
                name = min(other.name, kernel.name, key=len)
                found[number] = replace(
                    other, name=name, nodes=(*other.nodes, *kernel.nodes),
                    stored=(*other.stored, *kernel.stored),
                )  # fmt: skip
                break
        else:
            found.append(kernel)
    return found


def _plain_reads(kernel: KernelPlan) -> set[Node]:
    """Arrays that a kernel of nothing but maps reads in place."""
    if any(not node.op_equation().is_map for node in kernel.nodes):
        return set()
    return {
        node.inputs[read.operand]
        for node in kernel.nodes
        for number, read in enumerate(node.op_equation().reads)
        if node.op_equation().reads_identically(number)
    }


def _array_count(kernel: KernelPlan) -> int:
    return sum(len(node.inputs) for node in kernel.nodes) + len(kernel.stored)


def _one(kernels: Sequence[KernelPlan]) -> KernelPlan:
    first, *others = kernels
    if not others:
        return first
    return KernelPlan(
        f"{first.name}_and_{len(others)}_more",
        tuple(node for kernel in kernels for node in kernel.nodes),
        tuple(node for kernel in kernels for node in kernel.stored),
        "side by side", ", ".join(kernel.name for kernel in kernels), parts=tuple(kernels),
    )  # fmt: skip


def _bytes(nodes: Iterable[Node]) -> int:
    return sum(element_count(node.shape) * node.dtype.size for node in nodes)
