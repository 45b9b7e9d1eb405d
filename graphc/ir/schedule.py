"""The schedule: kernels in order, each a group of fused nodes, and where every array lives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from graphc.ir.blocks import BY_RULE, ContractionBlocks, TileBlocks
from graphc.ir.graph import Graph, Node
from graphc.ir.layout import Layout, reshaped
from graphc.ir.tiles import TileAlgorithm
from graphc.ir.types import DType, Shape

Storage = Literal["feed", "persistent", "constant", "arena", "output"]


@dataclass(frozen=True)
class Buffer:
    """An array: ``offset`` bytes into the arena if it lives there."""

    name: str
    layout: Layout
    dtype: DType
    storage: Storage
    node: Node
    offset: int = 0

    @property
    def shape(self) -> Shape:
        """Extents of the array that it holds."""
        return self.layout.shape

    @property
    def bytes(self) -> int:
        """What it takes of memory, with the zeros that its layout may hold."""
        return self.layout.size * self.dtype.size


@dataclass(frozen=True)
class KernelPlan:
    """Fused nodes over one output space; ``stored`` are those that others read.

    ``strategy`` is "contraction" where the leader is a sum of products worth packing, "tiles"
    where such a sum slides a window and is computed by ``algorithms``, one a dimension. Either is
    cut by its blocks; where these say nothing, ``schedule/blocking.py`` decides by the sizes that
    lowering finds. ``pooled`` are the last nodes: reductions over windows of the leader's results
    and maps of what these give, computed while a tile of results is at hand; after them come the
    ``summed``: a sum of a value of the leader's shape, by way of partial sums where there are two,
    which the kernel begins in its tiles, and the ``placed``: scatters through an argmax of such a
    value, each element of which the kernel stores at all places of its window. ``scattered`` are
    operands that no array holds, each with the scatter through an argmax whose values the kernel
    puts in place as it reads patches.
    "rows" is a chain of equations over common rows (``passes/rows.py``), "side by side" several
    kernels, the ``parts``, that do not depend on each other.
    """

    name: str
    nodes: tuple[Node, ...]
    stored: tuple[Node, ...]
    strategy: Literal["contraction", "tiles", "nest", "rows", "side by side"]
    reason: str
    algorithms: tuple[TileAlgorithm, ...] = ()
    contraction_blocks: ContractionBlocks = BY_RULE
    tile_blocks: TileBlocks | None = None
    pooled: tuple[Node, ...] = ()
    summed: tuple[Node, ...] = ()
    placed: tuple[Node, ...] = ()
    parts: tuple[KernelPlan, ...] = ()
    scattered: tuple[tuple[Node, Node], ...] = ()

    @property
    def unpooled(self) -> tuple[Node, ...]:
        """The nodes of the leader's own shape."""
        others = len(self.pooled) + len(self.summed) + len(self.placed)
        return self.nodes[: len(self.nodes) - others]

    @property
    def operands(self) -> tuple[Node, ...]:
        """What the nodes read, and what scattered operands are made of."""
        made = dict(self.scattered)
        read = [operand for node in self.nodes for operand in node.inputs]
        return tuple(o for r in read for o in (made[r].inputs if r in made else (r,)))


@dataclass(frozen=True, eq=False)
class Schedule:
    """Kernels in execution order and the buffer of every stored node.

    ``copies`` are kernels outside of that order: one for each of the graph's copies, which makes
    it from its parameter.
    """

    graph: Graph
    kernels: tuple[KernelPlan, ...]
    buffers: tuple[Buffer, ...]
    places: dict[Node, int]
    arena_bytes: int
    copies: tuple[KernelPlan, ...] = ()

    def buffer(self, node: Node) -> Buffer:
        """The buffer that holds a node."""
        return self.buffers[self.places[node]]

    def layout(self, node: Node) -> Layout:
        """Where a node's elements lie in its buffer, which reshapes share."""
        layout = reshaped(self.buffer(node).layout, node.shape)
        assert layout is not None
        return layout

    @property
    def moves(self) -> tuple[tuple[int, int], ...]:
        """(from, to) of the buffers that are copied after all kernels, all sources read first:
        assignments whose kernel could not write into the state directly.
        """
        return tuple(
            (self.places[a.value], self.places[a.state])
            for a in self.graph.assignments
            if a.state in self.places and self.places[a.value] != self.places[a.state]
        )
