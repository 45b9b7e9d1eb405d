"""Rows or columns of a product that share what they read, as windows do: copied once a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphc.ir.index import Index, axis_index, constant
from graphc.ir.loops import Pack
from graphc.ir.scalar import Condition, Load, guarded_load
from graphc.ir.strips import Span, Strip
from graphc.ir.types import Axis, DType, element_count
from graphc.lower.names import Namer

_FEW_LANES = 16  # they share too little
_MOST_DEPTH = 2048  # that is not cut, as windows cannot be
_NEAR = 256  # bytes from one lane to the next that is read where it lies
_BYTES = 384 << 10  # of a copy, which stays in the second-level cache


@dataclass(frozen=True)
class StripLanes:
    """The strip of a task's lanes, and the axis of the depth that is cut into blocks of ``cut``."""

    strip: Strip
    split: int
    cut: int


def strip_lanes(
    pack: Pack, depth: Sequence[Axis], deepest: int, most: int, dtype: DType, namer: Namer
) -> StripLanes | None:
    """Strips of up to ``most`` rows or columns and a depth; None if they share nothing.

    They do where windows that may reach outside of the array walk along one of its dimensions.
    """
    found = guarded_load(pack.value, pack.conditions)
    if found is None:
        return None
    conditions, load = found
    if not isinstance(load, Load) or load.dtype is not dtype or not load.offset.is_affine:
        return None
    bounded = _bounded_lanes(pack.lanes, depth, conditions)
    if bounded is None:
        return None
    split, cut = _cut(depth, deepest)
    block = (Axis(depth[split].name, cut), *depth[split + 1 :])
    box = _box(pack.lanes, most)
    if _count(block) > _MOST_DEPTH or _count(box) < _FEW_LANES:
        return None
    first = {axis.name: constant(0) for axis in block}
    if split or cut < depth[0].extent:
        first[block[0].name] = axis_index(block[0].name)
    spans = _spans(load.offset, box, block, first, bounded, namer)
    if spans is None:
        return None
    first |= {s.depth: first[s.depth] + s.depth_start for s in spans if s.depth is not None}
    offset = load.offset.substitute(first)
    strip = Strip(load.buffer, offset, spans, bool(conditions), box, block[-1])
    if strip.copied:
        packed = strip.lanes * _count(block)
        worth = 2 * strip.size <= packed and strip.size * dtype.size <= _BYTES
    else:
        worth = _near(load, pack.lanes[-1], block[-1])
    return StripLanes(strip, split, cut) if worth else None


def _bounded_lanes(
    lanes: Sequence[Axis], depth: Sequence[Axis], conditions: Sequence[Condition]
) -> dict[str, Condition] | None:
    """The condition on each axis of the lanes, and on one of the depth at most, if all are such."""
    found: dict[str, Condition] = {}
    walked: set[str] = set()
    for condition in conditions:
        index = condition.index
        along = [a.name for a in lanes if a.name in index.names]
        reduced = {a.name for a in depth} & index.names
        if len(along) != 1 or len(reduced) > 1 or len(index.names) != 1 + len(reduced):
            return None
        (lane,) = along
        if condition.divisor != 1 or not index.is_affine or index.coefficient(lane) <= 0:
            return None
        if lane in found or reduced & walked:
            return None
        found[lane] = condition
        walked |= reduced
    return found


def _cut(depth: Sequence[Axis], most: int) -> tuple[int, int]:
    """Which axis is cut, but not the last one, into equal blocks that are no deeper."""
    inner = depth[-1].extent
    for number in reversed(range(len(depth) - 1)):
        extent = depth[number].extent
        if inner * extent > most:
            fitting = (d for d in range(1, extent + 1) if extent % d == 0 and d * inner <= most)
            return number, max(fitting, default=1)
        inner *= extent
    return 0, depth[0].extent


def _box(lanes: Sequence[Axis], most: int) -> tuple[Axis, ...]:
    """The most lanes that all tasks share evenly: whole inner axes, and a part of the next."""
    box: list[Axis] = []
    count = 1
    for axis in reversed(lanes):
        whole = all(one.extent == n.extent for one, n in zip(box, reversed(lanes), strict=False))
        parts = [d for d in range(1, axis.extent + 1) if axis.extent % d == 0 and d * count <= most]
        box.append(Axis(axis.name, max(parts, default=1) if whole else 1))
        count *= box[-1].extent
    return tuple(reversed(box))


def _spans(
    offset: Index, box: Sequence[Axis], block: Sequence[Axis], first: Mapping[str, Index],
    bounded: Mapping[str, Condition], namer: Namer,
) -> tuple[Span, ...] | None:  # fmt: skip
    """The dimensions that lanes or the depth walk along, in the array's order.

    ``first`` says where the depth of a block begins.
    """
    alone = {axis.name: axis for axis in block}
    spans: list[Span] = []
    for axis in box:
        condition = bounded.get(axis.name)
        if condition is not None:
            span = _bounded_span(offset, axis, alone, first, condition, namer)
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
    offset: Index, lane: Axis, depth: Mapping[str, Axis], first: Mapping[str, Index],
    condition: Condition, namer: Namer,
) -> Span | None:  # fmt: skip
    """The dimension that a condition bounds; None if the array has it with other steps."""
    index = condition.index
    reduced = next((name for name in index.names if name in depth), None)
    lane_step, step = index.coefficient(lane.name), index.coefficient(reduced or "")
    stride = offset.coefficient(lane.name) // lane_step
    if any(offset.coefficient(name) != stride * index.coefficient(name) for name in index.names):
        return None
    reach = depth[reduced].extent - 1 if reduced else 0
    start = reach if step < 0 else 0
    size = lane_step * (lane.extent - 1) + abs(step) * reach + 1
    place = Axis(namer.name(f"{lane.name} in strip"), size)
    index = index.substitute({reduced: first[reduced] + start}) if reduced else index
    inside = Condition(index + axis_index(place.name), condition.lower, condition.upper)
    return Span(place, lane.name, lane_step, reduced, step, start, stride, inside)


def _near(load: Load, lane: Axis, run: Axis) -> bool:
    """Whether lanes begin near each other, and products of one lie side by side."""
    steps = load.offset.coefficient(lane.name), load.offset.coefficient(run.name)
    return steps[0] * load.dtype.size <= _NEAR and steps[1] == 1


def _count(axes: Sequence[Axis]) -> int:
    return element_count(tuple(axis.extent for axis in axes))
