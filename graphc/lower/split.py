"""Axes cut into blocks and lanes where arrays lie in such blocks, so that lanes run inside."""

from __future__ import annotations

from collections.abc import Mapping

import graphc.ir.index as ix
from graphc.ir.equation import Equation, Guard, Read
from graphc.ir.index import Index
from graphc.ir.types import Axis


def split_axes(equation: Equation, lanes: Mapping[str, int], names: Mapping[str, str]) -> Equation:
    """The equation with each axis of ``lanes`` as block and lane; lanes become the last axes.

    ``names`` gives the lane axis of each; the block keeps the axis's name. An argmax counts
    positions in its axes' order, so its reduced axes stay whole.
    """
    whole = equation.reduction.startswith("arg")
    axes = _cut(equation.axes, lanes, names)
    summed = equation.reduce_axes if whole else _cut(equation.reduce_axes, lanes, names)
    if (axes, summed) == (equation.axes, equation.reduce_axes):
        return equation
    present = {a.name for a in (*axes, *summed)}
    values = {a: v for a, v in lane_values(lanes, names).items() if names[a] in present}
    return recast(equation, axes, summed, values)


def lane_values(lanes: Mapping[str, int], names: Mapping[str, str]) -> dict[str, Index]:
    """Every split axis as block * lanes + lane."""
    return {
        name: ix.axis_index(name) * count + ix.axis_index(names[name])
        for name, count in lanes.items()
    }


def recast(
    equation: Equation,
    axes: tuple[Axis, ...],
    summed: tuple[Axis, ...],
    values: Mapping[str, Index],
) -> Equation:
    """The same sums over other axes: ``values`` gives the old axes in terms of the new ones."""
    return Equation(
        axes, equation.reduction, summed, equation.operands,
        tuple(
            Read(r.operand, tuple(i.substitute(values) for i in r.index), r.fill)
            for r in equation.reads
        ),
        tuple(i.substitute(values) for i in equation.positions),
        tuple(
            Guard(g.index.substitute(values), g.lower, g.upper, g.divisor) for g in equation.guards
        ),
        equation.body,
    )  # fmt: skip


def _cut(
    axes: tuple[Axis, ...], lanes: Mapping[str, int], names: Mapping[str, str]
) -> tuple[Axis, ...]:
    blocks = tuple(Axis(a.name, a.extent // lanes.get(a.name, 1)) for a in axes)
    return (*blocks, *(Axis(names[a.name], lanes[a.name]) for a in axes if a.name in lanes))
