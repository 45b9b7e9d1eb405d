"""Sums over every s-th term as s sums without gaps: the gradient of a strided convolution.

Where a guard says that s divides d + c - r, only taps r with the right remainder count. Cutting d
into blocks and a phase, d = s*block + phase, that remainder is (phase + c) mod s: the taps become
r = s*step + remainder, the guard holds always, and no product with zero is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import graphc.ir.index as ix
from graphc.ir.equation import Equation, Guard, Read
from graphc.ir.index import Floor, Index
from graphc.ir.types import Axis
from graphc.lower.names import Namer
from graphc.lower.split import recast


@dataclass(frozen=True)
class Phased:
    """An equation without divisibility guards, the phases (its first axes), and the old axes."""

    equation: Equation
    phases: tuple[Axis, ...]
    values: Mapping[str, Index]


def split_phases(equation: Equation, namer: Namer) -> Phased | None:
    """The same sums in phases; None if a guard asks for a multiple in another way."""
    phases: list[Axis] = []
    values: dict[str, Index] = {}
    divided = [g for g in equation.guards if g.divisor != 1]
    for guard in divided:
        found = _phase(equation, guard, namer) if guard.lower is guard.upper is None else None
        if found is None or set(values) & set(found.values):
            return None
        phases += found.phases
        values |= found.values
        equation = found.equation
    return Phased(equation, tuple(phases), values) if phases else None


def _phase(equation: Equation, guard: Guard, namer: Namer) -> Phased | None:
    """Remove one guard ``divisor divides a*d + b*r + c``, a and b being 1 or -1."""
    step, index = guard.divisor, guard.index
    kept = [a for a in equation.axes if index.coefficient(a.name)]
    summed = [a for a in equation.reduce_axes if index.coefficient(a.name)]
    if not index.is_affine or len(index.terms) != 2 or len(kept) != 1 or len(summed) != 1:
        return None
    axis, tap = kept[0], summed[0]
    a, b = index.coefficient(axis.name), index.coefficient(tap.name)
    if abs(a) != 1 or abs(b) != 1 or axis.extent % step:
        return None
    phase = Axis(namer.axis(f"{axis.name}_phase"), step)
    rest = ix.axis_index(phase.name) * a + index.const
    remainder = (rest * -b) % step
    values = {
        axis.name: ix.axis_index(axis.name) * step + ix.axis_index(phase.name),
        tap.name: ix.axis_index(tap.name) * step + remainder,
    }
    quotient = (rest // step) if b < 0 else -((-rest) // step)
    quotient = quotient + ix.axis_index(axis.name) * a + ix.axis_index(tap.name) * b
    blocks = Axis(axis.name, axis.extent // step)
    steps = Axis(tap.name, -(-tap.extent // step))
    opened = _without(equation, guard)
    moved = recast(
        opened, tuple(blocks if x is axis else x for x in equation.axes),
        tuple(steps if x is tap else x for x in equation.reduce_axes), values,
    )  # fmt: skip
    guards = tuple(_restored(g, quotient) for g in moved.guards)
    if tap.extent % step:
        guards = (*guards, Guard(values[tap.name], 0, tap.extent))
    return Phased(
        Equation(
            (phase, *moved.axes), moved.reduction, moved.reduce_axes, moved.operands,
            tuple(_moved(r, quotient, tap.name) for r in moved.reads),
            moved.positions, guards, moved.body,
        ),
        (phase,), {axis.name: values[axis.name]},
    )  # fmt: skip


_QUOTIENT = "?quotient"  # stands for the quotient while the axes around it are replaced


def _without(equation: Equation, guard: Guard) -> Equation:
    """The equation without a guard, every quotient of its index replaced by one name."""
    atom = Floor(guard.index, guard.divisor)

    def named(index: Index) -> Index:
        terms = [(_QUOTIENT if t == atom else t, c) for t, c in index.terms]
        return ix.collect(terms, index.const)

    return Equation(
        equation.axes, equation.reduction, equation.reduce_axes, equation.operands,
        tuple(Read(r.operand, tuple(map(named, r.index)), r.fill) for r in equation.reads),
        tuple(map(named, equation.positions)),
        tuple(
            Guard(named(g.index), g.lower, g.upper, g.divisor)
            for g in equation.guards if g != guard
        ),
        equation.body,
    )  # fmt: skip


def _moved(read: Read, quotient: Index, tap: str) -> Read:
    """A read over blocks, phases and steps; the last step of the taps may lie outside."""
    index = tuple(_replaced(i, quotient) for i in read.index)
    steps = any(tap in old.names for old in read.index)
    return Read(read.operand, index, 0.0 if steps and read.fill is None else read.fill)


def _replaced(index: Index, quotient: Index) -> Index:
    return index.substitute({_QUOTIENT: quotient})


def _restored(guard: Guard, quotient: Index) -> Guard:
    return Guard(_replaced(guard.index, quotient), guard.lower, guard.upper, guard.divisor)
