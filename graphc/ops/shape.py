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
from graphc.ops.messages import (
    brief,
    check_values,
    describe,
    dimension,
    explained,
    listed,
    value_list,
)

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
    check_values("reshape", x)
    given = legal_shape("reshape", shape, unknown=True)
    count = math.prod(x.shape)
    if given.count(-1) == 1:
        known = -math.prod(given)
        if known > 0 and count % known == 0:
            given = tuple(count // known if extent == -1 else extent for extent in given)
    if -1 in given or math.prod(given) != count:
        raise user_error(
            f"reshape: {count} elements do not fit the shape {list(given)}", *describe([x]),
            _products(count, given),
        )  # fmt: skip
    wanted = given
    if wanted == x.shape:
        return x
    blocks = _blocks(x.shape, wanted)
    if any(len(old) > 1 and len(new) > 1 for old, new in blocks):
        # Cut in two ways, as in (4, 6) -> (8, 3), a block is joined before it is cut: both index
        # maps can then be solved for their axes, and the gradient of neither sums anything.
        middle = tuple(math.prod(x.shape[d] for d in old) for old, _ in blocks)
        x = reshaping(x, shape=middle, label="reshape")
    return reshaping(x, shape=wanted, label="reshape")


def _products(count: int, given: Shape) -> str:
    """What is wrong with a shape for so many elements."""
    if given.count(-1) > 1:
        return "only one extent may be -1; give the others"
    if -1 in given:
        return f"{-math.prod(given)} does not divide {count}; choose extents that do"
    return f"the new shape has {math.prod(given)} elements; choose extents whose product is {count}"


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
    check_values("flatten", x)
    if not isinstance(start, int) or not 0 <= start <= len(x.shape):
        raise user_error(
            f"flatten: start is {brief(start)}", *describe([x]),
            f"expected an integer in 0..{len(x.shape)}",
        )  # fmt: skip
    return reshape(x, (*x.shape[:start], math.prod(x.shape[start:])))


def transpose(x: Node, axes: Sequence[int] | None = None) -> Node:
    """The dimensions in another order, by default reversed: out's dimension d is x's axes[d].

    Raises:
        UserError: ``axes`` is no permutation of x's dimensions.
    """
    check_values("transpose", x)
    rank = len(x.shape)
    given = tuple(reversed(range(rank))) if axes is None else axes
    order = tuple(dimension("transpose", x, a) for a in listed("transpose", "axes", given))
    if sorted(order) != list(range(rank)):
        raise user_error(
            f"transpose: the axes are {brief(axes)}", *describe([x]),
            f"expected each of the {rank} dimensions once",
        )  # fmt: skip
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
        raise explained("slice", error, [x]) from None
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
        raise UserError(
            f"{used} indexes for {rank} dimensions\n"
            "expected at most one index a dimension and at most one '...'"
        )
    at = dots[0] if dots else len(keys)
    return [*keys[:at], *[slice(None)] * (rank - used), *keys[at + 1 :]]


def _steps(keys: Sequence[Any], shape: Shape) -> tuple[tuple[int, int, int], ...]:
    steps = []
    for d, (key, extent) in enumerate(zip(keys, shape, strict=True)):
        if isinstance(key, slice):
            parts = (key.start, key.stop, key.step)
            if not all(part is None or hasattr(part, "__index__") for part in parts):
                raise UserError(
                    f"dimension {d} is cut by {key}\nexpected integers in start:stop:step"
                )
            if key.step is not None and operator.index(key.step) < 1:
                raise UserError(
                    f"the step in dimension {d} is {key.step}\nexpected a positive step; to "
                    f"reverse use gx.flip(value, {d})"
                )
            places = range(*key.indices(extent))
            if not places:
                raise UserError(
                    f"nothing is left of dimension {d}\nit has {extent} elements, 0 to "
                    f"{extent - 1}; cut it so that one is left"
                )
            steps.append((places.start, places.step if len(places) > 1 else 1, len(places)))
            continue
        if isinstance(key, bool) or not hasattr(key, "__index__"):
            raise UserError(
                f"cannot index with {brief(key)}\nuse integers, slices, '...' and None; for a "
                "choice by a condition gx.where"
            )
        place = operator.index(key)
        if not -extent <= place < extent:
            raise UserError(
                f"index {place} is outside of dimension {d}\nit has {extent} elements: expected "
                f"{-extent}..{extent - 1}"
            )
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
            "concat: the shapes do not fit", *describe(parts),
            f"they must be equal in every dimension but {at}",
        )  # fmt: skip
    return parts[0] if len(parts) == 1 else concatenation(*parts, axis=at, label="concat")


def stack(nodes: Sequence[Node], axis: int = 0) -> Node:
    """Values of one shape side by side along a new dimension ``axis``."""
    parts = _same_type("stack", nodes)
    if len({part.shape for part in parts}) != 1:
        raise user_error(
            "stack: the shapes differ", *describe(parts), "they must be equal"
        )  # fmt: skip
    return concat([expand_dims(part, axis) for part in parts], axis)


def _same_type(name: str, nodes: Sequence[Node]) -> tuple[Node, ...]:
    parts = value_list(name, nodes)
    if len({part.dtype for part in parts}) != 1:
        raise user_error(
            f"{name}: the element types differ", *describe(parts),
            "cast them to one: gx.cast(value, 'float32')",
        )  # fmt: skip
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
    if isinstance(sections, int):
        sizes = [extent // sections] * sections if sections > 0 else []
    else:
        sizes = list(listed("split", "sections", sections))
    if not all(isinstance(size, int) and size > 0 for size in sizes) or sum(sizes) != extent:
        raise user_error(
            f"split: dimension {at} cannot be cut into {brief(sections)}", *describe([x]),
            f"expected a number of equal parts, or extents that add up to {extent}",
        )  # fmt: skip
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    before = (slice(None),) * at
    return [
        getitem(x, (*before, slice(start, start + size)))
        for start, size in zip(starts, sizes, strict=True)
    ]


def broadcast_to(x: Node, shape: Sequence[int] | int) -> Node:
    """``x`` stretched to a shape by NumPy's rule; its gradient is the sum over the copies."""
    check_values("broadcast_to", x)
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
    check_values("expand_dims", x)
    rank = len(x.shape) + 1
    if not isinstance(axis, int) or not -rank <= axis < rank:
        raise user_error(
            f"expand_dims: axis is {brief(axis)}", *describe([x]),
            f"expected an integer in {-rank}..{rank - 1}",
        )  # fmt: skip
    at = axis % rank
    return reshape(x, (*x.shape[:at], 1, *x.shape[at:]))


def squeeze(x: Node, axis: int | Sequence[int] | None = None) -> Node:
    """Without the dimensions of extent 1 (all of them, or those named)."""
    check_values("squeeze", x)
    named = [d for d, extent in enumerate(x.shape) if extent == 1]
    if axis is not None:
        chosen = [dimension("squeeze", x, a) for a in listed("squeeze", "axis", axis)]
        longer = [d for d in chosen if d not in named]
        if longer:
            raise user_error(
                f"squeeze: dimension {longer[0]} has extent {x.shape[longer[0]]}", *describe([x]),
                "only a dimension of extent 1 can be left out",
            )  # fmt: skip
        named = chosen
    return reshape(x, tuple(extent for d, extent in enumerate(x.shape) if d not in named))


def flip(x: Node, axis: int | Sequence[int]) -> Node:
    """The elements in reverse order along one or more dimensions."""
    axes = listed("flip", "axis", axis)
    dimensions = tuple(sorted({dimension("flip", x, a) for a in axes}))
    return reversal(x, dimensions=dimensions, label="flip") if dimensions else x


operators["getitem"] = getitem
