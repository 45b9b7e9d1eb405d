"""A contraction as a product of matrices by tiles, for a grid of blocks: an implicit GEMM.

Nothing is copied into matrices: index maps say where the elements of a tile lie. Whichever axis
runs through an operand's memory decides which way round its tile is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from graphc.ir.equation import read_symbol
from graphc.ir.grid import GridNest, GridProduct, Multiply, Operand, ProductTile, TileSums
from graphc.ir.index import Index, axis_index
from graphc.ir.layout import row_major
from graphc.ir.loops import Assign, Declare, Loop, Statement, Store, When
from graphc.ir.scalar import Call, Condition, Inside, Load, Name, Number
from graphc.ir.types import Axis, DType, element_count
from graphc.lower.access import Access, Merged, merge_axes, substitute_conditions
from graphc.lower.contraction import factor_accesses, factor_conditions
from graphc.lower.freeze import MutableEnvironment, as_type, freeze, widened
from graphc.lower.lanes import moved_lanes
from graphc.lower.names import Namer
from graphc.lower.nest import NestPlan, Total, element_epilogue, epilogue_accesses
from graphc.lower.pooled import pooled_value
from graphc.lower.reduction import Stage
from graphc.lower.row_windows import RowWindows, finish_windows, grid_windows
from graphc.lower.teams import one_each
from graphc.lower.tile_sums import PARTIAL, sums_over_rows, tile_sums
from graphc.passes.classify import Factor, Factors
from graphc.schedule.product_tiles import choose_tile

SUMS, PLACE = "sums", "place"  # names that the epilogue may use
ROW, COLUMN, BATCH, PIECE = "row", "column", "batch_number", "piece"
SUMS_PADDING = 8  # lines of the finished tile start in different banks
_COPIES = (16, 8, 4)  # bytes of one asynchronous copy
WIDE = 1 << 31  # places from here on need 64 bits


@dataclass(frozen=True)
class Side:
    """A factor with its own axes, M or N, in the order in which its tile counts them."""

    factor: Factor
    axes: tuple[Axis, ...]
    accesses: tuple[Access, ...]


def build_product(
    plan: NestPlan, factors: Factors, places: Sequence[int], tf32: bool,
    windows: RowWindows | None = None, inside: tuple[Condition, ...] = (),
) -> GridProduct:  # fmt: skip
    """The product of the group's leader; the other stages form the epilogue.

    ``places`` are the sizes of the arrays that it touches, ``windows`` what follows the epilogue,
    ``inside`` where a result is an element, if not everywhere.
    """
    leader = plan.stages[0]
    rows, columns = product_sides(plan, leader, factors, windows)
    depth = product_depth(leader, rows, columns, plan.namer)
    multiply, factor = multiply_kind(leader, tf32)
    sides = _operands(leader, (rows, columns), depth, factor, plan.namer)
    batch = tuple(a for a in factors.batch if a.extent > 1)
    m, n, k = extent(rows.axes), extent(columns.axes), extent(depth.axes)
    tile, pieces, reason = choose_tile(
        extent(batch), m, n, k, multiply, factor, divisible=plan.total is None
    )
    wide = max([*places, extent(batch) * m * n * pieces]) >= WIDE
    out_rows, out_columns = (_merged_for_epilogue(plan, s.axes, inside) for s in (rows, columns))
    ones = merge_axes([a for a in factors.batch if a.extent == 1], (), (), plan.namer)
    merged = Merged((), ones.values | out_rows.values | out_columns.values)
    axes = (out_rows.axes, out_columns.axes)
    finish, after, dtype = None, None, leader.node.dtype.arithmetic

    def whole(step: Mapping[str, Index]) -> list[Statement]:
        moved = moved_axes(merged, step)
        found = where(inside, moved, element_epilogue(plan, moved, finished_sum(step, dtype)))
        return [*found, *kept_value(plan, windows, step)]

    def partial(step: Mapping[str, Index]) -> list[Statement]:
        return [_store_partial(step, dtype, extent(batch), m, n)]

    lanes, body = in_wide_lanes(() if inside else axes[1], dtype, plan.namer, whole)
    if windows is not None and pieces == 1:
        line = tile.columns + SUMS_PADDING
        after = grid_windows(windows, batch, rows.axes, columns.axes, SUMS, axis_index(PLACE), line)
    if pieces > 1:
        if windows is not None:
            merged, axes = Merged((), ones.values), (rows.axes, columns.axes)
        all_axes = (*batch, *axes[0], *axes[1])
        finish = pieces_in_order(plan, merged, all_axes, pieces, wide, windows, inside)
        lanes, body = in_wide_lanes((Axis(COLUMN, n),), dtype, plan.namer, partial)
        axes = ((), ())
    sums = _sums(plan.total, extent(batch), rows, columns, tile) if plan.total is not None else None
    return GridProduct(
        batch, depth.axes, sides[0], sides[1], tile, pieces, axes[0], axes[1], lanes, body, after,
        sums, finish, factor, dtype, wide, reason,
    )  # fmt: skip


def _sums(total: Total, batch: int, rows: Side, columns: Side, tile: ProductTile) -> TileSums:
    """What follows the epilogue where its values are added up: a partial sum for each tile."""
    over_rows = sums_over_rows(total, columns.axes)
    kept, over, size = (columns, rows, tile.rows) if over_rows else (rows, columns, tile.columns)
    parts = batch * -(-extent(over.axes) // size)
    return tile_sums(total, kept.axes, parts, over_rows=over_rows)


def kept_value(
    plan: NestPlan, windows: RowWindows | None, step: Mapping[str, Index]
) -> list[Statement]:
    """The value that is pooled or summed stays in the tile, instead of the sum of products."""
    if windows is not None:
        value = pooled_value(windows.pooled)
    elif plan.total is not None:
        value = widened(plan.total.value)
    else:
        return []
    return [Store(SUMS, axis_index(PLACE).substitute(step), value)]


def multiply_kind(leader: Stage, tf32: bool) -> tuple[Multiply, DType]:
    """How factors are multiplied, and their type in the tiles: 16 bits where both have them."""
    kinds = {read.dtype for read in leader.reads if isinstance(read, Access)}
    if kinds == {DType.bfloat16}:
        return "bf16", DType.bfloat16
    if kinds == {DType.float16}:
        return "f16", DType.float16
    dtype = leader.node.dtype.arithmetic
    return ("tf32" if tf32 and dtype is DType.float32 else "fma"), dtype


def product_sides(
    plan: NestPlan, leader: Stage, factors: Factors, windows: RowWindows | None
) -> tuple[Side, Side]:
    """The columns are the factor whose axes run through the result's memory; rows have windows.

    Where nothing but a sum is stored, it keeps the columns.
    """
    first, second = factors.rows, factors.columns
    first_axes, second_axes = factors.row_axes, factors.column_axes
    if windows is not None:
        turned = any(axis.name in windows.sizes for axis in second_axes)
    elif plan.stores:
        offset = plan.stores[0][1]
        turned = any(offset.coefficient(a.name) == 1 and a.extent > 1 for a in first_axes)
    else:
        turned = plan.total is not None and sums_over_rows(plan.total, first_axes)
    if turned:
        first, second, first_axes, second_axes = second, first, second_axes, first_axes
    rows, columns = _side(leader, first, first_axes), _side(leader, second, second_axes)
    if windows is None or windows.inner[0] not in rows.axes:
        return rows, columns
    return replace(rows, axes=(*windows.outer(rows.axes), *windows.inner)), columns


def _side(leader: Stage, factor: Factor, axes: tuple[Axis, ...]) -> Side:
    accesses = tuple(factor_accesses(leader, factor))
    return Side(factor, _by_stride(axes, accesses[0].offset), accesses)


def _by_stride(axes: tuple[Axis, ...], offset: Index) -> tuple[Axis, ...]:
    """Long strides first, so that the last axis runs through memory."""
    if not offset.is_affine:
        return axes
    return tuple(sorted(axes, key=lambda a: -abs(offset.coefficient(a.name))))


def product_depth(leader: Stage, rows: Side, columns: Side, namer: Namer) -> Merged:
    """The summed axes, merged; the order lets the larger copies run through memory."""
    axes = leader.equation.reduce_axes
    orders = [_by_stride(axes, side.accesses[0].offset) for side in (rows, columns)]
    reads = [read for side in (rows, columns) for read in side.accesses]
    conditions = [c for read in reads for c in read.conditions]
    for side in (rows, columns):
        conditions += factor_conditions(leader, side.factor)
    offsets = [read.offset for read in reads]
    best = max(orders, key=lambda order: _unit_extent(order, offsets))
    return merge_axes(best, offsets, conditions, namer)


def _unit_extent(order: tuple[Axis, ...], offsets: Sequence[Index]) -> int:
    """How many elements lie together along the last axis, in how many operands."""
    long = [a for a in order if a.extent > 1]
    if not long:
        return 0
    runs = sum(1 for o in offsets if o.coefficient(long[-1].name) == 1)
    return runs * long[-1].extent


def own_axes(
    leader: Stage, side: Side, namer: Namer, others: tuple[list[Index], list[Condition]] = ([], [])
) -> Merged:
    """A factor's own axes, merged where its reads, and ``others``, walk through them as one."""
    offsets = [*(a.offset for a in side.accesses), *others[0]]
    guards = factor_conditions(leader, side.factor)
    conditions = [*guards, *(c for a in side.accesses for c in a.conditions), *others[1]]
    return merge_axes(side.axes, offsets, conditions, namer)


def _operands(
    leader: Stage, sides: Sequence[Side], depth: Merged, dtype: DType, namer: Namer
) -> list[Operand]:
    return [side_operand(leader, s, own_axes(leader, s, namer), depth, dtype) for s in sides]


def side_operand(leader: Stage, side: Side, own: Merged, depth: Merged, dtype: DType) -> Operand:
    """How a factor is copied: whole vectors where memory allows, else element by element."""
    guards = factor_conditions(leader, side.factor)
    conditions = [*guards, *(c for a in side.accesses for c in a.conditions)]
    values = depth.values | own.values
    read, moved = side.accesses[0], substitute_conditions(conditions, values)
    offset = read.offset.substitute(values)
    inner = depth.axes[-1:] + own.axes[-1:]
    units = [a for a in inner if offset.coefficient(a.name) == 1]
    outer = bool(own.axes) and own.axes[-1] in units[:1]
    plain = is_plain(leader, side, dtype) and _separable(offset, moved, own.axes)
    width = _width(offset, moved, units[0] if units else None, dtype)
    environment: MutableEnvironment = {
        read_symbol(number): one.scalar(values)
        for number, one in enumerate(leader.reads)
        if isinstance(one, Access)
    }
    value = freeze(side.factor.body, environment, dtype.arithmetic)
    value = as_type(as_type(value, dtype.arithmetic), dtype)
    if guards:
        test = Inside(substitute_conditions(guards, values))
        value = Call("select", (test, value, as_type(Number(0.0, dtype.arithmetic), dtype)), dtype)
    return Operand(
        own.axes, "outer" if outer or not units else "depth", width if plain else 0, read.buffer,
        offset, moved, value,
    )  # fmt: skip


def is_plain(leader: Stage, side: Side, dtype: DType) -> bool:
    """Whether a factor is the elements of an array as they are, 0 where a condition fails."""
    symbols = {read_symbol(number) for number in range(len(leader.reads))}
    read = side.accesses[0]
    alone = len(side.accesses) == 1 and side.factor.body in symbols
    return alone and read.dtype == dtype and not read.fill


def _separable(offset: Index, conditions: Sequence[Condition], own: tuple[Axis, ...]) -> bool:
    """Whether each index is a part of the operand's own axes plus a part of the rest."""
    names = {a.name for a in own}
    return all(
        isinstance(atom, str) or atom.inner.names <= names or not atom.inner.names & names
        for index in (offset, *(c.index for c in conditions))
        for atom, _ in index.terms
    ) and all(c.divisor == 1 for c in conditions)


def _width(offset: Index, conditions: Sequence[Condition], axis: Axis | None, dtype: DType) -> int:
    """Neighbours along an axis that are one aligned copy, all of them inside or outside.

    0 where an element is smaller than any copy.
    """
    single = int(dtype.size >= _COPIES[-1])
    if axis is None:
        return single
    rest = offset + axis_index(axis.name) * -1
    apart = axis.name in rest.names or any(axis.name in c.index.names for c in conditions)
    for size in _COPIES:
        count = size // dtype.size
        numbers = (axis.extent, rest.const, *(c for _, c in rest.terms))
        if count > 1 and not apart and all(x % count == 0 for x in numbers):
            return count
    return single


def _merged_for_epilogue(
    plan: NestPlan, axes: tuple[Axis, ...], inside: Sequence[Condition]
) -> Merged:
    offsets, conditions = epilogue_accesses(plan)
    return merge_axes(axes, offsets, [*conditions, *inside], plan.namer)


def where(
    inside: Sequence[Condition], merged: Merged, statements: list[Statement]
) -> list[Statement]:
    """The statements, only where a result is an element if there are others."""
    if not inside:
        return statements
    return [When(substitute_conditions(inside, merged.values), tuple(statements))]


def moved_axes(merged: Merged, step: Mapping[str, Index]) -> Merged:
    """The axes with ``step`` in place of some of those that they became."""
    return Merged((), {**step, **{n: v.substitute(step) for n, v in merged.values.items()}})


def finished_sum(step: Mapping[str, Index], dtype: DType) -> Load:
    """The finished sum of one element."""
    return Load(SUMS, axis_index(PLACE).substitute(step), dtype)


def _store_partial(
    step: Mapping[str, Index], dtype: DType, batch: int, m: int, n: int
) -> Statement:
    """One piece's sum: partial[piece][batch][m][n]."""
    index = tuple(map(axis_index, (PIECE, BATCH, ROW, COLUMN)))
    place = row_major((1, batch, m, n)).offset(index).substitute(step)
    return Store(PARTIAL, place, finished_sum(step, dtype))


def pieces_in_order(
    plan: NestPlan, merged: Merged, axes: tuple[Axis, ...], pieces: int, wide: bool,
    windows: RowWindows | None, inside: Sequence[Condition] = (),
) -> GridNest:  # fmt: skip
    """The pieces in order, then what follows the product; a thread for each element or window."""
    dtype = plan.stages[0].node.dtype.arithmetic
    total = Name("total", dtype)
    piece = Axis(PIECE, pieces)
    shape = (pieces, *(a.extent for a in axes))
    place = row_major(shape).offset(tuple(axis_index(a.name) for a in (piece, *axes)))
    add = Assign(total.name, Call("add", (total, Load(PARTIAL, place, dtype)), dtype))
    body = (
        Declare(total.name, dtype, Number(0.0, dtype), True),
        Loop(piece, (add,), unroll=True),
        *where(inside, merged, element_epilogue(plan, merged, total)),
    )
    count, reason = extent(axes), f"the {pieces} pieces in order"
    if windows is not None:
        return finish_windows(windows, axes, body, dtype, wide, reason)
    return GridNest(axes, one_each(count), body, (), wide, reason)


def in_wide_lanes(
    columns: tuple[Axis, ...], dtype: DType, namer: Namer,
    build: Callable[[Mapping[str, Index]], list[Statement]], widest: int = 16,
) -> tuple[int, tuple[Statement, ...]]:  # fmt: skip
    """The epilogue for ``widest`` bytes of neighbouring sums along N, or less, where every access
    allows it.

    ``build`` makes the statements with some axes moved by a lane.
    """
    for count in (n // dtype.size for n in (32, 16, 8) if n <= widest):
        if count < 2 or not columns or columns[-1].extent % count:
            continue
        last = columns[-1].name
        lane = Axis(namer.axis(f"{last}_lane"), count)
        step = {name: axis_index(name) + axis_index(lane.name) for name in (last, PLACE)}
        body = moved_lanes(build(step), lane, namer, frozenset(step))
        if body is not None:
            return count, body
    return 1, tuple(build({}))


def extent(axes: Sequence[Axis]) -> int:
    """Places of axes together."""
    return element_count(tuple(a.extent for a in axes))
