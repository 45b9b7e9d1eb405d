"""Maps in lanes: a thread computes neighbours, and moves them as one access of 16 bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from graphc.ir.index import Index, axis_index
from graphc.ir.loops import Assign, Declare, LoadLanes, Loop, Statement, Store, StoreLanes
from graphc.ir.scalar import Call, Element, Inside, Load, Number, Position, Scalar
from graphc.ir.types import Axis, DType
from graphc.lower.access import Merged
from graphc.lower.names import Namer
from graphc.lower.nest import NestPlan, map_statement, store_statements
from graphc.lower.reduction import Stage

VECTOR_BYTES = 16
_FEW = 1 << 12  # fewer outputs than this are better spread over more threads


def in_lanes(
    plan: NestPlan, merged: Merged, blocks: Sequence[Sequence[Stage]]
) -> tuple[tuple[Axis, ...], tuple[Statement, ...], int] | None:
    """Axes, body and number of lanes; None where an access is not a whole, aligned vector."""
    if any(not block[0].equation.is_map for block in blocks) or not merged.axes:
        return None
    sizes = [array.size for stage in plan.stages for array in _types(stage)]
    last = merged.axes[-1]
    count = VECTOR_BYTES // max(sizes)
    total = last.extent
    for axis in merged.axes[:-1]:
        total *= axis.extent
    if count < 2 or last.extent % count or total < _FEW:
        return None
    lane = Axis(plan.namer.axis(f"{last.name}_lane"), count)
    step = {last.name: axis_index(last.name) * count + axis_index(lane.name)}
    split = Merged((), {**step, **{n: v.substitute(step) for n, v in merged.values.items()}})
    maps = [map_statement(block[0], split) for block in blocks]
    body = _moved([*maps, *store_statements(plan, split)], lane, plan.namer)
    if body is None:
        return None
    return (*merged.axes[:-1], Axis(last.name, last.extent // count)), body, count


def _types(stage: Stage) -> Iterator[DType]:
    yield stage.node.dtype
    for operand in stage.node.inputs:
        yield operand.dtype


def _moved(
    statements: Sequence[Statement], lane: Axis, namer: Namer
) -> tuple[Statement, ...] | None:
    """Loads before the lanes, stores after them, arithmetic lane by lane."""
    loads: dict[Load, LoadLanes] = {}
    stores: list[StoreLanes] = []
    before: list[Statement] = []
    inside: list[Statement] = []
    for statement in statements:
        assert isinstance(statement, Declare | Store)
        value = _with_lanes(statement.value, lane, namer, loads, guarded=False)
        if value is None:
            return None
        if isinstance(statement, Declare):
            inside.append(replace(statement, value=value))
            continue
        offset = _first(statement.offset, lane)
        if offset is None:
            return None
        name = namer.name(f"{statement.buffer}_lanes")
        before.append(Declare(name, value.dtype, Number(0, value.dtype), True, lane.extent))
        inside.append(Assign(name, value, axis_index(lane.name)))
        stores.append(StoreLanes(statement.buffer, offset, name, lane.extent))
    return (*loads.values(), *before, Loop(lane, tuple(inside), unroll=True), *stores)


def _first(offset: Index, lane: Axis) -> Index | None:
    """The offset of lane 0 where lanes are neighbours from a multiple of their number on."""
    rest = offset + axis_index(lane.name) * -1
    aligned = rest.const % lane.extent == 0 and all(c % lane.extent == 0 for _, c in rest.terms)
    return rest if aligned and lane.name not in rest.names else None


def _with_lanes(
    value: Scalar, lane: Axis, namer: Namer, loads: dict[Load, LoadLanes], *, guarded: bool
) -> Scalar | None:
    """The value with vectors in place of loads that move with the lane; None if one cannot.

    A load behind a test of its index may lie outside of its array, so it is not moved.
    """
    if isinstance(value, Load):
        if lane.name not in value.offset.names:
            return value
        offset = _first(value.offset, lane)
        if offset is None or guarded:
            return None
        if value not in loads:
            name = namer.name(f"{value.buffer}_lanes")
            loads[value] = LoadLanes(name, value.dtype, lane.extent, value.buffer, offset)
        return Element(loads[value].name, axis_index(lane.name), value.dtype)
    if isinstance(value, Position | Inside) or not isinstance(value, Call):
        return value
    guarded = guarded or any(isinstance(a, Inside) for a in value.arguments)
    arguments = [_with_lanes(a, lane, namer, loads, guarded=guarded) for a in value.arguments]
    if any(a is None for a in arguments):
        return None
    return Call(value.function, tuple(a for a in arguments if a is not None), value.dtype)
