"""Arithmetic and functions of single elements, with NumPy's broadcasting.

``elementwise`` is the one way to make such an op: out[i, ..] = function(a[i, ..], ..), where a
dimension of extent 1 is read at index 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import sympy

from graphc.errors import UserError, user_error, user_location
from graphc.ir.equation import Equation, Read, read_symbol
from graphc.ir.graph import Node, op_node, operators
from graphc.ir.scalar_functions import detach
from graphc.ir.types import Axis, DType, Shape, holds_floats
from graphc.ops.broadcasting import axis_names, broadcast_index, broadcast_shape
from graphc.ops.define import current_layer
from graphc.ops.leaves import constant, legal_dtype
from graphc.ops.messages import brief, check_values, describe, explained

Operand = Node | float | np.ndarray
Body = Callable[..., sympy.Basic]
_EXACT_DENOMINATOR = 1 << 10


def elementwise(
    name: str, function: Body, *operands: Operand, dtype: DType | None = None
) -> Node:  # fmt: skip
    """Apply a scalar function to every element of broadcast operands.

    Args:
        name: what the op is called in messages and generated names.
        function: takes one sympy scalar for each operand, returns the body; must be a named
            function, since equations are remembered by it.
        operands: graph values; numbers, which become constants of the body; arrays.
        dtype: element type of the result; by default the operands' own.

    Returns:
        A value of the broadcast shape.

    Raises:
        UserError: the shapes do not broadcast, the element types differ, or no operand is a value.
    """
    prepared = _prepare(name, operands)
    nodes = [p for p in prepared if isinstance(p, Node)]
    kind = dtype if dtype is not None else _result_dtype(name, prepared)
    slots = tuple(p.shape if isinstance(p, Node) else sympy_number(p) for p in prepared)
    try:
        equation = _equation(function, slots)
    except UserError as error:
        raise explained(name, error, nodes) from None
    return op_node(
        equation, tuple(nodes), kind, label=name, layer=current_layer(), location=user_location()
    )


@lru_cache(maxsize=4096)
def _equation(function: Body, slots: tuple[Shape | sympy.Number, ...]) -> Equation:
    shapes = tuple(slot for slot in slots if isinstance(slot, tuple))
    shape = broadcast_shape(*shapes)
    names = axis_names(len(shape))
    reads = tuple(Read(n, broadcast_index(s, names)) for n, s in enumerate(shapes))
    symbols = iter([read_symbol(number) for number in range(len(shapes))])
    body = function(*(next(symbols) if isinstance(slot, tuple) else slot for slot in slots))
    axes = tuple(Axis(name, extent) for name, extent in zip(names, shape, strict=True))
    return Equation(axes, "none", (), shapes, reads, (), (), sympy.sympify(body))


def sympy_number(value: float) -> sympy.Number:
    """The number as sympy holds it: exact where it is an integer or a short binary fraction."""
    if math.isinf(value):
        return sympy.oo if value > 0 else -sympy.oo
    fraction = Fraction(value)
    if fraction.denominator <= _EXACT_DENOMINATOR and -(2**53) < fraction.numerator < 2**53:
        return sympy.Rational(fraction.numerator, fraction.denominator)
    return sympy.Integer(value) if isinstance(value, int) else sympy.Float(value)


def _prepare(name: str, operands: Sequence[object]) -> list[Node | float]:
    """Operands as nodes and finite numbers; arrays take the floating type of the nodes."""
    nodes = [value for value in operands if isinstance(value, Node)]
    floats = [node.dtype for node in nodes if node.dtype.is_float]
    prepared = [_operand(name, value, floats[0] if floats else None) for value in operands]
    if not any(isinstance(value, Node) for value in prepared):
        raise user_error(
            f"{name}: at least one operand must be a graph value",
            "make one with gx.input, gx.parameter or gx.constant",
        )
    return prepared


def _operand(name: str, value: object, floating: DType | None) -> Node | float:
    if isinstance(value, Node):
        return value
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        value = value.item()
    if isinstance(value, np.ndarray):
        return constant(value, floating if holds_floats(value.dtype) else None)
    if isinstance(value, bool | int | float):
        return value if math.isfinite(value) else constant(value, floating)
    raise user_error(
        f"{name}: expected a graph value, a number or a NumPy array, here {brief(value)}",
        "turn it into one first: gx.constant(value)",
    )


def _result_dtype(name: str, operands: Sequence[Node | float]) -> DType:
    """The one type of the operands; bool operands and numbers of its kind adapt to it."""
    nodes = [value for value in operands if isinstance(value, Node)]
    kinds = {node.dtype for node in nodes}
    floats = {kind for kind in kinds if kind.is_float}
    candidates = floats or {kind for kind in kinds if kind is not DType.boolean} or kinds
    if len(candidates) > 1:
        raise user_error(
            f"{name}: operands of different element types", *describe(nodes),
            "cast one of them: gx.cast(value, 'float32')",
        )  # fmt: skip
    kind = candidates.pop()
    if kind is DType.boolean:
        raise user_error(
            f"{name}: there is no arithmetic of bool values", *describe(nodes),
            "cast them: gx.cast(value, 'float32'), or use gx.logical_and and its like",
        )  # fmt: skip
    if not kind.is_float and any(isinstance(value, float) for value in operands):
        raise user_error(
            f"{name}: a {kind.value} array with a floating number", *describe(nodes),
            "cast the array first: gx.cast(value, 'float32')",
        )  # fmt: skip
    return kind


def floating(name: str, *operands: Operand) -> None:
    """Refuse graph values that are not floating; numbers and arrays among the operands pass."""
    nodes = [value for value in operands if isinstance(value, Node)]
    if any(not node.dtype.is_float for node in nodes):
        raise user_error(
            f"{name}: the operands must be floating", *describe(nodes),
            "cast them first: gx.cast(value, 'float32')",
        )  # fmt: skip


def add(a: Operand, b: Operand) -> Node:
    """``a + b``, broadcast."""
    return elementwise("add", _add, a, b)


def subtract(a: Operand, b: Operand) -> Node:
    """``a - b``, broadcast."""
    return elementwise("subtract", _subtract, a, b)


def multiply(a: Operand, b: Operand) -> Node:
    """``a * b``, broadcast."""
    return elementwise("multiply", _multiply, a, b)


def divide(a: Operand, b: Operand) -> Node:
    """``a / b``, broadcast; floating operands only."""
    floating("divide", a, b)
    if isinstance(b, int | float) and b == 0:
        raise user_error("divide: the divisor is the number 0", "expected a number other than 0")
    return elementwise("divide", _divide, a, b)


def power(a: Operand, b: Operand) -> Node:
    """``a ** b``, broadcast. Where b is a graph value, a must be positive to have a gradient."""
    if not isinstance(b, int) or b < 0:
        floating("power", a, b)
    return elementwise("power", _power, a, b)


def negative(x: Operand) -> Node:
    """-x."""
    return elementwise("negative", _negative, x)


def square(x: Operand) -> Node:
    """``x * x``."""
    return elementwise("square", _square, x)


def reciprocal(x: Operand) -> Node:
    """1 / x; floating."""
    return _function("reciprocal", _reciprocal, x)


def exp(x: Operand) -> Node:
    """``e ** x``; floating."""
    return _function("exp", sympy.exp, x)


def log(x: Operand) -> Node:
    """The natural logarithm of positive x; floating."""
    return _function("log", sympy.log, x)


def sqrt(x: Operand) -> Node:
    """The square root of x >= 0; floating. Its derivative at 0 is infinite."""
    return _function("sqrt", sympy.sqrt, x)


def sin(x: Operand) -> Node:
    """The sine of x radians; floating."""
    return _function("sin", sympy.sin, x)


def cos(x: Operand) -> Node:
    """The cosine of x radians; floating."""
    return _function("cos", sympy.cos, x)


def erf(x: Operand) -> Node:
    """The error function 2/sqrt(pi) * integral of exp(-t*t) from 0 to x; floating."""
    return _function("erf", sympy.erf, x)


def abs(x: Operand) -> Node:
    """The magnitude of x. Written rule: its derivative at 0 is 0."""
    return elementwise("abs", sympy.Abs, x)


def sign(x: Operand) -> Node:
    """-1, 0 or 1; no gradient flows through it."""
    return elementwise("sign", _sign, x)


def maximum(a: Operand, b: Operand) -> Node:
    """The greater of two, broadcast. Written rule: where they are equal the gradient goes to a."""
    return elementwise("maximum", _maximum, a, b)


def minimum(a: Operand, b: Operand) -> Node:
    """The lesser of two, broadcast. Written rule: where they are equal the gradient goes to a."""
    return elementwise("minimum", _minimum, a, b)


def clip(x: Operand, low: float, high: float) -> Node:
    """``x`` kept between two numbers. Written rule: at the bounds the derivative is 1."""
    numbers = isinstance(low, int | float) and isinstance(high, int | float)
    if not numbers or not low <= high:
        raise user_error(
            f"clip: the bounds are {brief(low)} and {brief(high)}",
            "expected numbers with low <= high; for arrays use gx.maximum and gx.minimum",
        )
    return elementwise("clip", _clip, x, low, high)


def cast(x: Node, dtype: str | DType) -> Node:
    """``x`` in another element type; floats go to integers by truncation, to bool by ``x != 0``.

    Floats are rounded to the nearest of a shorter type. A gradient flows from floating to floating
    type only.
    """
    check_values("cast", x)
    kind = legal_dtype("cast", dtype)
    if x.dtype is kind:
        return x
    return elementwise("cast", _nonzero if kind is DType.boolean else _same, x, dtype=kind)


def stop_gradient(x: Node) -> Node:
    """x, through which no gradient flows."""
    check_values("stop_gradient", x)
    if not x.dtype.is_float:
        return x
    return elementwise("stop_gradient", detach, x)


def _function(name: str, function: Body, x: Operand) -> Node:
    floating(name, x)
    return elementwise(name, function, x)


def _add(a: Any, b: Any) -> Any:
    return a + b


def _subtract(a: Any, b: Any) -> Any:
    return a - b


def _multiply(a: Any, b: Any) -> Any:
    return a * b


def _divide(a: Any, b: Any) -> Any:
    return a / b


def _power(a: Any, b: Any) -> Any:
    return a**b


def _negative(x: Any) -> Any:
    return -x


def _square(x: Any) -> Any:
    return x**2


def _reciprocal(x: Any) -> Any:
    return 1 / x


def _sign(x: Any) -> Any:
    return sympy.Piecewise((1, x > 0), (-1, x < 0), (0, True))


def _maximum(a: Any, b: Any) -> Any:
    return sympy.Piecewise((a, a >= b), (b, True))


def _minimum(a: Any, b: Any) -> Any:
    return sympy.Piecewise((a, a <= b), (b, True))


def _clip(x: Any, low: Any, high: Any) -> Any:
    return sympy.Piecewise((low, x < low), (high, x > high), (x, True))


def _same(x: Any) -> Any:
    return x


def _nonzero(x: Any) -> Any:
    return sympy.Ne(x, 0)


operators |= {
    "add": add, "subtract": subtract, "multiply": multiply, "divide": divide, "power": power,
    "negative": negative,
}  # fmt: skip
