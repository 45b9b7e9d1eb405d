"""The schedule: kernels in order, each a group of fused nodes, and where every array lives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from graphc.ir.graph import Graph, Node
from graphc.ir.types import DType, Shape

Storage = Literal["feed", "persistent", "constant", "arena", "output"]


@dataclass(frozen=True)
class Buffer:
    """An array: ``offset`` bytes into the arena if it lives there."""

    name: str
    shape: Shape
    dtype: DType
    storage: Storage
    node: Node
    offset: int = 0


@dataclass(frozen=True)
class KernelPlan:
    """Fused nodes over one output space; ``stored`` are those that others read.

    ``strategy`` is "contraction" where the leader is a sum of products worth packing.
    """

    name: str
    nodes: tuple[Node, ...]
    stored: tuple[Node, ...]
    strategy: Literal["contraction", "nest"]
    reason: str


@dataclass(frozen=True, eq=False)
class Schedule:
    """Kernels in execution order and the buffer of every stored node."""

    graph: Graph
    kernels: tuple[KernelPlan, ...]
    buffers: tuple[Buffer, ...]
    places: dict[Node, int]
    arena_bytes: int

    def buffer(self, node: Node) -> Buffer:
        """The buffer that holds a node."""
        return self.buffers[self.places[node]]
