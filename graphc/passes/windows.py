"""Reductions over windows that tile an array: pooling whose windows touch without overlapping."""

from __future__ import annotations

from functools import lru_cache

from graphc.ir.equation import Equation
from graphc.ir.index import Index
from graphc.ir.types import Axis


@lru_cache(maxsize=4096)
def window_sizes(equation: Equation) -> tuple[int, ...] | None:
    """Extents of the windows along each dimension of the one array that an equation reduces.

    None unless output axis d, in order, counts windows along dimension d: ``size*i + r`` with
    0 <= r < size, each within the array; 1 where the axis is the dimension's own.
    """
    plain = len(equation.reads) == 1 and not equation.guards and not equation.positions
    if equation.is_map or not plain or len(equation.operands) != 1:
        return None
    index, shape = equation.reads[0].index, equation.operands[0]
    if len(index) != len(equation.axes):
        return None
    left = {axis.name: axis for axis in equation.reduce_axes}
    sizes = []
    for one, extent, axis in zip(index, shape, equation.axes, strict=True):
        size = _size(one, axis, left)
        if size is None or size * axis.extent > extent:
            return None
        if size == 1 and axis.extent != extent:
            return None
        sizes.append(size)
    return tuple(sizes) if not left and max(sizes, default=1) > 1 else None


def _size(index: Index, axis: Axis, left: dict[str, Axis]) -> int | None:
    """The window's extent along one dimension; takes its axis out of those that are left."""
    inside = [left[a] for a, _ in index.terms if isinstance(a, str) and a in left]
    if not inside:
        own = index.single_name == axis.name or (axis.extent == 1 and index == Index())
        return 1 if own else None
    (window, *more), size = inside, inside[0].extent
    whole = {(window.name, 1)} | ({(axis.name, size)} if axis.extent > 1 else set())
    terms = {t for t in index.terms if t[0] != axis.name or axis.extent > 1}
    if more or index.const or terms != whole:
        return None
    del left[window.name]
    return size
