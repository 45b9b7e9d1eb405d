"""A sliding product by tiles (Winograd): patches, their transforms, and the epilogue of a tile."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import graphc.ir.index as ix
from graphc.ir.blocks import TileBlocks
from graphc.ir.equation import Guard, Read
from graphc.ir.index import Index
from graphc.ir.layout import row_major
from graphc.ir.loops import (
    Assign,
    BlockSizes,
    ColumnSums,
    Declare,
    Patch,
    Statement,
    Store,
    TileProduct,
    TileWindows,
)
from graphc.ir.scalar import Condition, Load, Name
from graphc.ir.tiles import LinearProgram, Matrix, TileAlgorithm
from graphc.ir.types import Axis, DType, element_count
from graphc.lower.access import Access, Merged, access, guard_conditions, merge_axes
from graphc.lower.freeze import as_type
from graphc.lower.group import Group
from graphc.lower.names import Namer
from graphc.lower.nest import make_stage, map_statement
from graphc.lower.pooled import bytes_apart, pooled_statements, pooled_value
from graphc.lower.reduction import Stage, stage_accesses
from graphc.lower.scatters import scattered_patch
from graphc.lower.split import recast
from graphc.lower.streams import stream_lines
from graphc.passes.sliding import SlidingProduct, Window
from graphc.passes.sums import ArraySum
from graphc.passes.toom_cook import straight_line, transposed
from graphc.passes.windows import window_sizes
from graphc.schedule.blocking import (
    STREAMED_BYTES,
    channel_depth,
    position_blocks,
    tap_blocks,
)

RESULTS = "results"  # a finished tile: positions, lanes


@dataclass(frozen=True)
class _Tiling:
    """The axes of the tiles: which tile, and which position in a tile, a patch, a filter."""

    form: SlidingProduct
    algorithms: tuple[TileAlgorithm, ...]
    tile: tuple[Axis, ...]
    position: tuple[Axis, ...]
    patch: tuple[Axis, ...]
    tap: tuple[Axis, ...]

    @property
    def tiles(self) -> tuple[Axis, ...]:
        return (*self.form.outer, *self.tile)

    @property
    def count(self) -> int:
        return element_count(tuple(a.extent for a in self.tiles))

    def place(self, number: int) -> Index:
        """The first position of the tile along one dimension."""
        return ix.axis_index(self.tile[number].name) * self.algorithms[number].outputs


def build_tiles(
    group: Group, form: SlidingProduct, algorithms: tuple[TileAlgorithm, ...],
    blocks: TileBlocks | None, block: BlockSizes,
) -> TileProduct:  # fmt: skip
    """The tiled product of the group's leader; the other nodes form the epilogue."""
    tiling = _tiling(form, algorithms, group.namer)
    lanes = block.lanes(group.nodes[0].dtype.arithmetic)
    if form.result == "positions":
        return _positions(group, tiling, lanes, blocks, block)
    return _taps(group, tiling, lanes, blocks, block)


def _tiling(form: SlidingProduct, algorithms: tuple[TileAlgorithm, ...], namer: Namer) -> _Tiling:
    pairs = list(zip(form.windows, algorithms, strict=True))

    def axes(suffix: str, extents: Sequence[int]) -> tuple[Axis, ...]:
        return tuple(
            Axis(namer.axis(f"{w.position.name}_{suffix}"), extent)
            for w, extent in zip(form.windows, extents, strict=True)
        )

    return _Tiling(
        form, algorithms,
        axes("tile", [-(-w.position.extent // a.outputs) for w, a in pairs]),
        axes("in_tile", [a.outputs for _, a in pairs]),
        axes("patch", [a.size for _, a in pairs]),
        axes("tap", [a.taps for _, a in pairs]),
    )  # fmt: skip


def _positions(
    group: Group, tiling: _Tiling, lanes: int, blocks: TileBlocks | None, block: BlockSizes
) -> TileProduct:
    """Sum over channels and taps: tiles of the sliding operand times transformed filters."""
    form, namer = tiling.form, group.namer
    channel_block, channel_lane, _ = _cut(form.inner, lanes, namer)
    column, column_lane, column_index = _cut(form.across, lanes, namer)
    channel = Axis(namer.axis(form.inner.name + "_channel"), form.inner.extent)
    inner = ix.axis_index(channel_block.name) * lanes + ix.axis_index(channel_lane.name)
    right = _sliding_patch(group, tiling, form.inner.name, inner, channel_block, channel_lane)
    left = _filter_patch(
        group, tiling,
        {form.inner.name: ix.axis_index(channel.name), form.across.name: column_index},
        (channel, column), column_lane,
    )  # fmt: skip
    values = {form.across.name: column_index}
    for number, window in enumerate(form.windows):
        inside = ix.axis_index(tiling.position[number].name)
        values[window.position.name] = tiling.place(number) + inside
    axes = (*tiling.tiles, column, *tiling.position, column_lane)
    merged, statements = _epilogue(group, axes, values, ())
    assert not merged.axes
    statements += _left_behind(group, (*tiling.position, column_lane))
    streamed = {a.name for a in group.arrays.values() if a.streamed}
    epilogue, lines = stream_lines(statements, column_lane, streamed, namer)
    points = math.prod(a.size for a in tiling.algorithms)
    dtype = group.nodes[0].dtype.arithmetic
    filter_bytes = points * form.inner.extent * form.across.extent * dtype.size
    return TileProduct(
        "positions", tiling.tiles, tuple(w.position.extent for w in form.windows),
        column, channel_block, channel, left, right,
        _programs(a.output for a in tiling.algorithms),
        tiling.position, column_lane, (*tiling.position, column_lane), tuple(epilogue), lines,
        filter_bytes > STREAMED_BYTES,
        blocks
        or position_blocks(
            tiling.count, points, form.inner.extent, form.across.extent,
            channel_depth(tiling.algorithms, form.inner.extent), dtype, block,
        ),
        dtype, _note(tiling),
        _windows(group, group.pooled, tiling, (column, column_lane), values)
        if group.pooled is not None else None,
        _column_sums(group, group.summed, values) if group.summed is not None else None,
    )  # fmt: skip


def _left_behind(group: Group, tile: Sequence[Axis]) -> list[Statement]:
    """What stands in ``results`` instead of the sum, where windows or columns are reduced."""
    if group.pooled is not None:
        value = pooled_value(group.pooled)
    elif group.summed is not None:
        array = group.summed.array
        value = Name(group.values[array], array.dtype)
    else:
        return []
    place = row_major(tuple(a.extent for a in tile)).offset(_indexes(tile))
    return [Assign(RESULTS, value, place)]


def _column_sums(group: Group, summed: ArraySum, values: Mapping[str, Index]) -> ColumnSums:
    """Where the sums that keep the axis of the columns are stored."""
    node = summed.nodes[-1]
    array = group.arrays[node]
    zero = {a.name: ix.constant(0) for a in group.outputs if a.extent == 1}
    kept = [
        ix.axis_index(group.outputs[d].name).substitute({**zero, **values}) for d in summed.kept
    ]
    total = as_type(Name("sum", DType.float64), node.dtype)
    return ColumnSums(Store(array.name, array.layout.offset(tuple(kept)), total))


def _indexes(axes: Sequence[Axis]) -> tuple[Index, ...]:
    return tuple(ix.axis_index(axis.name) for axis in axes)


def _windows(
    group: Group, pooled: Group, tiling: _Tiling, columns: tuple[Axis, Axis],
    values: Mapping[str, Index],
) -> TileWindows:  # fmt: skip
    """The nodes over windows of a finished tile, whose values lie in ``results``."""
    lane = columns[1]
    names = [axis.name for axis in group.outputs]
    windowed = [names.index(window.position.name) for window in tiling.form.windows]
    sizes = window_sizes(pooled.nodes[0].op_equation())
    assert sizes is not None
    moved = {
        new.name: ix.axis_index(old.name).substitute(values)
        for new, old in zip(pooled.outputs, group.outputs, strict=True)
    }
    axes = []
    for number, dimension in enumerate(windowed):
        own, outputs = pooled.outputs[dimension], tiling.position[number].extent
        inside = Axis(group.namer.axis(f"{own.name}_in_tile"), outputs // sizes[dimension])
        first = ix.axis_index(tiling.tile[number].name) * inside.extent
        moved[own.name] = first + ix.axis_index(inside.name)
        axes.append(inside)
    layout = row_major(tuple(a.extent for a in (*tiling.position, lane)))

    def element(index: tuple[Index, ...]) -> Index:
        inside = (index[d] - tiling.place(number) for number, d in enumerate(windowed))
        return layout.offset((*inside, ix.axis_index(lane.name)))

    everything = (*tiling.tiles, columns[0], *axes, lane)
    statements = pooled_statements(pooled, everything, moved, RESULTS, element)
    streamed = {a.name for a in pooled.arrays.values() if a.streamed}
    kept, lines = stream_lines(statements, lane, streamed, group.namer)
    kept, arrays, narrow = bytes_apart(kept, lane, group.namer)
    return TileWindows(
        tuple(axes), tuple(pooled.outputs[d].extent for d in windowed), tuple(kept),
        (*(line.array for line in lines), *arrays), (*lines, *narrow),
    )  # fmt: skip


def _taps(
    group: Group, tiling: _Tiling, lanes: int, blocks: TileBlocks | None, block: BlockSizes
) -> TileProduct:
    """Sum over positions: tiles of both operands, their products summed over all tiles."""
    form, namer = tiling.form, group.namer
    inner_block, inner_lane, inner_index = _cut(form.inner, lanes, namer)
    across_block, across_lane, across_index = _cut(form.across, lanes, namer)
    sliding = _sliding_patch(group, tiling, form.inner.name, inner_index, inner_block, inner_lane)
    still = _position_patch(group, tiling, across_index, across_block, across_lane)
    if _step(group, form.inner) <= _step(group, form.across):
        columns, lane, rows, index = inner_block, inner_lane, form.across, inner_index
        right, left, row_block = sliding, still, across_block
        values = {form.inner.name: index}
    else:
        columns, lane, rows, index = across_block, across_lane, form.inner, across_index
        right, left, row_block = still, sliding, inner_block
        values = {form.across.name: index}
    taps, dtype = tiling.tap, group.nodes[0].dtype.arithmetic
    for window, tap in zip(form.windows, taps, strict=True):
        values[window.tap.name] = _tap_index(window, tap)
    merged, statements = _epilogue(group, (rows, columns, lane, *taps), values, (lane, *taps))
    return TileProduct(
        "taps", tiling.tiles, tuple(w.position.extent for w in form.windows),
        columns, rows, row_block, left, right,
        _programs(transposed(a.filter) for a in tiling.algorithms),
        taps, lane, merged.axes, tuple(statements), (), False,
        blocks or tap_blocks(tiling.count, rows.extent, columns.extent, dtype, block),
        dtype, _note(tiling),
    )  # fmt: skip


def _cut(axis: Axis, lanes: int, namer: Namer) -> tuple[Axis, Axis, Index]:
    """Block axis, lane axis, and the axis in terms of both."""
    outer = Axis(namer.axis(f"{axis.name}_block"), axis.extent // lanes)
    lane = Axis(namer.axis(f"{axis.name}_lane"), lanes)
    return outer, lane, ix.axis_index(outer.name) * lanes + ix.axis_index(lane.name)


def _step(group: Group, axis: Axis) -> int:
    """Elements between neighbours along an axis of the result."""
    node = group.stored[-1]
    equation = group.equations[node]
    index = tuple(ix.axis_index(a.name) for a in equation.axes)
    return group.arrays[node].layout.offset(index).coefficient(axis.name)


def _programs(matrices: Iterable[Matrix]) -> tuple[LinearProgram, ...]:
    return tuple(straight_line(matrix) for matrix in matrices)


def _sliding_patch(
    group: Group, tiling: _Tiling, name: str, index: Index, channel: Axis, lane: Axis
) -> Patch:
    form = tiling.form
    values: dict[int, Index] = {}
    for number, window in enumerate(form.windows):
        place = tiling.place(number) + ix.axis_index(tiling.patch[number].name)
        values[window.dimension] = place + window.shift
    return _patch(
        group, form.sliding, {name: index}, values, _programs(a.input for a in tiling.algorithms),
        tiling.patch, lane, (*tiling.tiles, channel),
    )  # fmt: skip


def _position_patch(
    group: Group, tiling: _Tiling, index: Index, channel: Axis, lane: Axis
) -> Patch:
    form = tiling.form
    names = {form.across.name: index}
    for number, window in enumerate(form.windows):
        inside = ix.axis_index(tiling.position[number].name)
        names[window.position.name] = tiling.place(number) + inside
    return _patch(
        group, form.other, names, {},
        _programs(transposed(a.output) for a in tiling.algorithms),
        tiling.position, lane, (*tiling.tiles, channel),
    )  # fmt: skip


def _filter_patch(
    group: Group, tiling: _Tiling, names: dict[str, Index], scalars: tuple[Axis, ...], lane: Axis
) -> Patch:
    for window, tap in zip(tiling.form.windows, tiling.tap, strict=True):
        names[window.tap.name] = _tap_index(window, tap)
    return _patch(
        group, tiling.form.other, names, {},
        _programs(a.filter for a in tiling.algorithms), tiling.tap, lane, scalars,
    )  # fmt: skip


def _tap_index(window: Window, tap: Axis) -> Index:
    index = ix.axis_index(tap.name)
    return window.tap.extent - 1 - index if window.reversed else index


def _patch(
    group: Group, number: int, names: Mapping[str, Index], dimensions: Mapping[int, Index],
    transform: tuple[LinearProgram, ...], positions: tuple[Axis, ...], lane: Axis,
    scalars: Sequence[Axis],
) -> Patch:  # fmt: skip
    """The patch that a read of the leader sees; beyond the operand it is 0."""
    leader = group.nodes[0]
    read = group.equations[leader].reads[number]
    operand = leader.inputs[read.operand]
    index = tuple(dimensions.get(d, one.substitute(names)) for d, one in enumerate(read.index))
    extents = {a.name: a.extent for a in (*scalars, *positions, lane)}
    if operand in group.scattered:
        scatter = group.scattered[operand]
        return scattered_patch(group, scatter, index, transform, positions, lane, extents)
    array = group.arrays[operand]
    found = access(Read(read.operand, index, 0.0), array.layout, array.name, operand.dtype, extents)
    start = {a.name: ix.constant(0) for a in (*positions, lane)}
    end = {a.name: ix.constant(a.extent - 1) for a in positions}
    inside: list[Condition] = []
    for one, extent in zip(index, operand.shape, strict=True):
        inside += guard_conditions(Guard(one.substitute(start), 0), extents)
        inside += guard_conditions(Guard(one.substitute(end), None, extent), extents)
    first, steps = _vectors(found, positions, lane, start)
    return Patch(transform, positions, lane, found.stored({}), tuple(inside), first, steps)


def _vectors(
    found: Access, positions: Sequence[Axis], lane: Axis, start: Mapping[str, Index]
) -> tuple[Load | None, tuple[int, ...]]:
    moving = {a.name for a in (*positions, lane)}
    bent = any(not isinstance(a, str) and a.inner.names & moving for a, _ in found.offset.terms)
    if bent or found.offset.coefficient(lane.name) != 1:
        return None, ()
    first = Load(found.buffer, found.offset.substitute(start), found.dtype)
    return first, tuple(found.offset.coefficient(a.name) for a in positions)


def _epilogue(
    group: Group, axes: tuple[Axis, ...], values: Mapping[str, Index], merging: Sequence[Axis]
) -> tuple[Merged, list[Statement]]:
    """Statements of the followers and the stores; ``merging`` axes merge where arrays let them."""
    leader, *followers = group.nodes
    extents = {a.name: a.extent for a in axes}
    computed = {leader: group.values[leader]}
    stages: list[Stage] = []
    for node in followers:
        equation = recast(group.equations[node], axes, (), values)
        stages.append(make_stage(node, equation, group.values[node], computed, group.arrays))
        computed[node] = group.values[node]
    stores = []
    for node in group.stored:
        index = tuple(ix.axis_index(a.name).substitute(values) for a in group.equations[node].axes)
        offset = group.arrays[node].layout.offset(index).simplify(extents)
        stores.append((group.arrays[node].name, offset, computed[node], node.dtype))
    offsets, conditions = stage_accesses(stages)
    offsets += [offset for _, offset, _, _ in stores]
    merged = merge_axes(merging, offsets, conditions, group.namer)
    total = as_type(Name("sum", leader.dtype.arithmetic), leader.dtype)
    statements: list[Statement] = [Declare(group.values[leader], leader.dtype, total)]
    statements += [map_statement(stage, merged) for stage in stages]
    statements += [
        Store(buffer, offset.substitute(merged.values), Name(value, kind))
        for buffer, offset, value, kind in stores
    ]
    return merged, statements


def _note(tiling: _Tiling) -> tuple[str, ...]:
    """What the transforms are, for readers of the source."""
    names = " x ".join(f"F({a.outputs},{a.taps})" for a in tiling.algorithms)
    points = ", ".join("infinity" if p is None else str(p) for p in tiling.algorithms[0].points)
    return (f"Tiles {names}, interpolated at {points}",)
