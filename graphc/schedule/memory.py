"""The arena: intermediate arrays packed by lifetime, exact to the byte, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence

from graphc.ir.graph import Graph, Node
from graphc.ir.schedule import Buffer, KernelPlan
from graphc.ir.types import element_count

ALIGNMENT = 256


def place_arena(
    graph: Graph, kernels: Sequence[KernelPlan], buffers: Sequence[Buffer], places: dict[Node, int]
) -> tuple[dict[int, int], int]:
    """Offsets of arena buffers and the arena's size; the largest arrays are placed first."""
    spans = _lifetimes(kernels, places)
    sizes = {
        number: _aligned(element_count(b.shape) * b.dtype.size)
        for number, b in enumerate(buffers)
        if b.storage == "arena" and number in spans
    }
    kept = {places[a.value] for a in graph.assignments if a.value in places}
    for number in kept & set(sizes):
        spans[number] = (spans[number][0], len(kernels))
    offsets: dict[int, int] = {}
    for number in sorted(sizes, key=lambda n: (-sizes[n], n)):
        offsets[number] = _lowest_gap(number, sizes, spans, offsets)
    total = max((offsets[n] + sizes[n] for n in offsets), default=0)
    return offsets, total


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _lifetimes(
    kernels: Sequence[KernelPlan], places: dict[Node, int]
) -> dict[int, tuple[int, int]]:
    """First and last kernel that touches each buffer."""
    spans: dict[int, tuple[int, int]] = {}
    for when, kernel in enumerate(kernels):
        touched = [*kernel.stored, *(o for node in kernel.nodes for o in node.inputs)]
        for node in touched:
            if node in places:
                first, _ = spans.get(places[node], (when, when))
                spans[places[node]] = (first, when)
    return spans


def _lowest_gap(
    number: int, sizes: dict[int, int], spans: dict[int, tuple[int, int]], offsets: dict[int, int]
) -> int:
    """The lowest offset where the buffer overlaps no buffer that lives at the same time."""
    first, last = spans[number]
    busy = sorted(
        (offsets[n], offsets[n] + sizes[n])
        for n in offsets
        if spans[n][0] <= last and first <= spans[n][1]
    )
    offset = 0
    for start, end in busy:
        if start - offset >= sizes[number]:
            break
        offset = max(offset, end)
    return offset
