"""Patches put together from windows: each value at its place, zeros elsewhere, in whole vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphc.backends.c.mapping import TYPES
from graphc.backends.c.printer import condition_text, index_text
from graphc.ir.index import Index, axis_index
from graphc.ir.layout import row_major
from graphc.ir.loops import Patch, PatchWindows
from graphc.ir.types import DType

_INTEGERS = {4: "int32_t", 8: "int64_t"}  # as wide as the values
_UNROLL = "#pragma GCC unroll 8"


@dataclass(frozen=True)
class PatchFunction:
    """A function of a kernel's file."""

    name: str
    lines: Sequence[str]
    arguments: str


def scatter_functions(patch: Patch, dtype: DType, lanes: int) -> list[PatchFunction]:
    """From windows to a dense patch: where all of them exist, and where some do."""
    windows = patch.windows
    if windows is None:
        return []
    kind = TYPES[dtype]
    arrays = f"const {kind} *restrict values, const uint8_t *restrict places"
    firsts = "".join(f", long first{d}" for d in range(len(windows.axes)))
    edge = f"{arrays}, long value, long place{firsts}, {kind} *restrict patch"
    whole = f"{arrays}, {kind} *restrict patch"
    lines = _function_lines(patch, windows, dtype, lanes, edge=False)
    found = [PatchFunction(_name(patch), lines, whole)]
    if patch.inside:
        lines = _function_lines(patch, windows, dtype, lanes, edge=True)
        found.append(PatchFunction(f"{_name(patch)}_at_edge", lines, edge))
    return found


def scatter_call(patch: Patch) -> list[str]:
    """The lines that fill the local array ``patch``."""
    windows = patch.windows
    assert windows is not None
    value, place = (index_text(load.offset) for load in (windows.value, windows.place))
    values, places = windows.value.buffer, windows.place.buffer
    firsts = ", ".join(index_text(first) for first in windows.first)
    whole = f"{_name(patch)}(&{values}[{value}], &{places}[{place}], patch);"
    edge = f"{_name(patch)}_at_edge({values}, {places}, {value}, {place}, {firsts}, patch);"
    if not patch.inside:
        return [whole]
    tests = " && ".join(condition_text(condition) for condition in patch.inside)
    return [f"if ({tests})", f"  {whole}", "else", f"  {edge}"]


def _name(patch: Patch) -> str:
    return f"scatter_{patch.lane.name}"


def _function_lines(
    patch: Patch, windows: PatchWindows, dtype: DType, lanes: int, *, edge: bool
) -> list[str]:
    """Loops over windows, which the compiler unrolls where all exist."""
    lines = [*_load_lines(windows, edge=edge), *_store_lines(patch, windows, dtype)]
    for number, axis in reversed(list(enumerate(windows.axes))):
        lines = _loop(f"window{number}", axis.extent, lines, unrolled=not edge)
    size = lanes * dtype.size
    return [
        f"typedef {_INTEGERS[dtype.size]} integers __attribute__((vector_size({size})));",
        f"typedef uint8_t bytes __attribute__((vector_size({lanes}), aligned(1), may_alias));",
        *lines,
    ]


def _load_lines(windows: PatchWindows, *, edge: bool) -> list[str]:
    """The value of a window and its place, in every lane; zeros where there is no window."""
    *value_steps, value_lane = windows.value_steps
    *place_steps, place_lane = windows.place_steps
    start = ("value + ", "place + ") if edge else ("", "")
    lines = [
        f"const long value_at = {start[0]}{_distance(value_steps)};",
        f"const long place_at = {start[1]}{_distance(place_steps)};",
        "vector own = {0};",
        "integers here = {0};",
    ]
    load = _vector_lines("own", "values", "value_at", value_lane, "*(const vector *)({})")
    convert = "__builtin_convertvector(*(const bytes *)({}), integers)"
    load += _vector_lines("here", "places", "place_at", place_lane, convert)
    if not edge:
        return [*lines, *load]
    exists = " && ".join(
        f"first{d} + window{d} >= 0 && first{d} + window{d} < {extent}"
        for d, extent in enumerate(windows.extents)
    )
    return [*lines, f"if ({exists}) {{", *(f"  {line}" for line in load), "}"]


def _distance(steps: Sequence[int]) -> str:
    return " + ".join(f"window{d} * {step}L" for d, step in enumerate(steps))


def _vector_lines(name: str, array: str, at: str, step: int, load: str) -> list[str]:
    """Neighbours as one vector, lanes that are ``step`` elements apart one by one."""
    if step == 1:
        return [f"{name} = {load.format(f'{array} + {at}')};"]
    return [
        f"for (long lane = 0; lane < LANES; lane++) {name}[lane] = {array}[{at} + lane * {step}L];"
    ]


def _store_lines(patch: Patch, windows: PatchWindows, dtype: DType) -> list[str]:
    """Every place of a window that the patch has."""
    numbers = range(len(windows.axes))
    extents = [axis.extent for axis in patch.positions]
    declared = ", ".join(
        f"position{d} = window{d} * {windows.sizes[d]} + place{d} - {windows.offsets[d]}"
        for d in numbers
    )
    inside = " && ".join(f"position{d} >= 0 && position{d} < {extents[d]}" for d in numbers)
    flat = index_text(row_major(windows.sizes).offset(_names("place", windows)))
    to = index_text(row_major(tuple(extents)).offset(_names("position", windows)))
    integer = _INTEGERS[dtype.size]
    lines = [
        f"const long {declared};",
        f"if ({inside}) *(vector *)(patch + ({to}) * LANES) = "
        f"(vector)((integers)own & (here == ({integer})({flat})));",
    ]
    for number in reversed(numbers):
        lines = _loop(f"place{number}", windows.sizes[number], lines, unrolled=True)
    return lines


def _names(word: str, windows: PatchWindows) -> tuple[Index, ...]:
    return tuple(axis_index(f"{word}{d}") for d in range(len(windows.axes)))


def _loop(name: str, count: int, lines: Sequence[str], *, unrolled: bool) -> list[str]:
    head = f"for (long {name} = 0; {name} < {count}; {name}++) {{"
    inside = [f"  {line}" for line in lines]
    return [*([_UNROLL] if unrolled else []), head, *inside, "}"]
