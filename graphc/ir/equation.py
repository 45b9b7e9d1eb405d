"""The index equation: out[axes] = reduce over reduce_axes of body(reads), where the guards hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal

import sympy

from graphc.ir.index import Index
from graphc.ir.types import Axis, Shape, element_count

Reduction = Literal["none", "sum", "max", "min", "prod", "argmax", "argmin"]


@cache
def read_symbol(number: int) -> sympy.Symbol:
    """The scalar that stands in a body for the value of read ``number``."""
    return sympy.Symbol(f"r{number}", real=True)


@cache
def position_symbol(number: int) -> sympy.Symbol:
    """The scalar that stands in a body for the value of position ``number``."""
    return sympy.Symbol(f"p{number}", integer=True)


@dataclass(frozen=True)
class Read:
    """operand[index]; outside the operand's shape the value is ``fill`` (None: never outside)."""

    operand: int
    index: tuple[Index, ...]
    fill: float | None = None


@dataclass(frozen=True)
class Guard:
    """Holds where lower <= index < upper and index is a multiple of divisor."""

    index: Index
    lower: int | None = None
    upper: int | None = None
    divisor: int = 1


@dataclass(frozen=True, eq=False)
class Equation:
    """One op: an output for every position of ``axes``. Where a guard fails the body counts as 0.

    ``body`` is a sympy expression in read_symbol(k) for ``reads[k]`` and position_symbol(k) for
    the integer ``positions[k]``. ``operands`` holds the shape of every operand.
    Equality is equality of content (``key``).
    """

    axes: tuple[Axis, ...]
    reduction: Reduction
    reduce_axes: tuple[Axis, ...]
    operands: tuple[Shape, ...]
    reads: tuple[Read, ...]
    positions: tuple[Index, ...]
    guards: tuple[Guard, ...]
    body: sympy.Expr

    @cached_property
    def key(self) -> tuple[object, ...]:
        """Everything that decides the meaning."""
        return (
            self.axes, self.reduction, self.reduce_axes, self.operands,
            self.reads, self.positions, self.guards, self.body,
        )  # fmt: skip

    @cached_property
    def _hash(self) -> int:
        return hash(self.key)

    def __hash__(self) -> int:
        """Cached hash of the content."""
        return self._hash

    def __eq__(self, other: object) -> bool:
        """Equality of content."""
        if self is other:
            return True
        return isinstance(other, Equation) and self._hash == other._hash and self.key == other.key

    @property
    def shape(self) -> Shape:
        """Extents of the output."""
        return tuple(axis.extent for axis in self.axes)

    @cached_property
    def extents(self) -> Mapping[str, int]:
        """Extent of every axis by name."""
        return {axis.name: axis.extent for axis in (*self.axes, *self.reduce_axes)}

    @property
    def is_map(self) -> bool:
        """Whether nothing is reduced."""
        return self.reduction == "none"

    @property
    def points(self) -> int:
        """Size of the whole iteration space."""
        return element_count(self.shape) * element_count(tuple(a.extent for a in self.reduce_axes))

    def reads_identically(self, number: int) -> bool:
        """Whether read ``number`` takes its operand at exactly the output's position."""
        read = self.reads[number]
        if self.operands[read.operand] != self.shape:
            return False
        return all(
            index.single_name == axis.name or (axis.extent == 1 and index == Index())
            for index, axis in zip(read.index, self.axes, strict=True)
        )


def tidy(equation: Equation) -> Equation:
    """Merge equal reads and positions, drop unused ones, number the symbols without gaps."""
    used = equation.body.free_symbols
    renamed: dict[sympy.Basic, sympy.Basic] = {}
    reads: list[Read] = []
    for old, read in enumerate(equation.reads):
        if read_symbol(old) in used:
            if read not in reads:
                reads.append(read)
            renamed[read_symbol(old)] = read_symbol(reads.index(read))
    positions: list[Index] = []
    for old, index in enumerate(equation.positions):
        if position_symbol(old) in used:
            if index not in positions:
                positions.append(index)
            renamed[position_symbol(old)] = position_symbol(positions.index(index))
    return Equation(
        equation.axes, equation.reduction, equation.reduce_axes, equation.operands,
        tuple(reads), tuple(positions), equation.guards, equation.body.xreplace(renamed),
    )  # fmt: skip
