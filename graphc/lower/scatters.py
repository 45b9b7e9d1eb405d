"""A patch of an operand that no array holds: values of windows, put in their places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import graphc.ir.index as ix
from graphc.ir.equation import Guard
from graphc.ir.graph import Node
from graphc.ir.index import Index
from graphc.ir.loops import Patch, PatchWindows
from graphc.ir.scalar import Condition, Load
from graphc.ir.tiles import LinearProgram
from graphc.ir.types import Axis
from graphc.lower.access import guard_conditions
from graphc.lower.group import Group
from graphc.passes.scatters import window_scatter
from graphc.passes.windows import window_sizes


def scattered_patch(
    group: Group, scatter: Node, index: Sequence[Index], transform: tuple[LinearProgram, ...],
    positions: tuple[Axis, ...], lane: Axis, extents: Mapping[str, int],
) -> Patch:  # fmt: skip
    """The patch at an ``index`` of the scatter, of which the first position begins a tile."""
    found = window_scatter(scatter)
    assert found is not None
    argmax, value = found
    sizes = window_sizes(argmax.op_equation())
    assert sizes is not None
    place: list[Index] = [*index]
    axes: list[Axis] = []
    first, long, offsets, counts = [], [], [], []
    inside: list[Condition] = []
    for axis in positions:
        [dimension] = [d for d, one in enumerate(index) if axis.name in one.names]
        size, count = sizes[dimension], value.shape[dimension]
        start = index[dimension].substitute({axis.name: ix.constant(0)})
        offset = start.const % size
        touched = (axis.extent - 1 + offset) // size + 1
        axes.append(Axis(group.namer.axis(f"{axis.name}_window"), touched))
        first.append(start // size)
        place[dimension] = first[-1] + ix.axis_index(axes[-1].name)
        inside += guard_conditions(Guard(first[-1], 0), extents)
        inside += guard_conditions(Guard(first[-1] + (touched - 1), None, count), extents)
        offsets.append(offset)
        long.append(size)
        counts.append(count)
    loads, steps = zip(
        *(_vectors(group, node, place, (*axes, lane), extents) for node in (value, argmax)),
        strict=True,
    )
    windows = PatchWindows(
        tuple(axes), tuple(long), tuple(offsets), tuple(first), tuple(counts), *loads, *steps
    )
    return Patch(transform, positions, lane, loads[0], tuple(inside), None, (), windows)


def _vectors(
    group: Group, node: Node, index: Sequence[Index], axes: Sequence[Axis],
    extents: Mapping[str, int],
) -> tuple[Load, tuple[int, ...]]:  # fmt: skip
    """The element of the first window in lane 0, and the steps along windows and lanes."""
    array = group.arrays[node]
    known = {**extents, **{axis.name: axis.extent for axis in axes}}
    offset = array.layout.offset(tuple(index)).simplify(known)
    start = offset.substitute({axis.name: ix.constant(0) for axis in axes})
    return Load(array.name, start, node.dtype), tuple(offset.coefficient(a.name) for a in axes)
