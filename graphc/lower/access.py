"""Reads as memory accesses: a flat offset and the conditions under which it is inside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import graphc.ir.index as ix
from graphc.ir.equation import Equation, Guard, Read
from graphc.ir.index import Index
from graphc.ir.layout import Layout
from graphc.ir.scalar import Call, Condition, Inside, Load, Number, Scalar
from graphc.ir.types import Axis, DType
from graphc.lower.freeze import widened
from graphc.lower.names import Namer


@dataclass(frozen=True)
class Access:
    """An element of an array, or ``fill`` where a condition fails."""

    buffer: str
    dtype: DType
    offset: Index
    conditions: tuple[Condition, ...]
    fill: float

    def scalar(self, values: Mapping[str, Index]) -> Scalar:
        """The element with axes replaced, in the type that arithmetic is done in."""
        return self._selected(widened(self._load(values)), values)

    def stored(self, values: Mapping[str, Index]) -> Scalar:
        """The element with axes replaced, in the array's own type."""
        return self._selected(self._load(values), values)

    def _load(self, values: Mapping[str, Index]) -> Load:
        return Load(self.buffer, self.offset.substitute(values), self.dtype)

    def _selected(self, load: Scalar, values: Mapping[str, Index]) -> Scalar:
        if not self.conditions:
            return load
        test = Inside(substitute_conditions(self.conditions, values))
        plain = self.fill if self.dtype.is_float else int(self.fill)
        return Call("select", (test, load, Number(plain, load.dtype)), load.dtype)


def access(
    read: Read, layout: Layout, buffer: str, dtype: DType, extents: Mapping[str, int]
) -> Access:
    """The access of a read; conditions that the extents imply are left out."""
    conditions = []
    if read.fill is not None:
        shape = layout.shape if read.fill else layout.padded_shape  # zeros may be read as fill
        guards = (Guard(index, 0, n) for index, n in zip(read.index, shape, strict=True))
        conditions = [c for g in guards for c in guard_conditions(g, extents)]
    offset = layout.offset(read.index).simplify(extents)
    return Access(buffer, dtype, offset, tuple(conditions), read.fill or 0.0)


def guard_conditions(guard: Guard, extents: Mapping[str, int]) -> list[Condition]:
    """The part of a guard that the extents do not imply."""
    index = guard.index.simplify(extents)
    low, high = index.bounds(extents)
    lower = guard.lower if guard.lower is not None and low < guard.lower else None
    upper = guard.upper if guard.upper is not None and high >= guard.upper else None
    divisor = guard.divisor
    if divisor != 1 and not (index % divisor).simplify(extents).terms:
        divisor = 1
    if lower is None and upper is None and divisor == 1:
        return []
    return [Condition(index, lower, upper, divisor)]


def equation_conditions(
    guards: Iterable[Guard], extents: Mapping[str, int]
) -> tuple[Condition, ...]:
    """Divisibility first, so that quotients in later conditions are exact."""
    found = [c for guard in guards for c in guard_conditions(guard, extents)]
    return tuple(sorted(found, key=lambda c: c.divisor == 1))


def substitute_conditions(
    conditions: Sequence[Condition], values: Mapping[str, Index]
) -> tuple[Condition, ...]:
    """Conditions with axes replaced."""
    return tuple(
        Condition(c.index.substitute(values), c.lower, c.upper, c.divisor) for c in conditions
    )


def rename_axes(equation: Equation, names: Mapping[str, str]) -> Equation:
    """The same equation with other axis names."""
    if all(old == new for old, new in names.items()):
        return equation
    values = {old: ix.axis_index(new) for old, new in names.items()}

    def axes(old: tuple[Axis, ...]) -> tuple[Axis, ...]:
        return tuple(Axis(names.get(a.name, a.name), a.extent) for a in old)

    return Equation(
        axes(equation.axes), equation.reduction, axes(equation.reduce_axes), equation.operands,
        tuple(
            Read(r.operand, tuple(i.substitute(values) for i in r.index), r.fill)
            for r in equation.reads
        ),
        tuple(i.substitute(values) for i in equation.positions),
        tuple(
            Guard(g.index.substitute(values), g.lower, g.upper, g.divisor) for g in equation.guards
        ),
        equation.body,
    )  # fmt: skip


@dataclass(frozen=True)
class Merged:
    """Axes after merging, and the indexes that replace the old ones."""

    axes: tuple[Axis, ...]
    values: dict[str, Index]


def merge_axes(
    axes: Sequence[Axis], offsets: Sequence[Index], conditions: Sequence[Condition], namer: Namer
) -> Merged:
    """Merge neighbouring axes that every offset walks through as one (row-major, without gaps)."""
    blocked: set[str] = set()
    for condition in conditions:
        blocked |= condition.index.names
    for offset in offsets:
        for atom, _ in offset.terms:
            blocked |= set() if isinstance(atom, str) else atom.inner.names
    values: dict[str, Index] = {a.name: ix.constant(0) for a in axes if a.extent == 1}
    done: list[Axis] = []
    for axis in (a for a in axes if a.extent > 1):
        if done and _mergeable(done[-1], axis, offsets, values, blocked):
            outer = done.pop()
            name = namer.merged_axis(outer.name, axis.name)
            step = {outer.name: ix.constant(0), axis.name: ix.axis_index(name)}
            values = {n: v.substitute(step) for n, v in values.items()} | step
            axis = Axis(name, outer.extent * axis.extent)
        done.append(axis)
    return Merged(tuple(done), values)


def _mergeable(
    outer: Axis,
    inner: Axis,
    offsets: Sequence[Index],
    values: Mapping[str, Index],
    blocked: set[str],
) -> bool:
    old = {name for name, v in values.items() if outer.name in v.names} | {outer.name}
    if old & blocked or inner.name in blocked:
        return False
    return all(
        moved.coefficient(outer.name) == inner.extent * moved.coefficient(inner.name)
        for moved in (offset.substitute(values) for offset in offsets)
    )
