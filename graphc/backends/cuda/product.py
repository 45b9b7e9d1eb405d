"""A grid product as a CUDA kernel: copies into stages of shared memory, products, an epilogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphc.backends.cuda.copies import Copy
from graphc.backends.cuda.fragments import fetch_lines, spill_lines
from graphc.backends.cuda.mapping import TYPES
from graphc.backends.cuda.nest import nest_text, parameter_list
from graphc.backends.cuda.printer import CudaPrinter, words
from graphc.backends.cuda.tile_sums import SumLines, sum_lines
from graphc.backends.templating import render
from graphc.ir.boxes import BoxProduct
from graphc.ir.grid import GridProduct, Operand, ProductTile, Team
from graphc.ir.loops import Parameter
from graphc.ir.routine import Routine
from graphc.ir.types import Axis, element_count
from graphc.lower.products import SUMS_PADDING
from graphc.lower.tile_sums import PARTIAL

_LINE = 128  # bytes of a line of a tile that runs along the depth
_SHARED, _RESERVED = 164 << 10, 1 << 10  # bytes of an sm_80's multiprocessor, and of each block
_REGISTERS = 1 << 16  # of a multiprocessor
_SPARE = {"fma": 64, "tf32": 128, "bf16": 96, "f16": 96}  # registers beside a thread's sums


@dataclass(frozen=True)
class ProductSource:
    """The text, how the product is launched, and the kernel that follows it."""

    text: str
    parameters: tuple[Parameter, ...]
    grid: tuple[int, int, int]
    threads: int
    shared_bytes: int
    workspace: int
    second: SecondKernel | None


@dataclass(frozen=True)
class SecondKernel:
    """What follows a product: the sum of its pieces, or of its tiles; it reads the workspace."""

    text: str
    parameters: tuple[Parameter, ...]
    blocks: int
    threads: int


@dataclass(frozen=True)
class _SideLines:
    name: str
    note: str
    prepare: Sequence[str]
    load: Sequence[str]
    fetch: Sequence[str]


def product_source(routine: Routine, product: GridProduct) -> ProductSource:
    """CUDA text of a product, and how it is launched."""
    tile, dtype = product.tile, product.dtype
    m, n, k = (_extent(axes) for axes in (product.rows.axes, product.columns.axes, product.depth))
    batch = _extent(product.batch)
    printer = CudaPrinter(Team(1, tile.threads, "outputs"), wide=product.wide, whole=True)
    axes = (*product.batch, *product.depth, *product.rows.axes, *product.columns.axes)
    printer.extents |= {a.name: a.extent for a in (*axes, *product.out_rows, *product.out_columns)}
    steps = -(-k // tile.depth)
    sides = [
        _side(printer, product, product.rows, "rows", m, k),
        _side(printer, product, product.columns, "columns", n, k),
    ]
    epilogue = _epilogue_lines(printer, product)
    windows = _window_lines(printer, product)
    used = words([*epilogue, *windows, *(line for s in sides for line in (*s.prepare, *s.load))])
    grid = (-(-m // tile.rows) * -(-n // tile.columns), batch, product.pieces)
    sums = tile.rows * (tile.columns + SUMS_PADDING) * dtype.size
    shared = max(sums, tile.stages * (tile.rows + tile.columns) * _LINE)
    second = second_kernel(routine, product)
    parameters = tuple(_parameters(product, routine.parameters))
    sum_words = _sum_lines(printer, product, m, n)
    fma = tile.multiply == "fma"
    vector, mma_depth = 16 // product.factor.size, 32 // product.factor.size
    text = render(
        "cuda/product.cu.jinja", title=routine.title, reason=product.reason, name=routine.name,
        parameters=parameter_list(parameters), threads=tile.threads, tile=tile,
        together=_together(tile, shared),
        type=TYPES[product.factor], index=printer.index, column_tiles=-(-n // tile.columns),
        steps=steps,
        batch=_batch_lines(printer, product, used), pieces=product.pieces > 1,
        steps_of_piece=-(-steps // product.pieces), rows=sides[0], columns=sides[1], fma=fma,
        vector=vector, product="a[i][lane] * b[j][lane]", mma=f"gc_mma_{tile.multiply}",
        mma_depth=mma_depth, summed=_summed(k, tile.depth, vector if fma else mma_depth),
        sum_type=TYPES[dtype], spill=spill_lines(product), lanes=product.lanes,
        **_places(tile, m, n, 1, epilogue), epilogue=epilogue, windows=windows,
        **_window_places(product, m, n, windows), padding=SUMS_PADDING, sums=sum_words,
        finish=second.text if second is not None else "",
    )  # fmt: skip
    results = product.pieces * batch * m * n
    return ProductSource(
        text, parameters, grid, tile.threads, shared, workspace_bytes(product, results), second
    )


def _together(tile: ProductTile, shared: int) -> int:
    """Blocks that shared memory, and the registers that their threads need, let run together."""
    registers = tile.rows * tile.columns + _SPARE[tile.multiply] * tile.threads
    return max(1, min(_SHARED // (shared + _RESERVED), _REGISTERS // registers))


def _summed(terms: int, depth: int, together: int) -> str:
    """How many terms of a step are multiplied; of a sum that is one step, not what lies beyond."""
    used = -(-terms // together) * together
    return "DEPTH" if used >= depth else str(used)


def workspace_bytes(product: GridProduct | BoxProduct, results: int) -> int:
    """Memory of partial sums: so many ``results`` of pieces, or those of tiles."""
    if product.sums is not None:
        return product.sums.partial_sums * product.dtype.size
    return results * product.dtype.size if product.finish is not None else 0


def _parameters(product: GridProduct, parameters: Sequence[Parameter]) -> list[Parameter]:
    """Arrays of the first kernel, with those that the epilogue touches where it is there."""
    partial = Parameter(PARTIAL, product.dtype, True)
    if product.sums is not None:
        return [*(p for p in parameters if p.name != product.sums.buffer), partial]
    return [*_read(product, parameters), partial] if product.finish is not None else [*parameters]


def _read(product: GridProduct, parameters: Sequence[Parameter]) -> list[Parameter]:
    """The parameters that the copies read; the epilogue's are those of the second kernel."""
    texts = [repr(side.value) for side in (product.rows, product.columns)]
    names = {product.rows.buffer, product.columns.buffer}
    return [
        Parameter(p.name, p.dtype, False)
        for p in parameters
        if p.name in names or any(f"buffer={p.name!r}" in text for text in texts)
    ]


def second_kernel(routine: Routine, product: GridProduct | BoxProduct) -> SecondKernel | None:
    """The kernel that adds up pieces of the depth, or partial sums of tiles, in order."""
    own, title, nest = (
        routine.parameters,
        "The sum of the pieces, and what follows it.",
        product.finish,
    )
    if product.sums is not None:
        own = tuple(p for p in own if p.name == product.sums.buffer)
        title, nest = "The sum of the sums of all tiles.", product.sums.nest
    if nest is None:
        return None
    parameters = (*own, Parameter(PARTIAL, product.dtype, False))
    text, blocks = nest_text(f"{routine.name}_finish", (title,), parameters, nest)
    return SecondKernel(text, own, blocks, nest.team.threads)


def _sum_lines(printer: CudaPrinter, product: GridProduct, m: int, n: int) -> SumLines | None:
    """How the tile is added up where a sum follows."""
    sums, tile, kind = product.sums, product.tile, printer.index
    if sums is None:
        return None
    across, down = -(-n // tile.columns), -(-m // tile.rows)
    if sums.over == "rows":
        name, extent, size = "column", n, tile.columns
        number = f"(int)blockIdx.x / {across}" if across > 1 else "(int)blockIdx.x"
    else:
        name, extent, size = "row", m, tile.rows
        number = f"(int)blockIdx.x % {across}" if across > 1 else "0"
    before = f"(int)blockIdx.y * {down if sums.over == 'rows' else across} + "
    places = [
        f"const {kind} {name} = first_{name}s + tile_{name};",
        f"const {kind} tile = {before if _extent(product.batch) > 1 else ''}{number};",
    ]
    return sum_lines(
        sums, "tile", ("ROWS", "COLUMNS"), product.lanes, places,
        f"{PARTIAL}[{name} * {sums.parts} + tile]", f"{name} < {extent}" if extent % size else "",
    )  # fmt: skip


def _batch_lines(printer: CudaPrinter, product: GridProduct, used: set[str]) -> list[str]:
    """Which product of the batch a block computes."""
    flat = "batch_number"
    lines = [f"const {printer.index} {flat} = ({printer.index})blockIdx.y;"]
    decoded = printer.decode_lines(flat, product.batch, used, 0)
    return [*lines, *decoded] if decoded or flat in used else []


def _places(tile: ProductTile, m: int, n: int, size: int, lines: Sequence[str]) -> dict[str, str]:
    """Which row, of ``size`` of the matrix each, and column of it lines are for, where they say so;
    and which lie outside, where tiles overhang.
    """
    overhangs = {"row": m % tile.rows and m // size, "column": n % tile.columns and n}
    tests = [f"{name} >= {extent}" for name, extent in overhangs.items() if extent]
    first = "first_rows" if size == 1 else f"first_rows / {size}"
    used = words([*lines, *tests])
    parts = (("row", f"{first} + tile_row"), ("column", "first_columns + tile_column"))
    located = ", ".join(f"{name} = {value}" for name, value in parts if name in used)
    return {"located": located, "edges": " || ".join(tests)}


def _window_places(product: GridProduct, m: int, n: int, lines: Sequence[str]) -> dict[str, object]:
    """The same for windows of rows."""
    size = product.windows.size if product.windows is not None else 1
    places = _places(product.tile, m, n, size, lines)
    return {"window": size, **{f"window_{name}": text for name, text in places.items()}}


def _window_lines(printer: CudaPrinter, product: GridProduct) -> list[str]:
    """What happens to windows of finished elements, with the axes that it names."""
    windows = product.windows
    if windows is None:
        return []
    for axis in (*windows.rows, *windows.columns):
        printer.extents[axis.name] = axis.extent
    lines = printer.statement_lines(windows.statements, 2)
    used = words(lines)
    decoded = printer.decode_lines("row", windows.rows, used, 2)
    decoded += printer.decode_lines("column", windows.columns, used, 2)
    return [*decoded, *lines]


def _side(
    printer: CudaPrinter, product: GridProduct, operand: Operand, name: str, extent: int, depth: int
) -> _SideLines:
    """The lines that copy one factor's tile, and that fetch it into registers."""
    tile = product.tile
    size = tile.rows if name == "rows" else tile.columns
    width = operand.width or 1
    runs = tile.depth if operand.along == "depth" else size  # elements of a line of the tile
    lines = size if operand.along == "depth" else tile.depth
    chunks = runs // width  # copies of a line
    passes = lines * chunks // tile.threads
    copy = Copy(
        printer, product, operand, name, size, extent, depth, width, chunks,
        tile.threads // chunks, passes,
    )  # fmt: skip
    words_ = {"depth": "neighbours of the depth", "outer": "neighbours along its own axes"}
    note = f"{width} {words_[operand.along]} at once" if width > 1 else "one element at once"
    return _SideLines(
        name, note, copy.prepare_lines(), copy.load_lines(), fetch_lines(product, name)
    )


def _epilogue_lines(printer: CudaPrinter, product: GridProduct) -> list[str]:
    """What happens to finished elements, with the axes that it names."""
    lines = printer.statement_lines(product.epilogue, 2)
    used = words(lines)
    decoded = printer.decode_lines("row", product.out_rows, used, 2)
    decoded += printer.decode_lines("column", product.out_columns, used, 2)
    return [*decoded, *lines]


def _extent(axes: Sequence[Axis]) -> int:
    return element_count(tuple(a.extent for a in axes))
