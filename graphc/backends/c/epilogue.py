"""What follows the sums of a Contraction as C text: statements for runs of neighbouring columns."""

from __future__ import annotations

from collections.abc import Sequence

from graphc.backends.c.mapping import TYPES
from graphc.backends.c.packing import decode_lines
from graphc.backends.c.printer import statement_lines
from graphc.ir.loops import Contraction, Store
from graphc.ir.types import Axis, element_count

_SHORT = 6  # lines that may be repeated for every vector of a register block


def at_once(body: Contraction) -> bool:
    """Whether a row panel is finished as soon as its last products are added."""
    dots = body.columns.order == "vectors"
    packed = body.in_place is None or body.strip is not None
    return body.pieces == 1 and packed and not body.skip and not dots


def in_registers(body: Contraction, lanes: int) -> bool:
    """Whether a register block is finished before its sums are stored anywhere.

    They are elements of a small array then, at places that are constants once loops are unrolled,
    so that compilers keep them in registers. This takes all depth in one block, whole register
    blocks whose rows are neighbours, and runs of columns as long as a vector that are neighbours
    in memory.
    """
    cut = body.depth[body.split]
    one_block = _count(body.depth[: body.split]) == 1 and cut.extent <= body.cut
    rows, columns = body.register.rows, body.register_columns
    whole_rows = body.row_block % rows == 0 and body.epilogue_rows[-1].extent % rows == 0
    whole_columns = _count(body.columns.lanes) % columns == 0
    last = body.epilogue_columns[-1]
    stores = [s for s in body.epilogue if isinstance(s, Store)]
    near = last.extent == lanes and all(s.offset.coefficient(last.name) == 1 for s in stores)
    short = len(statement_lines(body.epilogue, depth=0)) <= _SHORT
    if body.line_panels or not at_once(body):  # panels of lines may be filled in part
        return False
    return one_block and whole_rows and whole_columns and near and short


def epilogue_lines(body: Contraction, lanes: int) -> list[str]:
    """What is done with one ``row`` of the tile, or of a register block."""
    return _of_registers(body) if in_registers(body, lanes) else _of_tile(body)


def _of_tile(body: Contraction) -> list[str]:
    """Columns from ``left`` to ``stop_column``."""
    used, last = _used(body), body.epilogue_columns[-1]
    whole = body.register_columns % last.extent == 0  # then every run is a whole one
    if whole:
        lines = _run(body, f"{last.extent}", "at", "column - left + at")
    else:
        lines = [
            f"const long start = column % {last.extent};",
            f"const long run = gc_min({last.extent} - start, stop_column - column);",
            *_run(body, "run", "start + at", "column - left + at"),
            "column += run;",
        ]
    outer = decode_lines(f"column / {last.extent}", body.epilogue_columns[:-1], used)
    step = f"column += {last.extent}" if whole else ""
    return [
        *decode_lines("(first_row + row)", body.epilogue_rows, used),
        f"for (long column = left; column < stop_column; {step}) {{",
        *(f"  {line}" for line in [*outer, *lines]),
        "}",
    ]


def _of_registers(body: Contraction) -> list[str]:
    """All columns of a register block, whose rows differ in their last axis alone."""
    used, last, vectors = _used(body), body.epilogue_columns[-1], body.register.vectors
    rows = decode_lines("(first_row + top)", body.epilogue_rows, used)
    name = f"const long {body.epilogue_rows[-1].name} ="
    first = f"((first_panel + panel) * {vectors} + run)"
    outer = decode_lines(first, body.epilogue_columns[:-1], used)
    lines = [*outer, *_run(body, f"{last.extent}", "at", "run * LANES + at")]
    return [
        *(f"{line[:-1]} + row;" if line.startswith(name) else line for line in rows),
        f"#pragma GCC unroll {vectors}",
        f"for (long run = 0; run < {vectors}; run++) {{",
        *(f"  {line}" for line in lines),
        "}",
    ]


def _run(body: Contraction, length: str, column: str, place: str) -> list[str]:
    """A run of neighbouring columns; where lines are stored whole they are filled first."""
    lines = [
        "#pragma omp simd",
        f"for (long at = 0; at < {length}; at++) {{",
        f"  const long {body.epilogue_columns[-1].name} = {column};",
        f"  const {TYPES[body.dtype]} sum = from[{place}];",
        *(f"  {line}" for line in statement_lines(body.epilogue, depth=0)),
        "}",
    ]
    arrays = statement_lines([line.array for line in body.lines], depth=0)
    return [*arrays, *lines, *statement_lines(body.lines, depth=0)]


def _used(body: Contraction) -> str:
    """The text whose indices have to be known."""
    return "\n".join(statement_lines([*body.epilogue, *body.lines], depth=0))


def _count(axes: Sequence[Axis]) -> int:
    return element_count(tuple(axis.extent for axis in axes))
