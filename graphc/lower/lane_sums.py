"""Long sums whose results, not their terms, are neighbours in memory: one accumulator a lane."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from graphc.ir.index import Index, axis_index
from graphc.ir.loops import Assign, Declare, Loop, Statement, When
from graphc.ir.scalar import Call, Element, Name, Number
from graphc.ir.types import Axis, element_count
from graphc.lower.access import Access, Merged, substitute_conditions
from graphc.lower.names import Namer
from graphc.lower.reduction import (
    SHORT_WINDOW,
    Stage,
    accumulator,
    finish,
    merge_window,
    only_sums,
    window_item,
)
from graphc.passes.classify import plain_factors

_LANES = 512  # accumulators that stay in the first-level cache
_LANE_TASKS = 8
_VECTOR = 16  # lanes of arrays in blocks
_LONG_LANES = 64  # rows of so many are worth reading several at a time
_ROWS = (4, 3, 2)


def lane_axis(
    blocks: Sequence[Sequence[Stage]], merged: Merged, namer: Namer
) -> tuple[Axis, Axis] | None:
    """The last output axis as (blocks, lanes) if sums should run with a lane an output."""
    reductions = [b for b in blocks if not b[0].equation.is_map]
    if len(reductions) != 1 or not merged.axes or not only_sums(reductions[0]):
        return None
    first, last = reductions[0][0], merged.axes[-1]
    window = element_count(tuple(a.extent for a in first.equation.reduce_axes))
    outside = element_count(tuple(a.extent for a in merged.axes[:-1]))
    most = min(_LANES, max(32, last.extent * outside // _LANE_TASKS))
    lanes = next((n for n in range(most, 7, -1) if last.extent % n == 0), 0)
    guarded = first.conditions or any(isinstance(r, Access) and r.conditions for r in first.reads)
    short = window <= SHORT_WINDOW and not (guarded and last.extent <= _VECTOR)
    if short or not lanes:
        return None
    moved = substitute_conditions(first.conditions, merged.values)
    if any(last.name in c.index.names for c in moved):
        return None
    inner = merge_window(first, merged, namer).axes
    runs: list[bool] = []
    for read in first.reads:
        if not isinstance(read, Access):
            return None
        offset = read.offset.substitute(merged.values)
        if offset.coefficient(last.name) not in (0, 1) or not offset.is_affine:
            return None
        beside = abs(offset.coefficient(inner[-1].name)) == 1 if inner else False
        if beside and offset.coefficient(last.name) == 1:
            return None
        runs.append(offset.coefficient(last.name) == 1)
    if not any(runs):
        return None
    return Axis(f"{last.name}", last.extent // lanes), Axis(namer.axis(f"{last.name}_lane"), lanes)


def lane_statements(
    blocks: Sequence[Sequence[Stage]], merged: Merged, lane: Axis, namer: Namer,
    maps: dict[str, Statement], stores: Sequence[Statement],
) -> list[Statement]:  # fmt: skip
    """Accumulators of all lanes, the window with the lanes inside, then the rest lane by lane."""
    block = [
        _guarded(stage, merged, lane)
        for stage in next(b for b in blocks if not b[0].equation.is_map)
    ]
    window = merge_window(block[0], merged, namer)
    item, conditions = window_item(block, merged, window)
    rows: tuple[Axis, ...] = ()
    if not conditions and lane.extent >= _LONG_LANES:
        window, rows = _side_by_side(window, namer)
        item, _ = window_item(block, merged, window)
    here = axis_index(lane.name)
    before: list[Statement] = []
    inside: list[Statement] = [item]
    after: list[Statement] = []
    for stage in block:
        total = accumulator(stage, item.dtype)
        before.append(Declare(total.name, total.dtype, Number(0.0, total.dtype), True, lane.extent))
        element = Element(total.name, here, total.dtype)
        value = Call("cast", (Name(item.name, item.dtype),), total.dtype)
        inside.append(Assign(total.name, Call("add", (element, value), total.dtype), here))
        after.append(finish_lane(stage, element))
    body = tuple(inside)
    for axis in rows:
        body = (Loop(axis, body, unroll=True),)
    body = (Loop(lane, body, simd=True),)
    if conditions:
        body = (When(conditions, body),)
    for axis in reversed(window.axes[: len(window.axes) - len(rows)]):
        body = (Loop(axis, body),)
    done = {s.value for s in block}
    rest = [maps[s[0].value] for s in blocks if s[0].value not in done]
    return [*before, *body, Loop(lane, (*after, *rest, *stores), simd=True)]


def _side_by_side(window: Merged, namer: Namer) -> tuple[Merged, tuple[Axis, ...]]:
    """The window with its last axis cut, and the part of it that runs within the lanes: rows of
    memory that are read side by side hide each other's first lines, and share the accumulators.
    """
    *others, last = window.axes
    count = next((n for n in _ROWS if last.extent % n == 0), None)
    if count is None:
        return window, ()
    outer, row = Axis(last.name, last.extent // count), Axis(namer.axis(f"{last.name}_row"), count)
    cut = {last.name: axis_index(last.name) * count + axis_index(row.name)}
    values = {name: index.substitute(cut) for name, index in window.values.items()}
    return Merged((*others, outer, row), cut | values), (row,)


def _guarded(stage: Stage, merged: Merged, lane: Axis) -> Stage:
    """Where a factor is zero for all lanes there is nothing to add: its tests become guards."""
    factors = plain_factors(stage.equation)
    reads = list(stage.reads)
    conditions = stage.conditions
    for number, read in enumerate(reads):
        if not isinstance(read, Access) or read.fill or number not in factors:
            continue
        moved = substitute_conditions(read.conditions, merged.values)
        if not any(lane.name in c.index.names for c in moved):
            reads[number] = replace(read, conditions=())
            conditions += read.conditions
    return replace(stage, reads=reads, conditions=tuple(dict.fromkeys(conditions)))


def finish_lane(stage: Stage, element: Element) -> Declare:
    """The value of one lane."""
    declared = finish(stage, Name(element.name, element.dtype))
    value = declared.value
    if isinstance(value, Call):
        return Declare(declared.name, declared.dtype, Call("cast", (element,), value.dtype))
    return Declare(declared.name, declared.dtype, element)


def lane_index(last: Axis, lane: Axis) -> Index:
    """The old last axis in terms of its block and lane."""
    if last.extent == 1:
        return axis_index(lane.name)
    return axis_index(last.name) * lane.extent + axis_index(lane.name)
