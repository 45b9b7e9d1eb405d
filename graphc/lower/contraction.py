"""A contraction group as packed panels, one register-blocked product, and an epilogue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from graphc.ir.equation import read_symbol
from graphc.ir.index import Index
from graphc.ir.loops import BlockSizes, Contraction, Declare, Pack, Statement, Store
from graphc.ir.scalar import Condition, Name
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
from graphc.lower.nest import NestPlan, Stage, map_statement
from graphc.passes.classify import Factor, Factors

_DEPTH_BLOCK = 768  # rows of a packed column panel that stay in the second-level cache
_ROW_BLOCK = 512
_PANELS = 4
_TASKS = 24
_SHORT_RUN = 8


def build_contraction(plan: NestPlan, factors: Factors, block: BlockSizes) -> Contraction:
    """The contraction of the group's leader; the other stages form the epilogue."""
    leader = plan.stages[0]
    dtype = leader.node.dtype
    depth = _merge_depth(leader, factors, plan.namer)
    rows = _pack(leader, factors.rows, factors.row_axes, depth, plan.namer)
    columns = _pack(leader, factors.columns, factors.column_axes, depth, plan.namer)
    split, piece = _split_depth(depth.axes)
    row_block, panels = _task_size(factors, block, dtype)
    epilogue_rows, epilogue_columns, statements = _epilogue(plan, factors)
    return Contraction(
        tuple(a for a in factors.batch if a.extent > 1), depth.axes, rows, columns, split, piece,
        row_block, panels, epilogue_rows.axes, epilogue_columns.axes, statements, dtype,
    )  # fmt: skip


def _factor_accesses(stage: Stage, factor: Factor) -> list[Access]:
    symbols = factor.body.free_symbols
    return [
        read for number, read in enumerate(stage.reads)
        if isinstance(read, Access) and read_symbol(number) in symbols
    ]  # fmt: skip


def _factor_conditions(stage: Stage, factor: Factor) -> tuple[Condition, ...]:
    return equation_conditions(factor.guards, stage.equation.extents)


def _merge_depth(stage: Stage, factors: Factors, namer: Namer) -> Merged:
    """Reduced axes merged where both factors walk through them as one."""
    offsets: list[Index] = []
    conditions: list[Condition] = []
    for factor in (factors.rows, factors.columns):
        conditions += _factor_conditions(stage, factor)
        for one in _factor_accesses(stage, factor):
            offsets.append(one.offset)
            conditions += one.conditions
    return merge_axes(stage.equation.reduce_axes, offsets, conditions, namer)


def _pack(
    stage: Stage, factor: Factor, axes: tuple[Axis, ...], depth: Merged, namer: Namer
) -> Pack:
    dtype = stage.node.dtype
    accesses = _factor_accesses(stage, factor)
    guards = _factor_conditions(stage, factor)
    conditions = [*guards, *(c for a in accesses for c in a.conditions)]
    lanes = merge_axes(axes, [a.offset for a in accesses], conditions, namer)
    values = depth.values | lanes.values
    environment: MutableEnvironment = {
        read_symbol(number): read.scalar(values)
        for number, read in enumerate(stage.reads)
        if isinstance(read, Access)
    }
    value = as_type(freeze(factor.body, environment, dtype), dtype)
    along = _direction(accesses, lanes.axes, depth.axes, values)
    return Pack(lanes.axes, value, substitute_conditions(guards, values), along)


def _direction(
    accesses: Sequence[Access], lanes: tuple[Axis, ...], depth: tuple[Axis, ...],
    values: dict[str, Index],
) -> Literal["lanes", "depth"]:  # fmt: skip
    """Follow the axis that is contiguous in memory, unless its runs are too short to matter."""
    offset = accesses[0].offset.substitute(values)
    lane_step = abs(offset.coefficient(lanes[-1].name)) if lanes else 0
    depth_step = abs(offset.coefficient(depth[-1].name))
    if lane_step == 1 and lanes[-1].extent >= _SHORT_RUN:
        return "lanes"
    if depth_step == 1 and depth[-1].extent >= _SHORT_RUN:
        return "depth"
    return "lanes" if 0 < lane_step <= (depth_step or lane_step) else "depth"


def _split_depth(axes: tuple[Axis, ...]) -> tuple[int, int]:
    """Which axis is cut, and into what equal pieces, so that a block has ``_DEPTH_BLOCK`` rows."""
    inner = 1
    for number in reversed(range(len(axes))):
        extent = axes[number].extent
        if inner * extent > _DEPTH_BLOCK:
            pieces = -(-extent // max(1, _DEPTH_BLOCK // inner))
            return number, -(-extent // pieces)
        inner *= extent
    return 0, axes[0].extent


def _task_size(factors: Factors, block: BlockSizes, dtype: DType) -> tuple[int, int]:
    """Rows and column panels of one task: as large as caches allow, but enough tasks to share."""
    rows = element_count(tuple(a.extent for a in factors.row_axes))
    columns = element_count(tuple(a.extent for a in factors.column_axes))
    batch = element_count(tuple(a.extent for a in factors.batch))
    row_panels = -(-rows // block.rows)
    column_panels = -(-columns // block.columns(dtype))
    row_block = min(row_panels, _ROW_BLOCK // block.rows)
    panels = min(column_panels, _PANELS)
    while panels > 1 and batch * -(-row_panels // row_block) * -(-column_panels // panels) < _TASKS:
        panels //= 2
    return row_block * block.rows, panels


def _epilogue(plan: NestPlan, factors: Factors) -> tuple[Merged, Merged, tuple[Statement, ...]]:
    """Followers of the product, one element at a time, with their own merging of M and N."""
    leader, *followers = plan.stages
    offsets = [offset for _, offset, _, _ in plan.stores]
    conditions: list[Condition] = []
    for stage in followers:
        offsets += stage.positions
        conditions += stage.conditions
        for read in stage.reads:
            if isinstance(read, Access):
                offsets.append(read.offset)
                conditions += read.conditions
    rows = merge_axes(factors.row_axes, offsets, conditions, plan.namer)
    columns = merge_axes(factors.column_axes, offsets, conditions, plan.namer)
    batch = merge_axes(tuple(a for a in factors.batch if a.extent == 1), (), (), plan.namer)
    merged = Merged((), rows.values | columns.values | batch.values)
    dtype = leader.node.dtype
    statements: list[Statement] = [Declare(leader.value, dtype, Name("sum", dtype))]
    statements += [map_statement(stage, merged) for stage in followers]
    statements += [
        Store(buffer, offset.substitute(merged.values), Name(value, kind))
        for buffer, offset, value, kind in plan.stores
    ]
    return rows, columns, tuple(statements)
