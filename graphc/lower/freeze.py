"""sympy -> typed scalars: the only door out of sympy. Literals take the type of the computation,
small powers become products, quotients stay quotients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import sympy

from graphc.errors import CompilerBug
from graphc.ir.equation import Equation
from graphc.ir.graph import Node
from graphc.ir.scalar import Call, Number, Scalar
from graphc.ir.types import DType

Environment = Mapping[sympy.Basic, Scalar]
MutableEnvironment = dict[sympy.Basic, Scalar]

_RELATIONS: dict[type, str] = {
    sympy.Eq: "equal", sympy.Ne: "not_equal", sympy.Gt: "greater", sympy.Ge: "greater_equal",
    sympy.Lt: "less", sympy.Le: "less_equal",
}  # fmt: skip

# sympy's class name -> IR function of one floating argument.
_FUNCTIONS = {
    "exp": "exp", "log": "log", "tanh": "tanh", "erf": "erf", "Abs": "abs", "sin": "sin",
    "cos": "cos", "expm1": "expm1", "sigmoid": "sigmoid", "softplus": "softplus",
    "floor": "floor", "ceiling": "ceil", "sign": "sign",
}  # fmt: skip


def freeze(expression: sympy.Basic, environment: Environment, dtype: DType) -> Scalar:
    """The expression as typed scalars.

    Args:
        expression: a body or a part of one.
        environment: the scalar for every symbol.
        dtype: the type that floating arithmetic is done in.
    """
    known = environment.get(expression)
    if known is not None:
        return known
    if isinstance(expression, sympy.logic.boolalg.BooleanAtom):
        return Number(bool(expression), DType.boolean)
    if expression.is_Integer:
        return Number(int(expression), DType.int64)
    real = expression.is_extended_real is not False
    if expression.is_number and not expression.is_Relational and real:
        return Number(float(expression), dtype)
    for kind, rule in _RULES:
        if isinstance(expression, kind):
            return rule(expression, environment, dtype)
    return _function(expression, environment, dtype)


def compute_dtype(node: Node, equation: Equation) -> DType:
    """The floating type that a node is computed in; int64 where nothing is floating."""
    if node.dtype.is_float:
        return node.dtype.arithmetic
    floats = [o.dtype for o in node.inputs if o.dtype.is_float]
    if floats:
        return floats[0].arithmetic
    has_float = any(n.is_Float for n in equation.body.atoms(sympy.Number))
    return DType.float64 if has_float else DType.int64


def as_type(value: Scalar, dtype: DType) -> Scalar:
    """The value converted; literals change type for free, but for rounding to 16 bits."""
    if value.dtype == dtype:
        return value
    if isinstance(value, Number) and not dtype.is_half:
        plain: float | bool | int = value.value
        if dtype.is_float:
            plain = float(value.value)
        elif dtype == DType.boolean:
            plain = bool(value.value)
        return Number(plain, dtype)
    return Call("cast", (value,), dtype)


def widened(value: Scalar) -> Scalar:
    """The value in the type that arithmetic is done in."""
    return as_type(value, value.dtype.arithmetic)


def _common(values: Sequence[Scalar], dtype: DType) -> list[Scalar]:
    """Floating if any value is, else 64-bit integers."""
    target = dtype if any(v.dtype.is_float for v in values) else DType.int64
    return [as_type(value, target) for value in values]


def _add(expression: sympy.Add, environment: Environment, dtype: DType) -> Scalar:
    """Terms in sympy's order, positive ones first, so that a sum reads a + b - c."""
    terms = expression.as_ordered_terms()
    positive = [t for t in terms if not t.could_extract_minus_sign()]
    negative = [-t for t in terms if t.could_extract_minus_sign()]
    plus = _common([freeze(t, environment, dtype) for t in (positive or [sympy.Integer(0)])], dtype)
    minus = [freeze(t, environment, dtype) for t in negative]
    values = _common([*plus, *minus], dtype)
    result = values[0]
    if not positive:
        result = Call("negative", (values[1],), values[1].dtype)
        values, plus = values[1:], values[1:2]
    for number, value in enumerate(values[1:], start=1):
        name = "add" if number < len(plus) else "subtract"
        result = Call(name, (result, value), value.dtype)
    return result


def _mul(expression: sympy.Mul, environment: Environment, dtype: DType) -> Scalar:
    if expression.could_extract_minus_sign():
        inner = freeze(-expression, environment, dtype)
        return Call("negative", (inner,), inner.dtype)
    above, below = [], []
    for factor in expression.as_ordered_factors():
        base, exponent = factor.as_base_exp()
        if factor.is_Rational and factor.p == 1 and factor.q != 1:
            below.append(sympy.Integer(factor.q))
        elif exponent.is_number and exponent.is_negative and not factor.is_number:
            below.append(base**-exponent)
        else:
            above.append(factor)
    top = _product(above, environment, dtype)
    if not below:
        return top
    bottom = as_type(_product(below, environment, dtype), dtype)
    return Call("divide", (as_type(top, dtype), bottom), dtype)


def _product(factors: Sequence[sympy.Expr], environment: Environment, dtype: DType) -> Scalar:
    if not factors:
        return Number(1, DType.int64)
    values = _common([freeze(f, environment, dtype) for f in factors], dtype)
    result = values[0]
    for value in values[1:]:
        result = Call("multiply", (result, value), value.dtype)
    return result


def _pow(expression: sympy.Pow, environment: Environment, dtype: DType) -> Scalar:
    base, exponent = expression.args
    if exponent.is_number and exponent.is_negative:
        below = as_type(freeze(base**-exponent, environment, dtype), dtype)
        return Call("divide", (Number(1.0, dtype), below), dtype)
    value = freeze(base, environment, dtype)
    if exponent == sympy.Rational(1, 2):
        return Call("sqrt", (as_type(value, dtype),), dtype)
    if exponent.is_Integer and 2 <= int(exponent) <= 4:
        square = Call("multiply", (value, value), value.dtype)
        if int(exponent) == 2:
            return square
        other = value if int(exponent) == 3 else square
        return Call("multiply", (square, other), value.dtype)
    power = freeze(exponent, environment, dtype)
    return Call("pow", (as_type(value, dtype), as_type(power, dtype)), dtype)


def _piecewise(expression: sympy.Piecewise, environment: Environment, dtype: DType) -> Scalar:
    values = _common([freeze(p.expr, environment, dtype) for p in expression.args], dtype)
    result = values[-1]
    for pair, value in zip(reversed(expression.args[:-1]), reversed(values[:-1]), strict=True):
        test = freeze(pair.cond, environment, dtype)
        result = Call("select", (test, value, result), value.dtype)
    return result


def _relation(expression: sympy.Basic, environment: Environment, dtype: DType) -> Scalar:
    sides = [freeze(a, environment, dtype) for a in expression.args]
    if not all(_is_short(side) for side in sides):
        sides = _common(sides, dtype)
    else:  # 32-bit comparisons fill vectors twice as well
        sides = [as_type(side, DType.int32) for side in sides]
    return Call(_RELATIONS[type(expression)], tuple(sides), DType.boolean)


def _is_short(value: Scalar) -> bool:
    """Whether an integer fits 32 bits, by its type or as a literal."""
    if isinstance(value, Number) and isinstance(value.value, int):
        return abs(value.value) < 2**31
    return value.dtype in (DType.int32, DType.uint8)


def _logic(expression: sympy.Basic, environment: Environment, dtype: DType) -> Scalar:
    name = {sympy.And: "and", sympy.Or: "or", sympy.Not: "not"}[type(expression)]
    ordered = sorted(expression.args, key=sympy.default_sort_key)
    values = [as_type(freeze(a, environment, dtype), DType.boolean) for a in ordered]
    if name == "not":
        return Call(name, (values[0],), DType.boolean)
    result = values[0]
    for value in values[1:]:
        result = Call(name, (result, value), DType.boolean)
    return result


def _function(expression: sympy.Basic, environment: Environment, dtype: DType) -> Scalar:
    name = type(expression).__name__
    arguments = [freeze(a, environment, dtype) for a in expression.args]
    if name == "detach":
        return arguments[0]
    if name == "uniform":
        return Call("uniform", tuple(as_type(a, DType.int64) for a in arguments), dtype)
    if name in _FUNCTIONS:
        return Call(_FUNCTIONS[name], (as_type(arguments[0], dtype),), dtype)
    if name in ("Max", "Min"):
        return _extremum(name, _common(arguments, dtype))
    raise CompilerBug(f"no scalar rule for {name}")


def _extremum(name: str, values: Sequence[Scalar]) -> Scalar:
    test = "greater" if name == "Max" else "less"
    result = values[0]
    for value in values[1:]:
        result = Call(
            "select", (Call(test, (value, result), DType.boolean), value, result), value.dtype
        )
    return result


_RULES: tuple[tuple[type | tuple[type, ...], Callable[..., Scalar]], ...] = (
    (sympy.Add, _add),
    (sympy.Mul, _mul),
    (sympy.Pow, _pow),
    (sympy.Piecewise, _piecewise),
    (tuple(_RELATIONS), _relation),
    ((sympy.And, sympy.Or, sympy.Not), _logic),
)
