"""How each sum of products is computed, and which windows of its results it can reduce itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from graphc.ir.graph import Node
from graphc.ir.loops import BlockSizes
from graphc.ir.tiles import TileAlgorithm
from graphc.ir.types import DType
from graphc.passes.classify import Factors, contraction_factors
from graphc.passes.sliding import sliding_product
from graphc.passes.windows import window_sizes
from graphc.schedule.choose import Choice, choose_tiles, stored_type, tile_type


@dataclass
class Products:
    """The choices of one schedule; ``block`` is None for a device."""

    block: BlockSizes | None
    exact: bool
    choices: dict[Node, Choice | None] = field(default_factory=dict)

    def choice(self, leader: Node) -> Choice | None:
        """Tiles or the plain sum, where a window slides."""
        if leader not in self.choices:
            dtype = tile_type(leader)
            found = None
            if self.block is not None and dtype is not None:
                equation = leader.op_equation()
                found = choose_tiles(equation, dtype, self.block, self.exact, stored_type(leader))
            self.choices[leader] = found
        return self.choices[leader]

    def refusal(self, leader: Node, pool: Node) -> str | None:
        """Why windows of a product's results are not reduced in its kernel; None if they are.

        Where it is possible it always pays: the results are at hand, and need not be stored for
        it.
        """
        if product_factors(leader) is None:
            return "it is no product of tiles"
        choice = self.choice(leader)
        if self.block is None:
            return "tiles of a device are rows of any windows"
        if choice is None or not choice.algorithms:
            return "plain sums are finished row by row"
        return tile_refusal(leader, choice.algorithms, pool)


def product_factors(leader: Node) -> Factors | None:
    """The factors of a leader that is computed as a product."""
    return contraction_factors(leader.op_equation()) if leader.dtype is not DType.boolean else None


def tile_refusal(leader: Node, algorithms: Sequence[TileAlgorithm], pool: Node) -> str | None:
    """What windows do that tiles of positions cannot: cross them."""
    equation = leader.op_equation()
    form, sizes = sliding_product(equation), window_sizes(pool.op_equation())
    if form is None or sizes is None or form.result != "positions":
        return "its tiles do not run along positions"
    outputs = {w.position.name: a.outputs for w, a in zip(form.windows, algorithms, strict=True)}
    for axis, size in zip(equation.axes, sizes, strict=True):
        if outputs.get(axis.name, 1) % size:
            return f"windows of {size} cross tiles of {outputs.get(axis.name, 1)} along {axis.name}"
    return None
