"""Comparisons, logic and choice: elementwise ops whose values or conditions are bool."""

from __future__ import annotations

from typing import Any

import sympy

from graphc.errors import user_error
from graphc.ir.graph import Node, operators
from graphc.ir.scalar_functions import select
from graphc.ir.types import DType
from graphc.ops.elementwise import Operand, elementwise
from graphc.ops.messages import describe


def less(a: Operand, b: Operand) -> Node:
    """``a < b``, broadcast; bool."""
    return elementwise("less", sympy.Lt, a, b, dtype=DType.boolean)


def less_equal(a: Operand, b: Operand) -> Node:
    """``a <= b``, broadcast; bool."""
    return elementwise("less_equal", sympy.Le, a, b, dtype=DType.boolean)


def greater(a: Operand, b: Operand) -> Node:
    """``a > b``, broadcast; bool."""
    return elementwise("greater", sympy.Gt, a, b, dtype=DType.boolean)


def greater_equal(a: Operand, b: Operand) -> Node:
    """``a >= b``, broadcast; bool."""
    return elementwise("greater_equal", sympy.Ge, a, b, dtype=DType.boolean)


def equal(a: Operand, b: Operand) -> Node:
    """``a = b``, broadcast; bool. Python's ``==`` asks whether two values are the same node."""
    return elementwise("equal", sympy.Eq, a, b, dtype=DType.boolean)


def not_equal(a: Operand, b: Operand) -> Node:
    """``a != b``, broadcast; bool."""
    return elementwise("not_equal", sympy.Ne, a, b, dtype=DType.boolean)


def logical_and(a: Node, b: Node) -> Node:
    """Whether both hold, broadcast; bool values only."""
    _must_be_bool("logical_and", a, b)
    return elementwise("logical_and", _and, a, b, dtype=DType.boolean)


def logical_or(a: Node, b: Node) -> Node:
    """Whether at least one holds, broadcast; bool values only."""
    _must_be_bool("logical_or", a, b)
    return elementwise("logical_or", _or, a, b, dtype=DType.boolean)


def logical_not(a: Node) -> Node:
    """Whether it does not hold; bool values only."""
    _must_be_bool("logical_not", a)
    return elementwise("logical_not", _not, a, dtype=DType.boolean)


def where(condition: Node, a: Operand, b: Operand) -> Node:
    """``a`` where the condition holds, else b, broadcast.

    The gradient goes to the chosen operand alone.

    Raises:
        UserError: the condition is not bool, or a and b have different types.
    """
    _must_be_bool("where", condition)
    values = [value for value in (a, b) if isinstance(value, Node)]
    dtype = None
    if not values:
        dtype = DType.float32 if isinstance(a, float) or isinstance(b, float) else DType.int64
    elif all(value.dtype is DType.boolean for value in values):
        dtype = DType.boolean
    return elementwise("where", _where, condition, a, b, dtype=dtype)


def _must_be_bool(name: str, *nodes: Node) -> None:
    if all(isinstance(node, Node) and node.dtype is DType.boolean for node in nodes):
        return
    known = [node for node in nodes if isinstance(node, Node)]
    raise user_error(
        f"{name}: the conditions must be bool values", *describe(known),
        "compare first, such as gx.greater(value, 0), or gx.cast(value, 'bool')",
    )  # fmt: skip


def _truth(symbol: Any) -> Any:
    return sympy.Ne(symbol, 0)


def _and(a: Any, b: Any) -> Any:
    return sympy.And(_truth(a), _truth(b))


def _or(a: Any, b: Any) -> Any:
    return sympy.Or(_truth(a), _truth(b))


def _not(a: Any) -> Any:
    return sympy.Eq(a, 0)


def _where(condition: Any, a: Any, b: Any) -> Any:
    return select(_truth(condition), a, b)


operators |= {
    "less": less, "less_equal": less_equal, "greater": greater, "greater_equal": greater_equal,
}  # fmt: skip
