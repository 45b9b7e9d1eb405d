"""Where the elements of an array lie in memory: a mixed-radix number of digits of the index."""

from __future__ import annotations

import math
from dataclasses import dataclass

from graphc.ir.index import Index, constant
from graphc.ir.types import Shape


@dataclass(frozen=True)
class Digit:
    """``index[dimension] // divisor``, one digit of ``extent`` values of an element's place."""

    dimension: int
    divisor: int
    extent: int


@dataclass(frozen=True)
class Layout:
    """Digits from the slowest to the fastest; every element has one place."""

    shape: Shape
    digits: tuple[Digit, ...]

    @property
    def lanes(self) -> tuple[int, int] | None:
        """Dimension and length of the blocks that lie together, None if row-major."""
        last = self.digits[-1] if self.digits else None
        cut = last is not None and last.extent < self.shape[last.dimension]
        return (last.dimension, last.extent) if last is not None and cut else None

    def offset(self, index: tuple[Index, ...]) -> Index:
        """The place of the element at an index, counted in elements."""
        place, stride = constant(0), 1
        for digit in reversed(self.digits):
            value = index[digit.dimension] // digit.divisor
            if digit.divisor * digit.extent < self.shape[digit.dimension]:
                value = value % digit.extent
            place = place + value * stride
            stride *= digit.extent
        return place


def row_major(shape: Shape) -> Layout:
    """The last dimension runs fastest."""
    return Layout(shape, tuple(Digit(d, 1, extent) for d, extent in enumerate(shape)))


def blocked(shape: Shape, dimension: int, lanes: int) -> Layout:
    """Blocks of ``lanes`` along one dimension run fastest; ``lanes`` must divide its extent.

    [N][C][H][W] blocked along C is [N][C/lanes][H][W][lanes]: one vector of channels a pixel.
    """
    assert shape[dimension] % lanes == 0
    outer = [
        Digit(d, lanes if d == dimension else 1, extent // (lanes if d == dimension else 1))
        for d, extent in enumerate(shape)
    ]
    return Layout(shape, (*outer, Digit(dimension, 1, lanes)))


def reshaped(layout: Layout, shape: Shape) -> Layout | None:
    """The layout of the same memory seen in another shape, None if it is no such layout.

    Blocks stay blocks where the shapes agree on how many elements follow the blocked dimension.
    """
    if len(layout.digits) == len(layout.shape):
        return row_major(shape)
    dimension, lanes = layout.digits[-1].dimension, layout.digits[-1].extent
    inner = math.prod(layout.shape[dimension + 1 :])
    for place, extent in enumerate(shape):
        if extent % lanes == 0 and math.prod(shape[place + 1 :]) == inner:
            return blocked(shape, place, lanes)
    return None


def layout_text(layout: Layout) -> str:
    """How elements lie, for people: ``row-major``, ``dimension 1 runs fastest``, ``blocks of 16 along
    dimension 1``.
    """
    if layout.lanes is not None:
        dimension, lanes = layout.lanes
        return f"blocks of {lanes} along dimension {dimension}"
    long = [digit.dimension for digit in layout.digits if digit.extent > 1]
    return "row-major" if long == sorted(long) else f"dimension {long[-1]} runs fastest"
