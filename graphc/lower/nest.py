"""A group of fused nodes as one loop nest: output axes outside, each reduction inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from graphc.ir.equation import Equation
from graphc.ir.graph import Node
from graphc.ir.index import Index
from graphc.ir.layout import Layout
from graphc.ir.loops import Declare, FinishLines, LineStore, Loop, Statement, Store
from graphc.ir.scalar import Call, Condition, Inside, Name, Number, Scalar
from graphc.ir.types import Axis, DType, element_count
from graphc.lower.access import (
    Access,
    Merged,
    access,
    equation_conditions,
    merge_axes,
    substitute_conditions,
)
from graphc.lower.freeze import as_type, compute_dtype, freeze
from graphc.lower.lane_sums import lane_axis, lane_index, lane_statements, window_outputs
from graphc.lower.names import Namer
from graphc.lower.reduction import (
    SHORT_WINDOW,
    Stage,
    environment,
    reduction_statements,
    sibling_blocks,
    stage_accesses,
)
from graphc.lower.streams import stream_lines
from graphc.lower.tables import fill_tables

PARALLEL_POINTS = 1 << 14  # below this a parallel region costs more than it saves
_TASKS = 64


@dataclass(frozen=True)
class Array:
    """What a routine calls an array, and where its elements lie.

    A ``streamed`` one is only written, and larger than the caches.
    """

    name: str
    layout: Layout
    streamed: bool = False


@dataclass(frozen=True)
class Total:
    """The sum of a local ``value`` over all axes but those that ``offset`` names; what it is stored
    as, and where.
    """

    value: Name
    buffer: str
    offset: Index
    dtype: DType


@dataclass
class NestPlan:
    """Everything that the loops are built from; ``total`` is a sum over its output axes."""

    axes: tuple[Axis, ...]
    stages: list[Stage]
    namer: Namer
    stores: list[tuple[str, Index, str, DType]] = field(default_factory=list)
    streamed: frozenset[str] = frozenset()
    total: Total | None = None


def make_stage(
    node: Node, equation: Equation, value: str, computed: dict[Node, str],
    arrays: Mapping[Node, Array],
) -> Stage:  # fmt: skip
    """Resolve a node's reads. ``equation`` already has the group's axis names."""
    reads: list[Access | str] = []
    for read in equation.reads:
        operand = node.inputs[read.operand]
        if operand in computed:
            reads.append(computed[operand])
            continue
        array = arrays[operand]
        reads.append(access(read, array.layout, array.name, operand.dtype, equation.extents))
    conditions = equation_conditions(equation.guards, equation.extents)
    positions = tuple(p.simplify(equation.extents) for p in equation.positions)
    return Stage(node, equation, reads, conditions, value, positions)


def build_nest(plan: NestPlan) -> tuple[Statement, ...]:
    """The statements of the nest."""
    merged = merge_outputs(plan)
    tables = fill_tables(plan.stages, merged, plan.namer)
    blocks = sibling_blocks(plan.stages)
    points = max(stage.equation.points for stage in plan.stages)
    cut = lane_axis(blocks, merged, plan.namer)
    if cut is not None:
        return (*tables, *_lane_nest(plan, merged, blocks, cut, points))
    body: list[Statement] = []
    for block in blocks:
        body += stage_statements(block, merged, plan.namer)
    body += store_statements(plan, merged)
    window = max(
        stage.equation.points // max(1, element_count(stage.equation.shape))
        for stage in plan.stages
    )
    simd = window <= SHORT_WINDOW
    lines: tuple[LineStore, ...] = ()
    if simd and len(merged.axes) > 1:
        body, lines = stream_lines(body, merged.axes[-1], plan.streamed, plan.namer)
    return (*tables, *output_loops(merged.axes, tuple(body), points, simd=simd, lines=lines))


def _lane_nest(
    plan: NestPlan, merged: Merged, blocks: Sequence[Sequence[Stage]], cut: tuple[Axis, Axis],
    points: int,
) -> tuple[Statement, ...]:  # fmt: skip
    """The nest with one accumulator for each lane of the last axis."""
    outer, lane = cut
    step = {outer.name: lane_index(outer, lane)}
    values = {name: index.substitute(step) for name, index in merged.values.items()}
    split = Merged((*merged.axes[:-1], outer), {**step, **values})
    maps = {b[0].value: map_statement(b[0], split) for b in blocks if b[0].equation.is_map}
    inside = window_outputs(blocks, split, lane, plan.namer)
    stores = store_statements(plan, split)
    body = lane_statements(blocks, split, lane, plan.namer, maps, stores, inside)
    axes = tuple(a for a in split.axes if a.extent > 1 and a not in inside)
    return output_loops(axes, tuple(body), points, simd=False)


def store_statements(plan: NestPlan, merged: Merged) -> list[Statement]:
    """What leaves the kernel."""
    return [
        Store(buffer, offset.substitute(merged.values), Name(value, dtype))
        for buffer, offset, value, dtype in plan.stores
    ]


def merge_outputs(plan: NestPlan) -> Merged:
    """The output axes, merged where every access lets them."""
    offsets, conditions = stage_accesses(plan.stages)
    offsets += [offset for _, offset, _, _ in plan.stores]
    return merge_axes(plan.axes, offsets, conditions, plan.namer)


def epilogue_accesses(plan: NestPlan) -> tuple[list[Index], list[Condition]]:
    """Where what follows the leader reads and writes, and under which conditions."""
    offsets, conditions = stage_accesses(plan.stages[1:])
    offsets += [offset for _, offset, _, _ in plan.stores]
    return offsets + ([plan.total.offset] if plan.total is not None else []), conditions


def element_epilogue(plan: NestPlan, merged: Merged, total: Scalar) -> list[Statement]:
    """The leader's value of one element, which is ``total``, its followers and the stores."""
    leader, *followers = plan.stages
    dtype = leader.node.dtype
    statements: list[Statement] = [Declare(leader.value, dtype, as_type(total, dtype))]
    statements += [map_statement(stage, merged) for stage in followers]
    return statements + store_statements(plan, merged)


def output_loops(
    axes: tuple[Axis, ...], body: tuple[Statement, ...], points: int, *, simd: bool,
    lines: tuple[LineStore, ...] = (),
) -> tuple[Statement, ...]:  # fmt: skip
    """Output loops: the outer ones in parallel, the innermost vectorised unless a long sum is.

    ``lines`` are filled by the innermost loop and stored after it.
    """
    if not axes:
        return body
    parallel = points >= PARALLEL_POINTS
    collapse, tasks = 1, axes[0].extent
    last = len(axes) - 1 if simd and len(axes) > 1 else len(axes)
    while collapse < last and tasks < _TASKS:
        tasks *= axes[collapse].extent
        collapse += 1
    for depth in reversed(range(len(axes))):
        outermost, innermost = depth == 0, depth == len(axes) - 1
        inside_collapse = parallel and 0 < depth < collapse
        loop = Loop(
            axes[depth], body, parallel=parallel and outermost,
            collapse=collapse if outermost else 1,
            simd=simd and innermost and not inside_collapse,
        )  # fmt: skip
        body = (loop,)
        if lines and innermost:
            body = (*(line.array for line in lines), loop, *lines)
        if lines and depth == (collapse if parallel else 1):
            body = (*body, FinishLines())
    return body


def stage_statements(block: Sequence[Stage], merged: Merged, namer: Namer) -> list[Statement]:
    """The value of a map, or of reductions that share a window."""
    if block[0].equation.is_map:
        return [map_statement(block[0], merged)]
    return reduction_statements(block, merged, namer)


def map_statement(stage: Stage, merged: Merged) -> Statement:
    """The declaration of a map's value; 0 where its guards fail."""
    dtype = compute_dtype(stage.node, stage.equation)
    value = freeze(stage.equation.body, environment(stage, merged), dtype)
    if stage.conditions:
        test = Inside(substitute_conditions(stage.conditions, merged.values))
        value = as_type(value, dtype) if value.dtype.is_float else value
        value = Call(
            "select", (test, value, as_type(Number(0, DType.int64), value.dtype)), value.dtype
        )
    return Declare(stage.value, stage.node.dtype, as_type(value, stage.node.dtype))
