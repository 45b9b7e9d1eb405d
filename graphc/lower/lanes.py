"""Maps in lanes: a thread computes neighbours, and moves them as one access of 16 bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from graphc.ir.index import Index, axis_index, constant
from graphc.ir.loops import Assign, Declare, LoadLanes, Loop, Statement, Store, StoreLanes
from graphc.ir.scalar import Call, Element, Inside, Load, Number, Scalar
from graphc.ir.types import Axis, DType
from graphc.lower.access import Merged
from graphc.lower.freeze import as_type
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
    body = moved_lanes([*maps, *store_statements(plan, split)], lane, plan.namer)
    if body is None:
        return None
    return (*merged.axes[:-1], Axis(last.name, last.extent // count)), body, count


def in_padded_lanes(
    plan: NestPlan, merged: Merged, blocks: Sequence[Sequence[Stage]], padded: Mapping[str, int]
) -> tuple[tuple[Axis, ...], tuple[Statement, ...], Axis] | None:
    """Axes, body and the axis that a thread takes whole, where arrays have zeros beside it.

    ``padded`` are the places of that axis in the arrays that are stored so; what a thread stores
    there are all of them at once. None where there are no such arrays, or others than maps.
    """
    if not padded or any(not block[0].equation.is_map for block in blocks):
        return None
    stores = [s for s in store_statements(plan, merged) if isinstance(s, Store)]
    offsets = [store.offset for store in stores if store.buffer in padded]
    axis = next(a for a in merged.axes if all(o.coefficient(a.name) == 1 for o in offsets))
    before: list[Statement] = []
    after: list[Statement] = []
    inside: list[Statement] = [map_statement(block[0], merged) for block in blocks]
    for store in stores:
        if store.buffer not in padded:
            inside.append(store)
            continue
        places, dtype = padded[store.buffer], store.value.dtype
        name = plan.namer.name(f"{store.buffer}_lanes")
        before.append(Declare(name, dtype, Number(0, dtype), True, places))
        inside.append(Assign(name, store.value, axis_index(axis.name)))
        zero = as_type(Number(0.0, dtype.arithmetic), dtype)
        after += [Assign(name, zero, constant(n)) for n in range(axis.extent, places)]
        first = store.offset.substitute({axis.name: constant(0)})
        after.append(StoreLanes(store.buffer, first, name, places))
    axes = tuple(a for a in merged.axes if a != axis)
    return axes, (*before, Loop(axis, tuple(inside), unroll=True), *after), axis


def _types(stage: Stage) -> Iterator[DType]:
    yield stage.node.dtype
    for operand in stage.node.inputs:
        yield operand.dtype


def moved_lanes(
    statements: Sequence[Statement], lane: Axis, namer: Namer,
    multiples: frozenset[str] = frozenset(),
) -> tuple[Statement, ...] | None:  # fmt: skip
    """Loads before the lanes, stores after them, arithmetic lane by lane; None if one cannot move.

    ``multiples`` are axes that only take multiples of the number of lanes.
    """
    known = _Lanes(lane, namer, multiples)
    stores: list[StoreLanes] = []
    before: list[Statement] = []
    inside: list[Statement] = []
    for statement in statements:
        assert isinstance(statement, Declare | Store)
        value = known.moved(statement.value, guarded=False)
        if value is None:
            return None
        if isinstance(statement, Declare):
            inside.append(replace(statement, value=value))
            continue
        offset = known.first(statement.offset)
        if offset is None:
            return None
        name = namer.name(f"{statement.buffer}_lanes")
        before.append(Declare(name, value.dtype, Number(0, value.dtype), True, lane.extent))
        inside.append(Assign(name, value, axis_index(lane.name)))
        stores.append(StoreLanes(statement.buffer, offset, name, lane.extent))
    return (*known.loads.values(), *before, Loop(lane, tuple(inside), unroll=True), *stores)


@dataclass
class _Lanes:
    """The loads that move with the lane, as vectors."""

    lane: Axis
    namer: Namer
    multiples: frozenset[str]
    loads: dict[Load, LoadLanes] = field(default_factory=dict)

    def first(self, offset: Index) -> Index | None:
        """The offset of lane 0 where lanes are neighbours from a multiple of their number on."""
        count, rest = self.lane.extent, offset + axis_index(self.lane.name) * -1
        aligned = all(c % count == 0 or atom in self.multiples for atom, c in rest.terms)
        apart = self.lane.name not in rest.names
        return rest if aligned and apart and rest.const % count == 0 else None

    def moved(self, value: Scalar, *, guarded: bool) -> Scalar | None:
        """The value with vectors in place of loads that move with the lane; None if one cannot.

        A load behind a test of its index may lie outside of its array, so it is not moved.
        """
        if isinstance(value, Load):
            return self._vector(value, guarded)
        if not isinstance(value, Call):
            return value
        guarded = guarded or any(isinstance(a, Inside) for a in value.arguments)
        arguments = [self.moved(a, guarded=guarded) for a in value.arguments]
        if any(a is None for a in arguments):
            return None
        return Call(value.function, tuple(a for a in arguments if a is not None), value.dtype)

    def _vector(self, load: Load, guarded: bool) -> Scalar | None:
        if self.lane.name not in load.offset.names:
            return load
        offset = self.first(load.offset)
        if offset is None or guarded:
            return None
        if load not in self.loads:
            name, count = self.namer.name(f"{load.buffer}_lanes"), self.lane.extent
            self.loads[load] = LoadLanes(name, load.dtype, count, load.buffer, offset)
        return Element(self.loads[load].name, axis_index(self.lane.name), load.dtype)
