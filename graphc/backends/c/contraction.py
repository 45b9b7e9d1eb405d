"""A Contraction as C text: packing and epilogue loops around the register-blocked kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphc.backends.c.epilogue import at_once, epilogue_lines, in_registers
from graphc.backends.c.fetch import fetch_columns, fetch_rows
from graphc.backends.c.inplace import in_place_words
from graphc.backends.c.mapping import TYPES
from graphc.backends.c.packing import decode_lines, pack_lines, transpose_lines
from graphc.backends.c.printer import condition_text
from graphc.backends.c.strips import run_unroll, strip_words
from graphc.backends.templating import render
from graphc.ir.loops import BlockSizes, Contraction, Pack
from graphc.ir.routine import Routine
from graphc.ir.scalar import plain_load
from graphc.ir.strips import Strip
from graphc.ir.types import Axis, DType, element_count

_RUNS = "for (const long *at = run_at; at < run_at + RUNS; at++)"
PAGE = 2 << 20  # threads that write to one 2 MB page slow each other down many times over


def contraction_source(
    routine: Routine, body: Contraction, parameters: str
) -> tuple[str, int, int]:
    """C text, bytes of workspace shared by all threads, bytes of workspace of each thread."""
    block = body.register
    size, nr = body.dtype.size, body.register_columns
    rows, columns = _count(body.rows.lanes), _count(body.columns.lanes)
    inner = _inner_depth(body, block.lanes(body.dtype))
    extent = body.depth[body.split].extent
    packed, partial, private = _workspace(body, block, body.cut * inner)
    shared = packed + partial
    turned, dots = body.columns.order == "transposed", body.columns.order == "vectors"
    lanes = block.lanes(body.dtype)
    text = render(
        "c/contraction.c.jinja",
        title=routine.title, name=routine.name, parameters=parameters, type=TYPES[body.dtype],
        mask_type="int32_t" if size == 4 else "int64_t",
        vector_bytes=block.vector_bytes, alignment=size, lanes=lanes,
        rows=rows, columns=columns, depth=_count(body.depth), batch=_count(body.batch),
        row_block=body.row_block, panels=body.column_panels, mr=block.rows, nr=nr,
        cut=body.cut, extent=extent, inner=inner, pieces=body.pieces,
        blocks=_count(body.depth[: body.split]) * -(-extent // body.cut),
        transpose=transpose_lines(body.columns, lanes, "NR") if turned else [],
        columns_type=TYPES[_stored_type(body.columns)], halves=has_halves(routine),
        dots=dots,
        halving=[1 << n for n in reversed(range(lanes.bit_length() - 1))],
        micro=_dot_kernel(block, body) if dots else _micro_kernel(body, lanes),
        stream_results=bool(body.lines), at_once=at_once(body),
        in_registers=in_registers(body, lanes), neighbours=_neighbours(body),
        fetch_columns=fetch_columns(body, body.cut * inner * nr * size),
        packed_bytes=packed, shared_bytes=shared, private_bytes=private,
        **_panel_words(body), **_parts(body, block), **in_place_words(body),
    )  # fmt: skip
    return text, shared, private


def _inner_depth(body: Contraction, lanes: int) -> int:
    """The depth of one step of the axis that is cut, in whole vectors beside a strip."""
    axes = body.depth[body.split + 1 :]
    if body.strip is None or body.columns.order != "vectors" or not axes:
        return _count(axes)
    return _count(axes[:-1]) * -(-axes[-1].extent // lanes) * lanes


def _panel_words(body: Contraction) -> dict[str, object]:
    """What the template says of the panels' elements, and of the pairs that they may lie in."""
    paired = has_pairs(body)
    vectors = body.rows.order == "vectors"
    plain = "[depth / 2][MR][2]" if paired else "[depth][MR]"
    dots = body.columns.order == "vectors"
    after = "mine + TILE * (1 + LANES)" if dots else "mine + TILE"
    return {
        "pairs": paired,
        "panel_type": TYPES[body.panel],
        "block_depth": "(CUT * INNER + 1) / 2 * 2" if paired else "CUT * INNER",
        "row_form": "[depth / LANES][MR][LANES]" if vectors else plain,
        "column_form": "[depth / LANES][NR][LANES]" if dots else plain.replace("MR", "NR"),
        "line_panels": body.line_panels,
        "after_tile": f"({TYPES[body.panel]} *)({after})" if paired else after,
    }


def has_pairs(body: object) -> bool:
    """Whether a routine multiplies pairs of bfloat16 numbers."""
    return isinstance(body, Contraction) and body.panel.is_half


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
    panel, paired = body.panel.size, has_pairs(body)
    row_panels = -(-_count(body.rows.lanes) // block.rows)
    column_panels = -(-_count(body.columns.lanes) // nr)
    depth, batch = _count(body.depth), _count(body.batch)
    row_block = -(-body.row_block // block.rows) * block.rows
    tile = 0 if in_registers(body, block.lanes(body.dtype)) else row_block * body.column_panels * nr
    packed = {"rows": row_panels * block.rows, "columns": column_panels * nr, "none": 0}
    dots = body.columns.order == "vectors"
    private = tile * size * (1 + block.lanes(body.dtype) if dots else 1)
    if paired:  # every block of the depth is a whole number of pairs
        block_depth += block_depth % 2
        depth = _count(body.depth[: body.split]) * -(-body.depth[body.split].extent // body.cut)
        depth *= block_depth
        private += max(block.rows, nr) * block_depth * panel
    if body.strip is not None:
        private += (body.strip.size + nr) * size  # the last vectors may reach past it
    if body.resident != "rows" and (body.strip is None or body.columns_in_strip):
        private += row_block * block_depth * panel
    if body.resident != "columns" and body.in_place is None and not body.columns_in_strip:
        private += body.column_panels * nr * block_depth * panel
    tasks = (
        batch
        * -(-_count(body.rows.lanes) // body.row_block)
        * -(-column_panels // body.column_panels)
    )
    partial = body.pieces * tasks * tile if body.pieces > 1 else 0
    return (
        _round(batch * packed[body.resident] * depth * panel),
        _round(partial * size),
        _round(private),
    )


@dataclass(frozen=True)
class _MicroKernel:
    """Lines of the register-blocked kernel; every accumulator has a name of its own."""

    loops: list[str]
    zero: list[str]
    load: str
    multiply: list[str]
    add: list[str]
    store: list[str]


def _micro_kernel(body: Contraction, lanes: int) -> _MicroKernel:
    rows, vectors = range(body.register.rows), range(body.register.vectors)
    rows_are_vectors, paired = body.rows.order == "vectors", has_pairs(body)
    kind, wide, step = ("gc_pairs", 2 * lanes, 2) if paired else ("vector", lanes, 1)
    places = [f"{v} * ACROSS" if body.in_place is not None else v * wide for v in vectors]
    loads = ", ".join(f"b{v} = *(const {kind} *)(b + {at})" for v, at in enumerate(places))
    if body.line_panels:
        loads = loads.replace("(b + ", "(b + *at + lane * RUN_STEP + ")
    scalar = "a[{r} * LANES + lane]" if rows_are_vectors else "a[{r}]"
    if body.strip is not None and not body.columns_in_strip:
        scalar = "from{r}[*at + lane * RUN_STEP]"
    if _neighbours(body):
        scalar = "from0[*at + lane * RUN_STEP + {r} * LANE_STEP]"
    if paired:
        place = "{r} * LANES + lane" if rows_are_vectors else "{r} * 2"
        scalar = f"*(const gc_pair *)(a + {place})"
    product = "c{r}_{v} = gc_dot_bf16(c{r}_{v}, {a}, b{v})" if paired else "c{r}_{v} += {a} * b{v}"

    def filled(text: str, r: int, v: int) -> str:
        place = f"(tile + {r} * TILE_WIDTH + {v * lanes})"
        return text.format(r=r, v=v, a=scalar.format(r=r), place=place)

    def each(text: str, separator: str = "; ") -> list[str]:
        return [separator.join(filled(text, r, v) for v in vectors) + ";" for r in rows]

    return _MicroKernel(
        zero=[f"vector {line}" for line in each("c{r}_{v} = {{0}}", ", ")],
        loops=_run_loops(body, body.strip) if body.strip else _depth_loops(rows_are_vectors, step),
        load=f"const {kind} {loads};",
        multiply=each(product),
        add=each("c{r}_{v} += *(vector *){place}"),
        store=each("*(vector *){place} = c{r}_{v}"),
    )


def _neighbours(body: Contraction) -> bool:
    """Whether one pointer reads the rows of a block: they lie in one line of a strip."""
    strip = None if body.columns_in_strip else body.strip
    return strip is not None and strip.box[-1].extent % body.register.rows == 0


def _dot_kernel(block: BlockSizes, body: Contraction) -> _MicroKernel:
    """Every accumulator is a vector of depth, added up at the end."""
    rows, columns = range(block.rows), range(block.vectors)
    place, step = "b + {n} * LANES", ", b += NR * LANES"
    if body.in_place is not None:
        place, step = "b + column{n}", ", b += LANES"
    if body.strip is not None:
        place, step = "from{n} + *at + lane", ""
    load = _dot_loads([place.format(n=n) for n in columns], body, block.lanes(body.dtype))
    loops = [f"for (long k = 0; k < depth; k += LANES, a += MR * LANES{step}) {{"]
    if body.strip is not None:
        loops = [_RUNS, "  for (long lane = 0; lane < RUN; lane += LANES, a += MR * LANES) {"]

    def each(text: str, separator: str = "; ") -> list[str]:
        return [separator.join(text.format(r=r, n=n) for n in columns) + ";" for r in rows]

    products = each("c{r}_{n} += a{r} * b{n}")
    sums = "*(vector *)(tile + ({r} * TILE_WIDTH + {n}) * LANES)"
    return _MicroKernel(
        loops=loops,
        zero=[f"vector {line}" for line in each("c{r}_{n} = {{0}}", ", ")],
        load=load,
        multiply=[
            f"const vector a{r} = *(const vector *)(a + {r} * LANES); {line}"
            for r, line in zip(rows, products, strict=True)
        ],
        add=each(f"c{{r}}_{{n}} += {sums}"),
        store=each(f"{sums} = c{{r}}_{{n}}"),
    )


def _dot_loads(places: Sequence[str], body: Contraction, lanes: int) -> str:
    """The vectors of the columns; zeros where the last one of a run is not filled."""
    vectors = [f"*(const vector *)({place})" for place in places]
    rest = body.depth[-1].extent % lanes if body.strip is not None else 0
    before = ""
    if rest:
        whole, part = (["-1"] * n + ["0"] * (lanes - n) for n in (lanes, rest))
        choice = f"(mask){{{', '.join(part)}}} : (mask){{{', '.join(whole)}}}"
        before = f"const mask inside = lane + LANES > RUN ? {choice}; "
        vectors = [f"(vector)((mask){vector} & inside)" for vector in vectors]
    return f"{before}const vector {', '.join(f'b{n} = {v}' for n, v in enumerate(vectors))};"


def _depth_loops(rows_are_vectors: bool, step: int) -> list[str]:
    """The loop over the depth, ``step`` numbers at a time."""
    add, mr, nr = (
        ("++", "MR", "NR") if step == 1 else (f" += {step}", f"{step} * MR", f"{step} * NR")
    )
    if not rows_are_vectors:
        return [f"for (long k = 0; k < depth; k{add}, a += {mr}, b += {nr}) {{"]
    return [
        "for (long k = 0; k < depth; k += LANES, a += MR * LANES)",
        "  #pragma GCC unroll 4",
        f"  for (long lane = 0; lane < LANES; lane{add}, b += {nr}) {{",
    ]


def _run_loops(body: Contraction, strip: Strip) -> list[str]:
    """The loop over runs of the depth, and over the products of one."""
    steps = "b += NR" if body.in_place is None else "b += STEP, ahead += STEP"
    steps = "a += MR" if body.line_panels else steps
    return [
        _RUNS,
        f"  #pragma GCC unroll {run_unroll(strip.run.extent)}",
        f"  for (long lane = 0; lane < RUN; lane++, {steps}) {{",
    ]


def _count(axes: Sequence[Axis]) -> int:
    return element_count(tuple(a.extent for a in axes))


def _round(size: int) -> int:
    return -(-size // PAGE) * PAGE


@dataclass(frozen=True)
class _Resident:
    """The factor that is packed once: its name, width and number of panels, and the loops.

    In pairs it is packed by blocks of the depth: ``outer_depth`` says which one, ``target`` where.
    """

    name: str
    width: str
    panels: str
    batch: list[str]
    outer_depth: list[str]
    target: str
    pack: list[str]


@dataclass(frozen=True)
class _Side:
    """What one factor is called: width, number and count of its panels; and where a panel lies.

    A thread's own panels are ``mine``; ``staged`` ones are packed aside first, then paired.
    """

    pack: Pack
    width: str
    count: str
    panels: str
    mine: str
    size: int
    staged: bool

    def packing(self, heads: Sequence[str], depth: str, place: str, lanes: int) -> list[str]:
        """The loops that fill the panel at ``place``."""
        lines = pack_lines(self.pack, heads, self.width, self.count, depth, lanes, self.size)
        return [*lines, f"pair(block, {self.width}, staged, {place});"] if self.staged else lines


def _sides(body: Contraction) -> dict[str, _Side]:
    rows, columns, paired = body.rows, body.columns, has_pairs(body)
    return {
        "rows": _Side(
            rows, "MR", "ROWS", "ROW_PANELS", "my_rows + panel * BLOCK_DEPTH * MR",
            body.register.rows, paired and rows.order != "vectors",
        ),
        "columns": _Side(
            columns, "NR", "COLUMNS", "COLUMN_PANELS", "my_columns + panel * BLOCK_DEPTH * NR",
            body.register_columns, paired and columns.order != "transposed",
        ),
    }  # fmt: skip


def _depth_heads(body: Contraction) -> tuple[list[str], list[str]]:
    """The loops over the whole depth, and over one block of it."""
    whole = [f"for (long {a.name} = 0; {a.name} < {a.extent}; {a.name}++)" for a in body.depth]
    cut = body.depth[body.split].name
    first = f"for (long {cut} = cut_start; {cut} < cut_stop; {cut}++)"
    return whole, [first, *whole[body.split + 1 :]]


def _resident_part(body: Contraction, lanes: int) -> _Resident | None:
    """The loops that pack a factor once: whole, or in pairs block by block."""
    if body.resident == "none":
        return None
    side = _sides(body)[body.resident]
    place = f"packed + (panel * BLOCKS + number) * BLOCK_DEPTH * {side.width}"
    whole, block = _depth_heads(body)
    heads, depth = (block, "block") if has_pairs(body) else (whole, "DEPTH")
    lines = side.packing(heads, depth, place, lanes)
    text = "\n".join(lines)
    return _Resident(
        body.resident, side.width, side.panels,
        decode_lines(f"panel / {side.panels}", body.batch, text),
        decode_lines("number / CUTS", body.depth[: body.split], text),
        "staged" if side.staged else place, lines,
    )  # fmt: skip


def _parts(body: Contraction, block: BlockSizes) -> dict[str, object]:
    """The generated loops that the template sets into its frame."""
    lanes, sides = block.lanes(body.dtype), _sides(body)
    _, heads = _depth_heads(body)
    unpacked = {body.resident, "columns" if body.in_place else ""}
    if body.strip is not None:
        unpacked.add("columns" if body.columns_in_strip else "rows")
    rows, columns = (
        side.packing(heads, "block", side.mine, lanes) if name not in unpacked else []
        for name, side in sides.items()
    )
    epilogue = epilogue_lines(body, lanes)
    skip = " && ".join(condition_text(c) for c in body.skip)
    strip = strip_words(body)
    used = "\n".join([*rows, *columns, *strip["copy_strip"], skip])
    own = used if body.pieces > 1 else "\n".join([used, *epilogue])
    done = "BLOCKS + number) * BLOCK_DEPTH" if has_pairs(body) else "DEPTH + done)"
    top = "row" if body.in_place is not None and body.strip is None else "top"
    shared = f"packed + ((batch_number * {{panels}} + {{panel}}) * {done} * {{width}}"
    return {
        "resident": _resident_part(body, lanes),
        "batch_of_task": decode_lines("batch_number", body.batch, own),
        "batch_of_sum": decode_lines("batch_number", body.batch, "\n".join(epilogue)),
        "outer_depth": decode_lines("number / CUTS", body.depth[: body.split], used),
        "skip": skip,
        "pack_rows": rows,
        "pack_columns": columns,
        "row_target": "staged" if sides["rows"].staged else sides["rows"].mine,
        "column_target": "staged" if sides["columns"].staged else sides["columns"].mine,
        "row_panel": f"my_rows + {top} * BLOCK_DEPTH"
        if rows
        else shared.format(panels="ROW_PANELS", panel=f"(first_row + {top}) / MR", width="MR"),
        "next_rows": fetch_rows(body, shared, has_pairs(body)),
        "column_panel": sides["columns"].mine
        if columns
        else shared.format(panels="COLUMN_PANELS", panel="first_panel + panel", width="NR"),
        "epilogue": epilogue,
        **strip,
    }
