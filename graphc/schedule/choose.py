"""Which algorithm computes a sliding product: the sum as it stands, or tiles (Winograd)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product as combinations
from typing import Literal

from graphc.ir.equation import Equation
from graphc.ir.graph import Node
from graphc.ir.loops import BlockSizes
from graphc.ir.tiles import TileAlgorithm
from graphc.ir.types import DType, element_count
from graphc.passes.sliding import SlidingProduct, sliding_product
from graphc.passes.toom_cook import error_bound, straight_line, tile_algorithm
from graphc.schedule.blocking import TILE_DEPTH, channel_depth

# Of a core's peak: what direct sums and products of transformed tiles reach.
_DIRECT_EFFICIENCY = 0.85
_TILE_EFFICIENCY = 0.9
_TRANSFORM_COST = 3.0  # loads, stores and moves beside each operation of a transform
_VISIT_COST = 2  # of sums that are added in memory, in multiply-adds
_ADVANTAGE = 1.15  # tiles must win by this much, for the error that they add
# Tiles of twice the points must win by 11 % (2 ** 0.15), for digits that they lose, filters that
# grow and planes far apart; by 19 % where both factors are transformed from large arrays.
_POINT_PRICE = {"positions": 0.15, "taps": 0.25}
_MAX_SIZE = 8
# Bounds on the relative error, of which numbers that are random show a quarter to a third.
MAX_ERROR = {DType.float32: 1.7e-5, DType.float64: 1e-12}
_PAIR_SPEED = 2.4  # of products of bfloat16 pairs, against those of floats


@dataclass(frozen=True)
class Choice:
    """The algorithms of the cheapest candidate, empty for the plain sum, and why."""

    algorithms: tuple[TileAlgorithm, ...]
    reason: str


def tile_type(node: Node) -> DType | None:
    """What a node's tiles would be computed in; None where its operands are of several kinds."""
    kinds = {one.dtype.arithmetic for one in (node, *node.inputs)}
    return kinds.pop() if len(kinds) == 1 else None


def stored_type(node: Node) -> DType:
    """What both operands of a node are stored as; what it is computed in where they differ."""
    stored = {operand.dtype for operand in node.inputs}
    return stored.pop() if len(stored) == 1 else node.dtype.arithmetic


def choose_tiles(
    equation: Equation, dtype: DType, block: BlockSizes, exact: bool, stored: DType,
    holds_windows: Callable[[tuple[TileAlgorithm, ...]], bool],
) -> Choice | None:  # fmt: skip
    """The best way to compute an equation that slides a window; None if it slides none.

    Costs are multiply-adds as if all ran at a core's peak. Tiles need whole vectors of channels;
    what is ``stored`` as bfloat16 is transformed in float32, while the plain sum may take it in
    pairs. Tiles that hold whole windows, of what is pooled or scattered, come before others.
    """
    form = sliding_product(equation)
    if form is None or dtype not in MAX_ERROR:
        return None
    if exact:
        return Choice((), "direct: exact sums were asked for")
    if not _whole_vectors(form, dtype, block):
        return Choice((), f"direct: channels are not whole vectors of {block.lanes(dtype)}")
    paired = block.pairs and stored is DType.bfloat16
    direct = equation.points / _DIRECT_EFFICIENCY / (_PAIR_SPEED if paired else 1)
    candidates = [
        (a, _tile_cost(form, a), tile_error(equation, a, dtype)) for a in _candidates(form)
    ]
    right = [candidate for candidate in candidates if candidate[2] <= MAX_ERROR[dtype]]
    right = [candidate for candidate in right if holds_windows(candidate[0])] or right
    price = _POINT_PRICE[form.result]
    best, cost, error = min(right or candidates, key=lambda c: c[1] * _points(c[0]) ** price)
    names = " x ".join(f"F({a.outputs},{a.taps})" for a in best)
    text = f"{names}: {cost / 1e9:.3g} G multiply-adds against {direct / 1e9:.3g} G"
    if cost * _ADVANTAGE > direct:
        return Choice((), f"direct: {text}")
    if not right:
        return Choice((), f"direct: {names} may err by {error:.1e}")
    text = f"{text}, relative error below {error:.1e}"
    return Choice(best, text + (_wide_products(form, best, dtype) if paired else ""))


def _wide_products(
    form: SlidingProduct, algorithms: tuple[TileAlgorithm, ...], dtype: DType
) -> str:
    """Why transformed tiles are not rounded to bfloat16 before they are multiplied.

    Errors grow by at least 1, so two such roundings are worse than the result's own, always.
    """
    chain, which = _chain(form, algorithms, TILE_DEPTH), _which(form)
    error = error_bound(algorithms, chain, which, dtype, DType.bfloat16)
    return f"; products in float32: bfloat16 ones might err by {error:.1e}"


def legal_tiles(
    equation: Equation, dtype: DType, block: BlockSizes
) -> tuple[tuple[TileAlgorithm, ...], ...]:
    """Every combination of tiles that computes an equation within the limit on its error."""
    form = sliding_product(equation)
    if form is None or dtype not in MAX_ERROR or not _whole_vectors(form, dtype, block):
        return ()
    found = _candidates(form)
    return tuple(a for a in found if tile_error(equation, a, dtype) <= MAX_ERROR[dtype])


def tile_error(
    equation: Equation, algorithms: tuple[TileAlgorithm, ...], dtype: DType,
    depth: int = TILE_DEPTH,
) -> float:  # fmt: skip
    """Bound on the relative error; ``depth`` tiles of a filter gradient are summed in registers."""
    form = sliding_product(equation)
    assert form is not None
    return error_bound(algorithms, _chain(form, algorithms, depth), _which(form), dtype)


def _whole_vectors(form: SlidingProduct, dtype: DType, block: BlockSizes) -> bool:
    lanes = block.lanes(dtype)
    return form.inner.extent % lanes == 0 and form.across.extent % lanes == 0


def _which(form: SlidingProduct) -> Literal["output", "filter"]:
    return "output" if form.result == "positions" else "filter"


def _chain(form: SlidingProduct, algorithms: tuple[TileAlgorithm, ...], depth: int) -> int:
    """Additions in the longest running sum: of channels or tiles in blocks, then of blocks."""
    if form.result == "positions":
        own = channel_depth(algorithms, form.inner.extent)
        return own + form.inner.extent // own - 1
    return depth + -(-_tile_count(form, algorithms) // depth)


def _tile_count(form: SlidingProduct, algorithms: tuple[TileAlgorithm, ...]) -> int:
    return element_count(tuple(a.extent for a in form.outer)) * math.prod(
        -(-w.position.extent // a.outputs) for w, a in zip(form.windows, algorithms, strict=True)
    )


def _candidates(form: SlidingProduct) -> list[tuple[TileAlgorithm, ...]]:
    """Every combination of tile sizes, the same for all dimensions of the same length and taps."""
    choices = []
    for window in form.windows:
        taps = window.tap.extent
        largest = min(_MAX_SIZE - taps + 1, window.position.extent)
        choices.append([tile_algorithm(m, taps) for m in range(2, max(2, largest) + 1)])
    return list(combinations(*choices))


def _tile_cost(form: SlidingProduct, algorithms: tuple[TileAlgorithm, ...]) -> float:
    """Multiply-adds of the products and operations of the transforms."""
    points = _points(algorithms)
    tiles = _tile_count(form, algorithms)
    inner, across = form.inner.extent, form.across.extent
    products = tiles * points * inner * across
    if form.result == "positions" and (depth := channel_depth(algorithms, inner)) < inner:
        products += _VISIT_COST * products // depth
    patches = tiles * (inner * _operations(algorithms, "input") + across * _operations(
        algorithms, "output"))  # fmt: skip
    filters = inner * across * _operations(algorithms, "filter")
    return products / _TILE_EFFICIENCY + _TRANSFORM_COST * (patches + filters)


def _points(algorithms: tuple[TileAlgorithm, ...]) -> int:
    return math.prod(a.size for a in algorithms)


def _operations(algorithms: tuple[TileAlgorithm, ...], which: str) -> float:
    """Operations of one transform in all dimensions, one after the other."""
    total = 0.0
    for one in algorithms:
        matrix = getattr(one, which)
        others = _points(algorithms) / one.size
        total += straight_line(matrix).operations * others + len(matrix) * others
    return total
