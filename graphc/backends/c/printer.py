"""Loop IR -> C text: one small method a node."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphc.backends.c.mapping import BINARY, FUNCTIONS, TYPES, literal
from graphc.errors import CompilerBug
from graphc.ir.index import Atom, Floor, Index
from graphc.ir.loops import (
    Assign,
    Declare,
    Loop,
    Statement,
    Store,
    When,
)
from graphc.ir.scalar import Call, Condition, Element, Inside, Load, Name, Number, Position, Scalar
from graphc.ir.types import DType

INDENT = "  "
_UNROLLED = 8  # windows up to this long are unrolled


def index_text(index: Index) -> str:
    """An index as a C expression of long variables."""
    text = ""
    for atom, coefficient in index.terms:
        size = abs(coefficient)
        term = _atom_text(atom) if size == 1 else f"{size}*{_atom_text(atom)}"
        sign = ("-" if coefficient < 0 else "") if not text else (" - ", " + ")[coefficient > 0]
        text += f"{sign}{term}"
    if not text:
        return str(index.const)
    if index.const:
        text += f" {'+' if index.const > 0 else '-'} {abs(index.const)}"
    return text


def _atom_text(atom: Atom) -> str:
    if isinstance(atom, str):
        return atom
    name = "gc_floor_div" if isinstance(atom, Floor) else "gc_mod"
    return f"{name}({index_text(atom.inner)}, {atom.divisor})"


def condition_text(condition: Condition) -> str:
    """A condition as a C expression; divisibility is tested before bounds."""
    index = index_text(condition.index)
    tests = []
    if condition.divisor != 1:
        tests.append(f"gc_mod({index}, {condition.divisor}) == 0")
    if condition.lower is not None:
        tests.append(f"{index} >= {condition.lower}")
    if condition.upper is not None:
        tests.append(f"{index} < {condition.upper}")
    return " && ".join(tests)


def scalar_text(value: Scalar) -> str:
    """A scalar as a C expression, parenthesised where it matters."""
    if isinstance(value, Number):
        return literal(value.value, value.dtype)
    if isinstance(value, Name):
        return value.name
    if isinstance(value, Element):
        return f"{value.name}[{index_text(value.index)}]"
    if isinstance(value, Position):
        return f"({TYPES[value.dtype]})({index_text(value.index)})"
    if isinstance(value, Load):
        return f"{value.buffer}[{index_text(value.offset)}]"
    if isinstance(value, Inside):
        return f"({' && '.join(condition_text(c) for c in value.conditions)})"
    return _call_text(value)


def _call_text(call: Call) -> str:
    arguments = [scalar_text(argument) for argument in call.arguments]
    name = call.function
    if name in BINARY:
        return f"({arguments[0]} {BINARY[name]} {arguments[1]})"
    if name == "select":
        return f"({arguments[0]} ? {arguments[1]} : {arguments[2]})"
    if name == "negative":
        return f"(-{arguments[0]})"
    if name == "not":
        return f"(!{arguments[0]})"
    if name == "cast":
        if call.dtype == DType.boolean:
            return f"({arguments[0]} != 0)"
        return f"(({TYPES[call.dtype]}){arguments[0]})"
    suffix = "f" if call.dtype == DType.float32 else ""
    if name == "uniform":
        return f"(({TYPES[call.dtype]})gc_uniform({', '.join(arguments)}))"
    if name in FUNCTIONS:
        return f"{FUNCTIONS[name]}{suffix}({', '.join(arguments)})"
    raise CompilerBug(f"the C printer has no rule for '{name}'")


def statement_lines(statements: Sequence[Statement], depth: int = 1) -> list[str]:
    """Statements as indented lines of C."""
    lines: list[str] = []
    for statement in statements:
        lines += _LINES[type(statement)](statement, INDENT * depth, depth)
    return lines


def _declare(statement: Declare, pad: str, depth: int) -> list[str]:
    if statement.lanes:
        return [f"{pad}{TYPES[statement.dtype]} {statement.name}[{statement.lanes}] = {{0}};"]
    const = "" if statement.mutable else "const "
    value = _outer(scalar_text(statement.value))
    return [f"{pad}{const}{TYPES[statement.dtype]} {statement.name} = {value};"]


def _assign(statement: Assign, pad: str, depth: int) -> list[str]:
    value = statement.value
    target = (
        statement.name if statement.at is None else f"{statement.name}[{index_text(statement.at)}]"
    )
    if isinstance(value, Call) and value.function == "add":
        first, second = value.arguments
        if scalar_text(first) == target:
            return [f"{pad}{target} += {_outer(scalar_text(second))};"]
    return [f"{pad}{target} = {_outer(scalar_text(value))};"]


def _store(statement: Store, pad: str, depth: int) -> list[str]:
    target = f"{statement.buffer}[{index_text(statement.offset)}]"
    return [f"{pad}{target} = {_outer(scalar_text(statement.value))};"]


def _when(statement: When, pad: str, depth: int) -> list[str]:
    tests = " && ".join(condition_text(c) for c in statement.conditions)
    return [f"{pad}if ({tests}) {{", *statement_lines(statement.body, depth + 1), f"{pad}}}"]


def _loop(statement: Loop, pad: str, depth: int) -> list[str]:
    name, extent = statement.axis.name, statement.axis.extent
    head = f"{pad}for (long {name} = 0; {name} < {extent}; {name}++) {{"
    pragma = _pragma(statement)
    lines = [f"{pad}#pragma {pragma}"] if pragma else []
    return [*lines, head, *statement_lines(statement.body, depth + 1), f"{pad}}}"]


def _pragma(loop: Loop) -> str:
    sums = f" reduction(+:{', '.join(loop.sums)})" if loop.sums else ""
    if loop.parallel:
        collapse = f" collapse({loop.collapse})" if loop.collapse > 1 else ""
        simd = " simd" if loop.simd else ""
        return f"omp parallel for{simd}{collapse} num_threads(threads) schedule(static){sums}"
    if loop.simd and loop.axis.extent > 1:
        return f"omp simd{sums}"
    if loop.unroll and loop.axis.extent <= _UNROLLED:
        return f"GCC unroll {_UNROLLED}"
    return ""


def _outer(text: str) -> str:
    """Drop one pair of parentheses that encloses the whole text."""
    if not (text.startswith("(") and text.endswith(")")):
        return text
    level = 0
    for position, letter in enumerate(text):
        level += (letter == "(") - (letter == ")")
        if level == 0 and position < len(text) - 1:
            return text
    return text[1:-1]


_LINES: dict[type, Callable[..., list[str]]] = {
    Declare: _declare, Assign: _assign, Store: _store, When: _when, Loop: _loop,
}  # fmt: skip
