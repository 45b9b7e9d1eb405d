"""Loop IR -> text, as far as C and CUDA agree: one small method a node. A backend adds its words,
and how its loops and whatever else it alone has are written.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from graphc.errors import CompilerBug
from graphc.ir.index import Atom, Floor, Index
from graphc.ir.loops import Assign, Declare, Loop, Store, When
from graphc.ir.scalar import Call, Condition, Element, Inside, Load, Name, Number, Position, Scalar
from graphc.ir.types import DType

INDENT = "  "


class Printer(ABC):
    """Prints statements and scalars in the words of one language.

    Attributes:
        types: names of the element types.
        binary: IR function -> operator.
        functions: IR function -> function for double; that for float appends f.
        widen, narrow: functions from the 16-bit types to float, and back.
    """

    types: Mapping[DType, str]
    binary: Mapping[str, str]
    functions: Mapping[str, str]
    widen: Mapping[DType, str]
    narrow: Mapping[DType, str]

    @abstractmethod
    def literal(self, value: float | int | bool, dtype: DType) -> str:
        """A literal of exactly this value and type."""

    @abstractmethod
    def loop_lines(self, loop: Loop, depth: int) -> list[str]:
        """A loop and its body."""

    def index_text(self, index: Index) -> str:
        """An index as an integer expression."""
        text = ""
        for atom, coefficient in index.terms:
            size = abs(coefficient)
            term = self.atom_text(atom) if size == 1 else f"{size}*{self.atom_text(atom)}"
            sign = ("-" if coefficient < 0 else "") if not text else (" - ", " + ")[coefficient > 0]
            text += f"{sign}{term}"
        if not text:
            return str(index.const)
        if index.const:
            text += f" {'+' if index.const > 0 else '-'} {abs(index.const)}"
        return text

    def atom_text(self, atom: Atom) -> str:
        """An axis, or a floor or remainder of an index that may be negative."""
        if isinstance(atom, str):
            return atom
        text = self.quotient_text if isinstance(atom, Floor) else self.remainder_text
        return text(atom.inner, atom.divisor)

    def quotient_text(self, index: Index, divisor: int) -> str:
        """Rounded down."""
        return f"gc_floor_div({self.index_text(index)}, {divisor})"

    def remainder_text(self, index: Index, divisor: int) -> str:
        """Never negative."""
        return f"gc_mod({self.index_text(index)}, {divisor})"

    def condition_text(self, condition: Condition) -> str:
        """A condition; divisibility is tested before bounds."""
        index = self.index_text(condition.index)
        tests = []
        if condition.divisor != 1:
            tests.append(f"{self.remainder_text(condition.index, condition.divisor)} == 0")
        if condition.lower is not None:
            tests.append(f"{index} >= {condition.lower}")
        if condition.upper is not None:
            tests.append(f"{index} < {condition.upper}")
        return " && ".join(tests)

    def scalar_text(self, value: Scalar) -> str:
        """A scalar, parenthesised where it matters."""
        if isinstance(value, Number):
            return self.literal(value.value, value.dtype)
        if isinstance(value, Name):
            return value.name
        if isinstance(value, Element):
            return f"{value.name}[{self.index_text(value.index)}]"
        if isinstance(value, Position):
            return f"({self.types[value.dtype]})({self.index_text(value.index)})"
        if isinstance(value, Load):
            return f"{value.buffer}[{self.index_text(value.offset)}]"
        if isinstance(value, Inside):
            return f"({' && '.join(self.condition_text(c) for c in value.conditions)})"
        return self.call_text(value)

    def call_text(self, call: Call) -> str:
        """An operator or function applied to its arguments."""
        arguments = [self.scalar_text(argument) for argument in call.arguments]
        name = call.function
        if name in self.binary:
            return f"({arguments[0]} {self.binary[name]} {arguments[1]})"
        if name == "select":
            return f"({arguments[0]} ? {arguments[1]} : {arguments[2]})"
        if name == "negative":
            return f"(-{arguments[0]})"
        if name == "not":
            return f"(!{arguments[0]})"
        if name == "cast":
            return self.cast_text(arguments[0], call.arguments[0].dtype, call.dtype)
        suffix = "f" if call.dtype == DType.float32 else ""
        if name == "uniform":
            return f"(({self.types[call.dtype]})gc_uniform({', '.join(arguments)}))"
        if name in self.functions:
            return f"{self.functions[name]}{suffix}({', '.join(arguments)})"
        raise CompilerBug(f"{type(self).__name__} has no rule for '{name}'")

    def cast_text(self, value: str, source: DType, target: DType) -> str:
        """A conversion; those from and to 16 bits go by way of float."""
        if source.is_half:
            value, source = f"{self.widen[source]}({outer(value)})", DType.float32
        if target.is_half:
            wide = DType.float32
            inner = value if source is wide else self.cast_text(value, source, wide)
            return f"{self.narrow[target]}({outer(inner)})"
        if target is source:
            return value
        if target is DType.boolean:
            return f"({value} != 0)"
        return f"(({self.types[target]}){value})"

    def statement_lines(self, statements: Sequence[Any], depth: int = 1) -> list[str]:
        """Statements as indented lines."""
        lines: list[str] = []
        for statement in statements:
            lines += self.one_statement(statement, depth)
        return lines

    def one_statement(self, statement: Any, depth: int) -> list[str]:
        """The lines of one statement."""
        pad = INDENT * depth
        if isinstance(statement, Declare):
            return [f"{pad}{self.declaration(statement)}"]
        if isinstance(statement, Assign):
            return [f"{pad}{self.assignment(statement)}"]
        if isinstance(statement, Store):
            target = f"{statement.buffer}[{self.index_text(statement.offset)}]"
            return [f"{pad}{target} = {outer(self.scalar_text(statement.value))};"]
        if isinstance(statement, When):
            tests = " && ".join(self.condition_text(c) for c in statement.conditions)
            body = self.statement_lines(statement.body, depth + 1)
            return [f"{pad}if ({tests}) {{", *body, f"{pad}}}"]
        if isinstance(statement, Loop):
            return self.loop_lines(statement, depth)
        raise CompilerBug(f"{type(self).__name__} has no rule for {type(statement).__name__}")

    def declaration(self, statement: Declare) -> str:
        """A local variable, or an array of zeros."""
        kind = self.types[statement.dtype]
        if statement.lanes:
            return f"{kind} {statement.name}[{statement.lanes}] = {{0}};"
        const = "" if statement.mutable else "const "
        return f"{const}{kind} {statement.name} = {outer(self.scalar_text(statement.value))};"

    def assignment(self, statement: Assign) -> str:
        """A new value, ``+=`` where it is a sum with the old one."""
        value, target = statement.value, statement.name
        if statement.at is not None:
            target = f"{statement.name}[{self.index_text(statement.at)}]"
        if isinstance(value, Call) and value.function == "add":
            first, second = value.arguments
            if self.scalar_text(first) == target:
                return f"{target} += {outer(self.scalar_text(second))};"
        return f"{target} = {outer(self.scalar_text(value))};"


def outer(text: str) -> str:
    """Drop one pair of parentheses that encloses the whole text."""
    if not (text.startswith("(") and text.endswith(")")):
        return text
    level = 0
    for position, letter in enumerate(text):
        level += (letter == "(") - (letter == ")")
        if level == 0 and position < len(text) - 1:
            return text
    return text[1:-1]
