"""Replace a read inside an equation by a number, or by the body of the map that made the value.

sympy evaluates as it substitutes: x/x is 1, log(exp(x)) is x, 0*x is 0, which for NaN, infinities
and overflow is not what the arithmetic gives. A substitution that would lose something is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import sympy

from graphc.ir.equation import Equation, Guard, Read, position_symbol, read_symbol, tidy
from graphc.ir.index import Index
from graphc.ir.scalar_functions import select


def replace_read_by_number(equation: Equation, number: int, value: sympy.Expr) -> Equation | None:
    """The equation with read ``number`` replaced by a number; None if another read is lost."""
    result = tidy(_with(equation, body=equation.body.xreplace({read_symbol(number): value})))
    wanted = _reads_of(equation.body, equation.reads) - {equation.reads[number]}
    return result if wanted <= set(result.reads) else None


def inline_map(equation: Equation, number: int, producer: Equation, first: int) -> Equation | None:
    """The equation with read ``number`` replaced by the body of the map that it reads.

    None if a read, a function or a power is lost.

    ``first`` is the operand number that the producer's operand 0 gets; the producer's operand
    shapes are appended. The producer must be a map; its guards become a select in the body.
    """
    read = equation.reads[number]
    values = {a.name: i for a, i in zip(producer.axes, read.index, strict=True)}
    extents = equation.extents

    def moved(index: Index) -> Index:
        return index.substitute(values).simplify(extents)

    reads, positions = list(equation.reads), list(equation.positions)
    renamed: dict[sympy.Basic, sympy.Basic] = {}
    for old, inner in enumerate(producer.reads):
        new_read = Read(inner.operand + first, tuple(map(moved, inner.index)), inner.fill)
        renamed[read_symbol(old)] = read_symbol(len(reads))
        reads.append(new_read)
    for old, index in enumerate(producer.positions):
        renamed[position_symbol(old)] = position_symbol(len(positions))
        positions.append(moved(index))
    value = producer.body.xreplace(renamed)
    conditions = [(moved(g.index), g) for g in producer.guards]
    conditions += _fill_conditions(equation, read)
    value = _guarded(value, conditions, positions, read.fill or 0)
    result = tidy(Equation(
        equation.axes, equation.reduction, equation.reduce_axes,
        (*equation.operands, *producer.operands), tuple(reads), tuple(positions),
        equation.guards, equation.body.xreplace({read_symbol(number): value}),
    ))  # fmt: skip
    wanted = _reads_of(equation.body, reads) - {read} | _reads_of(value, reads)
    functions = _functions(equation.body) + _functions(value)
    kept = wanted <= set(result.reads) and functions <= _functions(result.body)
    return result if kept else None


def _reads_of(body: sympy.Basic, reads: Sequence[Read]) -> set[Read]:
    symbols = body.free_symbols
    return {read for number, read in enumerate(reads) if read_symbol(number) in symbols}


@lru_cache(maxsize=4096)
def _functions(body: sympy.Basic) -> int:
    """Functions and powers in a body, counted as they are written."""
    kinds = (sympy.Function, sympy.Pow)
    return sum(isinstance(part, kinds) for part in sympy.preorder_traversal(body))


def _fill_conditions(equation: Equation, read: Read) -> list[tuple[Index, Guard]]:
    """In-range conditions of a padded read."""
    if read.fill is None:
        return []
    found = []
    for index, extent in zip(read.index, equation.operands[read.operand], strict=True):
        low, high = index.bounds(equation.extents)
        if low < 0 or high >= extent:
            found.append((index, Guard(index, 0, extent)))
    return found


def _guarded(
    value: sympy.Expr, conditions: list[tuple[Index, Guard]], positions: list[Index], fill: float
) -> sympy.Expr:
    tests = []
    for index, guard in conditions:
        symbol = position_symbol(len(positions))
        positions.append(index)
        if guard.lower is not None:
            tests.append(sympy.Ge(symbol, guard.lower))
        if guard.upper is not None:
            tests.append(sympy.Lt(symbol, guard.upper))
        if guard.divisor != 1:
            positions[-1] = index
            positions.append(index % guard.divisor)
            tests.append(sympy.Eq(position_symbol(len(positions) - 1), 0))
    return select(sympy.And(*tests), value, sympy.sympify(fill)) if tests else value


def _with(equation: Equation, body: sympy.Expr) -> Equation:
    return Equation(
        equation.axes, equation.reduction, equation.reduce_axes, equation.operands,
        equation.reads, equation.positions, equation.guards, body,
    )  # fmt: skip
