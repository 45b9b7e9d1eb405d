"""A derived gradient written out: every element as the explicit sum over its paths."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping

import sympy

from graphc.errors import user_error
from graphc.ir.equation import Equation, Guard, position_symbol, read_symbol
from graphc.ir.graph import Node
from graphc.ir.index import Index, constant
from graphc.ir.show import plain_name, scalar_text
from graphc.ir.types import Axis, Shape

_MAXIMUM_TERMS = 100_000
Point = dict[str, Index]


def expanded_gradient(node: Node, names: Mapping[Node, str] | None = None) -> tuple[str, ...]:
    """Every element of an op's result as an explicit sum, such as ``w2*dz1 + w1*dz2``.

    Elements are numbered from 1 in row-major order; the terms of a sum stand in the order of what
    is read last, which in a gradient is the gradient of the output.

    Args:
        node: a value that an op makes by a map or a sum.
        names: what to call the op's operands; by default their labels.

    Returns:
        One text for each element, in row-major order.

    Raises:
        UserError: the node is no op, reduces other than by a sum, or has too many terms.
    """
    equation = node.equation
    if equation is None or equation.reduction not in ("none", "sum"):
        raise user_error(
            f"expanded_gradient: {node!r} is no map and no sum",
            "expected a gradient, such as gx.gradients(loss, [x])[0]",
        )
    if equation.points > _MAXIMUM_TERMS:
        raise user_error(
            f"expanded_gradient: {node!r} has {equation.points} terms",
            f"at most {_MAXIMUM_TERMS} are written out: declare a smaller example",
        )
    called = names or {}
    labels = [
        called.get(operand, plain_name(operand.label).replace(" ", "_")) for operand in node.inputs
    ]
    return tuple(_element(equation, labels, point) for point in _points(equation.axes))


def _points(axes: tuple[Axis, ...]) -> Iterator[Point]:
    for place in itertools.product(*(range(axis.extent) for axis in axes)):
        yield {axis.name: constant(n) for axis, n in zip(axes, place, strict=True)}


def _element(equation: Equation, labels: list[str], outer: Point) -> str:
    """The sum of the terms at one output position."""
    terms: list[tuple[int, sympy.Expr, str]] = []
    for inner in _points(equation.reduce_axes):
        point = outer | inner
        if all(_holds(guard, point) for guard in equation.guards):
            terms.append(_term(equation, labels, point))
    kept = [(order, factor, text) for order, factor, text in terms if factor != 0]
    return _sum_text([(factor, text) for _, factor, text in sorted(kept, key=lambda t: t[0])])


def _holds(guard: Guard, point: Point) -> bool:
    value = _value(guard.index, point)
    above = guard.lower is None or value >= guard.lower
    below = guard.upper is None or value < guard.upper
    return above and below and value % guard.divisor == 0


def _value(index: Index, point: Point) -> int:
    return index.substitute(point).const


def _term(equation: Equation, labels: list[str], point: Point) -> tuple[int, sympy.Expr, str]:
    """Number of the element read last, numeric factor and the rest as text."""
    values: dict[sympy.Basic, sympy.Basic] = {}
    order: dict[sympy.Basic, int] = {}
    number = 0
    for n, read in enumerate(equation.reads):
        shape = equation.operands[read.operand]
        place = tuple(_value(index, point) for index in read.index)
        inside = all(0 <= p < extent for p, extent in zip(place, shape, strict=True))
        number = _row_major(place, shape) + 1
        symbol = sympy.Symbol(f"{labels[read.operand]}{number if shape else ''}", real=True)
        values[read_symbol(n)] = symbol if inside else sympy.sympify(read.fill)
        order.setdefault(symbol, n)
    for n, index in enumerate(equation.positions):
        values[position_symbol(n)] = sympy.Integer(_value(index, point))
    factor, rest = equation.body.xreplace(values).as_coeff_Mul()
    parts = sorted(sympy.Mul.make_args(rest), key=lambda part: order.get(part, len(order)))
    return number, factor, "*".join(_factor_text(part) for part in parts)


def _row_major(place: Shape, shape: Shape) -> int:
    strides = [math.prod(shape[d + 1 :]) for d in range(len(shape))]
    return sum(p * stride for p, stride in zip(place, strides, strict=True))


def _factor_text(part: sympy.Expr) -> str:
    text = scalar_text(part)
    return text if part.is_Atom or part.is_Function or part.is_Pow else f"({text})"


def _sum_text(terms: list[tuple[sympy.Expr, str]]) -> str:
    """The terms with a common numeric factor written once: (a + b)/4."""
    if not terms:
        return "0"
    factors = {factor for factor, _ in terms}
    if len(factors) == 1 and len(terms) > 1 and factors != {sympy.Integer(1)}:
        return _scaled(f"({_sum_text([(sympy.Integer(1), text) for _, text in terms])})", *factors)
    text = _scaled(terms[0][1], terms[0][0])
    for factor, rest in terms[1:]:
        sign = "-" if factor.is_negative else "+"
        text += f" {sign} {_scaled(rest, sympy.Abs(factor))}"
    return text


def _scaled(text: str, factor: sympy.Expr) -> str:
    if text == "1":
        return scalar_text(factor)
    if factor in (1, -1):
        return text if factor == 1 else f"-{text}"
    if factor.is_Rational and factor.p in (1, -1):
        return f"{'-' if factor.p < 0 else ''}{text}/{factor.q}"
    return f"{scalar_text(factor)}*{text}"
