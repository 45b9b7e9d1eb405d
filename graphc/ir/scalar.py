"""Typed scalar expressions of the loop IR: what is printed once sympy has left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from graphc.ir.index import Index
from graphc.ir.types import DType


@dataclass(frozen=True)
class Number:
    """A literal."""

    value: float | int | bool
    dtype: DType


@dataclass(frozen=True)
class Name:
    """A local scalar."""

    name: str
    dtype: DType


@dataclass(frozen=True)
class Element:
    """One lane of a local array."""

    name: str
    index: Index
    dtype: DType


@dataclass(frozen=True)
class Position:
    """The integer value of an index."""

    index: Index
    dtype: DType = DType.int64


@dataclass(frozen=True)
class Load:
    """buffer[offset]; the offset counts elements."""

    buffer: str
    offset: Index
    dtype: DType


@dataclass(frozen=True)
class Condition:
    """lower <= index < upper and divisor divides index; a missing bound does not bind."""

    index: Index
    lower: int | None
    upper: int | None
    divisor: int = 1


@dataclass(frozen=True)
class Inside:
    """Whether all conditions hold."""

    conditions: tuple[Condition, ...]
    dtype: DType = DType.boolean


@dataclass(frozen=True)
class Call:
    """An operator or function by its IR name: add, multiply, select, less, exp, cast, ..."""

    function: str
    arguments: tuple[Scalar, ...]
    dtype: DType


Scalar = Number | Name | Element | Position | Load | Inside | Call


def loads(value: Scalar) -> Iterator[Load]:
    """Every read of an array within a value."""
    if isinstance(value, Load):
        yield value
    elif isinstance(value, Call):
        for argument in value.arguments:
            yield from loads(argument)


def plain_load(value: Scalar) -> Load | None:
    """The load that a value is, as it stands or widened from 16 bits; None if it is none."""
    if isinstance(value, Call) and value.function == "cast" and value.dtype is DType.float32:
        (inner,) = value.arguments
        return inner if isinstance(inner, Load) and inner.dtype.is_half else None
    return value if isinstance(value, Load) else None


def guarded_load(
    value: Scalar, tests: Sequence[Condition] = ()
) -> tuple[tuple[Condition, ...], Scalar] | None:
    """The conditions and the load of an element that is zero elsewhere; None if it is no such."""
    conditions = tuple(tests)
    if isinstance(value, Call) and value.function == "select":
        inside, taken, other = value.arguments
        if not isinstance(inside, Inside) or not isinstance(other, Number) or other.value:
            return None
        conditions += inside.conditions
        value = taken
    return (conditions, value) if plain_load(value) is not None else None
