"""Small arrays that a nest reads again and again across their order, copied in its order first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from graphc.ir.index import Index, axis_index, constant
from graphc.ir.loops import Assign, Declare, Loop, Statement
from graphc.ir.scalar import Number
from graphc.ir.types import Axis, element_count
from graphc.lower.access import Access, Merged
from graphc.lower.names import Namer
from graphc.lower.reduction import Stage

_LARGEST = 1 << 16  # bytes that may lie on the stack
_USES = 64  # of each element


def fill_tables(stages: Sequence[Stage], merged: Merged, namer: Namer) -> list[Statement]:
    """Read filters and the like, whose neighbours along the last output axis lie apart, from
    tables where they lie together; the statements that fill these.
    """
    if not merged.axes:
        return []
    lane = merged.axes[-1]
    statements: list[Statement] = []
    for stage in stages:
        for number, read in enumerate(stage.reads):
            if not isinstance(read, Access) or stage.equation.is_map or read.conditions:
                continue
            offset = read.offset.substitute(merged.values)
            axes = _walked(offset, (*merged.axes[:-1], *stage.equation.reduce_axes, lane))
            count = element_count(tuple(a.extent for a in axes))
            scattered = offset.is_affine and offset.coefficient(lane.name) not in (0, 1)
            used = stage.equation.points >= _USES * count
            if scattered and used and count * read.dtype.size <= _LARGEST:
                name = namer.name(f"{read.buffer}_table")
                statements += _filled(name, axes, replace(read, offset=offset))
                stage.reads[number] = replace(read, buffer=name, offset=_place(axes))
    return statements


def _walked(offset: Index, axes: Sequence[Axis]) -> tuple[Axis, ...]:
    return tuple(a for a in axes if a.name in offset.names)


def _place(axes: Sequence[Axis]) -> Index:
    place = constant(0)
    for axis in axes:
        place = place * axis.extent + axis_index(axis.name)
    return place


def _filled(name: str, axes: Sequence[Axis], read: Access) -> list[Statement]:
    count = element_count(tuple(a.extent for a in axes))
    start = Number(0.0 if read.dtype.is_float else 0, read.dtype)
    body: Statement = Assign(name, read.stored({}), _place(axes))
    for axis in reversed(axes):
        body = Loop(axis, (body,))
    return [Declare(name, read.dtype, start, mutable=True, lanes=count), body]
