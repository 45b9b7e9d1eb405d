"""Which intermediate arrays lie in blocks of lanes instead of row-major order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from graphc.ir.graph import Graph, Node
from graphc.ir.layout import blocked
from graphc.ir.loops import BlockSizes
from graphc.ir.schedule import Buffer, KernelPlan
from graphc.passes.classify import memory_bases
from graphc.passes.sliding import channel_roles


def assign_layouts(
    graph: Graph, kernels: Sequence[KernelPlan], buffers: Sequence[Buffer],
    places: Mapping[Node, int], block: BlockSizes,
) -> list[Buffer]:  # fmt: skip
    """Convolutions want vectors along the axes that they multiply; whoever shares a kernel with
    such an array follows. Arrays that users see, and those seen through a reshape, stay row-major.
    """
    wishes: dict[int, set[tuple[int, int]]] = {}
    for kernel in kernels:
        for place, dimension in _wishes(kernel, places):
            lanes = block.lanes(kernel.nodes[0].dtype)
            wishes.setdefault(place, set()).add((dimension, lanes))
    free = _free_places(graph, buffers, places)
    chosen = {p: next(iter(w)) for p, w in wishes.items() if len(w) == 1 and p in free}
    chosen = {p: w for p, w in chosen.items() if buffers[p].shape[w[0]] % w[1] == 0}
    _spread(kernels, buffers, places, free - set(wishes), chosen)
    return [
        replace(b, layout=blocked(b.shape, *chosen[number])) if number in chosen else b
        for number, b in enumerate(buffers)
    ]


def _wishes(kernel: KernelPlan, places: Mapping[Node, int]) -> list[tuple[int, int]]:
    """(buffer, dimension) of the arrays that a convolution reads or writes in vectors."""
    leader = kernel.nodes[0]
    equation = leader.op_equation()
    roles = channel_roles(equation) if kernel.strategy != "nest" else None
    if roles is None:
        return []
    found = []
    for number, axis in roles.reads:
        read = equation.reads[number]
        names = [index.single_name for index in read.index]
        found.append((places[leader.inputs[read.operand]], names.index(axis)))
    if roles.result is not None:
        across = [a.name for a in equation.axes].index(roles.result)
        found += [(places[node], across) for node in kernel.stored]
    return found


def _free_places(graph: Graph, buffers: Sequence[Buffer], places: Mapping[Node, int]) -> set[int]:
    """Arena buffers that only nodes of one shape live in, and that are copied nowhere whole."""
    bases = memory_bases(graph)
    kept = {bases[a.value] for a in graph.assignments}
    free = {n for n, b in enumerate(buffers) if b.storage == "arena"}
    for node, place in places.items():
        if node.shape != buffers[place].shape or node in kept:
            free.discard(place)
    return free


def _spread(
    kernels: Sequence[KernelPlan], buffers: Sequence[Buffer], places: Mapping[Node, int],
    free: set[int], chosen: dict[int, tuple[int, int]],
) -> None:  # fmt: skip
    """Arrays of the same rank and extent in a kernel with a blocked one are blocked alike."""
    changed = True
    while changed:
        changed = False
        for kernel in kernels:
            nodes = (*kernel.stored, *(o for node in kernel.nodes for o in node.inputs))
            touched = {places[n] for n in nodes if n in places}
            kinds = {chosen[p] for p in touched & set(chosen)}
            if len(kinds) != 1:
                continue
            ((dimension, lanes),) = kinds
            rank = max(len(buffers[p].shape) for p in touched & set(chosen))
            for place in sorted(touched & free - set(chosen)):
                shape = buffers[place].shape
                if len(shape) == rank and shape[dimension] % lanes == 0:
                    chosen[place] = (dimension, lanes)
                    changed = True
