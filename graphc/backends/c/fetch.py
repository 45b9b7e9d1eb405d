"""What later tiles or panels will read and write is fetched while one is computed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from graphc.backends.c.printer import index_text
from graphc.ir.index import Index, axis_index, constant
from graphc.ir.loops import (
    Assign,
    Contraction,
    Declare,
    Loop,
    Patch,
    PatchWindows,
    Statement,
    Store,
    TileProduct,
)
from graphc.ir.scalar import Load, loads, plain_load
from graphc.ir.types import Axis, element_count

_PATCHES, _TILES = 4, 2  # tiles ahead: of patches, of what the epilogue touches
_FILTERS, _REGION = 4, 2048  # channels ahead, bytes of a channel's filters
_COLUMNS, _NEAR = 64, 32 << 10  # rows of columns ahead; bytes of a panel of them that stay near
_CACHE = 256 << 10  # bytes of a shared factor that stay in the second-level cache


class _Access(NamedTuple):
    """An element of an array and its size in bytes."""

    buffer: str
    offset: Index
    size: int
    written: bool


def fetch_patch(patch: Patch, tile: Axis, lanes: int) -> list[str]:
    """The lines that a patch adds to the one before it along the ``tile`` axis."""
    if patch.windows is not None:
        return _fetch_windows(patch.windows, tile, lanes)
    if patch.first is None or patch.steps[-1] != lanes:
        return []
    step = patch.first.offset.coefficient(tile.name)
    new = min(step // lanes, patch.positions[-1].extent)
    if new <= 0:
        return []
    *others, last = patch.positions
    place = patch.first.offset + (last.extent - new) * lanes
    return _fetch(_read(patch.first), place, tile, _PATCHES, others, patch.steps, new * lanes)


def _fetch_windows(windows: PatchWindows, tile: Axis, lanes: int) -> list[str]:
    """The values and places that the patch adds, where lanes are neighbours."""
    lines: list[str] = []
    *others, last = windows.axes
    for load, steps in (
        (windows.value, windows.value_steps), (windows.place, windows.place_steps)
    ):  # fmt: skip
        new = min(load.offset.coefficient(tile.name) // lanes, last.extent)
        if steps[-2:] == (lanes, 1) and new > 0:
            place = load.offset + (last.extent - new) * lanes
            lines += _fetch(_read(load), place, tile, _PATCHES, others, steps, new * lanes)
    return lines


def fetch_filters(patch: Patch, channel: Axis) -> list[str]:
    """The filters of a later channel, where those of one channel lie together."""
    load = plain_load(patch.value)
    if load is None or patch.windows is not None:
        return []
    inside = {a.name: a.extent for a in (*patch.positions, patch.lane)}
    start = load.offset.substitute({name: constant(0) for name in inside})
    moved = load.offset - start
    if not moved.names <= inside.keys():
        return []
    low, high = moved.bounds(inside)
    count = high - low + 1
    if count * load.dtype.size > _REGION:
        return []
    return _fetch(_read(load), start + low, channel, _FILTERS, (), (), count)


def fetch_epilogue(body: TileProduct, lanes: int) -> list[str]:
    """Whole tiles of the arrays that the epilogue reads and, unless past the caches, writes; what
    all tiles share is near anyway.
    """
    regions = [(body.results, body.epilogue)]
    if body.windows is not None:
        after = body.windows.after
        regions.append((body.windows.axes, (*body.windows.statements, *after)))
    lines: list[str] = []
    tile = body.tiles[-1]
    for positions, statements in regions:
        for access in dict.fromkeys(_accesses(statements)):
            steps = [access.offset.coefficient(a.name) for a in positions]
            lane = access.offset.is_affine and access.offset.coefficient(body.lane.name) == 1
            if not lane or steps[-1] != lanes or not access.offset.coefficient(tile.name):
                continue
            start = {a.name: constant(0) for a in (*positions, body.lane)}
            place = access.offset.substitute(start)
            count = positions[-1].extent * lanes
            lines += _fetch(access, place, tile, _TILES, positions[:-1], steps, count)
    return lines


def _fetch(
    access: _Access, place: Index, tile: Axis, ahead: int, axes: Sequence[Axis],
    steps: Sequence[int], count: int,
) -> list[str]:  # fmt: skip
    """``count`` neighbours at every position of the axes, ``ahead`` tiles further."""
    place = place + place.coefficient(tile.name) * ahead
    for axis, step in zip(axes, steps, strict=False):
        place = place + axis_index(axis.name) * step
    size = access.size
    loops = [
        f"{'  ' * depth}for (long {a.name} = 0; {a.name} < {a.extent}; {a.name}++)"
        for depth, a in enumerate(axes)
    ]
    call = "gc_fetch_to_write" if access.written else "gc_fetch"
    call = f"{call}({access.buffer}, ({index_text(place)}) * {size}, {count * size});"
    return [*loops, f"{'  ' * len(loops)}{call}"]


def _accesses(statements: Iterable[Statement]) -> Iterator[_Access]:
    for statement in statements:
        if isinstance(statement, Loop):
            yield from _accesses(statement.body)
        if isinstance(statement, Declare | Assign | Store):
            yield from map(_read, loads(statement.value))
        if isinstance(statement, Store):
            size = statement.value.dtype.size
            yield _Access(statement.buffer, statement.offset, size, written=True)


def _read(load: Load) -> _Access:
    return _Access(load.buffer, load.offset, load.dtype.size, written=False)


def fetch_rows(body: Contraction, shared: str, paired: bool) -> str:
    """Where the row panel lies that comes next in a shared factor, as C; empty if nothing fetches.

    Its next panel in this block of the depth, or the first one in the next block. Row panels stream
    by in runs too short for what the hardware fetches on its own, unless all of them stay near.
    """
    packed = body.in_place is None and body.strip is None and body.columns.order != "vectors"
    axes = (*body.batch, *body.rows.lanes, *body.depth)
    size = element_count(tuple(axis.extent for axis in axes)) * body.panel.size
    if not packed or body.resident != "rows" or size <= _CACHE:
        return ""
    later, first = (
        shared.format(panels="ROW_PANELS", panel=panel, width="MR")
        for panel in ("(first_row + top) / MR + 1", "first_row / MR")
    )
    return f"top + MR < rows ? {later} : {first} + {'BLOCK_DEPTH' if paired else 'block'} * MR"


def fetch_columns(body: Contraction, panel_bytes: int) -> int:
    """How many rows of a column panel ahead the kernel fetches, beside rows that are copied; 0
    where whole panels of so many bytes stay near.
    """
    return _COLUMNS if body.copies_rows and panel_bytes > _NEAR else 0
