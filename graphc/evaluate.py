"""The oracle: a graph evaluated by NumPy straight from its equations. Slow, simple, no compiler.

A node of a 16-bit type is computed in float32 from the values of its operands and rounded once, to
nearest, ties to even. That is what such a node means; fusion never takes the rounding away.
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import sympy

from graphc.errors import CompilerBug, user_error
from graphc.ir.equation import Equation, Guard, Read, position_symbol, read_symbol
from graphc.ir.graph import Graph, Node
from graphc.ir.index import Floor, Index
from graphc.ir.philox import uniform_numbers
from graphc.ir.scalar_functions import uniform
from graphc.ir.types import DType, holds_numbers
from graphc.ops.leaves import legal_dtype
from graphc.ops.messages import brief, describe, value_list

Array = np.ndarray
_CHUNK = 1 << 22  # points of an iteration space evaluated at once


def evaluate(
    outputs: Sequence[Node], feeds: Mapping[Node | str, Array] | None = None, *,
    float_dtype: str | None = None,
) -> list[Array]:  # fmt: skip
    """Values of the outputs.

    Args:
        outputs: nodes to evaluate.
        feeds: arrays by node or by name for every input, parameter and state that is needed.
        float_dtype: evaluate all floating values in this type instead of their own.
    """
    if not isinstance(feeds, Mapping | None):
        raise user_error(f"evaluate: feeds is {brief(feeds)}", "expected arrays by node or by name")
    given = dict(feeds or {})
    values: dict[Node, Array] = {}
    wide = None if float_dtype is None else legal_dtype("evaluate", float_dtype)
    for node in Graph(value_list("evaluate", outputs)).nodes:
        dtype = wide if wide and node.dtype.is_float else node.dtype
        value = _node_value(node, values, given, dtype)
        with np.errstate(over="ignore"):  # a value beyond a shorter type is infinite there
            values[node] = np.asarray(value, dtype.numpy)
    return [values[node] for node in outputs]


def _node_value(
    node: Node, values: Mapping[Node, Array], feeds: Mapping[Node | str, Array],
    dtype: DType,
) -> Array:  # fmt: skip
    if node.equation is not None:
        operands = [_widened(values[operand]) for operand in node.inputs]
        return evaluate_equation(node.equation, operands, dtype.arithmetic.numpy)
    if node.value is not None:
        return node.value
    found = feeds.get(node, feeds.get(node.label))
    if found is None:
        names = sorted({name if isinstance(name, str) else name.label for name in feeds})
        raise user_error(
            f"evaluate: no value for the {node.kind} '{node.label}'",
            *describe([node], ["declared"]),
            f"fed: {', '.join(names) or 'nothing'}; feed an array for every input, parameter and "
            "state",
        )
    array = fed_array(node, found)
    if array.shape != node.shape or not _can_hold(dtype.numpy, array):
        raise user_error(
            f"evaluate: the value of '{node.label}' does not fit",
            *describe([node], ["declared"]),
            f"fed:      {array.dtype}{list(array.shape)}",
            "feed an array of the declared shape and type",
        )
    return array


def _can_hold(dtype: np.dtype[np.generic], array: Array) -> bool:
    """Whether a conversion keeps the values, but for the rounding of floating ones."""
    if np.can_cast(array.dtype, dtype, "same_kind"):
        return True
    return holds_numbers(array.dtype) and np.array_equal(array, array.astype(dtype))


def _widened(array: Array) -> Array:
    """The array in the type that its values are computed in."""
    return array.astype(DType(array.dtype.name).arithmetic.numpy, copy=False)


def fed_array(node: Node, value: object) -> Array:
    """A fed value as an array, or a UserError where it is none."""
    try:
        return np.asarray(value)
    except ValueError:
        raise user_error(
            f"the value fed for '{node.label}' is no array",
            *describe([node], ["declared"]),
            f"fed:      {brief(value)}",
            "feed a NumPy array, or lists that are equally long",
        ) from None


def evaluate_equation(
    equation: Equation, operands: Sequence[Array], dtype: np.dtype[np.generic]
) -> Array:
    """One equation over arrays; the result has the equation's shape."""
    factors = _product_of_reads(equation)
    if factors is not None:
        return _einsum(equation, operands, factors).astype(dtype, copy=False)
    if not equation.axes or equation.points <= _CHUNK:
        return _block(equation, operands, 0, equation.axes[0].extent if equation.axes else 1, dtype)
    extent = equation.axes[0].extent
    step = max(1, _CHUNK * extent // equation.points)
    blocks = [
        _block(equation, operands, start, min(start + step, extent), dtype)
        for start in range(0, extent, step)
    ]
    return np.concatenate(blocks)


class _Grid:
    """Axis positions as arrays that broadcast against each other, one dimension an axis."""

    def __init__(self, equation: Equation, start: int, stop: int) -> None:
        self.names = [a.name for a in (*equation.axes, *equation.reduce_axes)]
        self.positions = {}
        for d, axis in enumerate((*equation.axes, *equation.reduce_axes)):
            run = np.arange(start, stop) if d == 0 and equation.axes else np.arange(axis.extent)
            self.positions[axis.name] = run.reshape([-1 if e == d else 1 for e in range(self.rank)])
        self.shape = tuple(self.positions[n].size for n in self.names)

    @property
    def rank(self) -> int:
        return len(self.names)

    def value(self, index: Index) -> Array:
        total = np.full((1,) * self.rank, index.const)
        for atom, coefficient in index.terms:
            if isinstance(atom, str):
                term = self.positions[atom]
            elif isinstance(atom, Floor):
                term = self.value(atom.inner) // atom.divisor
            else:
                term = self.value(atom.inner) % atom.divisor
            total = total + coefficient * term
        return total

    def read(self, read: Read, array: Array) -> Array:
        picks, inside = [], np.ones((1,) * self.rank, bool)
        for index, extent in zip(read.index, array.shape, strict=True):
            where = self.value(index)
            if read.fill is not None:
                inside = inside & (where >= 0) & (where < extent)
            picks.append(np.clip(where, 0, extent - 1))
        value = array[tuple(picks)] if picks else np.full((1,) * self.rank, array)
        if read.fill is None or inside.all():
            return value
        return np.where(inside, value, np.asarray(read.fill, array.dtype))

    def holds(self, guards: Sequence[Guard]) -> Array:
        truth = np.ones((1,) * self.rank, bool)
        for guard in guards:
            value = self.value(guard.index)
            if guard.lower is not None:
                truth = truth & (value >= guard.lower)
            if guard.upper is not None:
                truth = truth & (value < guard.upper)
            truth = truth & (value % guard.divisor == 0)
        return truth


def _block(
    equation: Equation, operands: Sequence[Array], start: int, stop: int,
    dtype: np.dtype[np.generic],
) -> Array:  # fmt: skip
    grid = _Grid(equation, start, stop)
    scalars: dict[sympy.Basic, Array] = {}
    for number, read in enumerate(equation.reads):
        scalars[read_symbol(number)] = grid.read(read, operands[read.operand])
    for number, index in enumerate(equation.positions):
        scalars[position_symbol(number)] = grid.value(index)
    with np.errstate(all="ignore"):
        body = np.asarray(scalar_value(equation.body, scalars, dtype))
    if equation.guards:
        body = np.where(grid.holds(equation.guards), body, np.zeros((), body.dtype))
    body = np.broadcast_to(body, grid.shape)
    with np.errstate(all="ignore"):
        return np.asarray(_reduce(equation, body)).astype(dtype, copy=False)


def _reduce(equation: Equation, body: Array) -> Array:
    if equation.reduction == "none":
        return body
    keep = body.shape[: len(equation.axes)]
    flat = body.reshape((*keep, -1))
    reducers: dict[str, Callable[..., Any]] = {
        "sum": np.sum, "max": np.max, "min": np.min, "prod": np.prod,
        "argmax": np.argmax, "argmin": np.argmin,
    }  # fmt: skip
    return np.asarray(reducers[equation.reduction](flat, axis=-1))


def _product_of_reads(equation: Equation) -> list[int] | None:
    """Read numbers if the body of a sum is a plain product of different reads."""
    factors = sympy.Mul.make_args(equation.body)
    numbers = [i for i in range(len(equation.reads)) if read_symbol(i) in factors]
    if equation.reduction != "sum" or len(numbers) != len(factors) or len(factors) > 20:
        return None
    covered: frozenset[str] = frozenset()
    for number in numbers:
        covered |= _read_names(equation.reads[number])
    everything = {a.name for a in (*equation.axes, *equation.reduce_axes)}
    return numbers if covered >= everything and _guard_owners(equation, numbers) else None


def _read_names(read: Read) -> frozenset[str]:
    return frozenset().union(*(index.names for index in read.index))


def _guard_owners(equation: Equation, numbers: Sequence[int]) -> dict[int, list[Guard]] | None:
    """Each guard with a read whose axes cover it; None if one has none."""
    owners: dict[int, list[Guard]] = {number: [] for number in numbers}
    for guard in equation.guards:
        fitting = [n for n in numbers if guard.index.names <= _read_names(equation.reads[n])]
        if not fitting:
            return None
        owners[fitting[0]].append(guard)
    return owners


def _einsum(equation: Equation, operands: Sequence[Array], numbers: Sequence[int]) -> Array:
    grid = _Grid(equation, 0, equation.axes[0].extent if equation.axes else 1)
    owners = _guard_owners(equation, numbers) or {}
    letters = dict(zip(grid.names, string.ascii_letters, strict=False))
    arrays, terms = [], []
    for number in numbers:
        read = equation.reads[number]
        value = grid.read(read, operands[read.operand])
        if owners[number]:
            value = np.where(grid.holds(owners[number]), value, np.zeros((), value.dtype))
        own = [name for name in grid.names if name in _read_names(read)]
        arrays.append(value.reshape([grid.positions[name].size for name in own]))
        terms.append("".join(letters[name] for name in own))
    result = "".join(letters[axis.name] for axis in equation.axes)
    return np.asarray(np.einsum(f"{','.join(terms)}->{result}", *arrays, optimize=len(arrays) > 1))


_RELATIONS: dict[type, Callable[..., Any]] = {
    sympy.Eq: np.equal, sympy.Ne: np.not_equal, sympy.Gt: np.greater,
    sympy.Ge: np.greater_equal, sympy.Lt: np.less, sympy.Le: np.less_equal,
}  # fmt: skip


def _stable_sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1 / (1 + e), e / (1 + e)))


_erf = np.frompyfunc(math.erf, 1, 1)
_FUNCTIONS: dict[str, Callable[..., Array]] = {
    "exp": np.exp, "log": np.log, "tanh": np.tanh, "Abs": np.abs, "sign": np.sign, "sin": np.sin,
    "cos": np.cos, "expm1": np.expm1, "floor": np.floor, "ceiling": np.ceil,
    "detach": lambda x: x,
    "sigmoid": _stable_sigmoid,
    "softplus": lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))),
    "erf": lambda x: np.asarray(_erf(x), np.asarray(x).dtype),
    "uniform": uniform_numbers,
}  # fmt: skip


def scalar_value(
    expression: sympy.Basic, scalars: Mapping[sympy.Basic, Array], dtype: np.dtype[np.generic]
) -> Array:
    """A body evaluated with arrays in place of its symbols."""
    if expression in scalars:
        return scalars[expression]
    if expression.is_Number or expression.is_NumberSymbol:
        kind = dtype if dtype.kind == "f" else np.dtype(float)
        return (
            np.asarray(float(expression), kind)
            if not expression.is_Integer
            else np.asarray(int(expression), kind if dtype.kind == "f" else np.int64)
        )
    if isinstance(expression, sympy.logic.boolalg.BooleanAtom):
        return np.asarray(bool(expression))
    if isinstance(expression, uniform):  # its numbers are integers, too long for a float32
        dtype = np.dtype(np.int64)
    arguments = [scalar_value(a, scalars, dtype) for a in _plain_arguments(expression)]
    return _apply(expression, arguments)


def _plain_arguments(expression: sympy.Basic) -> list[sympy.Basic]:
    if isinstance(expression, sympy.Piecewise):
        return [part for pair in expression.args for part in pair.args]
    return list(expression.args)


def _apply(expression: sympy.Basic, arguments: list[Array]) -> Array:
    if isinstance(expression, sympy.Add):
        return _fold(np.add, arguments)
    if isinstance(expression, sympy.Mul):
        return _fold(np.multiply, arguments)
    if isinstance(expression, sympy.Pow):
        return _power(expression, arguments)
    if isinstance(expression, sympy.Piecewise):
        result = arguments[-2]
        for value, condition in zip(arguments[-4::-2], arguments[-3::-2], strict=True):
            result = np.where(condition, value, result)
        return result
    if isinstance(expression, sympy.And | sympy.Or):
        return _fold(
            np.logical_and if isinstance(expression, sympy.And) else np.logical_or, arguments
        )
    if isinstance(expression, sympy.Not):
        return np.asarray(np.logical_not(arguments[0]))
    if type(expression) in _RELATIONS:
        return np.asarray(_RELATIONS[type(expression)](*arguments))
    if type(expression).__name__ in _FUNCTIONS:
        return _FUNCTIONS[type(expression).__name__](*arguments)
    raise CompilerBug(f"the oracle has no rule for {type(expression).__name__}")


def _fold(function: Callable[..., Array], arguments: list[Array]) -> Array:
    result = arguments[0]
    for argument in arguments[1:]:
        result = function(result, argument)
    return result


def _power(expression: sympy.Pow, arguments: list[Array]) -> Array:
    exponent = expression.args[1]
    if exponent == sympy.Rational(1, 2):
        return np.asarray(np.sqrt(arguments[0]))
    if exponent.is_Integer:
        whole = int(exponent)
        value = np.asarray(arguments[0]) ** abs(whole)
        return np.asarray(1 / value if whole < 0 else value)
    return np.asarray(np.power(*arguments))
