"""Convolution in one, two and three dimensions, and its fractionally strided transpose.

As everywhere in deep learning the filter is not reversed: out[i] = sum over r of x[i + r] * w[r].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphc.errors import user_error
from graphc.ir.graph import Node
from graphc.ir.index import Index
from graphc.ir.types import Shape
from graphc.ops.define import (
    Definition,
    Operand,
    axes,
    axis,
    define,
    op,
    result_dtype,
    sum_over,
    where_divisible,
)
from graphc.ops.messages import check_values, describe
from graphc.ops.shape import reshape
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

_CHANNELS: Border = ((0, 0), (0, 0))  # batch and channels carry no padding
Attributes = dict[str, Any]


@op
def convolution(
    x: Operand, w: Operand, *, stride: Shape, padding: Border, dilation: Shape
) -> Definition:
    """out[n,k,i] = sum over c, r of x[n, c, stride*i + dilation*r - padding] * w[k,c,r]."""
    n, k, c = axes("n k c")
    i, r, taps = slide(stride, dilation)
    x = x.padded((*_CHANNELS, *padding))
    return define[n, k, *i](sum_over[c, *r](x[n, c, *taps] * w[k, c, *r]))


@op
def grouped_convolution(
    x: Operand, w: Operand, *, stride: Shape, padding: Border, dilation: Shape
) -> Definition:
    """The same in every group g of channels: x is (N, G, C/G, ...), w is (G, K/G, C/G, ...)."""
    n, g, k, c = axes("n g k c")
    i, r, taps = slide(stride, dilation)
    x = x.padded(((0, 0), *_CHANNELS, *padding))
    return define[n, g, k, *i](sum_over[c, *r](x[n, g, c, *taps] * w[g, k, c, *r]))


@op
def transposed_convolution(
    x: Operand, w: Operand, *, stride: Shape, padding: Border, dilation: Shape, extents: Shape
) -> Definition:
    """out[n,k,a] = sum over c, r of x[n, c, (a + padding - dilation*r) / stride] * w[c,k,r]."""
    n, k, c = axes("n k c")
    reach = _reach(x.shape[2:], w.shape[2:], stride, padding, dilation, extents)
    a, r, sources = _sources(reach, stride, padding, dilation, extents)
    x = x.padded((*_CHANNELS, *reach))
    return define[n, k, *a](sum_over[c, *r](x[n, c, *sources] * w[c, k, *r]))


@op
def grouped_transposed_convolution(
    x: Operand, w: Operand, *, stride: Shape, padding: Border, dilation: Shape, extents: Shape
) -> Definition:
    """The same in every group g: x is (N, G, C/G, ...), w is (G, C/G, K/G, ...)."""
    n, g, k, c = axes("n g k c")
    reach = _reach(x.shape[3:], w.shape[3:], stride, padding, dilation, extents)
    a, r, sources = _sources(reach, stride, padding, dilation, extents)
    x = x.padded(((0, 0), *_CHANNELS, *reach))
    return define[n, g, k, *a](sum_over[c, *r](x[n, g, c, *sources] * w[g, c, k, *r]))


def _sources(
    reach: Border, stride: Shape, padding: Border, dilation: Shape, extents: Shape
) -> tuple[tuple[Index, ...], tuple[Index, ...], tuple[Index, ...]]:
    """Axes of the output and the window, and the input's place that tap r carries to output a."""
    names = places(len(stride))
    a = tuple(axis(str(name), extent) for name, extent in zip(names, extents, strict=True))
    r = slide(stride, dilation)[1]
    sources = tuple(
        where_divisible(a[d] + padding[d][0] - r[d] * dilation[d], stride[d]) + reach[d][0]
        for d in range(len(stride))
    )
    return a, r, sources


def _reach(
    inputs: Shape, window: Shape, stride: Shape, padding: Border, dilation: Shape, extents: Shape
) -> Border:
    """How far the sources run over both ends of the input, where they read 0."""
    spans = []
    for d, extent in enumerate(inputs):
        lowest = (padding[d][0] - dilation[d] * (window[d] - 1)) // stride[d]
        highest = (extents[d] - 1 + padding[d][0]) // stride[d]
        spans.append((max(0, -lowest), max(0, highest - extent + 1)))
    return tuple(spans)


@op
def channel_sum(x: Operand, b: Operand) -> Definition:
    """out[n,k,i] = x[n,k,i] + b[k]: the bias of every channel, broadcast."""
    n, k = axes("n k")
    i = places(len(x.shape) - 2)
    return define[n, k, *i](x[n, k, *i] + b[k])


def conv1d(
    x: Node, w: Node, b: Node | None = None, *, stride: Sizes = 1, padding: Paddings = 0,
    dilation: Sizes = 1, groups: int = 1,
) -> Node:  # fmt: skip
    """Convolution of (N, C, L) with filters (K, C / groups, R): see ``conv2d``."""
    return _convolve(1, x, w, b, stride, padding, dilation, groups)


def conv2d(
    x: Node, w: Node, b: Node | None = None, *, stride: Sizes = 1, padding: Paddings = 0,
    dilation: Sizes = 1, groups: int = 1,
) -> Node:  # fmt: skip
    """Convolution (cross-correlation) of images with filters.

    Args:
        x: (N, C, H, W).
        w: (K, C / groups, R, S).
        b: bias (K,) or None.
        stride: step of the window; an integer or one a dimension.
        padding: zeros around the image: an integer, one a dimension, a (before, after) pair a
            dimension, "valid" (none) or "same" (ceil(extent / stride) places).
        dilation: distance of neighbouring taps.
        groups: cuts the channels into groups that do not see each other; C is depthwise.

    Returns:
        (N, K, H', W') with H' = (H + before + after - dilation * (R - 1) - 1) // stride + 1.

    Raises:
        UserError: shapes do not fit, or the window is larger than the padded image.
    """
    return _convolve(2, x, w, b, stride, padding, dilation, groups)


def conv3d(
    x: Node, w: Node, b: Node | None = None, *, stride: Sizes = 1, padding: Paddings = 0,
    dilation: Sizes = 1, groups: int = 1,
) -> Node:  # fmt: skip
    """Convolution of (N, C, D, H, W) with filters (K, C / groups, Q, R, S): see ``conv2d``."""
    return _convolve(3, x, w, b, stride, padding, dilation, groups)


def _convolve(
    rank: int, x: Node, w: Node, b: Node | None, stride: Sizes, padding: Paddings,
    dilation: Sizes, groups: int,
) -> Node:  # fmt: skip
    what = f"conv{rank}d"
    _check_arrays(what, rank, x, w)
    _check_groups(what, x, w, groups, (x.shape[1], w.shape[0]))
    _check_channels(what, x, w, groups, 1)
    steps, gaps = _steps(what, stride, dilation, (x, w))
    around = border(what, padding, (x, w), w.shape[2:], steps, gaps)
    check_window(what, (x, w), w.shape[2:], around, gaps)
    settings: Attributes = {"stride": steps, "padding": around, "dilation": gaps}
    if groups == 1:
        return _with_bias(what, x, w, convolution(x, w, **settings), b)
    y = grouped_convolution(_split(x, 1, groups), _split(w, 0, groups), **settings)
    return _with_bias(what, x, w, _merge(y), b)


def conv_transpose1d(
    x: Node, w: Node, b: Node | None = None, *, stride: Sizes = 1, padding: Paddings = 0,
    output_padding: Sizes = 0, dilation: Sizes = 1, groups: int = 1,
) -> Node:  # fmt: skip
    """Transposed convolution of (N, C, L) with (C, K / groups, R): see ``conv_transpose2d``."""
    return _transpose(1, x, w, b, stride, padding, output_padding, dilation, groups)


def conv_transpose2d(
    x: Node, w: Node, b: Node | None = None, *, stride: Sizes = 1, padding: Paddings = 0,
    output_padding: Sizes = 0, dilation: Sizes = 1, groups: int = 1,
) -> Node:  # fmt: skip
    """Transposed (fractionally strided) convolution: the adjoint of ``conv2d`` in its image.

    Args:
        x: (N, C, H, W).
        w: (C, K / groups, R, S).
        b: bias (K,) or None.
        stride: the step of the convolution that this one undoes; the image grows by it.
        padding: cells cut from the ends of the result: numbers or (before, after) pairs.
        output_padding: cells added at the end of the result, fewer than stride or dilation.
        dilation: distance of neighbouring taps.
        groups: as in ``conv2d``.

    Returns:
        (N, K, H', W'), H' = (H - 1) * stride - before - after + dilation * (R - 1)
        + output_padding + 1.

    Raises:
        UserError: shapes do not fit, or nothing is left of the result.
    """
    return _transpose(2, x, w, b, stride, padding, output_padding, dilation, groups)


def conv_transpose3d(
    x: Node, w: Node, b: Node | None = None, *, stride: Sizes = 1, padding: Paddings = 0,
    output_padding: Sizes = 0, dilation: Sizes = 1, groups: int = 1,
) -> Node:  # fmt: skip
    """Transposed convolution of (N, C, D, H, W): see ``conv_transpose2d``."""
    return _transpose(3, x, w, b, stride, padding, output_padding, dilation, groups)


def _transpose(
    rank: int, x: Node, w: Node, b: Node | None, stride: Sizes, padding: Paddings,
    output_padding: Sizes, dilation: Sizes, groups: int,
) -> Node:  # fmt: skip
    what = f"conv_transpose{rank}d"
    _check_arrays(what, rank, x, w)
    _check_groups(what, x, w, groups, (x.shape[1],))
    _check_channels(what, x, w, 1, 0)
    steps, gaps = _steps(what, stride, dilation, (x, w))
    if isinstance(padding, str) and padding == "same":
        raise user_error(
            f"{what}: padding is 'same', which has no meaning here",
            *describe((x, w), ARRAYS),
            "expected numbers",
        )
    around = border(what, padding, (x, w), w.shape[2:], steps, gaps)
    extra = per_dimension(what, "output_padding", output_padding, rank, 0, (x, w))
    extents = _grown(what, x, w, steps, around, extra, gaps)
    settings: Attributes = {
        "stride": steps, "padding": around, "dilation": gaps, "extents": extents,
    }  # fmt: skip
    if groups == 1:
        return _with_bias(what, x, w, transposed_convolution(x, w, **settings), b)
    y = grouped_transposed_convolution(_split(x, 1, groups), _split(w, 0, groups), **settings)
    return _with_bias(what, x, w, _merge(y), b)


def _grown(
    what: str, x: Node, w: Node, stride: Shape, padding: Border, extra: Shape, dilation: Shape
) -> Shape:
    """Extents of a transposed convolution."""
    extents = []
    for d, (place, size) in enumerate(zip(x.shape[2:], w.shape[2:], strict=True)):
        if extra[d] >= max(stride[d], dilation[d]):
            raise user_error(
                f"{what}: output_padding is {extra[d]}",
                *describe((x, w), ARRAYS),
                f"expected less than the stride or the dilation, here {stride[d]} and "
                f"{dilation[d]}",
            )
        full = (place - 1) * stride[d] + dilation[d] * (size - 1) + 1 + extra[d]
        extents.append(full - sum(padding[d]))
        if extents[-1] <= 0:
            raise user_error(
                f"{what}: the padding cuts everything away",
                *describe((x, w), ARRAYS),
                f"dimension {d + 2} of the result has {full} cells, the padding cuts "
                f"{sum(padding[d])}; use less padding",
            )
    return tuple(extents)


def _steps(
    what: str, stride: Sizes, dilation: Sizes, operands: Sequence[Node]
) -> tuple[Shape, Shape]:
    rank = len(operands[0].shape) - 2
    return (
        per_dimension(what, "stride", stride, rank, 1, operands),
        per_dimension(what, "dilation", dilation, rank, 1, operands),
    )


def _check_arrays(what: str, rank: int, x: Node, w: Node) -> None:
    check_rank(what, rank, x, "x")
    check_rank(what, rank, w, "w")
    result_dtype(what, (x, w), ARRAYS)


def _check_channels(what: str, x: Node, w: Node, groups: int, place: int) -> None:
    if w.shape[place] * groups != x.shape[1]:
        raise user_error(
            f"{what}: the channels differ",
            *describe((x, w), ARRAYS),
            f"w's dimension {place} must be x's channels{f' / {groups}' * (groups > 1)}, "
            f"here {w.shape[place]} and {x.shape[1]}{f' / {groups}' * (groups > 1)}",
        )


def _check_groups(what: str, x: Node, w: Node, groups: int, channels: Sequence[int]) -> None:
    per_dimension(what, "groups", groups, 1, 1, (x, w))
    for number in channels:
        if number % groups:
            raise user_error(
                f"{what}: {groups} groups do not divide {number} channels",
                *describe((x, w), ARRAYS),
                "choose a number of groups that divides x's channels and the result's",
            )


def _with_bias(what: str, x: Node, w: Node, y: Node, b: Node | None) -> Node:
    if b is None:
        return y
    check_values(what, b)
    if b.shape != (y.shape[1],):
        raise user_error(
            f"{what}: the bias does not fit",
            *describe((x, w, b), ARRAYS),
            f"b must have shape [{y.shape[1]}], one number for each channel of the result",
        )
    result_dtype(what, (x, w, b), ARRAYS)
    result: Node = channel_sum(y, b)
    return result


def _split(value: Node, dimension: int, groups: int) -> Node:
    """The channel dimension as (groups, channels of a group)."""
    shape = value.shape
    inner = (groups, shape[dimension] // groups)
    return reshape(value, (*shape[:dimension], *inner, *shape[dimension + 1 :]))


def _merge(y: Node) -> Node:
    """(N, G, K/G, ...) as (N, K, ...)."""
    return reshape(y, (y.shape[0], y.shape[1] * y.shape[2], *y.shape[3:]))
