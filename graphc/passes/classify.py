"""What an equation is, read off its structure: a contraction, a view, a reshape, a constant."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import sympy

from graphc.ir.equation import Equation, Guard, position_symbol, read_symbol
from graphc.ir.graph import Graph, Node
from graphc.ir.index import Floor, Index, axis_index, constant
from graphc.ir.types import Axis, Shape, element_count

MIN_ROWS = 3
MIN_COLUMNS = 8
MIN_DEPTH = 4


@dataclass(frozen=True)
class Factor:
    """One side of a product: its expression, the axes it depends on, and the guards it carries."""

    body: sympy.Expr
    names: frozenset[str]
    guards: tuple[Guard, ...]


@dataclass(frozen=True)
class Factors:
    """A sum of products of two factors; ``columns`` holds the output's last axis."""

    rows: Factor
    columns: Factor
    batch: tuple[Axis, ...]
    row_axes: tuple[Axis, ...]
    column_axes: tuple[Axis, ...]


@lru_cache(maxsize=4096)
def contraction_factors(equation: Equation) -> Factors | None:
    """The two factors if the equation is a contraction worth packing, else None.

    Worth it: every summed axis is in both factors, and rows, columns and depth are long enough
    that each packed element is used several times.
    """
    if equation.reduction != "sum" or not equation.axes:
        return None
    sides = _two_sides(equation)
    if sides is None:
        return None
    rows, columns = sides
    summed = {a.name for a in equation.reduce_axes}
    if not summed <= rows.names or not summed <= columns.names:
        return None
    batch = tuple(a for a in equation.axes if a.name in rows.names and a.name in columns.names)
    only_rows = tuple(a for a in equation.axes if a.name in rows.names - columns.names)
    only_columns = tuple(a for a in equation.axes if a.name in columns.names - rows.names)
    depth = element_count(tuple(a.extent for a in equation.reduce_axes))
    wide = _extent(only_rows) >= MIN_ROWS and _extent(only_columns) >= MIN_COLUMNS
    if not wide or depth < MIN_DEPTH:
        return None
    return Factors(rows, columns, batch, only_rows, only_columns)


def _extent(axes: tuple[Axis, ...]) -> int:
    return element_count(tuple(a.extent for a in axes))


def _two_sides(equation: Equation) -> tuple[Factor, Factor] | None:
    """Split the product: factors that hold the last long output axis go to the columns."""
    last = next((a.name for a in reversed(equation.axes) if a.extent > 1), None)
    if last is None:
        return None
    rows: list[sympy.Expr] = []
    columns: list[sympy.Expr] = []
    for factor in sympy.Mul.make_args(equation.body):
        names = expression_names(factor, equation)
        (columns if last in names else rows).append(factor)
    if not rows or not columns or equation.positions:
        return None
    row_body, column_body = sympy.Mul(*rows), sympy.Mul(*columns)
    row_names = expression_names(row_body, equation)
    column_names = expression_names(column_body, equation)
    if any(
        not g.index.names <= row_names and not g.index.names <= column_names
        for g in equation.guards
    ):
        return None
    to_columns = tuple(g for g in equation.guards if g.index.names <= column_names)
    to_rows = tuple(g for g in equation.guards if not g.index.names <= column_names)
    everything = {a.name for a in (*equation.axes, *equation.reduce_axes) if a.extent > 1}
    if not everything <= row_names | column_names:
        return None
    return Factor(row_body, row_names, to_rows), Factor(column_body, column_names, to_columns)


def plain_factors(equation: Equation) -> frozenset[int]:
    """Numbers of the reads that are factors of the whole body: where one is 0, so is the body."""
    factors = sympy.Mul.make_args(equation.body)
    return frozenset(n for n in range(len(equation.reads)) if read_symbol(n) in factors)


def expression_names(expression: sympy.Expr, equation: Equation) -> frozenset[str]:
    """Axis names that an expression depends on through its reads and positions."""
    symbols = expression.free_symbols
    names: set[str] = set()
    for number, read in enumerate(equation.reads):
        if read_symbol(number) in symbols:
            names |= set().union(*(index.names for index in read.index))
    for number, index in enumerate(equation.positions):
        if position_symbol(number) in symbols:
            names |= index.names
    return frozenset(names)


def is_view(equation: Equation) -> bool:
    """Whether the output only rearranges one operand's elements."""
    return equation.is_map and equation.body == read_symbol(0) and not equation.guards


@lru_cache(maxsize=4096)
def is_reshape(equation: Equation) -> bool:
    """Whether output and operand hold the same elements in the same row-major order."""
    if not is_view(equation) or equation.reads[0].fill is not None:
        return False
    shape = equation.operands[equation.reads[0].operand]
    if element_count(shape) != element_count(equation.shape):
        return False
    flat_in = flat_offset(equation.reads[0].index, shape)
    flat_out = flat_offset(tuple(axis_index(a.name) for a in equation.axes), equation.shape)
    difference = (flat_in - flat_out).simplify(equation.extents)
    return difference == constant(0) or (
        not difference.is_affine and bool(np.all(_values(difference, equation) == 0))
    )


def shares_memory(node: Node) -> bool:
    """Whether a node is its operand's elements in the same order and type."""
    equation = node.equation
    return equation is not None and is_reshape(equation) and node.dtype == node.inputs[0].dtype


def memory_bases(graph: Graph) -> dict[Node, Node]:
    """For every node the one whose memory it has: itself, or what it is a reshape of."""
    bases: dict[Node, Node] = {}
    for node in graph.nodes:
        bases[node] = bases[node.inputs[0]] if shares_memory(node) else node
    return bases


def _values(index: Index, equation: Equation) -> np.ndarray:
    """All values of an index over the output space."""
    rank = len(equation.axes)
    grid = {
        a.name: np.arange(a.extent).reshape([-1 if e == d else 1 for e in range(rank)])
        for d, a in enumerate(equation.axes)
    }
    return _grid_value(index, grid)


def _grid_value(index: Index, grid: dict[str, np.ndarray]) -> np.ndarray:
    total = np.asarray(index.const)
    for atom, coefficient in index.terms:
        if isinstance(atom, str):
            total = total + coefficient * grid[atom]
            continue
        inner = _grid_value(atom.inner, grid)
        floor = isinstance(atom, Floor)
        total = total + coefficient * (inner // atom.divisor if floor else inner % atom.divisor)
    return total


def flat_offset(index: tuple[Index, ...], shape: Shape) -> Index:
    """Row-major element number of an index."""
    flat = constant(0)
    for one, extent in zip(index, shape, strict=True):
        flat = flat * extent + one
    return flat


def uniform_value(equation: Equation) -> sympy.Expr | None:
    """The number that every output element is, if the equation reads nothing."""
    if equation.is_map and not equation.guards and equation.body.is_number:
        return equation.body
    return None
