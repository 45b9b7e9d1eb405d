"""How each sum of products is computed, and what of its results it can reduce itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from graphc.ir.graph import Graph, Node, users
from graphc.ir.loops import BlockSizes
from graphc.ir.tiles import TileAlgorithm
from graphc.ir.types import Axis, DType, element_count
from graphc.passes.classify import Factors, contraction_factors
from graphc.passes.scatters import window_scatter
from graphc.passes.sliding import sliding_product
from graphc.passes.sums import ArraySum
from graphc.passes.windows import window_sizes
from graphc.schedule.choose import Choice, choose_tiles, stored_type, tile_type
from graphc.schedule.product_tiles import MOST_BATCHES, ROWS
from graphc.schedule.scatters import scatter_fits

LONG_SUM = 1 << 21  # elements; fewer are soon read again, and leave blocks idle if not in pieces


@dataclass
class Products:
    """The choices of one schedule; ``block`` is None for a device."""

    graph: Graph
    block: BlockSizes | None
    exact: bool
    choices: dict[Node, Choice | None] = field(default_factory=dict)

    @cached_property
    def _users(self) -> dict[Node, list[Node]]:
        return users(self.graph.nodes)

    def choice(self, leader: Node) -> Choice | None:
        """Tiles or the plain sum, where a window slides."""
        if leader not in self.choices:
            dtype = tile_type(leader)
            found = None
            if self.block is not None and dtype is not None:
                equation = leader.op_equation()
                found = choose_tiles(
                    equation, dtype, self.block, self.exact, stored_type(leader),
                    self._window_check(leader),
                )  # fmt: skip
            self.choices[leader] = found
        return self.choices[leader]

    def _window_check(self, leader: Node) -> Callable[[Sequence[TileAlgorithm]], bool]:
        """Whether tiles cut no window of their results' pools, or of scatters that they read."""
        pools = tuple(self._pools(leader))
        scatters = [o for o in leader.inputs if window_scatter(o) is not None]

        def check(algorithms: Sequence[TileAlgorithm]) -> bool:
            cut = any(tile_refusal(leader, algorithms, pool) for pool in pools)
            return not cut and all(scatter_fits(leader, o, o, algorithms) for o in scatters)

        return check

    def _pools(self, leader: Node) -> Iterator[Node]:
        """Reductions over windows of a leader's results, or of maps of them."""
        maps = [leader]
        for node in maps:
            for user in self._users[node]:
                equation = user.equation
                if equation is None or user in maps:
                    continue
                if window_sizes(equation) is not None:
                    yield user
                elif equation.is_map and user.shape == leader.shape:
                    maps.append(user)

    def refusal(self, leader: Node, what: Node | ArraySum) -> str | None:
        """Why windows of a product's results are not reduced in its kernel, a sum not begun or a
        scatter not made there; None if they are.

        Where it is possible it always pays: the results are at hand, and need not be stored for
        it.
        """
        factors = product_factors(leader)
        if factors is None:
            return "it is no product"
        choice = self.choice(leader)
        if isinstance(what, ArraySum):
            if self.block is None:
                return sum_refusal(leader, factors, what)
            return column_refusal(leader, choice.algorithms if choice else (), what)
        if what.op_equation().is_map:
            on_device = self.block is None
            return scatter_refusal(leader, factors, what) if on_device else "its readers do that"
        if self.block is None:
            return row_refusal(leader, factors, what)
        if choice is None or not choice.algorithms:
            return "plain sums are finished row by row"
        return tile_refusal(leader, choice.algorithms, what)


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


def row_refusal(leader: Node, factors: Factors, pool: Node) -> str | None:
    """What windows do that neighbouring rows of a device's tiles cannot hold."""
    sizes = window_sizes(pool.op_equation()) or ()
    axes = leader.op_equation().axes
    long = [(axis, size) for axis, size in zip(axes, sizes, strict=True) if size > 1]
    if not _is_tiled(leader, factors):
        return "it is no product of tiles"
    if not any({a for a, _ in long} <= set(own) for own in (factors.row_axes, factors.column_axes)):
        return "windows do not lie within one factor"
    for axis, size in long:
        if axis.extent % size:
            return f"windows of {size} leave some of {axis.name} over"
    count = math.prod(sizes)
    return f"windows of {count} do not divide tiles of {ROWS} rows" if ROWS % count else None


def column_refusal(
    leader: Node, algorithms: Sequence[TileAlgorithm], total: ArraySum
) -> str | None:
    """Why a sum of a product's results is not begun in its transformed tiles."""
    form = sliding_product(leader.op_equation())
    if not algorithms or form is None or form.result != "positions":
        return "its tiles do not run along positions"
    if {node.dtype for node in (leader, total.array)} != {leader.dtype.arithmetic}:
        return "it adds up rounded numbers"
    axes = leader.op_equation().axes
    kept = {axes[d].name for d in total.kept if axes[d].extent > 1}
    return None if kept == {form.across.name} else "it keeps other axes than that of the columns"


def sum_refusal(leader: Node, factors: Factors, total: ArraySum) -> str | None:
    """Why a sum of a product's results is not begun in a device's tiles."""
    if not _is_tiled(leader, factors) or leader.dtype is DType.float64:
        return "it is no product of tiles of float32 sums"
    axes = leader.op_equation().axes
    kept = {axes[d] for d in total.kept if axes[d].extent > 1}
    sides = ({a for a in own if a.extent > 1} for own in (factors.row_axes, factors.column_axes))
    if kept not in sides:
        return "it keeps other axes than those of one factor"
    size = element_count(leader.shape)
    return f"{size} elements are soon read again" if size < LONG_SUM else None


def scatter_refusal(leader: Node, factors: Factors, scatter: Node) -> str | None:
    """Why a kernel does not put a product's results at the places of windows itself."""
    found = window_scatter(scatter)
    if found is None or not _is_tiled(leader, factors):
        return "it is no product of tiles"
    sizes = window_sizes(found[0].op_equation())
    covered = [n * size for n, size in zip(leader.shape, sizes or (), strict=False)]
    return "windows leave some of it over" if tuple(covered) != scatter.shape else None


def _is_tiled(leader: Node, factors: Factors) -> bool:
    return leader.dtype.is_float and _count(factors.batch) <= MOST_BATCHES


def _count(axes: Sequence[Axis]) -> int:
    return element_count(tuple(axis.extent for axis in axes))
