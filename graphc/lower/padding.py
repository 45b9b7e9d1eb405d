"""Axes of a product that run through padded dimensions take the zeros along: copies are whole.

A summed axis then adds products that are 0: one factor's zeros meet the other's, or what is not
read at all. An axis of the result has places that are no elements, which nobody stores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from graphc.ir.equation import Read
from graphc.ir.graph import Node
from graphc.ir.index import axis_index
from graphc.ir.scalar import Condition
from graphc.ir.types import Axis
from graphc.lower.access import Access, access
from graphc.lower.nest import Array, NestPlan
from graphc.lower.reduction import Stage
from graphc.passes.classify import plain_factors


def with_padding(
    plan: NestPlan, arrays: Mapping[Node, Array], *, results: bool
) -> tuple[NestPlan, tuple[Condition, ...]]:
    """The plan with longer axes for its leader, and which of their places are elements.

    Axes of the result may become longer where ``results`` says so.
    """
    leader = plan.stages[0]
    longer = _longer(leader, arrays, results)
    if not longer:
        return plan, ()
    equation = leader.equation
    inside = tuple(
        Condition(axis_index(a.name), None, a.extent) for a in equation.axes if a.name in longer
    )
    wide = replace(
        equation, axes=_stretched(equation.axes, longer),
        reduce_axes=_stretched(equation.reduce_axes, longer),
    )  # fmt: skip
    reads = [
        _read(leader, read, old, longer, wide.extents, arrays)
        for read, old in zip(equation.reads, leader.reads, strict=True)
    ]
    stage = replace(leader, equation=wide, reads=reads)
    return replace(plan, stages=[stage, *plan.stages[1:]]), inside


def _longer(leader: Stage, arrays: Mapping[Node, Array], results: bool) -> dict[str, int]:
    """Axes that are a padded dimension of one factor, and not kept in both; their places.

    Where they are summed, all that is read there must be plain factors, which are 0.
    """
    equation = leader.equation
    summed, plain = {axis.name for axis in equation.reduce_axes}, plain_factors(equation)
    found: dict[str, int] = {}
    for read in equation.reads:
        name, places = _padded_axis(leader, read, arrays)
        touched = [
            n for n, r in enumerate(equation.reads) if any(name in index.names for index in r.index)
        ]
        zero = plain.issuperset(touched) and not any(equation.reads[n].fill for n in touched)
        if name and (zero if name in summed else results and len(touched) == 1):
            found[name] = places
    return found


def _padded_axis(leader: Stage, read: Read, arrays: Mapping[Node, Array]) -> tuple[str, int]:
    """The axis that runs through the padded dimension of an array, and its places there."""
    array = arrays.get(leader.node.inputs[read.operand])
    padding = array.layout.padding if array is not None else None
    if array is None or padding is None:
        return "", 0
    dimension, places = padding
    name = read.index[dimension].single_name
    once = sum(name in index.names for index in read.index if name is not None) == 1
    if name is None or not once or leader.equation.extents[name] != array.layout.shape[dimension]:
        return "", 0
    return name, places


def _stretched(axes: tuple[Axis, ...], longer: Mapping[str, int]) -> tuple[Axis, ...]:
    return tuple(Axis(a.name, longer.get(a.name, a.extent)) for a in axes)


def _read(
    leader: Stage, read: Read, old: Access | str, longer: Mapping[str, int],
    extents: Mapping[str, int], arrays: Mapping[Node, Array],
) -> Access | str:  # fmt: skip
    """The access with longer axes: an array has zeros there, or nothing is read."""
    if isinstance(old, str):
        return old
    name, _ = _padded_axis(leader, read, arrays)
    operand = leader.node.inputs[read.operand]
    if name in longer:
        return access(read, arrays[operand].layout, old.buffer, operand.dtype, extents)
    missing = [
        Condition(axis_index(axis), None, leader.equation.extents[axis])
        for axis in longer if any(axis in index.names for index in read.index)
    ]  # fmt: skip
    return replace(old, conditions=(*old.conditions, *missing))
