"""The arena: intermediate arrays packed by lifetime, exact to the byte, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from graphc.ir.graph import Graph, Node
from graphc.ir.schedule import Buffer, KernelPlan

ALIGNMENT = 256
_KINDS = {"constant": "constant", "feed": "input", "output": "output"}


@dataclass(frozen=True)
class Memory:
    """Bytes of a program's arrays by what they are for; ``arena`` holds intermediate values."""

    parameters: int
    states: int
    constants: int
    inputs: int
    outputs: int
    arena: int
    workspace: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(asdict(self).values())


def place_arena(
    graph: Graph, kernels: Sequence[KernelPlan], buffers: Sequence[Buffer], places: dict[Node, int]
) -> tuple[dict[int, int], int]:
    """Offsets of arena buffers and the arena's size; the largest arrays are placed first."""
    spans = _lifetimes(kernels, places)
    sizes = {
        number: _aligned(b.bytes)
        for number, b in enumerate(buffers)
        if b.storage == "arena" and number in spans
    }
    kept = {places[a.value] for a in graph.assignments if a.value in places}
    for number in kept & set(sizes):
        spans[number] = (spans[number][0], len(kernels))
    order = sorted(sizes, key=lambda n: (-sizes[n], n))
    placed = np.zeros((len(order), 4), np.int64)  # first and last kernel, first and last byte
    for count, number in enumerate(order):
        offset = _lowest_gap(sizes[number], spans[number], placed[:count])
        placed[count] = (*spans[number], offset, offset + sizes[number])
    offsets = {number: int(placed[count, 2]) for count, number in enumerate(order)}
    return offsets, int(placed[:, 3].max(initial=0))


def planned_memory(buffers: Sequence[Buffer], arena_bytes: int, workspace_bytes: int = 0) -> Memory:
    """What a program of these buffers takes, known before it allocates anything."""
    sizes = dict.fromkeys(("parameter", "state", "constant", "input", "output"), 0)
    for buffer in buffers:
        if buffer.storage == "arena":
            continue
        kind = buffer.node.kind if buffer.storage == "persistent" else _KINDS[buffer.storage]
        sizes[kind] += buffer.bytes
    return Memory(
        sizes["parameter"], sizes["state"], sizes["constant"], sizes["input"], sizes["output"],
        arena_bytes, workspace_bytes,
    )  # fmt: skip


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _lifetimes(
    kernels: Sequence[KernelPlan], places: dict[Node, int]
) -> dict[int, tuple[int, int]]:
    """First and last kernel that touches each buffer."""
    spans: dict[int, tuple[int, int]] = {}
    for when, kernel in enumerate(kernels):
        for node in (*kernel.stored, *kernel.operands):
            if node in places:
                first, _ = spans.get(places[node], (when, when))
                spans[places[node]] = (first, when)
    return spans


def _lowest_gap(size: int, span: tuple[int, int], placed: np.ndarray) -> int:
    """The lowest offset where a buffer overlaps no placed one that lives at the same time."""
    alive = placed[(placed[:, 0] <= span[1]) & (span[0] <= placed[:, 1])]
    offset = 0
    for start, end in alive[np.argsort(alive[:, 2], kind="stable"), 2:].tolist():
        if start - offset >= size:
            break
        offset = max(offset, end)
    return offset
