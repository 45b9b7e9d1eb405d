"""A contraction group as packed panels, one register-blocked product, and an epilogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from graphc.ir.blocks import ContractionBlocks
from graphc.ir.equation import read_symbol
from graphc.ir.index import Index
from graphc.ir.loops import (
    BlockSizes,
    Contraction,
    InPlace,
    LineStore,
    Pack,
    Statement,
)
from graphc.ir.scalar import Condition, Load, Name, plain_load
from graphc.ir.types import Axis, DType, element_count
from graphc.lower.access import (
    Access,
    Merged,
    equation_conditions,
    merge_axes,
    substitute_conditions,
)
from graphc.lower.freeze import MutableEnvironment, as_type, freeze
from graphc.lower.names import Namer
from graphc.lower.nest import NestPlan, element_epilogue, epilogue_accesses
from graphc.lower.reduction import Stage
from graphc.lower.streams import stream_lines
from graphc.lower.strip_products import (
    column_strip,
    columns_in_strips,
    lines_in_strips,
    rows_in_strips,
)
from graphc.passes.classify import Factor, Factors
from graphc.schedule.blocking import (
    DEPTH,
    ProductSizes,
    dot_limits,
    resident_factor,
    task_size,
)

_SHORT_RUN = 8
_NEAR = 8  # elements: neighbours in a run that are no further apart share a line
_MOST_VECTORS = 4
_DOT_ROWS = 8  # up to so many rows, vectors of depth are multiplied as they lie
_RUN = 2048  # neighbours that are read one after the other where columns are not packed


def build_contraction(
    plan: NestPlan, factors: Factors, limits: ContractionBlocks, block: BlockSizes
) -> Contraction:
    """The contraction of the group's leader; the other stages form the epilogue."""
    leader = plan.stages[0]
    dtype = leader.node.dtype.arithmetic
    skipped = _skipped(leader, factors)
    depth, outer = _merge_depth(leader, factors, skipped, plan.namer)
    lanes = block.lanes(dtype)
    rows = _pack(leader, factors.rows, factors.row_axes, depth, plan.namer, lanes)
    columns = _pack(leader, factors.columns, factors.column_axes, depth, plan.namer, lanes)
    sizes = _sizes(factors, depth)
    few, dotted, found = sizes.rows <= _DOT_ROWS, _dot_block(factors, block), None
    if few and not outer and columns.order == "depth":
        found = column_strip(columns, depth.axes, sizes, limits, dotted, plan.namer)
    dots = few and (columns.order == "vectors" or found is not None)
    panel = dtype if dots else _panel_type(leader, factors, block)
    if panel is not dtype:
        rows, columns = _in_halves(leader, factors, depth, plan.namer, lanes)
    if dots:
        rows, columns = replace(rows, order="vectors"), replace(columns, order="vectors")
    elif columns.order == "vectors":
        columns = replace(columns, order=_turned(columns))
    block = dotted if dots else _register_block(factors, block)
    width = block.vectors if dots else block.columns(dtype)
    limits = dot_limits(limits, width) if dots else limits
    split, cut = _split_depth(depth.axes, lanes, outer, limits.depth or DEPTH)
    resident = limits.resident or resident_factor(sizes, dtype, width) if found is None else "none"
    in_place = None
    if few and resident != "columns" and panel is dtype:
        in_place = _in_place(columns, depth.axes, dtype, lanes)
    if in_place is not None and not dots:
        limits = replace(limits, panels=limits.panels or max(1, _RUN // width))
    blocks = _count(depth.axes[:split]) * -(-depth.axes[split].extent // cut)
    row_block, panels, pieces = task_size(limits, sizes, resident, blocks, block.rows, width)
    epilogue_rows, epilogue_columns, statements, lines = _epilogue(plan, factors, width)
    body = Contraction(
        tuple(a for a in factors.batch if a.extent > 1), depth.axes, rows, columns, split, cut,
        substitute_conditions(skipped, depth.values) if outer else (), resident, in_place,
        None, row_block, panels, pieces, epilogue_rows.axes, epilogue_columns.axes, statements,
        lines, block, panel, dtype,
    )  # fmt: skip
    if in_place or outer or panel is not dtype:
        return body
    if not dots:
        lined = lines_in_strips(body, sizes, limits, plan.namer)
        return lined or rows_in_strips(body, sizes, limits, plan.namer)
    if found is None and resident != "columns":
        found = column_strip(columns, depth.axes, sizes, limits, block, plan.namer)
    return body if found is None else columns_in_strips(body, sizes, found)


def _sizes(factors: Factors, depth: Merged) -> ProductSizes:
    return ProductSizes(
        _count(factors.batch), _count(factors.row_axes), _count(factors.column_axes),
        _count(depth.axes),
    )  # fmt: skip


def _in_place(columns: Pack, depth: tuple[Axis, ...], dtype: DType, lanes: int) -> InPlace | None:
    """The columns as they lie, if whole vectors of the depth or of columns are neighbours."""
    load = columns.value
    if columns.conditions or not isinstance(load, Load) or load.dtype is not dtype:
        return None
    if len(columns.lanes) != 1 or len(depth) != 1 or not load.offset.is_affine:
        return None
    column, along = (load.offset.coefficient(axis.name) for axis in (*columns.lanes, *depth))
    if columns.order == "vectors" and along == 1:
        return InPlace(load, column)
    if columns.order == "lanes" and column == 1 and columns.lanes[0].extent % lanes == 0:
        return InPlace(load, along)
    return None


def _register_block(factors: Factors, block: BlockSizes) -> BlockSizes:
    """The machine's register block, lower and wider where there are fewer rows than it has."""
    rows = _count(factors.row_axes)
    if rows >= block.rows:
        return block
    vectors = (block.registers - 1) // (rows + 1)
    return replace(block, rows=rows, vectors=max(block.vectors, min(vectors, _MOST_VECTORS)))


def _dot_block(factors: Factors, block: BlockSizes) -> BlockSizes:
    """Rows and columns whose products add up in a vector of depth each; few rows at most."""
    rows = min(_count(factors.row_axes), block.rows)
    return replace(block, rows=rows, vectors=min(8, max(1, (block.registers - 2) // (rows + 1))))


def _turned(pack: Pack) -> Literal["transposed", "depth"]:
    """How vectors of depth are packed where a panel wants lanes."""
    load = plain_load(pack.value)
    plain = load is not None and not pack.conditions and load.offset.is_affine
    return "transposed" if plain else "depth"


def _panel_type(stage: Stage, factors: Factors, block: BlockSizes) -> DType:
    """bfloat16 where the machine multiplies pairs of such numbers and both factors are plain ones.

    The sums are float32 either way, and so is the only rounding.
    """
    dtype = stage.node.dtype.arithmetic
    if not block.pairs or dtype is not DType.float32:
        return dtype
    for factor in (factors.rows, factors.columns):
        accesses = factor_accesses(stage, factor)
        if len(accesses) != 1 or factor.body not in map(read_symbol, range(len(stage.reads))):
            return dtype
        if accesses[0].dtype is not DType.bfloat16 or accesses[0].fill != 0:
            return dtype
    return DType.bfloat16


def _in_halves(
    leader: Stage, factors: Factors, depth: Merged, namer: Namer, lanes: int
) -> tuple[Pack, Pack]:
    """Both factors as the arrays hold them."""
    rows = _pack(leader, factors.rows, factors.row_axes, depth, namer, lanes, stored=True)
    return rows, _pack(
        leader, factors.columns, factors.column_axes, depth, namer, lanes, stored=True
    )


def factor_accesses(stage: Stage, factor: Factor) -> list[Access]:
    """The reads of one factor of the product."""
    symbols = factor.body.free_symbols
    return [
        read for number, read in enumerate(stage.reads)
        if isinstance(read, Access) and read_symbol(number) in symbols
    ]  # fmt: skip


def factor_conditions(stage: Stage, factor: Factor) -> tuple[Condition, ...]:
    """Where one factor of the product is not 0."""
    return equation_conditions(factor.guards, stage.equation.extents)


def _skipped(stage: Stage, factors: Factors) -> tuple[Condition, ...]:
    """Conditions on the batch and the depth alone: where they fail, all products are zero."""
    names = {a.name for a in (*factors.batch, *stage.equation.reduce_axes)}
    conditions = [
        condition
        for factor in (factors.rows, factors.columns)
        for condition in factor_conditions(stage, factor)
    ]
    return tuple(dict.fromkeys(c for c in conditions if c.index.names <= names))


def _merge_depth(
    stage: Stage, factors: Factors, skipped: Sequence[Condition], namer: Namer
) -> tuple[Merged, int]:
    """Reduced axes merged where both factors walk through them as one.

    Axes on which whole blocks are skipped come first; their number, 0 if there are no others.
    """
    offsets: list[Index] = []
    conditions: list[Condition] = []
    for factor in (factors.rows, factors.columns):
        conditions += factor_conditions(stage, factor)
        for one in factor_accesses(stage, factor):
            offsets.append(one.offset)
            conditions += one.conditions
    names = set().union(*(c.index.names for c in skipped))
    axes = sorted(stage.equation.reduce_axes, key=lambda a: a.name not in names)
    merged = merge_axes(axes, offsets, conditions, namer)
    outer = sum(a.name in names for a in merged.axes)
    return merged, outer if outer < len(merged.axes) else 0


def _pack(
    stage: Stage, factor: Factor, axes: tuple[Axis, ...], depth: Merged, namer: Namer, lanes: int,
    stored: bool = False,
) -> Pack:  # fmt: skip
    dtype = stage.node.dtype.arithmetic
    accesses = factor_accesses(stage, factor)
    guards = factor_conditions(stage, factor)
    conditions = [*guards, *(c for a in accesses for c in a.conditions)]
    merged = merge_axes(axes, [a.offset for a in accesses], conditions, namer)
    values = depth.values | merged.values
    environment: MutableEnvironment = {
        read_symbol(number): read.stored(values) if stored else read.scalar(values)
        for number, read in enumerate(stage.reads)
        if isinstance(read, Access)
    }
    value = freeze(factor.body, environment, dtype)
    value = value if stored else as_type(value, dtype)
    order = _order(accesses, merged.axes, depth.axes, values, lanes)
    return Pack(merged.axes, value, substitute_conditions(guards, values), order)


def _order(
    accesses: Sequence[Access], lanes: tuple[Axis, ...], depth: tuple[Axis, ...],
    values: dict[str, Index], vector: int,
) -> Literal["lanes", "vectors", "depth"]:  # fmt: skip
    """Follow the axis that is contiguous in memory, unless its runs are too short to matter."""
    offset = accesses[0].offset.substitute(values)
    lane_step = abs(offset.coefficient(lanes[-1].name)) if lanes else 0
    depth_step = abs(offset.coefficient(depth[-1].name))
    if lane_step == 1 and lanes[-1].extent >= _SHORT_RUN:
        return "lanes"
    if depth_step == 1 and depth[-1].extent >= _SHORT_RUN:
        return "vectors" if depth[-1].extent % vector == 0 else "depth"
    long_lanes, long_depth = (axes[-1].extent >= _SHORT_RUN for axes in (lanes or depth, depth))
    if long_lanes != long_depth and 0 < (lane_step if long_lanes else depth_step) <= _NEAR:
        return "lanes" if long_lanes else "depth"
    return "lanes" if 0 < lane_step <= (depth_step or lane_step) else "depth"


def _split_depth(axes: tuple[Axis, ...], lanes: int, outer: int, most: int) -> tuple[int, int]:
    """Which axis is cut, and into what equal blocks, so that one has at most ``most`` rows.

    The first ``outer`` axes stay outside of a block.
    """
    inner = 1
    for number in reversed(range(outer, len(axes))):
        extent = axes[number].extent
        if inner * extent > most:
            blocks = -(-extent // max(1, most // inner))
            cut = -(-extent // blocks)
            return number, -(-cut // lanes) * lanes if number == len(axes) - 1 else cut
        inner *= extent
    return outer, axes[outer].extent


def _count(axes: Sequence[Axis]) -> int:
    return element_count(tuple(a.extent for a in axes))


def _epilogue(
    plan: NestPlan, factors: Factors, width: int
) -> tuple[Merged, Merged, tuple[Statement, ...], tuple[LineStore, ...]]:
    """Followers of the product, one element at a time, with their own merging of M and N.

    Whole lines that a panel of ``width`` columns fills come after.
    """
    offsets, conditions = epilogue_accesses(plan)
    rows = merge_axes(factors.row_axes, offsets, conditions, plan.namer)
    columns = merge_axes(factors.column_axes, offsets, conditions, plan.namer)
    batch = merge_axes(tuple(a for a in factors.batch if a.extent == 1), (), (), plan.namer)
    merged = Merged((), rows.values | columns.values | batch.values)
    total = Name("sum", plan.stages[0].node.dtype.arithmetic)
    statements = element_epilogue(plan, merged, total)
    lines: tuple[LineStore, ...] = ()
    if width % columns.axes[-1].extent == 0:
        statements, lines = stream_lines(statements, columns.axes[-1], plan.streamed, plan.namer)
    return rows, columns, tuple(statements), lines
