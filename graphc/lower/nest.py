"""A group of fused nodes as one loop nest: output axes outside, each reduction inside."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from graphc.ir.equation import Equation, position_symbol, read_symbol
from graphc.ir.graph import Node
from graphc.ir.index import Index, axis_index
from graphc.ir.layout import Layout
from graphc.ir.loops import Assign, Declare, Loop, Statement, Store, When
from graphc.ir.scalar import Call, Condition, Inside, Name, Number, Position
from graphc.ir.types import Axis, DType, element_count
from graphc.lower.access import (
    Access,
    Merged,
    access,
    equation_conditions,
    merge_axes,
    substitute_conditions,
)
from graphc.lower.freeze import MutableEnvironment, as_type, compute_dtype, freeze
from graphc.lower.names import Namer
from graphc.passes.classify import flat_offset

PARALLEL_POINTS = 1 << 14  # below this a parallel region costs more than it saves
_TASKS = 64
_SHORT_WINDOW = 16
SUFFIXES = ("", "_item", "_sum", "_place")  # of the locals that a stage names for its value


@dataclass
class Stage:
    """One node of the group over the group's axes; reads are accesses or earlier stages' values."""

    node: Node
    equation: Equation
    reads: list[Access | str]
    conditions: tuple[Condition, ...]
    value: str
    positions: tuple[Index, ...] = ()


@dataclass(frozen=True)
class Array:
    """What a routine calls an array, and where its elements lie."""

    name: str
    layout: Layout


@dataclass
class NestPlan:
    """Everything that the loops are built from."""

    axes: tuple[Axis, ...]
    stages: list[Stage]
    namer: Namer
    stores: list[tuple[str, Index, str, DType]] = field(default_factory=list)


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
    merged = _merge_outputs(plan)
    body: list[Statement] = []
    for block in _sibling_blocks(plan.stages):
        body += _stage_statements(block, merged, plan.namer)
    for buffer, offset, value, dtype in plan.stores:
        body.append(Store(buffer, offset.substitute(merged.values), Name(value, dtype)))
    points = max(stage.equation.points for stage in plan.stages)
    window = max(
        stage.equation.points // max(1, element_count(stage.equation.shape))
        for stage in plan.stages
    )
    return _wrap(merged.axes, tuple(body), points, window)


def _merge_outputs(plan: NestPlan) -> Merged:
    offsets = [offset for _, offset, _, _ in plan.stores]
    conditions: list[Condition] = []
    for stage in plan.stages:
        offsets += stage.positions
        conditions += stage.conditions
        for read in stage.reads:
            if isinstance(read, Access):
                offsets.append(read.offset)
                conditions += read.conditions
    return merge_axes(plan.axes, offsets, conditions, plan.namer)


def _wrap(
    axes: tuple[Axis, ...], body: tuple[Statement, ...], points: int, window: int
) -> tuple[Statement, ...]:
    """Output loops: the outer ones in parallel, the innermost vectorised unless a long sum is."""
    if not axes:
        return body
    simd = window <= _SHORT_WINDOW
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
    return body


def _sibling_blocks(stages: Sequence[Stage]) -> list[list[Stage]]:
    """Reductions over the same window of the same reads share their loops."""
    blocks: list[list[Stage]] = []
    for stage in stages:
        mate = next((b for b in blocks if _same_window(b[0], stage)), None)
        if mate is None:
            blocks.append([stage])
        else:
            mate.append(stage)
    return blocks


def _same_window(a: Stage, b: Stage) -> bool:
    return (
        not a.equation.is_map
        and not b.equation.is_map
        and a.equation.reduce_axes == b.equation.reduce_axes
        and a.reads == b.reads
        and a.conditions == b.conditions
        and a.positions == b.positions
        and a.equation.body == b.equation.body
        and compute_dtype(a.node, a.equation) == compute_dtype(b.node, b.equation)
    )


def _environment(stage: Stage, merged: Merged) -> MutableEnvironment:
    found: MutableEnvironment = {}
    for number, read in enumerate(stage.reads):
        if isinstance(read, Access):
            found[read_symbol(number)] = read.scalar(merged.values)
        else:
            operand = stage.node.inputs[stage.equation.reads[number].operand]
            found[read_symbol(number)] = Name(read, operand.dtype)
    for number, index in enumerate(stage.positions):
        found[position_symbol(number)] = Position(index.substitute(merged.values))
    return found


def _stage_statements(block: Sequence[Stage], merged: Merged, namer: Namer) -> list[Statement]:
    if block[0].equation.is_map:
        return [map_statement(block[0], merged)]
    return _reduction_statements(block, merged, namer)


def map_statement(stage: Stage, merged: Merged) -> Statement:
    """The declaration of a map's value; 0 where its guards fail."""
    dtype = compute_dtype(stage.node, stage.equation)
    value = freeze(stage.equation.body, _environment(stage, merged), dtype)
    if stage.conditions:
        test = Inside(substitute_conditions(stage.conditions, merged.values))
        value = as_type(value, dtype) if value.dtype.is_float else value
        value = Call(
            "select", (test, value, as_type(Number(0, DType.int64), value.dtype)), value.dtype
        )
    return Declare(stage.value, stage.node.dtype, as_type(value, stage.node.dtype))


def _reduction_statements(block: Sequence[Stage], merged: Merged, namer: Namer) -> list[Statement]:
    """Accumulators, the loops over the window, and the finished values."""
    first = block[0]
    inner = _merge_window(first, merged, namer)
    before: list[Statement] = []
    inside: list[Statement] = []
    after: list[Statement] = []
    item = f"{first.value}_item"
    dtype = compute_dtype(first.node, first.equation)
    both = Merged((), merged.values | {
        n: v for n, v in inner.values.items()
    })  # fmt: skip
    value = as_type(freeze(first.equation.body, _environment(first, both), dtype), dtype)
    only_sums = all(s.equation.reduction == "sum" for s in block)
    if first.conditions and not only_sums:
        test = Inside(substitute_conditions(first.conditions, both.values))
        value = Call("select", (test, value, as_type(Number(0, DType.int64), dtype)), dtype)
    inside.append(Declare(item, dtype, value))
    for stage in block:
        total = _accumulator(stage, dtype)
        before += _start(stage, total)
        inside += _accumulate(stage, total, Name(item, dtype), inner.axes)
        after.append(_finish(stage, total))
    guarded: tuple[Statement, ...] = tuple(inside)
    if first.conditions and only_sums:
        guarded = (When(substitute_conditions(first.conditions, both.values), guarded),)
    sums = tuple(f"{s.value}_sum" for s in block)
    simd = only_sums and not first.conditions
    long_window = element_count(tuple(a.extent for a in inner.axes)) > _SHORT_WINDOW
    for depth in reversed(range(len(inner.axes))):
        vector = simd and depth == len(inner.axes) - 1 and long_window
        guarded = (
            Loop(inner.axes[depth], guarded, simd=vector, sums=sums if vector else (), unroll=True),
        )
    return [*before, *guarded, *after]


def _merge_window(stage: Stage, merged: Merged, namer: Namer) -> Merged:
    """Merge the reduced axes; an argmax counts positions, which its flat number keeps."""
    offsets = [r.offset.substitute(merged.values) for r in stage.reads if isinstance(r, Access)]
    offsets += [p.substitute(merged.values) for p in stage.positions]
    conditions = [*stage.conditions]
    for read in stage.reads:
        conditions += read.conditions if isinstance(read, Access) else ()
    return merge_axes(stage.equation.reduce_axes, offsets, conditions, namer)


def _accumulator(stage: Stage, dtype: DType) -> Name:
    """Sums of float32 are kept in float64: exact enough for any length."""
    wide = stage.equation.reduction in ("sum", "prod") and dtype.is_float
    return Name(f"{stage.value}_sum", DType.float64 if wide else dtype)


def _start(stage: Stage, total: Name) -> list[Statement]:
    kind = stage.equation.reduction
    low = -math.inf if total.dtype.is_float else -(2**63)
    high = math.inf if total.dtype.is_float else 2**63 - 1
    start = {"sum": 0, "prod": 1, "max": low, "argmax": low, "min": high, "argmin": high}[kind]
    plain = float(start) if total.dtype.is_float else int(start)
    found: list[Statement] = [Declare(total.name, total.dtype, Number(plain, total.dtype), True)]
    if kind.startswith("arg"):
        found.append(Declare(f"{stage.value}_place", DType.int64, Number(0, DType.int64), True))
    return found


def _accumulate(stage: Stage, total: Name, item: Name, axes: tuple[Axis, ...]) -> list[Statement]:
    kind = stage.equation.reduction
    if kind in ("sum", "prod"):
        name = "add" if kind == "sum" else "multiply"
        return [Assign(total.name, Call(name, (total, as_type(item, total.dtype)), total.dtype))]
    beats = "greater" if kind.endswith("max") else "less"
    wins = Call(beats, (item, total), DType.boolean)
    if item.dtype.is_float:  # the first NaN wins
        missing = Call("not_equal", (item, item), DType.boolean)
        if kind.startswith("arg"):
            numeric = Call("equal", (total, total), DType.boolean)
            missing = Call("and", (missing, numeric), DType.boolean)
        wins = Call("or", (wins, missing), DType.boolean)
    found: list[Statement] = []
    if kind.startswith("arg"):
        place = Name(f"{stage.value}_place", DType.int64)
        here = Position(
            flat_offset(tuple(axis_index(a.name) for a in axes), tuple(a.extent for a in axes))
        )
        found.append(Assign(place.name, Call("select", (wins, here, place), DType.int64)))
    found.append(Assign(total.name, Call("select", (wins, item, total), total.dtype)))
    return found


def _finish(stage: Stage, total: Name) -> Statement:
    if stage.equation.reduction.startswith("arg"):
        total = Name(f"{stage.value}_place", DType.int64)
    return Declare(stage.value, stage.node.dtype, as_type(total, stage.node.dtype))
