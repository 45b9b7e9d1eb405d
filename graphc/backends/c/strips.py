"""A task's strip as C text: loops that copy it, and where its rows and runs of the depth begin."""

from __future__ import annotations

from typing import Any

from graphc.backends.c.mapping import TYPES
from graphc.backends.c.packing import decode_lines, nested
from graphc.backends.c.printer import condition_text, index_text
from graphc.ir.index import Index, axis_index, constant
from graphc.ir.loops import Contraction
from graphc.ir.strips import Span, Strip
from graphc.ir.types import Axis, element_count

_UNROLLED = 9  # of a run: windows whole, vectors of channels in parts
_PART = 4


def strip_words(body: Contraction) -> dict[str, Any]:
    """What the template says of a strip; nothing where rows are packed."""
    strip = body.strip
    if strip is None:
        return {"strip": None, "copy_strip": []}
    line, width = _line(strip)
    run = strip.run.name
    block = [Axis(body.depth[body.split].name, body.cut), *body.depth[body.split + 1 :]]
    outer = [axis for axis in block if axis.name != run]
    offset, lane = strip.depth_offset(), strip.lane_offset()
    return {
        "strip": strip,
        "run": next(axis.extent for axis in block if axis.name == run),
        "run_step": offset.coefficient(run),
        "runs": element_count(tuple(axis.extent for axis in outer)),
        "size": body.dtype.size,
        "lane_step": lane.coefficient(strip.box[-1].name),
        "run_loops": [_head(axis) for axis in outer],
        "run_begin": index_text(offset.substitute({run: constant(0)})),
        "lane_begin": index_text(lane),
        "lane_axes": decode_lines("lane", strip.box, index_text(lane)),
        "line_columns": strip.box[-1].extent,
        "line": strip.spans[line].axis.extent,
        "line_width": width,
        "line_stride": strip.spans[line].stride,
        "copy_strip": _copy(strip, body, line),
    }


def run_unroll(length: int) -> int:
    """How many products of a run are unrolled."""
    return length if length <= _UNROLLED else _PART


def _head(axis: Axis) -> str:
    return f"for (long {axis.name} = 0; {axis.name} < {axis.extent}; {axis.name}++)"


def _line(strip: Strip) -> tuple[int, int]:
    """The innermost dimension that is not whole vectors of neighbours, and these neighbours."""
    steps = strip.steps()
    number = len(steps) - 1
    while number and strip.spans[number].inside is None:
        if strip.spans[number].stride != steps[number]:
            break
        number -= 1
    return number, steps[number]


def _copy(strip: Strip, body: Contraction, number: int) -> list[str]:
    """Loops over lines, each of which is copied where the array has it and zero elsewhere.

    Where nothing is copied, a pointer to the task's first row.
    """
    strip = strip.substitute({body.depth[body.split].name: axis_index("cut_start")})
    outer = strip.spans[:number] if strip.copied else ()
    offset, place = strip.offset, constant(0)
    for span, step in zip(outer, strip.steps(), strict=False):
        offset += axis_index(span.axis.name) * span.stride
        place += axis_index(span.axis.name) * step
    first = f"&{strip.buffer}[{index_text(offset)}]"
    if strip.copied:
        tests = [condition_text(span.inside) for span in outer if span.inside is not None]
        inner = _bounds(strip.spans[number])
        inner += [f"if (!({' && '.join(tests)})) end = begin;"] if tests else []
        inner.append(f"copy_line({first}, begin, end, strip + {index_text(place)});")
        lines = nested([_head(span.axis) for span in outer], inner)
    else:
        lines = [f"const {TYPES[body.dtype]} *restrict strip = {first};"]
    used = "\n".join(lines)
    if body.columns_in_strip:
        first = "column_task * STRIP_COLUMNS" if body.line_panels else "first_panel * NR"
        return [*decode_lines(first, body.columns.lanes, used), *lines]
    return [*decode_lines("first_row", body.rows.lanes, used), *lines]


def _bounds(line: Span) -> list[str]:
    """Which positions of a line the array has: begin .. end."""
    if line.inside is None:
        return [f"long begin = 0, end = {line.axis.extent};"]
    first = line.inside.index.substitute({line.axis.name: Index()})
    begin, end = "0", str(line.axis.extent)
    if line.inside.lower is not None:
        begin = f"gc_min(gc_max({index_text(constant(line.inside.lower) - first)}, 0), {end})"
    if line.inside.upper is not None:
        end = f"gc_min({index_text(constant(line.inside.upper) - first)}, {end})"
    return [f"long begin = {begin}, end = gc_max({end}, begin);"]
