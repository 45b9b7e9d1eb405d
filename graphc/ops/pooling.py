"""Pooling in one, two and three dimensions: the maximum, the mean or the p-norm of a window."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import sympy

from graphc.errors import user_error
from graphc.ir.graph import Node
from graphc.ir.scalar_functions import select
from graphc.ir.types import Shape, element_count
from graphc.ops.define import Definition, Op, Operand, axes, define, max_over, op, sum_over
from graphc.ops.elementwise import divide, floating
from graphc.ops.leaves import constant
from graphc.ops.messages import brief, check_values, describe
from graphc.ops.windows import (
    ARRAYS,
    Border,
    Paddings,
    Sizes,
    border,
    check_rank,
    check_window,
    per_dimension,
    places,
    slide,
)

_CHANNELS: Border = ((0, 0), (0, 0))


@op
def max_pool(x: Operand, *, window: Shape, stride: Shape, padding: Border) -> Definition:
    """out[n,c,i] = max over r of x[n, c, stride*i + r - padding]; outside of x is -inf."""
    n, c = axes("n c")
    i, r, taps = slide(stride, (1,) * len(window), window)
    x = x.padded((*_CHANNELS, *padding), -math.inf)
    return define[n, c, *i](max_over[*r](x[n, c, *taps]))


@op
def sum_pool(
    x: Operand, *, window: Shape, stride: Shape, padding: Border, divisor: int
) -> Definition:
    """out[n,c,i] = sum over r of x[n, c, stride*i + r - padding] / divisor."""
    n, c = axes("n c")
    i, r, taps = slide(stride, (1,) * len(window), window)
    x = x.padded((*_CHANNELS, *padding))
    return define[n, c, *i](sum_over[*r](x[n, c, *taps] / divisor))


@op
def power_pool(
    x: Operand, *, window: Shape, stride: Shape, padding: Border, p: sympy.Expr
) -> Definition:
    """out[n,c,i] = sum over r of |x[n, c, stride*i + r - padding]| ** p."""
    n, c = axes("n c")
    i, r, taps = slide(stride, (1,) * len(window), window)
    x = x.padded((*_CHANNELS, *padding))
    return define[n, c, *i](sum_over[*r](sympy.Abs(x[n, c, *taps]) ** p))


@op
def root(x: Operand, *, p: sympy.Expr) -> Definition:
    """The p-th root of x >= 0, with the written rule that its slope at 0 is 0."""
    n, c = axes("n c")
    i = places(len(x.shape) - 2)
    value = x[n, c, *i]
    return define[n, c, *i](select(value > 0, value ** (1 / p), sympy.Integer(0)))


@op
def global_max(x: Operand) -> Definition:
    """out[n,c] = max over i of x[n,c,i]."""
    n, c = axes("n c")
    i = places(len(x.shape) - 2)
    return define[n, c](max_over[*i](x[n, c, *i]))


@op
def global_mean(x: Operand) -> Definition:
    """out[n,c] = mean over i of x[n,c,i]."""
    n, c = axes("n c")
    i = places(len(x.shape) - 2)
    return define[n, c](sum_over[*i](x[n, c, *i] / element_count(x.shape[2:])))


def max_pool1d(
    x: Node, window: Sizes, *, stride: Sizes | None = None, padding: Paddings = 0
) -> Node:
    """Maximum of windows of (N, C, L): see ``max_pool2d``."""
    return _max_pool(1, x, window, stride, padding)


def max_pool2d(
    x: Node, window: Sizes, *, stride: Sizes | None = None, padding: Paddings = 0
) -> Node:
    """Maximum of every window; of equal values the first in row-major order gets the gradient.

    Args:
        x: (N, C, H, W).
        window: extent of the window, an integer or one a dimension.
        stride: step of the window; by default the window, so that windows do not overlap.
        padding: cells of -inf around the image, at most half a window.

    Returns:
        (N, C, H', W') with H' = (H + before + after - window) // stride + 1.

    Raises:
        UserError: an argument is not legal or the window is larger than the padded image.
    """
    return _max_pool(2, x, window, stride, padding)


def max_pool3d(
    x: Node, window: Sizes, *, stride: Sizes | None = None, padding: Paddings = 0
) -> Node:
    """Maximum of windows of (N, C, D, H, W): see ``max_pool2d``."""
    return _max_pool(3, x, window, stride, padding)


def mean_pool1d(
    x: Node, window: Sizes, *, stride: Sizes | None = None, padding: Paddings = 0,
    count_include_pad: bool = True,
) -> Node:  # fmt: skip
    """Mean of windows of (N, C, L): see ``mean_pool2d``."""
    return _mean_pool(1, x, window, stride, padding, count_include_pad)


def mean_pool2d(
    x: Node, window: Sizes, *, stride: Sizes | None = None, padding: Paddings = 0,
    count_include_pad: bool = True,
) -> Node:  # fmt: skip
    """Mean of every window, with zeros around the image.

    Args:
        x: (N, C, H, W).
        window: extent of the window, an integer or one a dimension.
        stride: step of the window; by default the window.
        padding: zeros around the image, at most half a window.
        count_include_pad: divide by the window's size; False divides by the number of cells of
            the window that lie inside the image.

    Raises:
        UserError: as ``max_pool2d``.
    """
    return _mean_pool(2, x, window, stride, padding, count_include_pad)


def mean_pool3d(
    x: Node, window: Sizes, *, stride: Sizes | None = None, padding: Paddings = 0,
    count_include_pad: bool = True,
) -> Node:  # fmt: skip
    """Mean of windows of (N, C, D, H, W): see ``mean_pool2d``."""
    return _mean_pool(3, x, window, stride, padding, count_include_pad)


def lp_pool1d(
    x: Node, window: Sizes, *, p: float = 2, stride: Sizes | None = None, padding: Paddings = 0
) -> Node:
    """p-norm of windows of (N, C, L): see ``lp_pool2d``."""
    return _lp_pool(1, x, window, p, stride, padding)


def lp_pool2d(
    x: Node, window: Sizes, *, p: float = 2, stride: Sizes | None = None, padding: Paddings = 0
) -> Node:
    """(sum of |x|**p) ** (1/p) over every window; a window of zeros has gradient 0.

    Args:
        x: (N, C, H, W).
        window: extent of the window, an integer or one a dimension.
        p: the order of the norm, at least 1.
        stride: step of the window; by default the window.
        padding: zeros around the image, at most half a window.

    Raises:
        UserError: p is below 1, or as ``max_pool2d``.
    """
    return _lp_pool(2, x, window, p, stride, padding)


def lp_pool3d(
    x: Node, window: Sizes, *, p: float = 2, stride: Sizes | None = None, padding: Paddings = 0
) -> Node:
    """p-norm of windows of (N, C, D, H, W): see ``lp_pool2d``."""
    return _lp_pool(3, x, window, p, stride, padding)


def global_max_pool(x: Node) -> Node:
    """(N, C): the maximum of every channel of (N, C, ...)."""
    return _global("global_max_pool", x, global_max)


def global_mean_pool(x: Node) -> Node:
    """(N, C): the mean of every channel of (N, C, ...)."""
    return _global("global_mean_pool", x, global_mean)


def _max_pool(rank: int, x: Node, window: Sizes, stride: Sizes | None, padding: Paddings) -> Node:
    settings = _settings(f"max_pool{rank}d", rank, x, window, stride, padding)
    result: Node = max_pool(x, **settings)
    return result


def _mean_pool(
    rank: int, x: Node, window: Sizes, stride: Sizes | None, padding: Paddings, whole: bool
) -> Node:
    settings = _settings(f"mean_pool{rank}d", rank, x, window, stride, padding)
    floating(f"mean_pool{rank}d", x)
    if whole or not any(map(any, settings["padding"])):
        size = element_count(settings["window"])
        result: Node = sum_pool(x, divisor=size, **settings)
        return result
    ones = constant(np.ones((1, 1, *x.shape[2:]), x.dtype.numpy))
    return divide(sum_pool(x, divisor=1, **settings), sum_pool(ones, divisor=1, **settings))


def _lp_pool(
    rank: int, x: Node, window: Sizes, p: float, stride: Sizes | None, padding: Paddings
) -> Node:
    if not isinstance(p, int | float) or not 1 <= p < math.inf:
        raise user_error(
            f"lp_pool{rank}d: p is {brief(p)}", "expected a finite number of at least 1"
        )
    settings = _settings(f"lp_pool{rank}d", rank, x, window, stride, padding)
    floating(f"lp_pool{rank}d", x)
    order = sympy.nsimplify(p, rational=True)
    result: Node = root(power_pool(x, p=order, **settings), p=order)
    return result


def _global(what: str, x: Node, reduce: Op) -> Node:
    check_values(what, x)
    if not 3 <= len(x.shape) <= 5:
        raise user_error(
            f"{what}: x must have three to five dimensions, here {len(x.shape)}",
            *describe((x,), ARRAYS),
            "the order is (batch, channels, *places); reshape it first: gx.reshape",
        )
    result: Node = reduce(x)
    return result


def _settings(
    what: str, rank: int, x: Node, window: Sizes, stride: Sizes | None, padding: Paddings
) -> dict[str, Any]:
    check_rank(what, rank, x, "x")
    size = per_dimension(what, "window", window, rank, 1, (x,))
    step = size if stride is None else per_dimension(what, "stride", stride, rank, 1, (x,))
    around = border(what, padding, (x,), size, step, (1,) * rank)
    for extent, pair in zip(size, around, strict=True):
        if max(pair) > extent // 2:
            raise user_error(
                f"{what}: the padding {pair} is more than half of the window {extent}",
                *describe((x,), ARRAYS),
                "a window would see padding only; pad less or use a larger window",
            )
    check_window(what, (x,), size, around, (1,) * rank)
    return {"window": size, "stride": step, "padding": around}
