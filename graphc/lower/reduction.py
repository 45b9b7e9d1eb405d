"""The reductions of a nest: accumulators, the loops over their window, the finished values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from graphc.ir.equation import Equation, position_symbol, read_symbol
from graphc.ir.graph import Node
from graphc.ir.index import Index, axis_index
from graphc.ir.layout import row_major
from graphc.ir.loops import Assign, Declare, Loop, Statement, When
from graphc.ir.scalar import Call, Condition, Inside, Name, Number, Position, Scalar
from graphc.ir.types import Axis, DType, element_count
from graphc.lower.access import Access, Merged, merge_axes, substitute_conditions
from graphc.lower.freeze import MutableEnvironment, as_type, compute_dtype, freeze, widened
from graphc.lower.names import Namer

SHORT_WINDOW = 16
_SHORT_SUM = 64  # terms that a float32 adds up with an error of some roundings
_SHARED = tuple(f"{a}{b}" for a in ("_sum", "_best", "_place") for b in ("_other", "_shares"))
SUFFIXES = ("", "_item", "_sum", "_best", "_wins", "_place", *_SHARED)  # locals of a value
_SMALL = 1 << 30  # positions below this are compared as 32-bit numbers


@dataclass
class Stage:
    """One node of the group over the group's axes; reads are accesses or earlier stages' values."""

    node: Node
    equation: Equation
    reads: list[Access | str]
    conditions: tuple[Condition, ...]
    value: str
    positions: tuple[Index, ...] = ()


def stage_accesses(stages: Sequence[Stage]) -> tuple[list[Index], list[Condition]]:
    """Where stages read, and under which conditions: what decides which axes may merge."""
    offsets: list[Index] = []
    conditions: list[Condition] = []
    for stage in stages:
        offsets += stage.positions
        conditions += stage.conditions
        for read in stage.reads:
            if isinstance(read, Access):
                offsets.append(read.offset)
                conditions += read.conditions
    return offsets, conditions


def environment(stage: Stage, merged: Merged) -> MutableEnvironment:
    """The scalar for every symbol of the stage's body."""
    found: MutableEnvironment = {}
    for number, read in enumerate(stage.reads):
        if isinstance(read, Access):
            found[read_symbol(number)] = read.scalar(merged.values)
        else:
            operand = stage.node.inputs[stage.equation.reads[number].operand]
            found[read_symbol(number)] = widened(Name(read, operand.dtype))
    for number, index in enumerate(stage.positions):
        low, high = index.bounds(stage.equation.extents)
        dtype = DType.int32 if low > -_SMALL and high < _SMALL else DType.int64
        found[position_symbol(number)] = Position(index.substitute(merged.values), dtype)
    return found


def sibling_blocks(stages: Sequence[Stage]) -> list[list[Stage]]:
    """Reductions over the same window of the same reads share their loops."""
    blocks: list[list[Stage]] = []
    for stage in stages:
        mate = next((b for b in blocks if _same_window(b[0], stage)), None)
        if mate is None:
            blocks.append([stage])
        else:
            mate.append(stage)
    return blocks


def _same_window(a: Stage, b: Stage) -> bool:
    return (
        not a.equation.is_map
        and not b.equation.is_map
        and a.equation.reduce_axes == b.equation.reduce_axes
        and a.reads == b.reads
        and a.conditions == b.conditions
        and a.positions == b.positions
        and a.equation.body == b.equation.body
        and compute_dtype(a.node, a.equation) == compute_dtype(b.node, b.equation)
    )


@dataclass(frozen=True)
class Parts:
    """Reductions over one window: accumulators, what each element does to them, the results."""

    before: tuple[Statement, ...]
    window: Merged
    inside: tuple[Statement, ...]
    after: tuple[Statement, ...]


def reduction_statements(block: Sequence[Stage], merged: Merged, namer: Namer) -> list[Statement]:
    """Accumulators, the loops over the window, and the finished values."""
    parts = reduction_parts(block, merged, merge_window(block[0], merged, namer))
    return [*parts.before, *_window_loops(block, parts.window, parts.inside), *parts.after]


def reduction_parts(block: Sequence[Stage], merged: Merged, window: Merged) -> Parts:
    """The parts of which the loops over a window are made."""
    item, conditions = window_item(block, merged, window)
    before: list[Statement] = []
    inside: list[Statement] = [item]
    after: list[Statement] = []
    for stage in block:
        if stage.equation.reduction in ("sum", "prod"):
            total = accumulator(stage, item.dtype)
            before.append(Declare(total.name, total.dtype, _number(_start(stage), total), True))
            inside.append(accumulate(stage, total, Name(item.name, item.dtype)))
            after.append(finish(stage, total))
    for way in ("max", "min"):
        extremes = [s for s in block if s.equation.reduction in (way, f"arg{way}")]
        if extremes:
            found = _extreme(extremes, way, Name(item.name, item.dtype), window.axes)
            before, inside, after = before + found[0], inside + found[1], after + found[2]
    guarded: tuple[Statement, ...] = tuple(inside)
    if conditions:
        guarded = (When(conditions, guarded),)
    return Parts(tuple(before), window, guarded, tuple(after))


def _window_loops(
    block: Sequence[Stage], window: Merged, body: tuple[Statement, ...]
) -> tuple[Statement, ...]:
    """Sums without guards over a long window run in lanes; short windows are unrolled."""
    sums = tuple(f"{s.value}_sum" for s in block)
    simd = only_sums(block) and not block[0].conditions
    long_window = element_count(tuple(a.extent for a in window.axes)) > SHORT_WINDOW
    for depth in reversed(range(len(window.axes))):
        vector = simd and depth == len(window.axes) - 1 and long_window
        body = (
            Loop(window.axes[depth], body, simd=vector, sums=sums if vector else (), unroll=True),
        )
    return body


def only_sums(block: Sequence[Stage]) -> bool:
    """Whether nothing but sums is reduced."""
    return all(s.equation.reduction == "sum" for s in block)


def window_item(
    block: Sequence[Stage], merged: Merged, window: Merged
) -> tuple[Declare, tuple[Condition, ...]]:
    """The declaration of one element of the window, and the guards that may be tested around it."""
    first = block[0]
    both = Merged((), merged.values | window.values)
    dtype = compute_dtype(first.node, first.equation)
    value: Scalar = as_type(freeze(first.equation.body, environment(first, both), dtype), dtype)
    conditions = substitute_conditions(first.conditions, both.values)
    if conditions and not only_sums(block):
        zero = as_type(Number(0, DType.int64), dtype)
        value, conditions = Call("select", (Inside(conditions), value, zero), dtype), ()
    return Declare(f"{first.value}_item", dtype, value), conditions


def merge_window(stage: Stage, merged: Merged, namer: Namer) -> Merged:
    """Merge the reduced axes; an argmax counts positions, which its flat number keeps."""
    offsets = [r.offset.substitute(merged.values) for r in stage.reads if isinstance(r, Access)]
    offsets += [p.substitute(merged.values) for p in stage.positions]
    conditions = [*stage.conditions]
    for read in stage.reads:
        conditions += read.conditions if isinstance(read, Access) else ()
    return merge_axes(stage.equation.reduce_axes, offsets, conditions, namer)


def accumulator(stage: Stage, dtype: DType) -> Name:
    """Long sums of float32 are kept in float64: exact enough for any length. So are those that are
    rounded to 16 bits, for an error of float32 might turn the rounding.
    """
    terms = element_count(tuple(a.extent for a in stage.equation.reduce_axes))
    wide = dtype.is_float and (terms > _SHORT_SUM or stage.node.dtype.is_half)
    return Name(f"{stage.value}_sum", DType.float64 if wide else dtype)


def _start(stage: Stage) -> int:
    return 0 if stage.equation.reduction == "sum" else 1


def _number(value: float, like: Name) -> Number:
    return Number(float(value) if like.dtype.is_float else int(value), like.dtype)


def accumulate(stage: Stage, total: Name, item: Name) -> Assign:
    """Total += item, or total *= item."""
    name = "add" if stage.equation.reduction == "sum" else "multiply"
    return Assign(total.name, Call(name, (total, as_type(item, total.dtype)), total.dtype))


def finish(stage: Stage, total: Name) -> Declare:
    """The value of the node from its accumulator."""
    return Declare(stage.value, stage.node.dtype, as_type(total, stage.node.dtype))


def _extreme(
    stages: Sequence[Stage], way: str, item: Name, axes: tuple[Axis, ...]
) -> tuple[list[Statement], list[Statement], list[Statement]]:
    """The first greatest (or least) item and its place; the first NaN beats all numbers."""
    first = stages[0]
    best = Name(f"{first.value}_best", item.dtype)
    wins = Name(f"{first.value}_wins", DType.boolean)
    floating = item.dtype.is_float
    worst = (-math.inf if floating else -(2**63)) * (1 if way == "max" else -1)
    before: list[Statement] = [
        Declare(best.name, best.dtype, _number(worst if floating else _clipped(worst), best), True)
    ]
    test: Scalar = Call("greater" if way == "max" else "less", (item, best), DType.boolean)
    if floating:
        missing = Call("not_equal", (item, item), DType.boolean)
        numeric = Call("equal", (best, best), DType.boolean)
        both = Call("and", (missing, numeric), DType.boolean)
        test = Call("or", (test, both), DType.boolean)
    inside: list[Statement] = [Declare(wins.name, DType.boolean, test)]
    after: list[Statement] = []
    for stage in stages:
        if stage.equation.reduction == way:
            after.append(finish(stage, best))
            continue
        place = _place(stage)
        before.append(Declare(place.name, place.dtype, Number(0, place.dtype), True))
        here = Position(_flat(axes), place.dtype)
        inside.append(Assign(place.name, Call("select", (wins, here, place), place.dtype)))
        after.append(finish(stage, place))
    inside.append(Assign(best.name, Call("select", (wins, item, best), best.dtype)))
    return before, inside, after


def _clipped(value: float) -> int:
    """The least or greatest 64-bit integer."""
    return -(2**63) if value < 0 else 2**63 - 1


def _flat(axes: tuple[Axis, ...]) -> Index:
    index = tuple(axis_index(a.name) for a in axes)
    return row_major(tuple(a.extent for a in axes)).offset(index)


def combine_statements(
    block: Sequence[Stage],
) -> tuple[tuple[Name, ...], tuple[Name, ...], tuple[Statement, ...]]:
    """Accumulators, names for another worker's, and what adds those to one's own."""
    dtype = compute_dtype(block[0].node, block[0].equation)
    names: list[Name] = []
    body: list[Statement] = []
    for stage in block:
        if stage.equation.reduction in ("sum", "prod"):
            total = accumulator(stage, dtype)
            names.append(total)
            body.append(accumulate(stage, total, other(total)))
    for way in ("max", "min"):
        extremes = [s for s in block if s.equation.reduction in (way, f"arg{way}")]
        if extremes:
            found = _better(extremes, way, dtype)
            names += found[0]
            body += found[1]
    return tuple(names), tuple(other(name) for name in names), tuple(body)


def other(name: Name) -> Name:
    """What another worker of the team holds under a name."""
    return Name(f"{name.name}_other", name.dtype)


def _better(stages: Sequence[Stage], way: str, dtype: DType) -> tuple[list[Name], list[Statement]]:
    """The greater (or lesser) of two bests, on a tie the one that stands first; NaN beats all."""
    best = Name(f"{stages[0].value}_best", dtype)
    wins = Name(f"{stages[0].value}_wins", DType.boolean)
    places = [_place(s) for s in stages if s.equation.reduction != way]
    ours, theirs = best, other(best)
    test: Scalar = _both("greater" if way == "max" else "less", theirs, ours)
    same: Scalar = _both("equal", theirs, ours)
    if dtype.is_float:
        missing, here = _both("not_equal", theirs, theirs), _both("not_equal", ours, ours)
        test = _logic("or", test, _logic("and", missing, _both("equal", ours, ours)))
        same = _logic("or", same, _logic("and", missing, here))
    if places:
        test = _logic("or", test, _logic("and", same, _both("less", other(places[0]), places[0])))
    body: list[Statement] = [Declare(wins.name, DType.boolean, test)]
    for name in (*places, best):
        body.append(Assign(name.name, Call("select", (wins, other(name), name), name.dtype)))
    return [best, *places], body


def _both(function: str, a: Name, b: Name) -> Scalar:
    return Call(function, (a, b), DType.boolean)


def _logic(function: str, a: Scalar, b: Scalar) -> Scalar:
    return Call(function, (a, b), DType.boolean)


def _place(stage: Stage) -> Name:
    count = element_count(tuple(a.extent for a in stage.equation.reduce_axes))
    return Name(f"{stage.value}_place", DType.int32 if count < _SMALL else DType.int64)
