"""Arguments of sliding windows: strides, paddings and windows as one tuple entry a dimension."""

from __future__ import annotations

from collections.abc import Sequence

from graphc.errors import user_error
from graphc.ir.graph import Node
from graphc.ir.index import Index
from graphc.ir.types import Shape
from graphc.ops.define import axes, axis
from graphc.ops.messages import brief, check_values, describe

Sizes = int | Sequence[int]
Paddings = int | str | Sequence[int] | Sequence[tuple[int, int]]
Border = tuple[tuple[int, int], ...]
ARRAYS = "xwb"  # what the arguments of these ops are called in messages


def places(rank: int) -> tuple[Index, ...]:
    """The axes of the places in an array of up to three dimensions: i, then i j, then h i j."""
    return axes(("", "i", "i j", "h i j")[rank])


def slide(
    stride: Shape, dilation: Shape, window: Shape | None = None
) -> tuple[tuple[Index, ...], tuple[Index, ...], tuple[Index, ...]]:
    """Axes of the places and of the window, and the taps ``stride * place + dilation * offset``.

    The window's extents follow from the reads unless ``window`` gives them.
    """
    i, r = places(len(stride)), axes(("r", "r s", "q r s")[len(stride) - 1])
    if window is not None:
        r = tuple(axis(str(name), extent) for name, extent in zip(r, window, strict=True))
    steps = zip(i, r, stride, dilation, strict=True)
    return i, r, tuple(place * step + offset * gap for place, offset, step, gap in steps)


def check_rank(what: str, rank: int, value: object, name: str) -> None:
    """A UserError unless ``value`` is a graph value of shape (first, second, *rank extents)."""
    check_values(what, value)
    if isinstance(value, Node) and len(value.shape) != rank + 2:
        places = "depth, height, width" if rank == 3 else ("length", "height, width")[rank - 1]
        order = f"({'batch' if name == 'x' else 'channels'}, channels, {places})"
        raise user_error(
            f"{what}: {name} must have {rank + 2} dimensions, here {len(value.shape)}",
            *describe([value], name),
            f"expected {order}; reshape it first: gx.reshape",
        )


def per_dimension(
    what: str, name: str, value: object, rank: int, least: int, operands: Sequence[Node] = ()
) -> tuple[int, ...]:
    """One integer a dimension, each at least ``least``; one integer alone counts for all."""
    given = value if isinstance(value, tuple | list) else (value,) * rank
    whole = all(isinstance(v, int) and not isinstance(v, bool) and v >= least for v in given)
    if len(given) != rank or not whole:
        several = f", or {rank} of them" if rank > 1 else ""
        raise user_error(
            f"{what}: {name} is {brief(value)}", *describe(operands, ARRAYS),
            f"expected an integer of at least {least}{several}",
        )  # fmt: skip
    return tuple(given)


def border(
    what: str, padding: Paddings, operands: Sequence[Node], window: Sequence[int],
    stride: Sequence[int], dilation: Sequence[int],
) -> Border:  # fmt: skip
    """(before, after) for each dimension.

    "same" pads so that there are ceil(extent / stride) places, the odd cell at the end;
    "valid" is 0.
    """
    extents = operands[0].shape[2:]
    rank = len(extents)
    if isinstance(padding, str) and padding == "valid":
        return ((0, 0),) * rank
    if isinstance(padding, str) and padding == "same":
        spans = zip(extents, window, stride, dilation, strict=True)
        total = [max(0, (-(-x // s) - 1) * s + d * (k - 1) + 1 - x) for x, k, s, d in spans]
        return tuple((t // 2, t - t // 2) for t in total)
    if isinstance(padding, str):
        raise user_error(
            f"{what}: padding is {brief(padding)}", *describe(operands, ARRAYS),
            "expected 'same', 'valid' or numbers",
        )  # fmt: skip
    if isinstance(padding, tuple | list) and any(isinstance(p, tuple | list) for p in padding):
        pairs = [per_dimension(what, "a pair of paddings", p, 2, 0, operands) for p in padding]
        if len(pairs) != rank:
            raise user_error(
                f"{what}: padding is {brief(padding)}", *describe(operands, ARRAYS),
                f"expected {rank} pairs (before, after), one a dimension",
            )  # fmt: skip
        return tuple((before, after) for before, after in pairs)
    return tuple((p, p) for p in per_dimension(what, "padding", padding, rank, 0, operands))


def check_window(
    what: str, operands: Sequence[Node], window: Sequence[int], padding: Border,
    dilation: Sequence[int],
) -> None:  # fmt: skip
    """A UserError where the (dilated) window is larger than the padded first operand."""
    for number, (extent, size) in enumerate(zip(operands[0].shape[2:], window, strict=True)):
        span = dilation[number] * (size - 1) + 1
        before, after = padding[number]
        if span > extent + before + after:
            raise user_error(
                f"{what}: the window is larger than the padded array",
                *describe(operands, ARRAYS),
                f"dimension {number + 2}: the window spans {span}, the array {extent} with "
                f"padding {before} + {after}; pad more or use a smaller window",
            )
