"""Which tensors a copy engine sees in the index maps of a product's factors, and patches of them.

A copy engine takes a box of a tensor and fills with zeros what lies outside. So an offset becomes
dimensions, one for each stride, and a condition becomes the extent of one of them: padding is where
a box overhangs. A convolution's taps move the box, its pixels and channels lie along it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from graphc.ir.boxes import GROUP_ROWS, LINE_BYTES
from graphc.ir.grid import Operand
from graphc.ir.index import Atom, Index, collect
from graphc.ir.scalar import Condition
from graphc.ir.types import Axis, DType

_NONE: Mapping[str, int] = {}
_MOST_DIMENSIONS = 5
_MOST_IN_BOX = 256
_COPY_BYTES = 16  # strides and starts are multiples


@dataclass(frozen=True)
class TensorAxis:
    """A dimension of a tensor: which element of it the axes read, out of how many they could."""

    extent: int
    stride: int
    index: Index
    reached: int

    def holds(self, axis: Axis) -> bool:
        """Whether a box may lie along the axis here."""
        return self.index.coefficient(axis.name) == 1

    def ends_with(self, axis: Axis) -> bool:
        """Whether the dimension is this axis alone, and what lies beyond its end is 0."""
        return (
            self.holds(axis)
            and len(self.index.terms) == 1
            and (self.extent == axis.extent + self.index.const)
        )


@dataclass(frozen=True)
class Tensor:
    """An array as a copy engine sees it, slowest dimension first; ``inner`` runs through memory."""

    operand: Operand
    offset: int
    dimensions: tuple[TensorAxis, ...]
    inner: Axis

    def place(self, axis: Axis) -> int:
        """The number of the dimension along which the axis runs."""
        return next(n for n, d in enumerate(self.dimensions) if axis.name in d.index.names)


def find_tensor(
    operand: Operand, batch: Sequence[Axis], depth: Sequence[Axis], dtype: DType
) -> Tensor | str:
    """The tensor of a factor; why there is none, for people."""
    axes = {a.name: a for a in (*batch, *operand.axes, *depth)}
    if not operand.offset.is_affine:
        return f"{operand.buffer} is not read along straight lines"
    found = _dimensions(operand.offset, operand.conditions, {n: a.extent for n, a in axes.items()})
    if found is None:
        return f"the border of {operand.buffer} is not that of a tensor"
    offset, dimensions = found
    last = dimensions[-1]
    inner = [a for a in axes.values() if last.holds(a)]
    if last.stride != 1 or len(inner) != 1 or inner[0] in batch:
        return f"no axis runs through the memory of {operand.buffer}"
    if len(dimensions) > _MOST_DIMENSIONS:
        return f"{operand.buffer} has {len(dimensions)} dimensions, a copy has {_MOST_DIMENSIONS}"
    sizes = [offset, *(d.stride for d in dimensions[:-1])]
    if offset < 0 or any(size * dtype.size % _COPY_BYTES for size in sizes):
        return f"lines of {operand.buffer} do not start at multiples of {_COPY_BYTES} bytes"
    return Tensor(operand, offset, dimensions, inner[0])


def _dimensions(
    offset: Index, conditions: Sequence[Condition], extents: Mapping[str, int]
) -> tuple[int, tuple[TensorAxis, ...]] | None:
    """Where the tensor starts, and its dimensions; None if a condition fits none."""
    found = _strides(offset, conditions)
    if found is None:
        return None
    start, dimensions, used = offset.const, [], 0
    for stride, index in sorted(found, key=lambda one: -one[0]):
        low, high = index.bounds(extents)
        reached = high - low + 1
        for condition in conditions:
            if condition.index.terms != index.terms:
                continue
            used, const = used + 1, condition.index.const
            low = low if condition.lower is None else max(low, condition.lower - const)
            high = high if condition.upper is None else min(high, condition.upper - const - 1)
        if high < low:
            return None
        start += stride * low
        dimensions.append(TensorAxis(high - low + 1, stride, index + -low, reached))
    return (start, tuple(dimensions)) if dimensions and used == len(conditions) else None


def _strides(offset: Index, conditions: Sequence[Condition]) -> list[tuple[int, Index]] | None:
    """Strides, each with the sum of axes that it multiplies: those of a condition, else one axis or
    several of the same stride. None where a condition is not about a stride.
    """
    left = dict(offset.terms)
    found: dict[Index, int] = {}
    for condition in conditions:
        index = condition.index + -condition.index.const
        if index in found:
            continue
        strides = {left.pop(name, 0) / factor for name, factor in index.terms}
        stride = int(next(iter(strides), 0))
        if condition.divisor != 1 or len(strides) != 1 or stride < 1 or stride not in strides:
            return None
        found[index] = stride
    alike: dict[int, list[tuple[Atom, int]]] = {}
    for name, factor in left.items():
        alike.setdefault(abs(factor), []).append((name, factor // abs(factor)))
    free = {stride: collect(terms, 0) for stride, terms in alike.items()}
    while len(found) + len(free) > _MOST_DIMENSIONS and _fold(free):
        pass
    return [(stride, index) for index, stride in found.items()] + list(free.items())


def _fold(free: dict[int, Index]) -> bool:
    """Whether one stride could become a multiple of another: steps of a dilated window are."""
    pairs = [
        (long // short, short, long)
        for short, long in itertools.permutations(free, 2) if long > short and long % short == 0
    ]  # fmt: skip
    if not pairs:
        return False
    factor, short, long = min(pairs)
    free[short] += free.pop(long) * factor
    return True


# ---- Patches -----------------------------------------------------------------------------------


def lines_along(tensor: Tensor, patch: Mapping[Axis, int]) -> bool:
    """Whether boxes of these sizes can be copied: each along a dimension of its own."""
    places = [tensor.place(a) for a, size in patch.items() if size > 1]
    return len(set(places)) == len(places) and all(
        size <= _MOST_IN_BOX and tensor.dimensions[tensor.place(a)].holds(a)
        for a, size in patch.items() if size > 1
    )  # fmt: skip


def depth_patch(
    depth: Sequence[Axis], rows: Tensor, columns: Tensor, size: int
) -> tuple[int, ...] | None:
    """How many neighbours along each axis of the depth a step takes, ``size`` in all.

    The least that overhangs, then the longest runs. None if both factors cannot bring the same.
    """
    sides = (rows, columns)
    lines = [t.inner for t in sides if t.inner in depth]

    def legal(sizes: Sequence[int]) -> bool:
        patch = dict(zip(depth, sizes, strict=True))
        if any(patch[axis] != size for axis in lines):
            return False
        orders = [_by_place(t, patch) for t in sides]
        overhang = [a for a, n in patch.items() if a.extent % n]
        return (
            orders[0] == orders[1]
            and all(lines_along(t, patch) for t in sides)
            and all(t.dimensions[t.place(a)].ends_with(a) for t in sides for a in overhang)
        )

    found = [sizes for sizes in _cuts(len(depth), size) if legal(sizes)]
    return min(found, key=lambda s: (covered(depth, s), [-n for n in s[::-1]]), default=None)


def _by_place(tensor: Tensor, patch: Mapping[Axis, int]) -> list[str]:
    return [a.name for a in sorted(patch, key=tensor.place) if patch[a] > 1]


def own_patch(
    tensor: Tensor, size: int, dtype: DType, windows: Mapping[str, int] = _NONE
) -> tuple[int, ...] | None:
    """How many neighbours along each own axis a tile takes, ``size`` in all; None if it cannot.

    The least that overhangs, then the fewest elements that all places of the box touch together.
    Each 64 of them hold whole ``windows``, given by axis.
    """
    axes = tensor.operand.axes
    line = LINE_BYTES // dtype.size

    def legal(sizes: Sequence[int]) -> bool:
        if not _holds_windows(axes, sizes, windows):
            return False
        if tensor.inner in axes:  # each line is a copy of its own
            return axes[-1] == tensor.inner and sizes[-1] % line == 0
        return lines_along(tensor, dict(zip(axes, sizes, strict=True)))

    def touched(sizes: Sequence[int]) -> int:
        return math.prod(n + _reach(tensor, a) for a, n in zip(axes, sizes, strict=True))

    found = [sizes for sizes in _cuts(len(axes), size) if legal(sizes)]
    return min(found, key=lambda s: (covered(axes, s), touched(s), s), default=None)


def _holds_windows(axes: Sequence[Axis], sizes: Sequence[int], windows: Mapping[str, int]) -> bool:
    """Whether windows do not straddle what four warps finish at once."""
    rows = 1
    for axis, size in zip(reversed(axes), reversed(sizes), strict=True):
        window = windows.get(axis.name, 1)
        if size % window or (window > 1 and GROUP_ROWS % (window * rows)):
            return False
        rows *= size
    return True


def _reach(tensor: Tensor, axis: Axis) -> int:
    """By how much other axes move a box along this one."""
    return tensor.dimensions[tensor.place(axis)].reached - axis.extent


def covered(axes: Sequence[Axis], sizes: Sequence[int]) -> int:
    """Places that patches cover, with those that overhang."""
    return math.prod(-(-a.extent // n) * n for a, n in zip(axes, sizes, strict=True))


def _cuts(count: int, size: int) -> Iterator[tuple[int, ...]]:
    """All ways to write a size as a product of so many whole numbers."""
    divisors = [n for n in range(1, size + 1) if size % n == 0]
    for sizes in itertools.product(divisors, repeat=max(count - 1, 0)):
        rest, over = divmod(size, math.prod(sizes))
        if count and not over and rest:
            yield (rest, *sizes)
