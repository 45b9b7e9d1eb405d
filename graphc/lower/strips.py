"""Rows of a product that share what they read, as windows do: copied once for a task's rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphc.ir.blocks import ContractionBlocks
from graphc.ir.index import Index, axis_index, constant
from graphc.ir.loops import Pack
from graphc.ir.scalar import Condition, Load, guarded_load
from graphc.ir.strips import Span, Strip
from graphc.ir.types import Axis, DType, element_count
from graphc.lower.names import Namer
from graphc.schedule.blocking import STRIP_DEPTH, STRIP_ROWS

_FEW_ROWS = 32  # they share too little
_MOST_DEPTH = 2048  # that is not cut, as windows cannot be
_NEAR = 256  # bytes from one row to the next that is read where it lies
_BYTES = 384 << 10  # of a copy, which stays in the second-level cache


@dataclass(frozen=True)
class StripRows:
    """The strip of a task's rows, and the axis of the depth that is cut into blocks of ``cut``."""

    strip: Strip
    split: int
    cut: int


def strip_rows(
    rows: Pack, depth: Sequence[Axis], limits: ContractionBlocks, tasks: int, dtype: DType,
    namer: Namer,
) -> StripRows | None:  # fmt: skip
    """Strips of rows, for at least ``tasks`` tasks; None if rows share nothing.

    They do where windows that may reach outside of the array walk along one of its dimensions.
    """
    found = guarded_load(rows.value, rows.conditions)
    if found is None:
        return None
    conditions, load = found
    if not isinstance(load, Load) or load.dtype is not dtype or not load.offset.is_affine:
        return None
    bounded = _bounded_rows(rows.lanes, depth, conditions)
    if bounded is None:
        return None
    split, cut = _cut(depth, bounded, limits.depth or STRIP_DEPTH)
    block = [*depth[split:]]
    block[0] = Axis(block[0].name, cut)
    box = _box(rows.lanes, min(limits.rows or STRIP_ROWS, _count(rows.lanes) // tasks))
    if _count(block) > _MOST_DEPTH or _count(box) < _FEW_ROWS:
        return None
    spans = _spans(load.offset, box, block, bounded, namer)
    if spans is None:
        return None
    starts = {s.depth: constant(s.depth_start) for s in spans if s.depth is not None}
    if split or cut < depth[0].extent:
        starts.pop(block[0].name, None)
    strip = Strip(
        load.buffer, load.offset.substitute(starts), spans, bool(conditions), box, block[-1]
    )
    if not strip.copied and not _near(load, rows.lanes[-1], block[-1]):
        return None
    if strip.size > min(strip.rows * _count(block), _BYTES // dtype.size):
        return None
    return StripRows(strip, split, cut)


def _bounded_rows(
    rows: Sequence[Axis], depth: Sequence[Axis], conditions: Sequence[Condition]
) -> dict[str, Condition] | None:
    """The condition on each axis of the rows, and on one of the depth at most, if all are such."""
    found: dict[str, Condition] = {}
    walked: set[str] = set()
    for condition in conditions:
        index = condition.index
        along = [a.name for a in rows if a.name in index.names]
        reduced = {a.name for a in depth} & index.names
        if len(along) != 1 or len(reduced) > 1 or len(index.names) != 1 + len(reduced):
            return None
        (row,) = along
        if condition.divisor != 1 or not index.is_affine or index.coefficient(row) <= 0:
            return None
        if row in found or reduced & walked:
            return None
        found[row] = condition
        walked |= reduced
    return found


def _cut(depth: Sequence[Axis], bounded: Mapping[str, Condition], most: int) -> tuple[int, int]:
    """Which axis is cut, outside of all windows and of runs, into equal blocks of such a depth."""
    windows = {name for condition in bounded.values() for name in condition.index.names}
    first = next((n for n, a in enumerate(depth) if a.name in windows), len(depth) - 1)
    inner = _count(depth[first:])
    for number in reversed(range(first)):
        extent = depth[number].extent
        if inner * extent > most:
            fitting = (d for d in range(1, extent + 1) if extent % d == 0 and d * inner <= most)
            return number, max(fitting, default=1)
        inner *= extent
    return 0, depth[0].extent


def _box(rows: Sequence[Axis], most: int) -> tuple[Axis, ...]:
    """The most rows that all tasks share evenly: whole inner axes, and a part of the next."""
    box: list[Axis] = []
    count = 1
    for axis in reversed(rows):
        whole = all(one.extent == n.extent for one, n in zip(box, reversed(rows), strict=False))
        parts = [d for d in range(1, axis.extent + 1) if axis.extent % d == 0 and d * count <= most]
        box.append(Axis(axis.name, max(parts, default=1) if whole else 1))
        count *= box[-1].extent
    return tuple(reversed(box))


def _spans(
    offset: Index, box: Sequence[Axis], block: Sequence[Axis], bounded: Mapping[str, Condition],
    namer: Namer,
) -> tuple[Span, ...] | None:  # fmt: skip
    """The dimensions that rows or the depth walk along, in the array's order."""
    alone = {axis.name: axis for axis in block}
    spans: list[Span] = []
    for axis in box:
        condition = bounded.get(axis.name)
        if condition is not None:
            span = _bounded_span(offset, axis, alone, condition, namer)
            if span is None:
                return None
            alone.pop(span.depth or "", None)
            spans.append(span)
        elif axis.extent > 1:
            place = Axis(namer.name(f"{axis.name} in strip"), axis.extent)
            stride = offset.coefficient(axis.name)
            spans.append(Span(place, axis.name, 1, None, 0, 0, stride, None))
    for axis in alone.values():
        place = Axis(namer.name(f"{axis.name} in strip"), axis.extent)
        stride = offset.coefficient(axis.name)
        spans.append(Span(place, None, 0, axis.name, 1, 0, stride, None))
    if any(span.stride == 0 for span in spans):
        return None
    return tuple(sorted(spans, key=lambda span: -abs(span.stride)))


def _bounded_span(
    offset: Index, row: Axis, depth: Mapping[str, Axis], condition: Condition, namer: Namer
) -> Span | None:
    """The dimension that a condition bounds; None if the array has it with other steps."""
    index = condition.index
    reduced = next((name for name in index.names if name in depth), None)
    row_step, step = index.coefficient(row.name), index.coefficient(reduced or "")
    stride = offset.coefficient(row.name) // row_step
    if any(offset.coefficient(name) != stride * index.coefficient(name) for name in index.names):
        return None
    reach = depth[reduced].extent - 1 if reduced else 0
    start = reach if step < 0 else 0
    size = row_step * (row.extent - 1) + abs(step) * reach + 1
    place = Axis(namer.name(f"{row.name} in strip"), size)
    first = index.substitute({reduced: constant(start)}) if reduced else index
    inside = Condition(first + axis_index(place.name), condition.lower, condition.upper)
    return Span(place, row.name, row_step, reduced, step, start, stride, inside)


def _near(load: Load, row: Axis, run: Axis) -> bool:
    """Whether rows begin near each other, and products of one lie side by side."""
    steps = load.offset.coefficient(row.name), load.offset.coefficient(run.name)
    return steps[0] * load.dtype.size <= _NEAR and steps[1] == 1


def _count(axes: Sequence[Axis]) -> int:
    return element_count(tuple(axis.extent for axis in axes))
