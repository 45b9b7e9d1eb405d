"""What the loops of a nest will soon read and write, fetched while they compute."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from graphc.ir.index import Index, axis_index, constant
from graphc.ir.loops import Fetch, Statement, Store
from graphc.ir.scalar import Load, Scalar, loads
from graphc.ir.types import Axis, element_count

_RESULTS = 32  # places of the last axis


def long_sums_ahead(
    value: Scalar, window: Sequence[Axis], outputs: Sequence[Axis], lane: Axis
) -> list[Fetch]:
    """What ``value`` reads at the next step of the window's last axis but one.

    That is one run of memory along its last axis and the lanes, of which each of the ``outputs``
    fetches a part.
    """
    if len(window) < 2:
        return []
    *_, outer, run = window
    part = -(-run.extent * lane.extent // element_count(tuple(a.extent for a in outputs)))
    number = Index()
    for axis in outputs:
        number = number * axis.extent + axis_index(axis.name)
    return [
        Fetch(load.buffer, first + number * part, part, load.dtype, False)
        for load, first in _next_lines(value, outer, run, lane, outputs)
    ]


def short_sums_ahead(
    value: Scalar, stores: Sequence[Statement], outputs: Sequence[Axis], window: Sequence[Axis],
    lane: Axis,
) -> list[Fetch]:  # fmt: skip
    """What ``value`` reads a line of ``outputs`` later, and where lanes are stored some places
    later in this one.
    """
    if len(outputs) < 2:
        return []
    *_, outer, along = outputs
    here = axis_index(along.name) * lane.extent
    reads = [
        Fetch(load.buffer, first + here, lane.extent, load.dtype, False)
        for load, first in _next_lines(value, outer, along, lane, window)
    ]
    writes = [
        Fetch(
            store.buffer,
            store.offset.substitute({lane.name: constant(0)}) + _RESULTS * lane.extent,
            lane.extent, store.value.dtype, True,
        )
        for store in stores
        if isinstance(store, Store) and _is_line(store.offset, along, lane)
    ]  # fmt: skip
    return [*reads, *writes]


def _next_lines(
    value: Scalar, outer: Axis, along: Axis, lane: Axis, others: Sequence[Axis]
) -> Iterator[tuple[Load, Index]]:
    """Where the lines begin, ``along`` an axis and its lanes, that are read first at the next step
    of the ``outer`` axis: of those that the ``others`` reach, the furthest.
    """
    length = along.extent * lane.extent
    for load in dict.fromkeys(loads(value)):
        step = load.offset.coefficient
        if not _is_line(load.offset, along, lane) or not step(outer.name):
            continue
        place = {lane.name: constant(0), along.name: constant(0)}
        for axis in others:
            last = axis.extent - 1 if step(axis.name) > 0 else 0
            lines = abs(step(axis.name)) >= length
            place[axis.name] = constant(last if lines else axis.extent // 2)
        yield load, load.offset.substitute(place) + step(outer.name)


def _is_line(offset: Index, along: Axis, lane: Axis) -> bool:
    """Whether lanes are neighbours and follow each other ``along`` an axis."""
    steps = offset.coefficient(lane.name), offset.coefficient(along.name)
    return offset.is_affine and steps == (1, lane.extent)
