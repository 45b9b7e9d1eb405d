"""Loop IR -> C text: loops over ``long`` variables, in parallel and in lanes by OpenMP."""

from __future__ import annotations

from typing import Any

from graphc.backends.c.mapping import BINARY, FUNCTIONS, NARROW, TYPES, WIDEN, literal
from graphc.backends.printer import INDENT, Printer
from graphc.ir.loops import Fetch, FinishLines, LineStore, Loop
from graphc.ir.types import DType

_UNROLLED = 8  # windows up to this long are unrolled


class CPrinter(Printer):
    """The words of C11 with OpenMP."""

    types = TYPES
    binary = BINARY
    functions = FUNCTIONS
    widen = WIDEN
    narrow = NARROW

    def literal(self, value: float | int | bool, dtype: DType) -> str:
        """A C literal of exactly this value and type."""
        return literal(value, dtype)

    def loop_lines(self, loop: Loop, depth: int) -> list[str]:
        """A loop under its pragma."""
        pad, name = INDENT * depth, loop.axis.name
        head = f"{pad}for (long {name} = 0; {name} < {loop.axis.extent}; {name}++) {{"
        pragma = _pragma(loop)
        lines = [f"{pad}#pragma {pragma}"] if pragma else []
        return [*lines, head, *self.statement_lines(loop.body, depth + 1), f"{pad}}}"]

    def one_statement(self, statement: Any, depth: int) -> list[str]:
        """The lines of one statement; vectors are stored past the caches by functions."""
        pad = INDENT * depth
        if isinstance(statement, LineStore):
            place = f"&{statement.buffer}[{self.index_text(statement.offset)}]"
            name = statement.array.name
            return [f"{pad}gc_stream({place}, {name}, sizeof {name});"]
        if isinstance(statement, FinishLines):
            return [f"{pad}gc_stream_done();"]
        if isinstance(statement, Fetch):
            name = "gc_fetch_to_write" if statement.written else "gc_fetch"
            size = statement.dtype.size
            place = f"({self.index_text(statement.offset)}) * {size}"
            return [f"{pad}{name}({statement.buffer}, {place}, {statement.count * size});"]
        return super().one_statement(statement, depth)


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


_PRINTER = CPrinter()
index_text = _PRINTER.index_text
condition_text = _PRINTER.condition_text
scalar_text = _PRINTER.scalar_text
statement_lines = _PRINTER.statement_lines
