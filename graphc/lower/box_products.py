"""A contraction of 16-bit factors whose index maps a copy engine can follow: boxes of tensors come
into shared memory by themselves, and four warps at a time multiply them there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from graphc.ir.boxes import (
    FINISHED_COLUMNS,
    GROUP_ROWS,
    BoxOperand,
    BoxProduct,
    BoxWindows,
    Dimension,
    GroupTile,
    Span,
    first_long,
)
from graphc.ir.grid import TileSums
from graphc.ir.index import Index, axis_index
from graphc.ir.layout import row_major
from graphc.ir.loops import Statement, Store
from graphc.ir.scalar import Condition
from graphc.ir.types import Axis, DType
from graphc.lower.access import Merged, merge_axes
from graphc.lower.boxes import Tensor, covered, depth_patch, find_tensor, own_patch
from graphc.lower.names import Namer
from graphc.lower.nest import NestPlan, element_epilogue, epilogue_accesses
from graphc.lower.pooled import pooled_statements
from graphc.lower.products import (
    BATCH,
    PIECE,
    PLACE,
    SUMS,
    WIDE,
    extent,
    finished_sum,
    in_wide_lanes,
    is_plain,
    kept_value,
    moved_axes,
    multiply_kind,
    own_axes,
    pieces_in_order,
    product_depth,
    product_sides,
    side_operand,
)
from graphc.lower.row_windows import RowWindows
from graphc.lower.tile_sums import PARTIAL, sums_over_rows, tile_sums
from graphc.passes.classify import Factors
from graphc.schedule.box_tiles import DEPTH, SUMS_LINE, TILE_SIZES, TileCounts, choose_box_tile

MOST_WASTE = 2.0  # products that are computed for each that is wanted
Patch = tuple[int, ...]


@dataclass(frozen=True)
class _Boxes:
    """Both factors as tensors, and what a step takes of the depth."""

    batch: tuple[Axis, ...]
    rows: Tensor
    columns: Tensor
    merged: Merged
    depth: tuple[Axis, ...]
    step: Patch
    factor: DType


def build_box_product(
    plan: NestPlan, factors: Factors, places: Sequence[int], windows: RowWindows | None
) -> BoxProduct | str:
    """The product of the group's leader, the other stages being its epilogue; or why not so."""
    boxes = _find_boxes(plan, factors, windows)
    if isinstance(boxes, str):
        return boxes
    reduced = windows.sizes if windows is not None else {}
    row_patches = _patches(boxes.rows, {s.rows for s in TILE_SIZES}, boxes.factor, reduced)
    column_patches = _patches(boxes.columns, {s.columns for s in TILE_SIZES}, boxes.factor, {})
    row_axes, column_axes = boxes.rows.operand.axes, boxes.columns.operand.axes
    batch, m, n = extent(boxes.batch), extent(row_axes), extent(column_axes)
    total = covered(boxes.depth, boxes.step) // DEPTH
    halved = {size for size, patch in column_patches.items() if _in_halves(boxes.columns, patch)}
    counts = TileCounts(
        batch, _tiles(row_axes, row_patches), _tiles(column_axes, column_patches), halved, total,
        windows is None and plan.total is None,
    )  # fmt: skip
    if not any(map(counts.fits, TILE_SIZES)):
        return "no patch of its axes fills a tile"
    tile, pieces, reason = choose_box_tile(TILE_SIZES, counts)
    patches = row_patches[tile.rows], column_patches[tile.columns]
    waste = _waste(boxes, patches)
    if waste > MOST_WASTE:
        return f"its tiles would compute {waste:.1f} products for each that is wanted"
    depth = tuple(Span(a, size, a.name) for a, size in zip(boxes.depth, boxes.step, strict=True))
    rows = _box_operand(boxes.rows, patches[0], depth, 1, plan.namer)
    columns = _box_operand(boxes.columns, patches[1], depth, tile.cluster, plan.namer)
    wide = max([*places, batch * m * n * pieces]) >= WIDE
    lanes, body = _epilogue(plan, boxes, pieces, columns.spans[-1].size, windows)
    after = _windows(boxes, rows.spans, windows) if windows is not None else None
    sums = _sums(plan, boxes, rows, columns, tile) if plan.total is not None else None
    finish, dtype = None, plan.stages[0].node.dtype.arithmetic
    if pieces > 1:
        axes = (*boxes.batch, *row_axes, *column_axes)
        finish = pieces_in_order(plan, boxes.merged, axes, pieces, wide, None)
    return BoxProduct(
        boxes.batch, depth, rows, columns, tile, pieces, -(-total // pieces), lanes, body, after,
        sums, finish, boxes.factor, dtype, wide,
        f"batch {batch}, M {m}, N {n}, K {extent(boxes.depth)} {reason}",
    )  # fmt: skip


def _find_boxes(plan: NestPlan, factors: Factors, windows: RowWindows | None) -> _Boxes | str:
    """The factors as tensors, or why there are none."""
    leader = plan.stages[0]
    _, factor = multiply_kind(leader, False)
    if not factor.is_half:
        return "its factors do not have 16 bits"
    batch = tuple(a for a in factors.batch if a.extent > 1)
    sides = product_sides(plan, leader, factors, windows)
    depth = product_depth(leader, *sides, plan.namer)
    offsets, conditions = epilogue_accesses(plan)
    if windows is not None:  # their axes stay apart
        conditions += [Condition(axis_index(name), 0, None) for name in windows.sizes]
    own = [own_axes(leader, side, plan.namer, (offsets, conditions)) for side in sides]
    tensors: list[Tensor] = []
    for side, axes in zip(sides, own, strict=True):
        if not is_plain(leader, side, factor):
            return "a factor is computed on the way"
        operand = side_operand(leader, side, axes, depth, factor)
        tensor = find_tensor(operand, batch, depth.axes, factor)
        if isinstance(tensor, str):
            return tensor
        tensors.append(tensor)
    step = depth_patch(depth.axes, tensors[0], tensors[1], DEPTH)
    if step is None:
        return "no patch of its depth can be copied for both factors"
    ones = merge_axes([a for a in factors.batch if a.extent == 1], (), (), plan.namer)
    merged = Merged((), ones.values | own[0].values | own[1].values)
    return _Boxes(batch, tensors[0], tensors[1], merged, depth.axes, step, factor)


def _patches(
    tensor: Tensor, sizes: set[int], factor: DType, windows: Mapping[str, int]
) -> dict[int, Patch]:
    found = {size: own_patch(tensor, size, factor, windows) for size in sizes}
    return {size: patch for size, patch in found.items() if patch is not None}


def _tiles(axes: Sequence[Axis], patches: Mapping[int, Patch]) -> dict[int, int]:
    return {size: covered(axes, patch) // size for size, patch in patches.items()}


def _waste(boxes: _Boxes, patches: tuple[Patch, Patch]) -> float:
    """How many products tiles compute, overhanging ones too, for each that is wanted."""
    sides = (
        (boxes.rows.operand.axes, patches[0]), (boxes.columns.operand.axes, patches[1]),
        (boxes.depth, boxes.step),
    )  # fmt: skip
    waste = 1.0
    for axes, patch in sides:
        waste *= covered(axes, patch) / extent(axes)
    return waste


def _in_halves(tensor: Tensor, patch: Patch) -> bool:
    """Whether two blocks can bring a half of a tile each, in whole lines."""
    axis, size = next((a, n) for a, n in zip(tensor.operand.axes, patch, strict=True) if n > 1)
    return size % (2 * DEPTH if axis == tensor.inner else 2) == 0


def _box_operand(
    tensor: Tensor, patch: Patch, depth: Sequence[Span], parts: int, namer: Namer
) -> BoxOperand:
    """The boxes of a factor: along the depth all of a part is one, else each of its lines is."""
    operand = tensor.operand
    spans = tuple(
        Span(axis, size, namer.name(f"first_{axis.name}"))
        for axis, size in zip(operand.axes, patch, strict=True)
    )
    outer, cut = tensor.inner in operand.axes, first_long(spans)
    boxed = {span.axis.name: span.size for span in (depth if outer else (*depth, *spans))}
    if not outer:
        boxed[cut.axis.name] //= parts
    boxed[tensor.inner.name] = DEPTH
    first = {span.axis.name: axis_index(span.first) for span in spans}
    dimensions = [
        Dimension(
            d.extent, d.stride, d.index.substitute(first),
            max([boxed.get(name, 1) for name in d.index.names], default=1),
        )
        for d in tensor.dimensions
    ]  # fmt: skip
    return BoxOperand(
        spans, "outer" if outer else "depth", operand.buffer, tensor.offset,
        namer.name(f"{operand.buffer}_map"), parts, tuple(dimensions),
    )  # fmt: skip


def _epilogue(
    plan: NestPlan, boxes: _Boxes, pieces: int, run: int, windows: RowWindows | None
) -> tuple[int, tuple[Statement, ...]]:
    """What happens to finished sums, in as many lanes as accesses allow; ``run`` lie in a tile."""
    dtype = plan.stages[0].node.dtype.arithmetic
    rows, columns = boxes.rows.operand.axes, boxes.columns.operand.axes
    shape = (1, extent(boxes.batch), *(a.extent for a in (*rows, *columns)))
    names = (PIECE, BATCH, *(a.name for a in (*rows, *columns)))
    flat = row_major(shape).offset(tuple(map(axis_index, names)))

    def whole(step: Mapping[str, Index]) -> list[Statement]:
        found = element_epilogue(plan, moved_axes(boxes.merged, step), finished_sum(step, dtype))
        return [*found, *kept_value(plan, windows, step)]

    def partial(step: Mapping[str, Index]) -> list[Statement]:
        return [Store(PARTIAL, flat.substitute(step), finished_sum(step, dtype))]

    aligned = (run & -run) * dtype.size  # bytes of sums that are surely in one run
    if pieces > 1:
        return in_wide_lanes(columns, dtype, plan.namer, partial, min(16, aligned))
    widest = 32 if any(kind.is_half for _, _, _, kind in plan.stores) else 16
    return in_wide_lanes(columns, dtype, plan.namer, whole, min(widest, aligned))


def _sums(
    plan: NestPlan, boxes: _Boxes, rows: BoxOperand, columns: BoxOperand, tile: GroupTile
) -> TileSums:
    """What follows the epilogue where its values are added up: a partial sum for each part of a
    tile that is finished at once.
    """
    assert plan.total is not None
    total = replace(plan.total, offset=plan.total.offset.substitute(boxes.merged.values))
    over_rows = sums_over_rows(total, boxes.columns.operand.axes)
    parts = extent(boxes.batch)
    if over_rows:
        kept, parts = boxes.columns, parts * rows.tiles * (tile.rows // GROUP_ROWS)
    else:
        kept, parts = boxes.rows, parts * columns.tiles * (tile.columns // FINISHED_COLUMNS)
    return tile_sums(total, kept.operand.axes, parts, over_rows=over_rows)


def _windows(boxes: _Boxes, spans: Sequence[Span], windows: RowWindows) -> BoxWindows:
    """What follows the epilogue, for windows whose rows lie as far apart as in a patch."""
    namer = windows.pooled.namer
    counted = {
        span.axis.name: Axis(namer.axis(f"{span.axis.name}_window"), span.axis.extent // size)
        for span in spans if (size := windows.sizes.get(span.axis.name, 1)) > 1
    }  # fmt: skip
    rows, lines = 1, {}
    for span in reversed(spans):
        lines[span.axis.name], rows = rows * SUMS_LINE, rows * span.size
    values = {
        own.name: axis_index(counted[old.name].name if old.name in counted else old.name)
        for own, old in zip(windows.pooled.outputs, windows.leader, strict=True)
    }
    values = {name: index.substitute(boxes.merged.values) for name, index in values.items()}

    def element(index: tuple[Index, ...]) -> Index:
        place = axis_index(PLACE)
        for one, axis in zip(index, windows.leader, strict=True):
            if axis.name in counted:
                first = axis_index(counted[axis.name].name) * windows.sizes[axis.name]
                place = place + (one - first) * lines[axis.name]
        return place

    axes = tuple(counted.get(span.axis.name, span.axis) for span in spans)
    around = (*boxes.batch, *axes, *boxes.columns.operand.axes)
    statements = pooled_statements(windows.pooled, around, values, SUMS, element)
    sizes = tuple(windows.sizes.get(span.axis.name, 1) for span in spans)
    return BoxWindows(sizes, axes, statements)
