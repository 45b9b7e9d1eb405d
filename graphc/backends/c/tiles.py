"""A TileProduct as C text: transforms, register-blocked products, and the epilogue of a tile."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from graphc.backends.c.contraction import PAGE, has_halves
from graphc.backends.c.fetch import fetch_epilogue, fetch_filters, fetch_patch
from graphc.backends.c.mapping import TYPES
from graphc.backends.c.packing import decode_lines, vector_move, vector_text
from graphc.backends.c.printer import condition_text, scalar_text, statement_lines
from graphc.backends.c.scatters import PatchFunction, scatter_call, scatter_functions
from graphc.backends.c.transform import Position, transform_lines
from graphc.backends.templating import render
from graphc.ir.loops import LineStore, Patch, Statement, TileProduct
from graphc.ir.routine import Routine
from graphc.ir.types import Axis, DType, element_count

_LINE = 64  # bytes of a line of the cache


def tiles_source(
    routine: Routine, body: TileProduct, vector_bytes: int, parameters: str
) -> tuple[str, int, int]:
    """C text, bytes of workspace shared by all threads, bytes of workspace of each thread."""
    if body.result == "positions":
        return _positions_source(routine, body, vector_bytes, parameters)
    return _taps_source(routine, body, vector_bytes, parameters)


@dataclass(frozen=True)
class _Transform:
    """A function that transforms one patch, and how the patch is found in memory."""

    lines: list[str]
    arguments: str
    type: str = ""
    first: str = ""
    inside: str = ""
    steps: str = ""
    dense_steps: str = ""
    size: str = ""
    gather: Sequence[str] = ()
    fetch: Sequence[str] = ()
    functions: Sequence[PatchFunction] = ()


@dataclass(frozen=True)
class _Kernel:
    """Lines of one register block; every accumulator has a name of its own."""

    rows: int
    zero: list[str]
    load: str
    multiply: list[str]
    add: list[str]
    store: list[str]


@dataclass(frozen=True)
class _ColumnSums:
    """Lines that add up a tile, the one that stores a sum, and where those of blocks start."""

    add: list[str]
    store: str
    start: int


def _common(routine: Routine, body: TileProduct, vector_bytes: int) -> dict[str, object]:
    size = body.dtype.size
    return {
        "title": routine.title, "name": routine.name, "note": body.note, "type": TYPES[body.dtype],
        "vector_bytes": vector_bytes, "alignment": size, "lanes": vector_bytes // size,
        "vectors": body.blocks.vectors, "tiles": _count(body.tiles), "points": _points(body),
        "block": body.blocks.tiles, "column": body.columns.name,
        "columns": body.columns.extent * (vector_bytes // size),
        "results": element_count(tuple(a.extent for a in body.results)),
        "halves": has_halves(routine),
    }  # fmt: skip


def _positions_source(
    routine: Routine, body: TileProduct, vector_bytes: int, parameters: str
) -> tuple[str, int, int]:
    lanes, blocks = vector_bytes // body.dtype.size, body.blocks
    channels, columns = body.channel.extent, body.columns.extent * lanes
    points, size = _points(body), body.dtype.size
    tiles = _count(body.tiles)
    one_block = blocks.tiles >= tiles
    by_parts = one_block and blocks.rows < channels  # the filters of some channels at a time
    filters, held = blocks.columns if one_block else columns, blocks.rows if by_parts else channels
    u_plane = _odd(filters // lanes * held) * lanes
    v_plane = _odd(channels // lanes * blocks.tiles) * lanes
    m_plane = _odd(blocks.columns // lanes * blocks.tiles) * lanes
    common, own = (v_plane, u_plane) if one_block else (u_plane, v_plane)
    start, private = _round(points * common * size), _round(points * (own + m_plane) * size)
    totals = -(-tiles // blocks.tiles) * columns * DType.float64.size
    shared = start + (_round(totals) if body.sums is not None else 0)
    rests = {blocks.tiles % blocks.register_rows, tiles % blocks.tiles % blocks.register_rows} - {0}
    epilogue = _tile_epilogue(body)
    streamed = _patch_transform(body.right, body.dtype, lanes, body.tiles[-1])
    fetched = fetch_epilogue(body, lanes)
    past = body.stream_filters and vector_bytes == _LINE and not one_block
    text = render(
        "c/tile_positions.c.jinja",
        **_common(routine, body, vector_bytes), parameters=parameters, channels=channels,
        depth=blocks.rows, parted=blocks.rows < channels, by_parts=by_parts, chunk=blocks.columns,
        channel=body.channel.name, row=body.rows.name,
        filter=_patch_transform(body.left, body.dtype, lanes, body.channel, past=past),
        streamed=streamed,
        one_block=one_block, stream_filters=past, stream_results=_streams(body), fetch=fetched,
        restore=_restore(body, lanes), rows=blocks.register_rows, rests=sorted(rests),
        kernels=[
            _kernel(r, blocks.vectors, lanes, "a[{r} * LANES + lane]", "b + {v} * LANES",
                    "(products + {v} * BLOCK * LANES + {r} * LANES)")
            for r in sorted({blocks.register_rows, *rests}, reverse=True)
        ],
        decode_patch=decode_lines("tile", body.tiles, _used(streamed)),
        decode_tile=decode_lines("tile", body.tiles, "\n".join([*epilogue, *fetched])),
        epilogue=epilogue, sums=_column_sums(body, start), lane=body.lane.name,
        shared_bytes=shared, private_bytes=private,
    )  # fmt: skip
    return text, shared, private


def _taps_source(
    routine: Routine, body: TileProduct, vector_bytes: int, parameters: str
) -> tuple[str, int, int]:
    lanes, blocks = vector_bytes // body.dtype.size, body.blocks
    points, size = _points(body), body.dtype.size
    whole = blocks.pieces > 1
    columns = body.columns.extent if whole else blocks.columns // lanes
    sums = points * _odd(columns * (body.rows.extent if whole else blocks.rows)) * lanes
    shared = _round(blocks.pieces * sums * size) if whole else 0
    u_plane = _odd(blocks.rows // lanes * blocks.tiles) * lanes
    v_plane = _odd(blocks.columns // lanes * blocks.tiles) * lanes
    private = _round((points * (u_plane + v_plane) + (0 if whole else sums)) * size)
    left, right = (
        _patch_transform(patch, body.dtype, lanes, body.tiles[-1])
        for patch in (body.left, body.right)
    )
    text = render(
        "c/tile_taps.c.jinja",
        **_common(routine, body, vector_bytes), parameters=parameters,
        rows_all=body.rows.extent, row=body.rows.name, row_block=body.channel.name,
        group=blocks.columns, row_group=blocks.rows, pieces=blocks.pieces, left=left, right=right,
        restore=_restore(body, lanes),
        kernel=_kernel(
            blocks.register_rows, blocks.vectors, lanes, "a[{r}]", "b + {v} * BLOCK * LANES",
            "(sums + {r} * PANEL + {v} * LANES)",
        ),
        decode_left=decode_lines("tile", body.tiles, _used(left)),
        decode_right=decode_lines("tile", body.tiles, _used(right)),
        epilogue=_tap_epilogue(body), shared_bytes=shared, private_bytes=private,
    )  # fmt: skip
    return text, shared, private


def _kernel(rows: int, vectors: int, lanes: int, scalar: str, vector: str, place: str) -> _Kernel:
    loads = ", ".join(f"b{v} = *(const vector *)({vector.format(v=v)})" for v in range(vectors))

    def each(text: str, separator: str = "; ") -> list[str]:
        return [
            separator.join(
                text.format(r=r, v=v, a=scalar.format(r=r), place=place.format(r=r, v=v))
                for v in range(vectors)
            ) + ";"
            for r in range(rows)
        ]  # fmt: skip

    return _Kernel(
        rows,
        zero=[f"vector {line}" for line in each("c{r}_{v} = {{0}}", ", ")],
        load=f"const vector {loads};",
        multiply=each("c{r}_{v} += {a} * b{v}"),
        add=each("c{r}_{v} += *(vector *){place}"),
        store=each("*(vector *){place} = c{r}_{v}"),
    )


def _patch_transform(
    patch: Patch, dtype: DType, lanes: int, along: Axis, *, past: bool = False
) -> _Transform:
    """from[positions] -> to[point][plane], ``past`` the caches; patches of later tiles are fetched.

    Patches follow each other ``along`` an axis.
    """
    type_name, stored = TYPES[dtype], TYPES[patch.value.dtype]
    sizes = tuple(a.extent for a in patch.positions)
    steps = [f"step{d}" for d in range(len(sizes))]
    outputs = tuple(len(p.outputs) for p in patch.transform)

    def load(place: Position) -> str:
        terms = [f"{n} * {s}" if n > 1 else s for n, s in zip(place, steps, strict=True) if n]
        return vector_text(patch.value.dtype, dtype, " + ".join(["from", *terms]))

    def store(place: Position, value: str) -> str:
        target = f"to + {_flat(place, outputs)} * plane"
        if past:
            return f"gc_stream({target}, &{value}, sizeof {value});"
        return f"*(vector *)({target}) = {value};"

    arguments = ", ".join(
        [f"const {stored} *restrict from", *(f"long {s}" for s in steps),
         f"{type_name} *restrict to", "long plane"]
    )  # fmt: skip
    dense = [lanes * below for below in _strides(sizes)]
    return _Transform(
        transform_lines(patch.transform, dtype, load, store), arguments, stored,
        scalar_text(patch.first) if patch.first else "",
        " && ".join(condition_text(c) for c in patch.inside) or "1",
        ", ".join(f"{step}L" for step in patch.steps), ", ".join(f"{step}L" for step in dense),
        f"{element_count(sizes)} * LANES", _gather(patch),
        fetch_patch(patch, along, lanes) or fetch_filters(patch, along),
        scatter_functions(patch, dtype, lanes),
    )  # fmt: skip


def _gather(patch: Patch) -> list[str]:
    """Copy a patch vector by vector or element by element, zeros where it leaves the operand."""
    if patch.windows is not None:
        return scatter_call(patch)
    move = vector_move(patch.value, patch.lane.name)
    axes = patch.positions if move else (*patch.positions, patch.lane)
    lines = [
        f"{'  ' * d}for (long {a.name} = 0; {a.name} < {a.extent}; {a.name}++)"
        for d, a in enumerate(axes)
    ]
    pad = "  " * len(axes)
    if not move:
        place = _flat_text(axes)
        return [*lines, f"{pad}patch[{place}] = {scalar_text(patch.value)};"]
    place = _flat_text((*axes, patch.lane)).replace(f" + {patch.lane.name}", "")
    return [
        *lines, f"{pad}{{",
        f"{pad}  const long {patch.lane.name} = 0;",
        f"{pad}  {TYPES[patch.value.dtype]} *restrict to = patch + {place};",
        f"{pad}  {move}",
        f"{pad}}}",
    ]  # fmt: skip


def _restore(body: TileProduct, lanes: int) -> _Transform:
    """from[point][plane] -> to[result][LANES]."""
    type_name = TYPES[body.dtype]
    sizes = tuple(p.inputs for p in body.restore)
    outputs = tuple(len(p.outputs) for p in body.restore)

    def load(place: Position) -> str:
        return f"*(const vector *)(from + {_flat(place, sizes)} * plane)"

    def store(place: Position, value: str) -> str:
        return f"*(vector *)(to + {_flat(place, outputs)} * LANES) = {value};"

    return _Transform(
        transform_lines(body.restore, body.dtype, load, store),
        f"const {type_name} *restrict from, long plane, {type_name} *restrict to",
    )


def _streams(body: TileProduct) -> bool:
    after = () if body.windows is None else body.windows.after
    return any(isinstance(statement, LineStore) for statement in (*body.lines, *after))


def _tile_epilogue(body: TileProduct) -> list[str]:
    """Every position of the tile that the result has, its lanes in vectors; then its windows."""
    kind, lane, windows = TYPES[body.dtype], body.lane.name, body.windows
    head = f"const {kind} sum = results[({_flat_text(body.results)}) * LANES + {lane}];"
    inside = [head, *statement_lines(body.epilogue, depth=0)]
    arrays = [line.array for line in body.lines]
    lines = _tile_loops(body, body.results, body.limits, inside, arrays, body.lines)
    if windows is None:
        return lines
    inside = statement_lines(windows.statements, depth=0)
    pooled = _tile_loops(body, windows.axes, windows.limits, inside, windows.arrays, windows.after)
    return [*lines, *pooled]


def _column_sums(body: TileProduct, start: int) -> _ColumnSums | None:
    """How the values of a tile are added, and the sum of a column is stored."""
    if body.sums is None:
        return None
    _, loops = _tile_places(body, body.results, body.limits)
    place = f"results + ({_flat_text(body.results)}) * LANES"
    add = f"{'  ' * len(loops)}tile_total += *(const vector *)({place});"
    [store] = statement_lines((body.sums.store,), depth=0)
    return _ColumnSums([*loops, add], store, start)


def _tile_places(
    body: TileProduct, axes: Sequence[Axis], limits: Sequence[int]
) -> tuple[list[str], list[str]]:
    """Loops over those places of a tile that exist, after the lines that say where they end."""
    ends, loops = [], []
    for number, (axis, limit) in enumerate(zip(axes, limits, strict=True)):
        tile = body.tiles[len(body.tiles) - len(axes) + number]
        end = str(axis.extent)
        if tile.extent * axis.extent > limit:
            end = f"{axis.name}_end"
            ends.append(
                f"const long {end} = gc_min({axis.extent}, {limit} - {axis.extent} * {tile.name});"
            )
        pad = "  " * number
        loops.append(f"{pad}for (long {axis.name} = 0; {axis.name} < {end}; {axis.name}++)")
    return ends, loops


def _tile_loops(
    body: TileProduct, axes: Sequence[Axis], limits: Sequence[int], inside: Sequence[str],
    arrays: Sequence[Statement], after: Sequence[Statement],
) -> list[str]:  # fmt: skip
    """Loops over those places of a tile that exist, and over its lanes.

    Lanes fill local ``arrays``; what is done with these stands ``after`` the lanes.
    """
    ends, loops = _tile_places(body, axes, limits)
    lane = [
        "#pragma omp simd",
        f"for (long {body.lane.name} = 0; {body.lane.name} < LANES; {body.lane.name}++) {{",
        *(f"  {line}" for line in inside),
        "}",
    ]
    if arrays:
        lane = ["{", *statement_lines(arrays), *(f"  {line}" for line in lane),
                *statement_lines(after), "}"]  # fmt: skip
    pad = "  " * len(axes)
    return [*ends, *loops, *(f"{pad}{line}" for line in lane)]


def _tap_epilogue(body: TileProduct) -> list[str]:
    """Lanes and taps in the order of memory."""
    statements = statement_lines(body.epilogue, depth=0)
    axes = body.epilogue_axes
    lines = []
    for number, axis in enumerate(axes):
        pad = "  " * number
        if number == len(axes) - 1:
            lines.append(f"{pad}#pragma omp simd")
        opened = " {" if number == len(axes) - 1 else ""
        lines.append(
            f"{pad}for (long {axis.name} = 0; {axis.name} < {axis.extent}; {axis.name}++){opened}"
        )
    pad = "  " * (len(axes) - 1)
    return [
        *lines,
        f"{pad}  const {TYPES[body.dtype]} sum = results[{_flat_text(axes)}];",
        *(f"{pad}  {line}" for line in statements),
        f"{pad}}}",
    ]


def _flat_text(axes: Sequence[Axis]) -> str:
    """The row-major number of a position as C."""
    strides = _strides(tuple(a.extent for a in axes))
    return " + ".join(
        f"{a.name} * {s}" if s > 1 else a.name for a, s in zip(axes, strides, strict=True)
    )


def _strides(sizes: Sequence[int]) -> list[int]:
    return list(accumulate([1, *reversed(sizes[1:])], lambda a, b: a * b))[::-1]


def _flat(place: Position, sizes: Sequence[int]) -> int:
    return sum(n * s for n, s in zip(place, _strides(sizes), strict=True))


def _used(one: _Transform) -> str:
    return "\n".join([one.first, one.inside, *one.gather, *one.fetch])


def _points(body: TileProduct) -> int:
    return math.prod(p.inputs for p in body.restore)


def _count(axes: Sequence[Axis]) -> int:
    return element_count(tuple(a.extent for a in axes))


def _odd(number: int) -> int:
    return number | 1


def _round(size: int) -> int:
    return -(-size // PAGE) * PAGE
