"""Which intermediate arrays lie in blocks of lanes instead of row-major order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from graphc.ir.graph import Graph, Node
from graphc.ir.layout import Layout, blocked, reshaped
from graphc.ir.loops import BlockSizes
from graphc.ir.schedule import Buffer, KernelPlan
from graphc.ir.types import Shape
from graphc.passes.classify import memory_bases
from graphc.schedule.channels import (
    channel_filters,
    channel_reads,
    channel_results,
    pad_channels,
)


def assign_layouts(
    graph: Graph, kernels: Sequence[KernelPlan], buffers: Sequence[Buffer],
    places: Mapping[Node, int], block: BlockSizes | None,
) -> list[Buffer]:  # fmt: skip
    """Convolutions want vectors along the axes that they multiply; whoever shares a kernel with
    such an array follows. Without a register ``block`` all channels lie together, few ones with
    zeros beside them. Arrays that users see stay row-major, and so do those that are also seen in
    a shape which the blocks do not fit.
    """
    shapes: dict[int, set[Shape]] = {}
    for node, place in places.items():
        shapes.setdefault(place, set()).add(node.shape)
    free = _free_places(graph, buffers, places)

    def fitting(node: Node, dimension: int, lanes: int) -> Layout | None:
        """The blocked layout of a node's buffer, if all shapes that it is seen in fit."""
        if places.get(node) not in free or node.shape[dimension] % lanes:
            return None
        layout = blocked(node.shape, dimension, lanes)
        fits = all(reshaped(layout, shape) is not None for shape in shapes[places[node]])
        return reshaped(layout, buffers[places[node]].shape) if fits else None

    wishes: dict[int, set[Layout | None]] = {}
    for kernel in kernels:
        for node, dimension in (*channel_reads(kernel), *channel_results(kernel)):
            leader = kernel.nodes[0].dtype.arithmetic
            lanes = block.lanes(leader) if block is not None else node.shape[dimension]
            wishes.setdefault(places[node], set()).add(fitting(node, dimension, lanes))
    if block is None:
        # The first kernel that reads filters decides how they lie.
        for node, dimension in filter(None, map(channel_filters, kernels)):
            wishes.setdefault(places[node], {fitting(node, dimension, node.shape[dimension])})
    chosen = {p: one for p, (one, *more) in wishes.items() if one is not None and not more}
    _spread(kernels, places, set(wishes), chosen, fitting, whole=block is None)
    if block is None:
        chosen |= pad_channels(graph, kernels, places, chosen)
    return [
        replace(b, layout=chosen[number]) if number in chosen else b
        for number, b in enumerate(buffers)
    ]


def _free_places(graph: Graph, buffers: Sequence[Buffer], places: Mapping[Node, int]) -> set[int]:
    """Arena buffers that are copied nowhere whole, and copies that their updates write in place."""
    bases = memory_bases(graph)
    hidden = {places[copy.state] for copy in graph.copies}
    moved = {a.state: places[bases[a.value]] for a in graph.assignments}
    kept = {n for a in graph.assignments if (n := moved[a.state]) not in hidden}
    kept |= {places[s] for s, n in moved.items() if places[s] in hidden and n != places[s]}
    return {n for n, b in enumerate(buffers) if b.storage == "arena" or n in hidden} - kept


def _spread(
    kernels: Sequence[KernelPlan], places: Mapping[Node, int], wished: set[int],
    chosen: dict[int, Layout], fitting: Callable[[Node, int, int], Layout | None], *, whole: bool,
) -> None:  # fmt: skip
    """Arrays of the same rank and extent in a kernel with a blocked one are blocked alike."""
    changed = True
    while changed:
        changed = False
        for kernel in kernels:
            nodes = (*kernel.stored, *(o for node in kernel.nodes for o in node.inputs))
            touched = [n for n in dict.fromkeys(nodes) if n in places]
            kinds = {_kind(n, chosen[places[n]], whole) for n in touched if places[n] in chosen}
            if len(kinds) != 1:
                continue
            ((rank, dimension, lanes),) = kinds
            for node in touched:
                place = places[node]
                if place in wished or place in chosen or len(node.shape) != rank:
                    continue
                layout = fitting(node, dimension, lanes or node.shape[dimension])
                if layout is not None:
                    chosen[place] = layout
                    changed = True


def _kind(node: Node, layout: Layout, whole: bool) -> tuple[int, int, int]:
    """Rank, blocked dimension and lanes of a node in a blocked buffer, 0 for the whole of it."""
    seen = reshaped(layout, node.shape)
    assert seen is not None
    lanes = 0 if whole else seen.digits[-1].extent
    return len(node.shape), seen.digits[-1].dimension, lanes
