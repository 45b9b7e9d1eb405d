"""A grid product as a CUDA kernel: copies into stages of shared memory, products, an epilogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphc.backends.cuda.copies import Copy
from graphc.backends.cuda.fragments import fetch_lines, spill_lines
from graphc.backends.cuda.mapping import TYPES
from graphc.backends.cuda.nest import nest_text, parameter_list
from graphc.backends.cuda.printer import CudaPrinter, words
from graphc.backends.templating import render
from graphc.ir.grid import GridProduct, Operand, ProductTile, Team
from graphc.ir.loops import Parameter
from graphc.ir.routine import Routine
from graphc.ir.types import Axis, element_count
from graphc.lower.products import PARTIAL, SUMS_PADDING

_LINE = 128  # bytes of a line of a tile that runs along the depth


@dataclass(frozen=True)
class ProductSource:
    """The text, how the product is launched, and blocks and threads of the sum of its pieces."""

    text: str
    parameters: tuple[Parameter, ...]
    grid: tuple[int, int, int]
    threads: int
    shared_bytes: int
    workspace: int
    finish: tuple[int, int] | None


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
    stages = tile.stages * (tile.rows + tile.columns) * _LINE
    text_of_finish, finish_blocks = _finish(routine, product)
    parameters = routine.parameters
    if product.finish is not None:
        parameters = (*_read(product, parameters), Parameter(PARTIAL, dtype, True))
    fma = tile.multiply == "fma"
    text = render(
        "cuda/product.cu.jinja", title=routine.title, reason=product.reason, name=routine.name,
        parameters=parameter_list(parameters), threads=tile.threads, tile=tile,
        type=TYPES[product.factor], index=printer.index, column_tiles=-(-n // tile.columns),
        steps=steps,
        batch=_batch_lines(printer, product, used), pieces=product.pieces > 1,
        steps_of_piece=-(-steps // product.pieces), rows=sides[0], columns=sides[1], fma=fma,
        vector=16 // product.factor.size, product="a[i][lane] * b[j][lane]",
        mma=f"gc_mma_{tile.multiply}", mma_depth=32 // product.factor.size,
        sum_type=TYPES[dtype], spill=spill_lines(product), lanes=product.lanes,
        **_places(tile, m, n, 1, epilogue), epilogue=epilogue, windows=windows,
        **_window_places(product, m, n, windows), padding=SUMS_PADDING, finish=text_of_finish,
    )  # fmt: skip
    workspace = product.pieces * batch * m * n * dtype.size if product.finish is not None else 0
    finish = None if product.finish is None else (finish_blocks, product.finish.team.threads)
    return ProductSource(
        text, tuple(parameters), grid, tile.threads, max(sums, stages), workspace, finish
    )


def _read(product: GridProduct, parameters: Sequence[Parameter]) -> list[Parameter]:
    """The parameters that the copies read; the epilogue's are those of the second kernel."""
    texts = [repr(side.value) for side in (product.rows, product.columns)]
    names = {product.rows.buffer, product.columns.buffer}
    return [
        Parameter(p.name, p.dtype, False)
        for p in parameters
        if p.name in names or any(f"buffer={p.name!r}" in text for text in texts)
    ]


def _finish(routine: Routine, product: GridProduct) -> tuple[str, int]:
    if product.finish is None:
        return "", 0
    parameters = (*routine.parameters, Parameter(PARTIAL, product.dtype, False))
    title = ("The sum of the pieces, and what follows it.",)
    return nest_text(f"{routine.name}_finish", title, parameters, product.finish)


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
