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
    """Digits from the slowest to the fastest; every element has one place.

    The fastest may count further than its dimension goes: such places hold zeros.
    """

    shape: Shape
    digits: tuple[Digit, ...]

    @property
    def size(self) -> int:
        """Places in memory: the elements, and the zeros between them."""
        return math.prod(digit.extent for digit in self.digits)

    @property
    def padding(self) -> tuple[int, int] | None:
        """The dimension that has more places than elements, and how many; None without one."""
        last = self.digits[-1] if self.digits else None
        longer = last is not None and last.extent > self.shape[last.dimension]
        return (last.dimension, last.extent) if last is not None and longer else None

    @property
    def padded_shape(self) -> Shape:
        """The shape with the places that hold zeros."""
        extents = list(self.shape)
        if self.padding is not None:
            dimension, places = self.padding
            extents[dimension] = places
        return tuple(extents)

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


def padded(shape: Shape, dimension: int, places: int) -> Layout:
    """One dimension runs fastest, in ``places`` of which those beyond its extent hold zeros.

    [N][3][H][W] padded to 4 along C is [N][H][W][4]: one copy of a power of two of bytes a pixel.
    """
    assert shape[dimension] <= places
    outer = [
        Digit(d, places, 1) if d == dimension else Digit(d, 1, extent)
        for d, extent in enumerate(shape)
    ]
    return Layout(shape, (*outer, Digit(dimension, 1, places)))


def reshaped(layout: Layout, shape: Shape) -> Layout | None:
    """The layout of the same memory seen in another shape, None if it is no such layout.

    Blocks stay blocks where the shapes agree on how many elements follow the blocked dimension.
    """
    if layout.padding is not None:
        return layout if shape == layout.shape else None
    if len(layout.digits) == len(layout.shape):
        return row_major(shape)
    dimension, lanes = layout.digits[-1].dimension, layout.digits[-1].extent
    inner = math.prod(layout.shape[dimension + 1 :])
    for place, extent in enumerate(shape):
        if extent % lanes == 0 and math.prod(shape[place + 1 :]) == inner:
            return blocked(shape, place, lanes)
    return None


def layout_text(layout: Layout) -> str:
    """How elements lie, for people: ``row-major``, ``blocks of 16 along dimension 1``, or
    ``dimension 1 runs fastest``, perhaps ``, 3 padded to 4``.
    """
    if layout.lanes is not None:
        dimension, lanes = layout.lanes
        return f"blocks of {lanes} along dimension {dimension}"
    long = [digit.dimension for digit in layout.digits if digit.extent > 1]
    if layout.padding is not None:
        dimension, places = layout.padding
        return f"dimension {dimension} runs fastest, {layout.shape[dimension]} padded to {places}"
    return "row-major" if long == sorted(long) else f"dimension {long[-1]} runs fastest"
