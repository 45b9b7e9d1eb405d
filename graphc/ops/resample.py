"""Change how many places an array has: keep some, put zeros or copies between, pad its border."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import sympy

from graphc.errors import user_error
from graphc.ir.graph import Node
from graphc.ir.types import Shape
from graphc.ops.broadcasting import axis_names
from graphc.ops.define import (
    Definition,
    Operand,
    SizedAxis,
    axes,
    axis,
    define,
    op,
    position,
    where_divisible,
)
from graphc.ops.elementwise import floating
from graphc.ops.messages import brief, check_values, describe
from graphc.ops.shape import concat
from graphc.ops.windows import Border, Sizes, per_dimension, places


@op
def upsampled(x: Operand, *, factor: Shape) -> Definition:
    """out[n,c,i] = x[n, c, i/factor] where factor divides i, else 0."""
    n, c = axes("n c")
    i = _stretched(x.shape[2:], factor)
    sources = [where_divisible(place, f) for place, f in zip(i, factor, strict=True)]
    return define[n, c, *i](x[n, c, *sources])


@op
def downsampled(x: Operand, *, factor: Shape) -> Definition:
    """out[n,c,i] = x[n, c, factor*i]."""
    n, c = axes("n c")
    i = places(len(factor))
    return define[n, c, *i](x[n, c, *(place * f for place, f in zip(i, factor, strict=True))])


@op
def repeated(x: Operand, *, factor: Shape) -> Definition:
    """out[n,c,i] = x[n, c, floor(i/factor)]."""
    n, c = axes("n c")
    i = _stretched(x.shape[2:], factor)
    return define[n, c, *i](x[n, c, *(place // f for place, f in zip(i, factor, strict=True))])


@op
def interpolated(x: Operand, *, factor: Shape) -> Definition:
    """Output i lies at (2*i + 1 - f) / (2*f) of the input, here with one more cell at each end:
    the two cells beside it count by their nearness, in every dimension.
    """
    n, c = axes("n c")
    i = _stretched(tuple(extent - 2 for extent in x.shape[2:]), factor)
    total = sympy.Integer(0)
    for corner in itertools.product((0, 1), repeat=len(factor)):
        weight, cells = sympy.Integer(1), []
        for place, f, side in zip(i, factor, corner, strict=True):
            offset = place * 2 + 1 + f  # 2*f more than the numerator above: cell 0 is the border
            part = position(offset % (2 * f)) / (2 * f)
            weight = weight * (part if side else 1 - part)
            cells.append(offset // (2 * f) + side)
        total = total + weight * x[n, c, *cells]
    return define[n, c, *i](total)


def _stretched(extents: Shape, factor: Shape) -> tuple[SizedAxis, ...]:
    names = places(len(factor))
    spans = zip(names, extents, factor, strict=True)
    return tuple(axis(str(name), extent * f) for name, extent, f in spans)


@op
def bordered(x: Operand, *, widths: Border, value: float) -> Definition:
    """out[i] = x[i - before], outside of x the value."""
    i = axes(" ".join(axis_names(len(x.shape))))
    return define[i](x.padded(widths, value)[i])


def upsample(x: Node, factor: Sizes) -> Node:
    """Zeros between: out[f*i] = x[i], all else 0. Its gradient is ``downsample``.

    Args:
        x: (N, C, ...) with one to three dimensions of places.
        factor: how many times as many places, an integer or one a dimension.
    """
    result: Node = upsampled(x, factor=_factor("upsample", x, factor))
    return result


def downsample(x: Node, factor: Sizes) -> Node:
    """Every factor-th place, the first one included: out[i] = x[f*i]. Its gradient is ``upsample``.

    Args:
        x: (N, C, ...) with one to three dimensions of places.
        factor: an integer or one a dimension; ceil(extent / factor) places are kept.
    """
    result: Node = downsampled(x, factor=_factor("downsample", x, factor))
    return result


def upsample_nearest(x: Node, factor: Sizes) -> Node:
    """Copies of every place: out[i] = x[floor(i / f)]; (N, C, ...) as in ``upsample``."""
    result: Node = repeated(x, factor=_factor("upsample_nearest", x, factor))
    return result


def upsample_linear(x: Node, factor: Sizes) -> Node:
    """Linear interpolation between the centres of places, constant beyond the outermost ones.

    In two dimensions it is bilinear: PyTorch's interpolate with align_corners=False.

    Args:
        x: floating (N, C, ...) with one to three dimensions of places.
        factor: how many times as many places, an integer or one a dimension.
    """
    factors = _factor("upsample_linear", x, factor)
    floating("upsample_linear", x)
    wide = pad(x, ((0, 0), (0, 0), *((1, 1),) * len(factors)), mode="edge")
    result: Node = interpolated(wide, factor=factors)
    return result


def pad(
    x: Node, widths: Sequence[tuple[int, int]], mode: Literal["zero", "constant", "edge"] = "zero",
    value: float = 0.0,
) -> Node:  # fmt: skip
    """An array with a border.

    Args:
        x: any shape.
        widths: (before, after) for each dimension.
        mode: "zero", "constant" (``value``) or "edge" (the nearest cell of x).
        value: the border's value in mode "constant".

    Raises:
        UserError: the widths do not fit or the mode is not known.
    """
    if not isinstance(mode, str) or mode not in ("zero", "constant", "edge"):
        raise user_error(f"pad: mode is {brief(mode)}", "expected 'zero', 'constant' or 'edge'")
    check_values("pad", x)
    if not isinstance(widths, list | tuple) or len(widths) != len(x.shape):
        raise user_error(
            f"pad: the widths are {brief(widths)}", *describe([x], "x"),
            f"expected {len(x.shape)} pairs (before, after), one a dimension",
        )  # fmt: skip
    if mode == "constant" and not isinstance(value, int | float):
        raise user_error(f"pad: value is {brief(value)}", "expected a number")
    pairs = [per_dimension("pad", "a pair of widths", pair, 2, 0, [x]) for pair in widths]
    if mode == "edge":
        for dimension, (before, after) in enumerate(pairs):
            x = _with_edges(x, dimension, before, after)
        return x
    fill = float(value) if mode == "constant" else 0.0
    border = tuple((before, after) for before, after in pairs)
    result: Node = bordered(x, widths=border, value=fill) if any(map(any, border)) else x
    return result


def _with_edges(x: Node, dimension: int, before: int, after: int) -> Node:
    """Copies of the first and the last slice at the two ends."""
    whole = (slice(None),) * dimension
    first, last = x[(*whole, slice(0, 1))], x[(*whole, slice(x.shape[dimension] - 1, None))]
    parts = [first] * before + [x] + [last] * after
    return parts[0] if len(parts) == 1 else concat(parts, axis=dimension)


def _factor(what: str, x: Node, factor: Sizes) -> Shape:
    check_values(what, x)
    if not 3 <= len(x.shape) <= 5:
        raise user_error(
            f"{what}: x must have three to five dimensions, here {len(x.shape)}",
            *describe([x], "x"),
            "the order is (batch, channels, *places); reshape it first: gx.reshape",
        )
    return per_dimension(what, "factor", factor, len(x.shape) - 2, 1, [x])
