"""The adjoint of one equation with respect to one operand, as gathers: no scatter, no atomics.

For out[o] = sum_r body(o, r) and a read X[A(o, r)]:
    dX[x] = sum over (o, r) with A(o, r) = x of dout[o] * d body / d X[A(o, r)]
(the Jacobian chain rule; a shared weight gets the sum over all the paths it acts through).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import sympy

from graphc.autodiff.solve import Solution, guard_holds, solve, substitute_guards
from graphc.errors import UserError
from graphc.ir.equation import Equation, Guard, Read, Reduction, position_symbol, read_symbol, tidy
from graphc.ir.index import Index, axis_index, constant
from graphc.ir.scalar_functions import select
from graphc.ir.types import Axis


@dataclass(frozen=True)
class Adjoint:
    """One gather per differing read of the operand.

    Operands of each: the gradient of the output, then the equation's own operands, then
    ``helper``'s output if there is a helper (the argmax of a max, the partial products of a prod).
    """

    gathers: tuple[Equation, ...]
    helper: Equation | None


@lru_cache(maxsize=4096)
def adjoint(equation: Equation, operand: int) -> Adjoint:
    """The adjoint of ``equation`` with respect to operand ``operand``; derived once, remembered."""
    if equation.reduction in ("argmax", "argmin"):
        return Adjoint((), None)
    helper = _helper(equation)
    gathers = [
        _gather(equation, number, helper)
        for number, read in enumerate(equation.reads)
        if read.operand == operand
    ]
    found = tuple(g for g in gathers if g is not None)
    return Adjoint(found, helper if found else None)


def _helper(equation: Equation) -> Equation | None:
    if equation.reduction in ("max", "min"):
        return arg_equation(equation)
    if equation.reduction == "prod":
        return _other_factors(equation)
    return None


def arg_equation(equation: Equation) -> Equation:
    """Where the maximum (minimum) is: the first in row-major order of the reduced window."""
    kind: Reduction = "argmax" if equation.reduction == "max" else "argmin"
    return Equation(
        equation.axes, kind, equation.reduce_axes, equation.operands,
        equation.reads, equation.positions, equation.guards, equation.body,
    )  # fmt: skip


def _other_factors(equation: Equation) -> Equation:
    """P[o, r] = product of body(o, q) over all q except r: exact where a factor is zero."""
    renamed = {a.name: f"{a.name}_other" for a in equation.reduce_axes}
    moved = {name: axis_index(new) for name, new in renamed.items()}
    here, there = flat_position(equation.reduce_axes), flat_position(equation.reduce_axes)
    count = len(equation.positions)
    same = sympy.Eq(position_symbol(count), position_symbol(count + 1))
    return Equation(
        (*equation.axes, *equation.reduce_axes), "prod",
        tuple(Axis(renamed[a.name], a.extent) for a in equation.reduce_axes),
        equation.operands,
        tuple(Read(r.operand, _all(r.index, moved), r.fill) for r in equation.reads),
        (*_all(equation.positions, moved), here, there.substitute(moved)),
        tuple(substitute_guards(equation.guards, moved)),
        select(same, sympy.Integer(1), equation.body),
    )  # fmt: skip


def flat_position(axes: tuple[Axis, ...]) -> Index:
    """Row-major number of a position in a window."""
    flat = constant(0)
    for axis in axes:
        flat = flat * axis.extent + axis_index(axis.name)
    return flat


def _all(indexes: tuple[Index, ...], values: dict[str, Index]) -> tuple[Index, ...]:
    return tuple(index.substitute(values) for index in indexes)


def _gather(equation: Equation, number: int, helper: Equation | None) -> Equation | None:
    """The gather for one read, or None if the body does not depend on it."""
    factor = _derivative(equation.body, read_symbol(number))
    if factor == 0:
        return None
    read = equation.reads[number]
    targets = _target_axes(read, equation)
    loops = (*equation.axes, *equation.reduce_axes)
    solution = solve(read.index, targets, loops, equation.guards)
    dout = tuple(axis_index(a.name) for a in equation.axes)
    reads = [*(Read(r.operand + 1, r.index, r.fill) for r in equation.reads), Read(0, dout)]
    positions = equation.positions
    shapes = (equation.shape, *equation.operands)
    body = factor * read_symbol(len(equation.reads))
    if helper is not None:
        shapes = (*shapes, helper.shape)
        extra = read_symbol(len(reads))
        reads.append(Read(len(shapes) - 1, tuple(axis_index(a.name) for a in helper.axes)))
        if equation.reduction == "prod":
            body = body * extra
        else:
            here = position_symbol(len(positions))
            positions = (*positions, flat_position(equation.reduce_axes))
            body = select(sympy.Eq(extra, here), body, sympy.Integer(0))
    return _build(equation.guards, targets, solution, shapes, tuple(reads), positions, body)


def _derivative(body: sympy.Expr, symbol: sympy.Symbol) -> sympy.Expr:
    # sign is flat wherever it has a derivative: the written rule is 0 at the jump, too.
    derivative = sympy.diff(body, symbol).replace(sympy.DiracDelta, lambda *_: sympy.Integer(0))
    if derivative.has(sympy.Derivative, sympy.Subs):
        raise UserError(f"sympy has no derivative of {body}; use a function that has one")
    return derivative


def _target_axes(read: Read, equation: Equation) -> tuple[Axis, ...]:
    """Axes of the gradient: the read's own axis names where a dimension is one axis."""
    taken = {a.name for a in (*equation.axes, *equation.reduce_axes)}
    spare = (n for n in _spare_names() if n not in taken)
    shape = equation.operands[read.operand]
    return tuple(Axis(next(spare), extent) for extent in shape)


def _spare_names() -> list[str]:
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    return [*letters, *(f"{a}{n}" for n in range(1, 9) for a in letters)]


def _build(
    old_guards: tuple[Guard, ...], targets: tuple[Axis, ...], solution: Solution,
    shapes: tuple[tuple[int, ...], ...], reads: tuple[Read, ...],
    positions: tuple[Index, ...], body: sympy.Expr,
) -> Equation:  # fmt: skip
    """Substitute the solution everywhere; name the result's axes as the forward equation did."""
    values, extents = solution.values, solution.extents
    for guard in substitute_guards(old_guards, values):
        if not guard_holds(guard, extents):
            solution.guards.append(guard)
    back = _friendly_names(targets, solution)

    def rewrite(index: Index) -> Index:
        return index.substitute(values).simplify(extents).substitute(back)

    renamed = {n: i.single_name or n for n, i in back.items()}
    summed = tuple(Axis(name, extents[name]) for name in solution.free if extents[name] > 1)
    return tidy(Equation(
        tuple(Axis(renamed.get(a.name, a.name), a.extent) for a in targets),
        "sum" if summed else "none",
        summed,
        shapes,
        tuple(Read(r.operand, tuple(map(rewrite, r.index)), r.fill) for r in reads),
        tuple(map(rewrite, positions)),
        tuple(dict.fromkeys(
            Guard(g.index.simplify(extents).substitute(back), g.lower, g.upper, g.divisor)
            for g in solution.guards
        )),
        body,
    ))  # fmt: skip


def _friendly_names(targets: tuple[Axis, ...], solution: Solution) -> dict[str, Index]:
    """A gradient axis that equals a forward axis takes that axis's name."""
    names = {}
    for old, value in solution.values.items():
        new = value.single_name if old not in solution.invented else None
        if new in {a.name for a in targets} and new not in names and old not in solution.free:
            names[new] = axis_index(old)
    return names
