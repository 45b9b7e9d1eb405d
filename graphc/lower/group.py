"""The nodes of a kernel as lowering takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from graphc.ir.equation import Equation
from graphc.ir.graph import Node
from graphc.ir.index import Index
from graphc.ir.types import Axis
from graphc.lower.names import Namer
from graphc.lower.nest import Array
from graphc.lower.places import Place
from graphc.passes.sums import ArraySum


@dataclass(frozen=True)
class Group:
    """The nodes of a kernel with their equations over common axes, and the arrays they touch.

    ``outputs`` are the axes of the result; ``places`` gives those that were replaced by others.
    ``pooled`` holds the nodes over windows of a value of these nodes, ``summed`` is a sum of one of
    them, ``placed`` are the places to which scatters put one, ``scattered`` the maps of operands
    that lie in no array.
    """

    nodes: tuple[Node, ...]
    equations: Mapping[Node, Equation]
    values: Mapping[Node, str]
    arrays: Mapping[Node, Array]
    stored: tuple[Node, ...]
    namer: Namer
    outputs: tuple[Axis, ...]
    places: Mapping[str, Index] = field(default_factory=dict)
    pooled: Group | None = None
    summed: ArraySum | None = None
    placed: tuple[Place, ...] = ()
    scattered: Mapping[Node, Node] = field(default_factory=dict)
