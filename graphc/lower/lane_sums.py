"""Long sums whose results, not their terms, are neighbours in memory: one accumulator a lane."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from graphc.ir.index import Index, axis_index
from graphc.ir.loops import Assign, Declare, Loop, Statement, When
from graphc.ir.scalar import Call, Element, Name, Number, Scalar
from graphc.ir.types import Axis, element_count
from graphc.lower.access import Access, Merged, substitute_conditions
from graphc.lower.ahead import long_sums_ahead, short_sums_ahead
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
_FEW_TERMS = 64  # with so few of them results wait for memory
_MOST_OUTPUTS = 64  # accumulators of a lane


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


def window_outputs(
    blocks: Sequence[Sequence[Stage]], merged: Merged, lane: Axis, namer: Namer
) -> tuple[Axis, ...]:
    """The last output axes before the lanes along which long sums read nearly the same.

    So do the filters of a depthwise convolution: windows that overlap. They run inside the sums
    then, so that what they read comes from the nearest cache.
    """
    first = next(b for b in blocks if not b[0].equation.is_map)[0]
    window = merge_window(first, merged, namer).axes
    offsets = [r.offset.substitute(merged.values) for r in first.reads if isinstance(r, Access)]
    outer = [axis for axis in merged.axes if axis.extent > 1]
    chosen: list[Axis] = []
    long = element_count(tuple(a.extent for a in window[:-1])) > SHORT_WINDOW
    while long and lane.extent < _LONG_LANES and outer:
        axis = outer.pop()
        steps = [o.coefficient(axis.name) for o in offsets]
        slides = all(
            not step
            or any(0 < abs(o.coefficient(w.name)) < abs(step) * axis.extent for w in window)
            for o, step in zip(offsets, steps, strict=True)
        )
        count = element_count(tuple(a.extent for a in (axis, *chosen)))
        tasks = element_count(tuple(a.extent for a in outer))
        if not slides or count > _MOST_OUTPUTS or tasks < _LANE_TASKS:
            break
        chosen.insert(0, axis)
    return tuple(chosen)


def lane_statements(
    blocks: Sequence[Sequence[Stage]], merged: Merged, lane: Axis, namer: Namer,
    maps: dict[str, Statement], stores: Sequence[Statement], inside: tuple[Axis, ...] = (),
) -> list[Statement]:  # fmt: skip
    """Accumulators of all lanes, the window with the lanes inside, then the rest lane by lane.

    Output axes that run ``inside`` the window have accumulators of their own.
    """
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
    sums = _sums(block, item, lane, inside, namer)
    body = tuple(sums.added)
    for axis in rows:
        body = (Loop(axis, body, unroll=True),)
    body = (Loop(lane, body, simd=True),)
    if conditions:
        body = (When(conditions, body),)
    axes = window.axes[: len(window.axes) - len(rows)]
    body = _loops(axes[-1:], body)
    if inside:
        ahead = long_sums_ahead(item.value, axes, inside, lane)
        body = (*ahead, *sums.begun, *body, Loop(lane, tuple(sums.ended), simd=True))
    body = _loops((*axes[:-1], *inside), body)
    done = {s.value for s in block}
    rest = [maps[s[0].value] for s in blocks if s[0].value not in done]
    finished = Loop(lane, (*sums.finished, *rest, *stores), simd=True)
    ahead = []
    if not inside and element_count(tuple(a.extent for a in window.axes)) <= _FEW_TERMS:
        outputs = [axis for axis in merged.axes if axis.extent > 1]
        ahead = short_sums_ahead(item.value, stores, outputs, window.axes, lane)
    return [*ahead, *sums.declared, *body, *_loops(inside, (finished,))]


@dataclass
class _Sums:
    """Statements of the accumulators of all lanes.

    Where outputs run inside the window, what one of them gets from its last axis is ``begun`` and
    ``ended`` in an accumulator that registers hold.
    """

    declared: list[Statement] = field(default_factory=list)
    begun: list[Statement] = field(default_factory=list)
    added: list[Statement] = field(default_factory=list)
    ended: list[Statement] = field(default_factory=list)
    finished: list[Statement] = field(default_factory=list)


def _sums(
    block: Sequence[Stage], item: Declare, lane: Axis, inside: Sequence[Axis], namer: Namer
) -> _Sums:
    here, count = axis_index(lane.name), lane.extent
    for axis in reversed(inside):
        here, count = here + axis_index(axis.name) * count, count * axis.extent
    sums = _Sums(added=[item])
    for stage in block:
        total = accumulator(stage, item.dtype)
        zero = Number(0.0, total.dtype)
        element = Element(total.name, here, total.dtype)
        value = Call("cast", (Name(item.name, item.dtype),), total.dtype)
        sums.declared.append(Declare(total.name, total.dtype, zero, True, count))
        sums.finished.append(finish_lane(stage, element))
        if not inside:
            sums.added.append(_add(element, value))
            continue
        part = Element(namer.name(f"{total.name} part"), axis_index(lane.name), total.dtype)
        sums.begun.append(Declare(part.name, total.dtype, zero, True, lane.extent))
        sums.added.append(_add(part, value))
        sums.ended.append(_add(element, part))
    return sums


def _add(element: Element, value: Scalar) -> Assign:
    total = Call("add", (element, value), element.dtype)
    return Assign(element.name, total, element.index)


def _loops(axes: Sequence[Axis], body: tuple[Statement, ...]) -> tuple[Statement, ...]:
    for axis in reversed(axes):
        body = (Loop(axis, body),)
    return body


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
