"""A Contraction as C text: packing and epilogue loops around the register-blocked kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphc.backends.c.mapping import TYPES
from graphc.backends.c.packing import decode_lines, pack_lines, transpose_lines
from graphc.backends.c.printer import condition_text, statement_lines
from graphc.backends.templating import render
from graphc.ir.loops import BlockSizes, Contraction, Pack
from graphc.ir.routine import Routine
from graphc.ir.scalar import plain_load
from graphc.ir.types import Axis, DType, element_count

PAGE = 2 << 20  # threads that write to one 2 MB page slow each other down many times over


def contraction_source(
    routine: Routine, body: Contraction, parameters: str
) -> tuple[str, int, int]:
    """C text, bytes of workspace shared by all threads, bytes of workspace of each thread."""
    block = body.register
    size, nr = body.dtype.size, body.register_columns
    rows, columns = _count(body.rows.lanes), _count(body.columns.lanes)
    inner = _count(body.depth[body.split + 1 :])
    extent = body.depth[body.split].extent
    packed, partial, private = _workspace(body, block, body.cut * inner)
    shared = packed + partial
    turned, dots = body.columns.order == "transposed", body.columns.order == "vectors"
    text = render(
        "c/contraction.c.jinja",
        title=routine.title, name=routine.name, parameters=parameters, type=TYPES[body.dtype],
        mask_type="int32_t" if size == 4 else "int64_t",
        vector_bytes=block.vector_bytes, alignment=size, lanes=block.lanes(body.dtype),
        rows=rows, columns=columns, depth=_count(body.depth), batch=_count(body.batch),
        row_block=body.row_block, panels=body.column_panels, mr=block.rows, nr=nr,
        cut=body.cut, extent=extent, inner=inner, pieces=body.pieces,
        blocks=_count(body.depth[: body.split]) * -(-extent // body.cut),
        rows_are_vectors=body.rows.order == "vectors",
        row_form="[depth / LANES][MR][LANES]" if body.rows.order == "vectors" else "[depth][MR]",
        transpose=transpose_lines(body.columns, block.lanes(body.dtype), "NR") if turned else [],
        columns_type=TYPES[_stored_type(body.columns)], halves=has_halves(routine),
        dots=dots, column_form="[depth / LANES][NR][LANES]" if dots else "[depth][NR]",
        halving=[1 << n for n in reversed(range(block.lanes(body.dtype).bit_length() - 1))],
        micro=_dot_kernel(block) if dots
        else _micro_kernel(block, block.lanes(body.dtype), body.rows.order == "vectors"),
        packed_bytes=packed, shared_bytes=shared, private_bytes=private,
        **_parts(body, inner, block),
    )  # fmt: skip
    return text, shared, private


def _stored_type(pack: Pack) -> DType:
    """The element type of the array that a factor is read from, where nothing is computed."""
    load = plain_load(pack.value)
    return pack.value.dtype if load is None else load.dtype


def has_halves(routine: Routine) -> bool:
    """Whether one of the routine's arrays has elements of 16 bits."""
    return any(parameter.dtype.is_half for parameter in routine.parameters)


def _workspace(body: Contraction, block: BlockSizes, block_depth: int) -> tuple[int, int, int]:
    """Bytes of the resident factor, of partial sums, and of each thread's own panels and tile."""
    size, nr = body.dtype.size, body.register_columns
    row_panels = -(-_count(body.rows.lanes) // block.rows)
    column_panels = -(-_count(body.columns.lanes) // nr)
    depth, batch = _count(body.depth), _count(body.batch)
    row_block = -(-body.row_block // block.rows) * block.rows
    tile = row_block * body.column_panels * nr
    packed = {"rows": row_panels * block.rows, "columns": column_panels * nr, "none": 0}
    private = tile * (1 + block.lanes(body.dtype)) if body.columns.order == "vectors" else tile
    if body.resident != "rows":
        private += row_block * block_depth
    if body.resident != "columns":
        private += body.column_panels * nr * block_depth
    tasks = (
        batch
        * -(-_count(body.rows.lanes) // body.row_block)
        * -(-column_panels // body.column_panels)
    )
    partial = body.pieces * tasks * tile if body.pieces > 1 else 0
    return (
        _round(batch * packed[body.resident] * depth * size),
        _round(partial * size),
        _round(private * size),
    )


@dataclass(frozen=True)
class _MicroKernel:
    """Lines of the register-blocked kernel; every accumulator has a name of its own."""

    zero: list[str]
    load: str
    multiply: list[str]
    add: list[str]
    store: list[str]


def _micro_kernel(block: BlockSizes, lanes: int, rows_are_vectors: bool) -> _MicroKernel:
    rows, vectors = range(block.rows), range(block.vectors)
    loads = ", ".join(f"b{v} = *(const vector *)(b + {v * lanes})" for v in vectors)
    scalar = "a[{r} * LANES + lane]" if rows_are_vectors else "a[{r}]"

    def filled(text: str, r: int, v: int) -> str:
        place = f"(tile + {r} * TILE_WIDTH + {v * lanes})"
        return text.format(r=r, v=v, a=scalar.format(r=r), place=place)

    def each(text: str, separator: str = "; ") -> list[str]:
        return [separator.join(filled(text, r, v) for v in vectors) + ";" for r in rows]

    return _MicroKernel(
        zero=[f"vector {line}" for line in each("c{r}_{v} = {{0}}", ", ")],
        load=f"const vector {loads};",
        multiply=each("c{r}_{v} += {a} * b{v}"),
        add=each("c{r}_{v} += *(vector *){place}"),
        store=each("*(vector *){place} = c{r}_{v}"),
    )


def _dot_kernel(block: BlockSizes) -> _MicroKernel:
    """Every accumulator is a vector of depth, added up at the end."""
    rows, columns = range(block.rows), range(block.vectors)
    loads = ", ".join(f"b{n} = *(const vector *)(b + {n} * LANES)" for n in columns)

    def each(text: str, separator: str = "; ") -> list[str]:
        return [separator.join(text.format(r=r, n=n) for n in columns) + ";" for r in rows]

    products = each("c{r}_{n} += a{r} * b{n}")
    place = "*(vector *)(tile + ({r} * TILE_WIDTH + {n}) * LANES)"
    return _MicroKernel(
        zero=[f"vector {line}" for line in each("c{r}_{n} = {{0}}", ", ")],
        load=f"const vector {loads};",
        multiply=[
            f"const vector a{r} = *(const vector *)(a + {r} * LANES); {line}"
            for r, line in zip(rows, products, strict=True)
        ],
        add=each(f"c{{r}}_{{n}} += {place}"),
        store=each(f"{place} = c{{r}}_{{n}}"),
    )


def _count(axes: Sequence[Axis]) -> int:
    return element_count(tuple(a.extent for a in axes))


def _round(size: int) -> int:
    return -(-size // PAGE) * PAGE


@dataclass(frozen=True)
class _Resident:
    """The factor that is packed once: its name, width and number of panels, and the loops."""

    name: str
    width: str
    panels: str
    batch: list[str]
    pack: list[str]


def _parts(body: Contraction, inner: int, block: BlockSizes) -> dict[str, object]:
    """The generated loops that the template sets into its frame."""
    whole = [f"for (long {a.name} = 0; {a.name} < {a.extent}; {a.name}++)" for a in body.depth]
    cut = body.depth[body.split]
    blocked = [f"for (long {cut.name} = cut_start; {cut.name} < cut_stop; {cut.name}++)"]
    blocked += whole[body.split + 1 :]
    nr, lanes = body.register_columns, block.lanes(body.dtype)

    def packing(side: str, heads: Sequence[str], depth: str) -> list[str]:
        if side == "rows":
            return pack_lines(body.rows, heads, "MR", "ROWS", depth, lanes, block.rows)
        return pack_lines(body.columns, heads, "NR", "COLUMNS", depth, lanes, nr)

    rows = packing("rows", blocked, "block") if body.resident != "rows" else []
    columns = packing("columns", blocked, "block") if body.resident != "columns" else []
    resident = None
    if body.resident != "none":
        width, panels = {"rows": ("MR", "ROW_PANELS"), "columns": ("NR", "COLUMN_PANELS")}[
            body.resident
        ]
        lines = packing(body.resident, whole, "DEPTH")
        before = decode_lines(f"panel / {panels}", body.batch, "\n".join(lines))
        resident = _Resident(body.resident, width, panels, before, lines)
    epilogue = _epilogue(body, nr)
    skip = " && ".join(condition_text(c) for c in body.skip)
    used = "\n".join([*rows, *columns, skip])
    own = used if body.pieces > 1 else "\n".join([used, *epilogue])
    shared = "packed + ((batch_number * {panels} + {panel}) * DEPTH + done) * {width}"
    return {
        "resident": resident,
        "batch_of_task": decode_lines("batch_number", body.batch, own),
        "batch_of_sum": decode_lines("batch_number", body.batch, "\n".join(epilogue)),
        "outer_depth": decode_lines("number / CUTS", body.depth[: body.split], used),
        "skip": skip,
        "pack_rows": rows,
        "pack_columns": columns,
        "row_panel": "my_rows + row * BLOCK_DEPTH"
        if rows
        else shared.format(panels="ROW_PANELS", panel="(first_row + row) / MR", width="MR"),
        "column_panel": "my_columns + panel * BLOCK_DEPTH * NR"
        if columns
        else shared.format(panels="COLUMN_PANELS", panel="first_panel + panel", width="NR"),
        "epilogue": epilogue,
    }


def _epilogue(body: Contraction, nr: int) -> list[str]:
    """Runs of neighbouring columns of one row of the tile."""
    statements = statement_lines(body.epilogue, depth=0)
    used = "\n".join(statements)
    last = body.epilogue_columns[-1]
    outer = decode_lines(f"column / {last.extent}", body.epilogue_columns[:-1], used)
    whole = nr % last.extent == 0
    return [
        *decode_lines("(first_row + row)", body.epilogue_rows, used),
        "for (long column = left; column < stop_column;) {",
        *(f"  {line}" for line in outer),
        f"  const long start = {0 if whole else f'column % {last.extent}'};",
        f"  const long run = {last.extent};"
        if whole
        else f"  const long run = gc_min({last.extent} - start, stop_column - column);",
        "  #pragma omp simd",
        f"  for (long at = 0; at < {last.extent if whole else 'run'}; at++) {{",
        f"    const long {last.name} = start + at;",
        f"    const {TYPES[body.dtype]} sum = from[column - left + at];",
        *(f"    {line}" for line in statements),
        "  }",
        "  column += run;",
        "}",
    ]
