"""Checks of arguments and the words of their messages, shared by all ops."""

from __future__ import annotations

import re
import traceback
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np

from graphc.errors import Location, UserError, user_error
from graphc.ir.graph import Node

LETTERS = "abcdefgh"
_OUR_CLASSES = re.compile(
    r"'(Index|SizedAxis|Operand|Reduced|Definition|Symbol|Add|Mul|Pow|Piecewise|Integer|Float)'"
)


def describe(inputs: Sequence[Node], names: Sequence[str] = LETTERS) -> list[str]:
    """One line an operand: name, type, shape, where it comes from."""
    types = [f"{node.dtype.value}{list(node.shape)}" for node in inputs]
    called = [f"{names[number % len(names)]}:" for number in range(len(types))]
    widths = [max(map(len, column), default=0) for column in (called, types)]
    return [
        f"{name:{widths[0]}} {kind:{widths[1]}}   from `{node.label}` ({node.location})"
        for name, kind, node in zip(called, types, inputs, strict=True)
    ]


def brief(value: object) -> str:
    """What a value is, on one short line."""
    if isinstance(value, np.ndarray):
        return f"a NumPy array {value.dtype}{list(value.shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def check_values(name: str, *values: object) -> None:
    """A UserError unless all are graph values."""
    for value in values:
        if not isinstance(value, Node):
            raise user_error(
                f"{name}: expected a graph value, here {brief(value)}",
                "turn it into one first: gx.constant(value)",
            )


def check_flag(name: str, what: str, value: object) -> None:
    """A UserError unless the value is True or False: a text would count as True."""
    if not isinstance(value, bool | np.bool_):
        raise user_error(f"{name}: {what} is {brief(value)}", "expected True or False")


def value_list(name: str, values: object) -> tuple[Node, ...]:
    """At least one graph value in a list or tuple, or a UserError."""
    given = values if isinstance(values, list | tuple) else ()
    if not given or not all(isinstance(value, Node) for value in given):
        wrong = next((value for value in given if not isinstance(value, Node)), values)
        raise user_error(
            f"{name}: expected a list of graph values, at least one, here {brief(wrong)}",
            "put them in brackets: [value]",
        )
    return tuple(given)


def dimension(name: str, x: Node, axis: int) -> int:
    """``axis`` counted from the front, or a UserError if x has no such dimension."""
    check_values(name, x)
    rank = len(x.shape)
    if not isinstance(axis, int) or not -rank <= axis < rank:
        raise user_error(
            f"{name}: there is no dimension {brief(axis)}", *describe([x]),
            f"expected an integer in {-rank}..{rank - 1}",
        )  # fmt: skip
    return axis % rank


def listed(name: str, what: str, value: Any) -> tuple[Any, ...]:
    """One integer or a sequence of them as a tuple; what they are is checked by ``dimension``."""
    if isinstance(value, int):
        return (value,)
    if not isinstance(value, tuple | list | range):
        raise user_error(
            f"{name}: {what} is {brief(value)}", "expected an integer or a tuple of integers"
        )
    return tuple(value)


def explained(name: str, error: UserError, inputs: Sequence[Node]) -> UserError:
    """An error found in an equation, with its operands: their lines follow its first line."""
    head, *rest = str(error).splitlines()
    return user_error(f"{name}: {head}", *describe(inputs), *rest)


def illegal_expression(error: Exception) -> UserError | None:
    """An error that an op's function met while it wrote its equation, in the user's words.

    None for an error of the user's own code, which is best shown as it is.
    """
    frames = list(traceback.walk_tb(_traceback(error)))
    modules = [str(frame.f_globals.get("__name__", "")).partition(".")[0] for frame, _ in frames]
    if modules[-1] not in ("sympy", "graphc") and not _OUR_CLASSES.search(str(error)):
        return None
    own = [number for number, module in enumerate(modules) if module not in ("sympy", "graphc")]
    frame, line = frames[own[-1]] if own else frames[-1]
    place = Location(frame.f_code.co_filename, line)
    if "truth value of Relational" in str(error):
        return UserError(
            f"Python's if, and, or cannot decide on a value that is read\nit does so at {place}; "
            "write gx.scalar.select(condition, yes, no) or gx.indicator(condition)"
        )
    return UserError(
        f"the expression at {place} has no meaning\nit may hold reads such as a[i, j], numbers, "
        "gx.position(i) for the number of an axis and functions of gx.scalar"
    )


def _traceback(error: Exception) -> TracebackType | None:
    return error.__traceback__
