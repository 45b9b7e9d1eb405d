"""Views and joins: ops that only move elements, as index maps that a reader of them can absorb."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

from graphc.errors import UserError, user_error
from graphc.ir.graph import Node, operators
from graphc.ir.index import Index
from graphc.ir.types import Shape
from graphc.ops.broadcasting import broadcast_index, broadcast_shape, sized_axes
from graphc.ops.define import Definition, Operand, define, op
from graphc.ops.leaves import legal_shape
from graphc.ops.messages import describe

Step = tuple[int, int, int] | None  # start, step, extent of a slice; extent 0 drops the dimension


@op
def reshaping(x: Operand, *, shape: Shape) -> Definition:
    """The elements in row-major order under another shape."""
    out = sized_axes(shape)
    extents = dict(zip(map(str, out), shape, strict=True))
    where = [Index()] * len(x.shape)
    for old, new in _blocks(x.shape, shape):
        flat, inner = Index(), 1
        for d in new:
            flat = flat * shape[d] + out[d]
        for d in reversed(old):
            where[d] = (flat // inner % x.shape[d]).simplify(extents)
            inner *= x.shape[d]
    return define[out](x[tuple(where)])


@op
def permutation(x: Operand, *, order: Shape) -> Definition:
    """out[i[order]] = x[i]."""
    names = sized_axes(tuple(x.shape[d] for d in order))
    return define[names](x[tuple(names[order.index(d)] for d in range(len(order)))])


@op
def slicing(x: Operand, *, steps: tuple[tuple[int, int, int], ...]) -> Definition:
    """out[i] = x[start + step * i]; a dimension of extent 0 stands for one position."""
    out = sized_axes(tuple(extent for _, _, extent in steps if extent))
    names = iter(out)
    where = [start + (next(names) * step if extent else 0) for start, step, extent in steps]
    return define[out](x[tuple(where)])


@op
def concatenation(*parts: Operand, axis: int) -> Definition:
    """The sum of all parts, each in a border of zeros up to the whole extent.

    Exact but for the sign of a negative zero.
    """
    total = sum(part.shape[axis] for part in parts)
    out = sized_axes((*parts[0].shape[:axis], total, *parts[0].shape[axis + 1 :]))
    body, start = 0, 0
    for part in parts:
        extent = part.shape[axis]
        border = [(0, 0)] * len(out)
        border[axis] = (start, total - start - extent)
        body = body + part.padded(border)[out]
        start += extent
    return define[out](body)


@op
def broadcasting(x: Operand, *, shape: Shape) -> Definition:
    """The same elements for every position of the added or stretched dimensions."""
    out = sized_axes(shape)
    return define[out](x[broadcast_index(x.shape, [str(name) for name in out])])


@op
def reversal(x: Operand, *, dimensions: Shape) -> Definition:
    """out[i] = x[n - 1 - i] in the given dimensions."""
    out = sized_axes(x.shape)
    where = [x.shape[d] - 1 - index if d in dimensions else index for d, index in enumerate(out)]
    return define[out](x[tuple(where)])


def reshape(x: Node, shape: Sequence[int] | int) -> Node:
    """The elements of x in row-major order under another shape.

    Args:
        x: any value.
        shape: positive extents of the same product; one may be -1 and follows from the others.

    Raises:
        UserError: the numbers of elements differ, or more than one extent is -1.
    """
    given = (shape,) if isinstance(shape, int) else tuple(shape)
    count = math.prod(x.shape)
    if given.count(-1) == 1:
        known = -math.prod(given)
        if known > 0 and count % known == 0:
            given = tuple(count // known if extent == -1 else extent for extent in given)
    if -1 in given or math.prod(given) != count:
        raise user_error(
            f"reshape: {count} elements do not fit the shape {list(given)}", *describe([x]),
            "the products of both shapes must be equal; at most one extent may be -1",
        )  # fmt: skip
    wanted = legal_shape("reshape", given)
    if wanted == x.shape:
        return x
    blocks = _blocks(x.shape, wanted)
    if any(len(old) > 1 and len(new) > 1 for old, new in blocks):
        # Cut in two ways, as in (4, 6) -> (8, 3), a block is joined before it is cut: both index
        # maps can then be solved for their axes, and the gradient of neither sums anything.
        middle = tuple(math.prod(x.shape[d] for d in old) for old, _ in blocks)
        x = reshaping(x, shape=middle, label="reshape")
    return reshaping(x, shape=wanted, label="reshape")


def _blocks(old: Shape, new: Shape) -> list[tuple[list[int], list[int]]]:
    """Dimensions of both shapes (but for extents 1) in the smallest runs of equal product."""
    blocks: list[tuple[list[int], list[int]]] = []
    pending = [[d for d, extent in enumerate(s) if extent != 1] for s in (old, new)]
    while pending[0]:
        block = ([pending[0].pop(0)], [pending[1].pop(0)])
        sizes = [old[block[0][0]], new[block[1][0]]]
        while sizes[0] != sizes[1]:
            side = int(sizes[1] < sizes[0])
            block[side].append(pending[side].pop(0))
            sizes[side] *= (old, new)[side][block[side][-1]]
        blocks.append(block)
    return blocks


def flatten(x: Node, start: int = 1) -> Node:
    """All dimensions from ``start`` on as one: (N, C, H, W) -> (N, C*H*W)."""
    if not 0 <= start <= len(x.shape):
        raise user_error(f"flatten: start is {start}", *describe([x]))
    return reshape(x, (*x.shape[:start], math.prod(x.shape[start:])))


def transpose(x: Node, axes: Sequence[int] | None = None) -> Node:
    """The dimensions in another order, by default reversed: out's dimension d is x's axes[d].

    Raises:
        UserError: ``axes`` is no permutation of x's dimensions.
    """
    order = tuple(reversed(range(len(x.shape)))) if axes is None else tuple(axes)
    rank = len(x.shape)
    order = tuple(a + rank if -rank <= a < 0 else a for a in order)
    if sorted(order) != list(range(rank)):
        raise user_error(
            f"transpose: axes {list(order)} must name each of the {rank} dimensions once",
            *describe([x]),
        )
    return x if order == tuple(range(rank)) else permutation(x, order=order, label="transpose")


def getitem(x: Node, key: Any) -> Node:
    """Basic slicing: integers, slices with positive steps, ``...`` and None, as NumPy has it.

    Raises:
        UserError: an index is out of range, a step is not positive, nothing is left, or the key
            is something else (for a choice by an array see gx.where).
    """
    keys = list(key) if isinstance(key, tuple) else [key]
    try:
        full = _expand_ellipsis(keys, len(x.shape))
        steps = _steps([k for k in full if k is not None], x.shape)
    except UserError as error:
        raise user_error(f"slice: {error}", *describe([x])) from None
    trivial = all(step == (0, 1, n) for step, n in zip(steps, x.shape, strict=True))
    sliced = x if trivial else slicing(x, steps=steps, label="slice")
    kept = iter([extent for _, _, extent in steps if extent])
    # A None adds a dimension, an integer removed one: what is left are the slices.
    shape = tuple(1 if k is None else next(kept) for k in full if k is None or type(k) is slice)
    return reshape(sliced, shape)


def _expand_ellipsis(keys: list[Any], rank: int) -> list[Any]:
    """The keys with ``...`` (at the end if there is none) written out, one a dimension."""
    dots = [d for d, k in enumerate(keys) if k is Ellipsis]
    used = sum(k is not None and k is not Ellipsis for k in keys)
    if len(dots) > 1 or used > rank:
        raise UserError(f"{used} indexes for {rank} dimensions; at most one '...'")
    at = dots[0] if dots else len(keys)
    return [*keys[:at], *[slice(None)] * (rank - used), *keys[at + 1 :]]


def _steps(keys: Sequence[Any], shape: Shape) -> tuple[tuple[int, int, int], ...]:
    steps = []
    for d, (key, extent) in enumerate(zip(keys, shape, strict=True)):
        if isinstance(key, slice):
            if key.step is not None and operator.index(key.step) < 1:
                raise UserError(f"the step in dimension {d} is {key.step}; use gx.flip to reverse")
            places = range(*key.indices(extent))
            if not places:
                raise UserError(f"nothing is left of dimension {d}, which has {extent} elements")
            steps.append((places.start, places.step if len(places) > 1 else 1, len(places)))
            continue
        if isinstance(key, bool) or not hasattr(key, "__index__"):
            raise UserError(f"cannot index with {key!r}; use integers, slices, '...' and None")
        place = operator.index(key)
        if not -extent <= place < extent:
            raise UserError(f"index {place} is outside of dimension {d}, {extent} elements long")
        steps.append((place % extent, 1, 0))
    return tuple(steps)


def concat(nodes: Sequence[Node], axis: int = 0) -> Node:
    """The values one after another along a dimension they all have.

    Args:
        nodes: at least one value; the shapes are equal but for dimension ``axis``.
        axis: the dimension, negative from the end.

    Raises:
        UserError: ranks, other extents or element types differ.
    """
    parts = _same_type("concat", nodes)
    at = dimension("concat", parts[0], axis)
    rest = {(*p.shape[:at], *p.shape[at + 1 :]) for p in parts if len(p.shape) > at}
    if len(rest) != 1 or len({len(p.shape) for p in parts}) != 1:
        raise user_error(
            f"concat: the shapes must be equal but for dimension {at}", *describe(parts)
        )
    return parts[0] if len(parts) == 1 else concatenation(*parts, axis=at, label="concat")


def stack(nodes: Sequence[Node], axis: int = 0) -> Node:
    """Values of one shape side by side along a new dimension ``axis``."""
    parts = _same_type("stack", nodes)
    if len({part.shape for part in parts}) != 1:
        raise user_error("stack: the shapes must be equal", *describe(parts))
    return concat([expand_dims(part, axis) for part in parts], axis)


def _same_type(name: str, nodes: Sequence[Node]) -> list[Node]:
    parts = list(nodes) if isinstance(nodes, Sequence) else []
    if not parts or not all(isinstance(part, Node) for part in parts):
        raise user_error(f"{name}: expected a list of at least one graph value, got {nodes!r}")
    if len({part.dtype for part in parts}) != 1:
        raise user_error(f"{name}: the element types must be equal", *describe(parts))
    return parts


def split(x: Node, sections: int | Sequence[int], axis: int = 0) -> list[Node]:
    """Cut along a dimension.

    Args:
        x: any value.
        sections: a number of equal parts, or the extent of each part.
        axis: the dimension, negative from the end.

    Raises:
        UserError: the parts do not add up to the dimension.
    """
    at = dimension("split", x, axis)
    extent = x.shape[at]
    sizes = [extent // sections] * sections if isinstance(sections, int) else list(sections)
    if sum(sizes) != extent or any(size < 1 for size in sizes):
        raise user_error(
            f"split: parts of {sizes} do not add up to {extent}, dimension {at}", *describe([x])
        )
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    before = (slice(None),) * at
    return [
        getitem(x, (*before, slice(start, start + size)))
        for start, size in zip(starts, sizes, strict=True)
    ]


def broadcast_to(x: Node, shape: Sequence[int] | int) -> Node:
    """``x`` stretched to a shape by NumPy's rule; its gradient is the sum over the copies."""
    wanted = legal_shape("broadcast_to", shape)
    try:
        fits = broadcast_shape(x.shape, wanted) == wanted
    except UserError:
        fits = False
    if not fits:
        raise user_error(
            f"broadcast_to: the value does not fit the shape {list(wanted)}", *describe([x]),
            "extents, from the last to the first, must be equal or 1",
        )  # fmt: skip
    return x if wanted == x.shape else broadcasting(x, shape=wanted, label="broadcast")


def expand_dims(x: Node, axis: int) -> Node:
    """A new dimension of extent 1 that becomes dimension ``axis`` (negative: from the end)."""
    rank = len(x.shape) + 1
    if not -rank <= axis < rank:
        raise user_error(f"expand_dims: axis {axis} is outside of {-rank}..{rank - 1}")
    at = axis % rank
    return reshape(x, (*x.shape[:at], 1, *x.shape[at:]))


def squeeze(x: Node, axis: int | Sequence[int] | None = None) -> Node:
    """Without the dimensions of extent 1 (all of them, or those named)."""
    named = [d for d, extent in enumerate(x.shape) if extent == 1]
    if axis is not None:
        axes = (axis,) if isinstance(axis, int) else tuple(axis)
        chosen = [dimension("squeeze", x, a) for a in axes]
        if not set(chosen) <= set(named):
            raise user_error(
                f"squeeze: dimension {chosen[0]} does not have extent 1", *describe([x])
            )
        named = chosen
    return reshape(x, tuple(extent for d, extent in enumerate(x.shape) if d not in named))


def flip(x: Node, axis: int | Sequence[int]) -> Node:
    """The elements in reverse order along one or more dimensions."""
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    dimensions = tuple(sorted({dimension("flip", x, a) for a in axes}))
    return reversal(x, dimensions=dimensions, label="flip") if dimensions else x


def dimension(name: str, x: Node, axis: int) -> int:
    """``axis`` counted from the front, or a UserError if x has no such dimension."""
    rank = len(x.shape)
    if not isinstance(axis, int) or not -rank <= axis < rank:
        raise user_error(
            f"{name}: there is no dimension {axis}", *describe([x]),
            f"expected an integer in {-rank}..{rank - 1}",
        )  # fmt: skip
    return axis % rank


operators["getitem"] = getitem
