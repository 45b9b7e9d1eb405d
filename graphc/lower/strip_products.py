"""Products one factor of which is read from strips: rows, columns, or lines of columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from graphc.ir.blocks import ContractionBlocks
from graphc.ir.loops import BlockSizes, Contraction, InPlace, Pack
from graphc.ir.scalar import Load
from graphc.ir.types import Axis, element_count
from graphc.lower.names import Namer
from graphc.lower.strips import StripLanes, strip_lanes
from graphc.schedule.blocking import (
    DEPTH,
    STRIP_DEPTH,
    ProductSizes,
    even_columns,
    even_rows,
    line_columns,
    line_rows,
    strip_panels,
    strip_pieces,
    strip_size,
)

_MOST_PADDING = 1.5  # of a run of depth, or a line of columns, to whole vectors


def rows_in_strips(
    body: Contraction, sizes: ProductSizes, limits: ContractionBlocks, namer: Namer
) -> Contraction:
    """The same product whose rows are read from strips, where they share what they read."""
    if limits.resident == "rows":
        return body
    packed = body
    if body.resident == "rows":
        body = replace(body, resident="none")
    panels = -(-sizes.columns // body.register_columns)
    most = strip_size(limits.rows, sizes.rows, sizes.batch * panels * body.pieces)
    in_place = _vectors_in_place(body)
    deepest = limits.depth or (STRIP_DEPTH if in_place is None else DEPTH)
    found = strip_lanes(body.rows, body.depth, deepest, most, body.dtype, namer)
    if found is None or (packed.resident == "rows" and not found.strip.copied):
        return packed
    lanes = found.strip.lanes
    blocks = _count(body.depth[: found.split]) * body.depth[found.split].extent // found.cut
    pieces = max(1, min(body.pieces, blocks // 2))
    tasks = sizes.batch * sizes.rows // lanes * pieces
    block_axes = body.depth[found.split :]
    if in_place and not (found.strip.copied and _walks_as_one(in_place.first, block_axes)):
        in_place = None
    body = replace(
        body, strip=found.strip, split=found.split, cut=found.cut, row_block=lanes, pieces=pieces,
        in_place=in_place, register=even_rows(body.register, lanes),
    )  # fmt: skip
    if body.copies_rows and found.strip.run.extent >= body.register.lanes(body.dtype):
        high = line_rows(body.register, found.strip.box[-1].extent)
        body = replace(body, register=high or body.register)
    return replace(body, column_panels=strip_panels(limits, tasks, panels, body.copies_rows))


def _vectors_in_place(body: Contraction) -> InPlace | None:
    """The columns as they lie, if they are whole vectors, equally far apart."""
    load, lanes = body.columns.value, body.register.lanes(body.dtype)
    outer, inner = (Axis("", 1), *body.columns.lanes)[-2:]
    if len(body.columns.lanes) > 2 or _count(body.columns.lanes) % body.register_columns:
        return None
    if body.resident != "none" or body.columns.conditions or not isinstance(load, Load):
        return None
    if not load.offset.is_affine or load.dtype is not body.dtype:
        return None
    steps = load.offset.coefficient
    across = lanes if inner.extent % lanes == 0 and outer.extent == 1 else steps(outer.name)
    if steps(inner.name) != 1 or (outer.extent > 1 and inner.extent != lanes):
        return None
    return InPlace(load, steps(body.depth[-1].name), across)


def _walks_as_one(load: Load, block: Sequence[Axis]) -> bool:
    """Whether the axes of a block of the depth run through an array without gaps."""
    steps = [load.offset.coefficient(axis.name) for axis in block]
    return all(
        step == inner * axis.extent
        for step, inner, axis in zip(steps, steps[1:], block[1:], strict=False)
    )


def column_strip(
    columns: Pack, depth: Sequence[Axis], sizes: ProductSizes, limits: ContractionBlocks,
    block: BlockSizes, namer: Namer,
) -> StripLanes | None:  # fmt: skip
    """The strip of columns whose depth is read by vectors; a run may fill its last one in part."""
    dtype = columns.value.dtype
    lanes, run = block.lanes(dtype), depth[-1].extent
    padded = -(-run // lanes) * lanes
    if limits.resident == "columns" or (padded > run and len(depth) == 1):
        return None
    if padded > _MOST_PADDING * run:
        return None
    most = strip_size(None, sizes.columns, sizes.batch, pieces=padded > run)
    deepest = limits.depth or STRIP_DEPTH
    found = strip_lanes(columns, depth, deepest, most, dtype, namer)
    if found is None or even_columns(block, found.strip.lanes) is None:
        return None
    near = found.strip.depth_offset().coefficient(depth[-1].name) == 1
    return found if near and (found.strip.copied or padded == run) else None


def columns_in_strips(body: Contraction, sizes: ProductSizes, found: StripLanes) -> Contraction:
    """The same product of few rows whose columns are read from a strip."""
    register = even_columns(body.register, found.strip.lanes)
    assert register is not None
    blocks = _count(body.depth[: found.split]) * body.depth[found.split].extent // found.cut
    tasks = sizes.batch * sizes.columns // found.strip.lanes
    return replace(
        body, strip=found.strip, split=found.split, cut=found.cut,
        pieces=strip_pieces(tasks, blocks),
        column_panels=found.strip.lanes // register.vectors, register=register,
    )  # fmt: skip


def lines_in_strips(
    body: Contraction, sizes: ProductSizes, limits: ContractionBlocks, namer: Namer
) -> Contraction | None:
    """The same product whose columns are lines of neighbours, read as vectors from a strip."""
    columns = body.columns
    if columns.order != "lanes" or "columns" in (body.resident, limits.resident):
        return None
    if body.pieces > 1 or not columns.lanes:
        return None
    others = sizes.batch * -(-sizes.rows // body.row_block)
    most = strip_size(None, sizes.columns, others)
    found = strip_lanes(columns, body.depth, limits.depth or STRIP_DEPTH, most, body.dtype, namer)
    if found is None or not found.strip.copied:
        return None
    line, lanes = found.strip.box[-1], body.register.lanes(body.dtype)
    register = line_columns(body.register, -(-line.extent // lanes))
    panels = -(-line.extent // (register.vectors * lanes))
    padded = panels * register.vectors * lanes > _MOST_PADDING * line.extent
    narrow = 2 * register.vectors <= body.register.vectors and sizes.rows > register.rows
    if padded or narrow or found.strip.lane_offset().coefficient(line.name) != 1:
        return None
    order = "depth" if body.rows.order == "vectors" else body.rows.order
    return replace(
        body, rows=replace(body.rows, order=order), strip=found.strip, split=found.split,
        cut=found.cut, register=register, line_panels=panels,
        column_panels=found.strip.lanes // line.extent * panels,
    )  # fmt: skip


def _count(axes: Sequence[Axis]) -> int:
    return element_count(tuple(axis.extent for axis in axes))
