"""The value of a kernel's result at a few of its elements, in float64 straight from the equations.

So a kernel is checked at its real size: no term of a sum over a whole batch is left out, and only
some of the results are computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import sympy

from graphc.evaluate import scalar_value
from graphc.ir.equation import Equation, position_symbol, read_symbol
from graphc.ir.graph import Node
from graphc.ir.index import Floor, Index, axis_index
from graphc.ir.schedule import KernelPlan, Schedule
from graphc.ir.types import element_count

_CHUNK = 1 << 22  # terms evaluated at once
Array = np.ndarray
Positions = Sequence[Array]  # one array of whole numbers a dimension


@dataclass(frozen=True)
class KernelValues:
    """What one kernel computes from arrays in the order of memory, by buffer number."""

    schedule: Schedule
    plan: KernelPlan
    arrays: Mapping[int, Array]

    def at(self, node: Node, positions: Positions) -> Array:
        """The node's elements at some positions, rounded to its type if that has 16 bits."""
        if node not in self.plan.nodes:
            return self._read(node, positions)
        if not node.shape:
            return self._computed(node, [])
        flat = np.ravel_multi_index(tuple(positions), node.shape)
        unique, inverse = np.unique(flat, return_inverse=True)
        found = self._computed(node, np.unravel_index(unique, node.shape))
        return found[inverse.reshape(-1)]

    def _read(self, node: Node, positions: Positions) -> Array:
        if node.value is not None:
            constant = np.asarray(node.value).reshape(node.shape)
            return np.asarray(constant[tuple(positions)]).reshape(-1)
        return self.arrays[self.schedule.places[node]][places(self.schedule, node, positions)]

    def _computed(self, node: Node, positions: Positions) -> Array:
        equation = node.op_equation()
        terms = element_count(tuple(axis.extent for axis in equation.reduce_axes))
        count = positions[0].size if positions else 1
        step = max(1, _CHUNK // max(terms, 1))
        parts = [
            self._some(node, equation, [p[start : start + step] for p in positions], terms)
            for start in range(0, count, step)
        ]
        value = np.concatenate(parts)
        kind = node.dtype.numpy
        with np.errstate(over="ignore"):
            if node.dtype.is_half:
                return value.astype(kind).astype(np.float64)
            return value if node.dtype.is_float else value.astype(kind)

    def _some(self, node: Node, equation: Equation, positions: Positions, terms: int) -> Array:
        """[points], from a grid of points by terms."""
        names = [axis.name for axis in equation.axes]
        grid = {name: where[:, None] for name, where in zip(names, positions, strict=True)}
        extents = tuple(axis.extent for axis in equation.reduce_axes)
        window = np.unravel_index(np.arange(terms), extents) if extents else ()
        for axis, where in zip(equation.reduce_axes, window, strict=True):
            grid[axis.name] = where[None, :]
        count = positions[0].size if positions else 1
        shape = (count, terms)
        scalars: dict[sympy.Basic, Array] = {}
        for number, read in enumerate(equation.reads):
            operand = node.inputs[read.operand]
            where = [np.broadcast_to(value_of(i, grid), shape) for i in read.index]
            inside = np.ones(shape, bool)
            for index, extent in zip(where, operand.shape, strict=True):
                inside &= (index >= 0) & (index < extent)
            picked = [
                np.clip(index, 0, extent - 1).reshape(-1)
                for index, extent in zip(where, operand.shape, strict=True)
            ]
            value = self.at(operand, picked)
            value = np.broadcast_to(value, (count * terms,)).reshape(shape)
            if operand.dtype.is_float:
                value = value.astype(np.float64)
            if read.fill is not None:
                value = np.where(inside, value, np.asarray(read.fill, value.dtype))
            scalars[read_symbol(number)] = value
        for number, index in enumerate(equation.positions):
            scalars[position_symbol(number)] = np.broadcast_to(value_of(index, grid), shape)
        dtype = np.dtype(np.float64) if node.dtype.is_float else node.dtype.numpy
        with np.errstate(all="ignore"):
            body = np.broadcast_to(scalar_value(equation.body, scalars, dtype), shape)
        for guard in equation.guards:
            index = value_of(guard.index, grid)
            holds = index % guard.divisor == 0
            holds = holds & (index >= guard.lower) if guard.lower is not None else holds
            holds = holds & (index < guard.upper) if guard.upper is not None else holds
            body = np.where(holds, body, np.zeros((), body.dtype))
        return _reduced(equation, body)


def _reduced(equation: Equation, body: Array) -> Array:
    if equation.reduction == "none":
        return body[:, 0]
    return np.asarray(getattr(np, equation.reduction)(body, axis=1))


def value_of(index: Index, positions: Mapping[str, Array]) -> Array:
    """An index where axes have these values."""
    total = np.full((1, 1), index.const, np.int64)
    for atom, coefficient in index.terms:
        if isinstance(atom, str):
            term = positions[atom]
        elif isinstance(atom, Floor):
            term = value_of(atom.inner, positions) // atom.divisor
        else:
            term = value_of(atom.inner, positions) % atom.divisor
        total = total + coefficient * term
    return total


def places(schedule: Schedule, node: Node, positions: Positions) -> Array:
    """Where elements of a node lie in the array that holds it."""
    names = [f"d{n}" for n in range(len(node.shape))]
    offset = schedule.layout(node).offset(tuple(map(axis_index, names)))
    where = {name: index[:, None] for name, index in zip(names, positions, strict=True)}
    return value_of(offset, where).reshape(-1)


def cost(plan: KernelPlan, node: Node) -> int:
    """Terms that one element of a node takes, with those of fused nodes that it reads."""
    equation = node.op_equation()
    terms = element_count(tuple(axis.extent for axis in equation.reduce_axes))
    inner = [cost(plan, operand) for operand in node.inputs if operand in plan.nodes]
    return max(terms, 1) * max(inner, default=1)
