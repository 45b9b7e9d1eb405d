"""Sums that slide a short window: sum of x[.., i + r, ..] * a[.., i, ..] * b[.., r, ..].

Convolution and its two gradients are this one trilinear form with a different tensor left out of
the sum: over r it gives the tensor along i (forward, and the input gradient, whose window is
reversed), over i the tensor along r (the filter gradient).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from graphc.ir.equation import Equation, Guard, Read, read_symbol
from graphc.ir.index import Index
from graphc.ir.types import Axis

MAX_TAPS = 5


@dataclass(frozen=True)
class Window:
    """A dimension of the sliding operand: position + tap + shift, with taps counted backwards
    if ``reversed``.
    """

    dimension: int
    position: Axis
    tap: Axis
    shift: int
    reversed: bool


@dataclass(frozen=True)
class SlidingProduct:
    """The structure of an equation that slides a window.

    Attributes:
        result: "positions" if the result runs along i, "taps" if it runs along r.
        sliding, other: numbers of the two reads.
        windows: one a sliding dimension, in the order of the operand's dimensions.
        outer: axes that the sliding operand shares with the tensor along i (the batch).
        inner: the axis that the sliding operand shares with the tensor along r (C).
        across: the axis that the tensors along i and along r share (K).
    """

    result: Literal["positions", "taps"]
    sliding: int
    other: int
    windows: tuple[Window, ...]
    outer: tuple[Axis, ...]
    inner: Axis
    across: Axis


@lru_cache(maxsize=4096)
def sliding_product(equation: Equation) -> SlidingProduct | None:
    """The structure if the equation has it, else None."""
    if equation.reduction != "sum" or len(equation.reads) != 2 or equation.positions:
        return None
    if equation.body != read_symbol(0) * read_symbol(1):
        return None
    for sliding in (0, 1):
        found = _with_sliding_read(equation, sliding)
        if found is not None:
            return found
    return None


def _with_sliding_read(equation: Equation, number: int) -> SlidingProduct | None:
    sliding, other = equation.reads[number], equation.reads[1 - number]
    axes = {a.name: a for a in (*equation.axes, *equation.reduce_axes)}
    windows = _windows(equation, sliding)
    plain = _names(sliding, {w.dimension for w in windows})
    names = _names(other, set())
    if not windows or plain is None or names is None:
        return None
    if not _guards_are_padding(equation, sliding, windows) or other.fill is not None:
        return None
    taps = {w.tap.name for w in windows}
    positions = {w.position.name for w in windows}
    outputs = {a.name for a in equation.axes}
    if positions <= outputs and outputs.isdisjoint(taps) and taps <= set(names):
        result: Literal["positions", "taps"] = "positions"
        inner = [n for n in plain if n in names]
    elif taps <= outputs and outputs.isdisjoint(positions) and positions <= set(names):
        result = "taps"
        inner = [n for n in plain if n not in names]
    else:
        return None
    across = [n for n in names if n not in {*plain, *taps, *positions}]
    outer = [n for n in plain if n not in inner]
    everything = [*plain, *taps, *positions, *across]
    unread = [n for n in axes if n not in everything]
    if len(inner) != 1 or len(across) != 1 or len(set(everything)) < len(everything):
        return None
    if any(axes[n].extent > 1 for n in unread):
        return None
    if (inner[0] in outputs) != (result == "taps") or across[0] not in outputs:
        return None
    if any((n in outputs) != (result == "positions") for n in outer):
        return None
    return SlidingProduct(
        result, number, 1 - number, windows, tuple(axes[n] for n in (*outer, *unread)),
        axes[inner[0]], axes[across[0]],
    )  # fmt: skip


def _names(read: Read, windows: set[int]) -> list[str] | None:
    """The axes that the other dimensions run through; None if one does anything else.

    Dimensions of extent 1 may be read at a constant place.
    """
    found = []
    for dimension, index in enumerate(read.index):
        if dimension in windows or not index.terms:
            continue
        if index.single_name is None:
            return None
        found.append(index.single_name)
    return found


def _windows(equation: Equation, read: Read) -> tuple[Window, ...]:
    found = (
        _window(equation, dimension, index)
        for dimension, index in enumerate(read.index)
        if index.single_name is None and index.terms
    )
    return tuple(w for w in found if w is not None)


def _window(equation: Equation, dimension: int, index: Index) -> Window | None:
    """Position + tap + constant or position - tap + constant; the tap is the shorter axis."""
    if not index.is_affine or len(index.terms) != 2:
        return None
    axes = {a.name: a for a in (*equation.axes, *equation.reduce_axes)}
    (first, a), (second, b) = index.terms
    long, tap = (first, second)
    if axes[str(long)].extent < axes[str(tap)].extent:
        (long, a), (tap, b) = (second, b), (first, a)
    taps = axes[str(tap)].extent
    if a != 1 or b not in (1, -1) or not 2 <= taps <= MAX_TAPS:
        return None
    shift = index.const if b == 1 else index.const - (taps - 1)
    return Window(dimension, axes[str(long)], axes[str(tap)], shift, b == -1)


def _guards_are_padding(equation: Equation, sliding: Read, windows: tuple[Window, ...]) -> bool:
    """Whether what lies outside the sliding operand counts as zero, and nothing else does."""
    shape = equation.operands[sliding.operand]
    padding = {Guard(sliding.index[w.dimension], 0, shape[w.dimension]) for w in windows}
    return all(guard in padding for guard in equation.guards) and sliding.fill in (None, 0)


@dataclass(frozen=True)
class ChannelRoles:
    """The axes of a convolution that run through arrays of pixels: (read, axis), and the result's
    axis where the result is such an array.
    """

    reads: tuple[tuple[int, str], ...]
    result: str | None


@lru_cache(maxsize=4096)
def channel_roles(equation: Equation) -> ChannelRoles | None:
    """The channels of any sliding window, strided and dilated ones too; None without a window.

    The sliding read is the one with a dimension where two axes meet; its channel is the axis that
    it alone, or with the filters, runs through in a dimension of its own. In a depthwise
    convolution that axis runs through all three arrays.
    """
    if equation.reduction != "sum" or len(equation.reads) != 2 or equation.positions:
        return None
    bent = [k for k, r in enumerate(equation.reads) if any(len(i.names) > 1 for i in r.index)]
    if len(bent) != 1:
        return None
    sliding, other = equation.reads[bent[0]], equation.reads[1 - bent[0]]
    plain = {i.single_name for i in sliding.index} - {None}
    names = {i.single_name for i in other.index} - {None}
    moving = set().union(*(i.names for i in sliding.index if i.single_name is None))
    outputs = {a.name for a in equation.axes}
    extents = equation.extents

    def long(found: set[str | None]) -> list[str]:
        return sorted(n for n in found if n and extents[n] > 1)

    across = long((names & outputs) - plain - moving)
    shared = long((plain & names) - outputs)
    alone = long((plain & outputs) - names)
    kept = [extents[n] for n in sorted(moving & outputs)]
    summed = [extents[n] for n in sorted(moving - outputs)]
    positions = max(kept, default=0) >= max(summed, default=0)  # the result's; taps are summed
    if not across:  # every channel on its own
        pairs = long(plain & names & outputs)
        reads = (bent[0],) if positions else (bent[0], 1 - bent[0])
        if len(pairs) != 1 or (positions and shared) or (not positions and alone):
            return None
        return ChannelRoles(tuple((r, pairs[0]) for r in reads), pairs[0] if positions else None)
    if len(across) > 1:
        return None
    if positions:
        return ChannelRoles(((bent[0], shared[0]),), across[0]) if len(shared) == 1 else None
    if len(alone) == 1:
        return ChannelRoles(((bent[0], alone[0]), (1 - bent[0], across[0])), None)
    return None
