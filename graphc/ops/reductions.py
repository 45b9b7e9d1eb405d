"""Sums, means, products and extremes over chosen dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import sympy

from graphc.errors import user_error
from graphc.ir.equation import Reduction
from graphc.ir.graph import Node
from graphc.ir.types import DType, Shape
from graphc.ops.broadcasting import axis_names
from graphc.ops.define import Definition, Operand, Reduced, axes, axis, define, op
from graphc.ops.elementwise import cast, exp, floating, log, square, stop_gradient
from graphc.ops.messages import brief, check_values, describe, dimension, listed
from graphc.ops.shape import reshape

Dimensions = int | Sequence[int] | None


@op
def reduction(x: Operand, *, kind: Reduction, over: Shape, scale: int, keep: bool) -> Definition:
    """out[i] = the sum (max, min, product) of x[i, r] / scale over the dimensions ``over``."""
    return _reduce(x, kind, over, scale, keep)


@op(dtype="int64")
def first_extreme(x: Operand, *, kind: Reduction, over: Shape, keep: bool) -> Definition:
    """out[i] = the row-major number of the first greatest (least) element over ``over``."""
    return _reduce(x, kind, over, 1, keep)


def _reduce(x: Operand, kind: Reduction, over: Shape, scale: int, keep: bool) -> Definition:
    names = axes(" ".join(axis_names(len(x.shape))))
    kept = [  # a kept dimension of extent 1 needs an axis of its own
        axis(f"{name}1", 1) if d in over else name
        for d, name in enumerate(names)
        if keep or d not in over
    ]
    body = x[names] * sympy.Rational(1, scale)
    return define[tuple(kept)](Reduced(kind, tuple(names[d] for d in over), body))


def sum(x: Node, axis: Dimensions = None, keepdims: bool = False) -> Node:
    """The sum over dimensions.

    Args:
        x: any value; bool is counted as int64.
        axis: one dimension, several, or None for all; negative from the end.
        keepdims: leave the summed dimensions with extent 1.

    Raises:
        UserError: x has no such dimension, or one is named twice.
    """
    check_values("sum", x)
    counted = cast(x, DType.int64) if x.dtype is DType.boolean else x
    return _apply("sum", "sum", counted, axis, keepdims)


def mean(x: Node, axis: Dimensions = None, keepdims: bool = False) -> Node:
    """The arithmetic mean over dimensions of a floating value; arguments as for ``sum``."""
    floating("mean", x)
    over = reduced_dimensions("mean", x, axis)
    return _apply("mean", "sum", x, over, keepdims, math.prod(x.shape[d] for d in over))


def prod(x: Node, axis: Dimensions = None, keepdims: bool = False) -> Node:
    """The product over dimensions; its gradient is exact where factors are zero."""
    return _apply("prod", "prod", x, axis, keepdims)


def max(x: Node, axis: Dimensions = None, keepdims: bool = False) -> Node:
    """The greatest element over dimensions.

    Written rule: among equal elements the gradient goes to the first in row-major order.
    """
    return _apply("max", "max", x, axis, keepdims)


def min(x: Node, axis: Dimensions = None, keepdims: bool = False) -> Node:
    """The least element over dimensions; ties as for ``max``."""
    return _apply("min", "min", x, axis, keepdims)


def argmax(x: Node, axis: Dimensions = None, keepdims: bool = False) -> Node:
    """Where the first greatest element is: its row-major number over ``axis``; int64."""
    over = reduced_dimensions("argmax", x, axis)
    return first_extreme(x, kind="argmax", over=over, keep=keepdims, label="argmax")


def argmin(x: Node, axis: Dimensions = None, keepdims: bool = False) -> Node:
    """Where the first least element is: its row-major number over ``axis``; int64."""
    over = reduced_dimensions("argmin", x, axis)
    return first_extreme(x, kind="argmin", over=over, keep=keepdims, label="argmin")


def logsumexp(x: Node, axis: Dimensions = None, keepdims: bool = False) -> Node:
    """log(sum(exp(x))) over dimensions, shifted by the maximum, which carries no gradient."""
    floating("logsumexp", x)
    shift = stop_gradient(max(x, axis, keepdims=True))
    total = log(sum(exp(x - shift), axis, keepdims=True)) + shift
    over = reduced_dimensions("logsumexp", x, axis)
    kept = tuple(extent for d, extent in enumerate(x.shape) if d not in over)
    return total if keepdims else reshape(total, kept)


def variance(x: Node, axis: Dimensions = None, keepdims: bool = False, correction: int = 0) -> Node:
    """mean((x - mean(x))^2) over dimensions; ``correction`` 1 divides by one less (Bessel).

    Raises:
        UserError: x is not floating, has no such dimension, or too few elements for the correction.
    """
    floating("variance", x)
    over = reduced_dimensions("variance", x, axis)
    count = math.prod(x.shape[d] for d in over)
    if count <= correction:
        raise user_error(
            f"variance: {count} elements with a correction of {correction}", *describe([x]),
            "there must be more elements than the correction",
        )  # fmt: skip
    deviation = square(x - mean(x, over, keepdims=True))
    return _apply("variance", "sum", deviation, over, keepdims, count - correction)


def _apply(
    name: str, kind: Reduction, x: Node, axis: Dimensions, keepdims: bool, scale: int = 1
) -> Node:
    check_values(name, x)
    if x.dtype is DType.boolean:
        raise user_error(
            f"{name}: the values are bool", *describe([x]),
            "cast them first: gx.cast(value, 'float32')",
        )  # fmt: skip
    over = reduced_dimensions(name, x, axis)
    if not over and scale == 1:
        return x
    return reduction(x, kind=kind, over=over, scale=scale, keep=keepdims, label=name)


def reduced_dimensions(name: str, x: Node, axis: Any) -> Shape:
    """The dimensions that ``axis`` means, ascending, counted from the front."""
    check_values(name, x)
    if axis is None:
        return tuple(range(len(x.shape)))
    given = listed(name, "axis", axis)
    over = tuple(sorted(dimension(name, x, d) for d in given))
    twice = [d for d in over if over.count(d) > 1]
    if twice:
        raise user_error(
            f"{name}: axis {brief(axis)} names dimension {twice[0]} twice", *describe([x]),
            "name each dimension once",
        )  # fmt: skip
    return over
