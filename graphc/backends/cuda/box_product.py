"""A product by boxes as a CUDA kernel: tensor copies ahead, products of four warps, an epilogue."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from graphc.backends.cuda.mapping import TYPES
from graphc.backends.cuda.nest import parameter_list
from graphc.backends.cuda.printer import CudaPrinter, words
from graphc.backends.cuda.product import ProductSource, second_kernel, workspace_bytes
from graphc.backends.cuda.tile_sums import SumLines, sum_lines
from graphc.backends.templating import render
from graphc.ir.boxes import FINISHED_COLUMNS, LINE_BYTES, BoxOperand, BoxProduct, BoxWindows, Span
from graphc.ir.grid import Team
from graphc.ir.index import axis_index
from graphc.ir.layout import row_major
from graphc.ir.loops import Parameter
from graphc.ir.routine import Routine
from graphc.ir.types import Axis, DType, element_count
from graphc.lower.tile_sums import PARTIAL
from graphc.schedule.box_tiles import SUMS_LINE, finishing_bytes
from graphc.schedule.product_tiles import MULTIPROCESSORS

_TURNED_STEP, _STRAIGHT_STEP = LINE_BYTES, 2  # bytes from one step of the depth to the next


@dataclass(frozen=True)
class Budget:
    """Registers of a thread of those who copy, and of those who multiply."""

    producer: int
    consumer: int


_BUDGETS = {2: Budget(40, 232)}  # by groups that multiply; 168 each are given to three groups


_RELEASE = (  # alone, in a cluster
    "gc_mbarrier_arrive(empty + before)",
    "gc_mbarrier_arrive_at(empty + before, thread % 128)",
)


@dataclass(frozen=True)
class BoxSource:
    """What a tensor map is made of: parts of one buffer, sizes in elements, slowest first."""

    buffer: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]


@dataclass(frozen=True)
class _SideLines:
    name: str
    copies: tuple[str, ...]
    turned: str
    step: int


def box_product_source(
    routine: Routine, product: BoxProduct
) -> tuple[ProductSource, tuple[BoxSource, ...]]:
    """CUDA text of a product, how it is launched, and the tensor maps that it takes first."""
    tile, sides = product.tile, (product.rows, product.columns)
    printer = CudaPrinter(Team(1, tile.threads, "outputs"), wide=product.wide, whole=True)
    for span in (*product.depth, *product.rows.spans, *product.columns.spans):
        printer.extents |= {span.axis.name: span.axis.extent, span.first: span.axis.extent}
    printer.extents |= {a.name: a.extent for a in product.batch} | {"rank": tile.cluster}
    lines = [_side(printer, product, s, n) for s, n in zip(sides, ("rows", "columns"), strict=True)]
    epilogue = printer.statement_lines(product.epilogue, 5)
    edges = _edges(sides)
    axes = _element_lines(printer, sides, words([*epilogue, edges]), _PLACES)
    windows = _window_lines(printer, product)
    sums = _sum_lines(printer, product)
    summed = [*sums.places, sums.first, sums.target] if sums is not None else []
    finished = words([*epilogue, *axes, *windows, *summed])
    copied = words([*lines[0].copies, *lines[1].copies])
    tiles = product.pieces * _count(product.batch) * product.rows.tiles * product.columns.tiles
    parameters = _parameters(routine, product, finished)
    second = second_kernel(routine, product)
    text = render(
        "cuda/box_product.cu.jinja", title=routine.title, reason=product.reason, name=routine.name,
        parameters=_declared(product, parameters), threads=tile.threads, tile=tile,
        part=FINISHED_COLUMNS, sums_line=SUMS_LINE, budget=_BUDGETS.get(tile.groups), tiles=tiles,
        copied_tile=_tile_lines(printer, product, copied),
        finished_tile=_tile_lines(printer, product, finished),
        depth=_span_lines("step", product.depth), rows=lines[0], columns=lines[1],
        sum_type=TYPES[product.dtype], cluster=tile.cluster > 1, release=_RELEASE[tile.cluster > 1],
        multiply="gc_wgmma_bf16" if product.factor is DType.bfloat16 else "gc_wgmma_f16",
        lanes=product.lanes, axes=axes, edges=edges, epilogue=epilogue, windows=windows,
        window=product.windows.count if product.windows is not None else 1, sums=sums,
        finish=second.text if second is not None else "",
    )  # fmt: skip
    shared = tile.stages * ((tile.rows + tile.columns) * LINE_BYTES + 16)
    results = product.pieces * _count(product.batch) * _results(product)
    source = ProductSource(
        text, parameters, (min(tiles, MULTIPROCESSORS), 1, 1), tile.threads,
        shared + finishing_bytes(tile.groups), workspace_bytes(product, results), second,
    )  # fmt: skip
    return source, tuple(map(_box_source, sides))


def _declared(product: BoxProduct, parameters: tuple[Parameter, ...]) -> str:
    maps = (product.rows.tensor_map, product.columns.tensor_map)
    charts = [f"const __grid_constant__ gc_tensor_map {name}" for name in maps]
    return ", ".join([*charts, parameter_list(parameters)])


def _parameters(routine: Routine, product: BoxProduct, used: set[str]) -> tuple[Parameter, ...]:
    """What the epilogue touches: its arrays, and the partial sums of tiles or of pieces."""
    found = [p for p in routine.parameters if p.name in used]
    partial = Parameter(PARTIAL, product.dtype, True)
    if product.sums is not None:
        return (*found, partial)
    return (partial,) if product.finish is not None else tuple(found)


def _box_source(side: BoxOperand) -> BoxSource:
    dimensions = side.dimensions
    return BoxSource(
        side.buffer, side.offset, tuple(d.extent for d in dimensions),
        tuple(d.stride for d in dimensions), tuple(d.box for d in dimensions),
    )  # fmt: skip


# ---- Where a tile lies -------------------------------------------------------------------------


def _tile_lines(printer: CudaPrinter, product: BoxProduct, used: Collection[str]) -> list[str]:
    """Which tile, product of the batch and piece a number means, and where it starts."""
    cluster = product.tile.cluster
    pair = f" * {cluster} + rank" if cluster > 1 else ""
    counts = [
        ("column_tile", product.columns.tiles, ""),
        ("row_tile", product.rows.tiles // cluster, pair),
        ("batch_number", _count(product.batch), ""),
        ("piece", product.pieces, ""),
    ]
    lines, below = [], cluster
    for number, (name, count, own) in enumerate(counts):
        rest = "tile" if below == 1 else f"tile / {below}"
        last = all(n == 1 for _, n, _ in counts[number + 1 :])
        lines.append(f"const int {name} = {_number(rest, count, last)}{own};")
        below *= count
    lines += _span_lines("row_tile", product.rows.spans)
    lines += _span_lines("column_tile", product.columns.spans)
    lines += [line.strip() for line in printer.decode_lines("batch_number", product.batch, used, 0)]
    steps = _tile_count(product.depth)
    if product.pieces == 1:
        return [*_used(lines, used), f"constexpr int start = 0, stop = {steps};"]
    bounds = f"start = piece * {product.steps}, stop = min(start + {product.steps}, {steps})"
    return [*_used(lines, {*used, "piece"}), f"const int {bounds};"]


def _number(rest: str, count: int, last: bool) -> str:
    if count == 1:
        return "0"
    return rest if last else f"{rest} % {count}"


def _used(lines: Sequence[str], used: Collection[str]) -> list[str]:
    """Declarations that a later line, or the rest of the kernel, names."""
    kept: list[str] = []
    known = set(used)
    for line in reversed(lines):
        name, _, value = line.removeprefix("const int ").partition(" = ")
        if name.split()[-1] in known:
            kept.append(line)
            known |= words([value])
    return kept[::-1]


def _span_lines(flat: str, spans: Sequence[Span]) -> list[str]:
    """Where the spans start, of the tile with this number."""
    lines, after = [], _tile_count(spans)
    for position, span in enumerate(spans):
        after //= span.tiles
        value = flat if after == 1 else f"{flat} / {after}"
        if position:
            value += f" % {span.tiles}"
        value = "0" if span.tiles == 1 else value
        size = f" * {span.size}" if span.size > 1 and span.tiles > 1 else ""
        lines.append(f"const int {span.first} = {value}{size};")
    return lines


def _tile_count(spans: Sequence[Span]) -> int:
    return element_count(tuple(span.tiles for span in spans))


# ---- Copies ------------------------------------------------------------------------------------


def _side(printer: CudaPrinter, product: BoxProduct, side: BoxOperand, name: str) -> _SideLines:
    """The copies of one factor's tile, and how products find its matrices."""
    outer, size = side.along == "outer", product.tile.depth * LINE_BYTES
    places = list(_line_places(side)) if outer else [{}]
    own = places[: len(places) // side.parts] if outer else places
    copies = tuple(
        _copy_line(printer, side, name, number * size, moved) for number, moved in enumerate(own)
    )
    step = _TURNED_STEP if outer else _STRAIGHT_STEP
    return _SideLines(name, copies, "true" if outer else "false", step)


def _line_places(side: BoxOperand) -> Iterator[dict[str, int]]:
    """Where each line of a tile along its own axes starts, from the first on, in their order."""
    size = side.dimensions[-1].box
    counts = [*(span.size for span in side.spans[:-1]), side.spans[-1].size // size]
    for number in range(element_count(tuple(counts))):
        places, rest = {}, number
        for span, count in zip(reversed(side.spans), reversed(counts), strict=True):
            unit = size if span is side.spans[-1] else 1
            places[span.first] = rest % count * unit
            rest //= count
        yield places


def _copy_line(
    printer: CudaPrinter, side: BoxOperand, name: str, byte: int, moved: dict[str, int]
) -> str:
    """One copy; where blocks of a cluster bring a part each, it goes to all of them."""
    values = {first: axis_index(first) + by for first, by in moved.items()}
    target = f"{name}_tile + {byte}" if byte else f"{name}_tile"
    wrapper, blocks = "gc_tma_load", ""
    if side.parts > 1:
        first, size = side.cut.first, side.cut.size // side.parts
        values[first] = values.get(first, axis_index(first)) + axis_index("rank") * size
        target += f" + rank * ({name.upper()}_BYTES / {side.parts})"
        wrapper, blocks = "gc_tma_multicast", f", {(1 << side.parts) - 1}"
    starts = [printer.index_text(d.start.substitute(values)) for d in reversed(side.dimensions)]
    places = f"full + stage{blocks}, {', '.join(starts)}"
    return f"{wrapper}_{len(starts)}d({target}, &{side.tensor_map}, {places});"


# ---- Elements ----------------------------------------------------------------------------------


_PLACES = {
    "tile_row": "group * OWN_ROWS + finished / PARTS * 64 + part_row",
    "tile_column": "finished % PARTS * PART + part_column",
}


def _element_lines(
    printer: CudaPrinter, sides: Sequence[BoxOperand], used: Collection[str],
    places: Mapping[str, str],
) -> list[str]:  # fmt: skip
    """Which element of the axes M and N a place in the tile is, as far as it is used."""
    lines = []
    for side, (flat, place) in zip(sides, places.items(), strict=True):
        own: list[str] = []
        after = element_count(tuple(span.size for span in side.spans))
        for position, span in enumerate(side.spans):
            after //= span.size
            value = flat if after == 1 else f"{flat} / {after}"
            value = f"{value} % {span.size}" if position else value
            value = f"{span.first} + {value}" if span.size > 1 else span.first
            if span.axis.name in used:
                own.append(f"const {printer.index} {span.axis.name} = {value};")
        lines += [f"const int {flat} = {place};", *own] if flat in words(own) else own
    return lines


def _window_lines(printer: CudaPrinter, product: BoxProduct) -> list[str]:
    """What happens to one window of finished elements, and which one it is."""
    windows, spans = product.windows, product.rows.spans
    if windows is None:
        return []
    printer.extents |= {axis.name: axis.extent for axis in windows.axes}
    edges = _window_edges(product, windows)
    body = printer.statement_lines(windows.statements, 0)
    used = words([*body, edges])
    rows: list[str] = []
    declared: list[str] = []
    below = element_count(tuple(span.size for span in spans))
    after = below // windows.count
    for span, size, axis in zip(spans, windows.sizes, windows.axes, strict=True):
        after, below = after // (span.size // size), below // span.size
        number = "window" if after == 1 else f"window / {after}"
        number = f"{number} % {span.size // size}" if rows else number
        rows.append(f"{number} * {size * below}")
        first = span.first if size == 1 else f"{span.first} / {size}"
        if axis.name in used:
            declared.append(f"const {printer.index} {axis.name} = {first} + {number};")
    column = {"tile_column": "finished % PARTS * PART + done % PART"}
    declared += _element_lines(printer, [product.columns], used, column)
    declared.append(f"const int tile_row = {' + '.join(rows)};")
    declared.append("const int place = tile_row % 64 * SUMS_LINE + done % PART;")
    leave = [f"if ({edges}) continue;"] if edges else []
    return [*declared, *leave, *body]


def _sum_lines(printer: CudaPrinter, product: BoxProduct) -> SumLines | None:
    """How a part of the tile that is finished at once is added up where a sum follows."""
    sums, places = product.sums, _PLACES
    if sums is None:
        return None
    over_rows = sums.over == "rows"
    side, flat = (product.columns, "tile_column") if over_rows else (product.rows, "tile_row")
    axes = tuple(span.axis for span in side.spans)
    place = row_major(tuple(a.extent for a in axes)).offset(tuple(axis_index(a.name) for a in axes))
    result, edges = printer.index_text(place), _edges([side])
    other = product.rows if over_rows else product.columns
    parts = sums.parts // (_count(product.batch) * other.tiles)
    number = "group * (OWN_ROWS / 64) + finished / PARTS" if over_rows else "finished % PARTS"
    tile = "row_tile" if over_rows else "column_tile"
    if _count(product.batch) > 1:
        tile = f"(batch_number * {other.tiles} + {tile})"
    lines = _element_lines(printer, [side], words([result, edges]), {flat: places[flat]})
    number = f"{tile} * {parts} + {number}" if parts > 1 else tile
    lines += [
        f"const {printer.index} result = {result};",
        f"const {printer.index} number = {number};",
    ]
    inside = f"!({edges})" if edges else ""
    return sum_lines(
        sums, "part", ("64", "PART"), product.lanes, lines,
        f"{PARTIAL}[result * {sums.parts} + number]", inside,
    )  # fmt: skip


def _window_edges(product: BoxProduct, windows: BoxWindows) -> str:
    pairs = [*zip(product.rows.spans, windows.axes, strict=True)]
    pairs += [(span, span.axis) for span in product.columns.spans]
    return " || ".join(
        f"{axis.name} >= {axis.extent}" for span, axis in pairs if span.axis.extent % span.size
    )


def _edges(sides: Sequence[BoxOperand]) -> str:
    """What lies outside of the axes, where tiles overhang."""
    spans = [span for side in sides for span in side.spans if span.axis.extent % span.size]
    return " || ".join(f"{span.axis.name} >= {span.axis.extent}" for span in spans)


def _results(product: BoxProduct) -> int:
    spans = (*product.rows.spans, *product.columns.spans)
    return element_count(tuple(span.axis.extent for span in spans))


def _count(axes: Sequence[Axis]) -> int:
    return element_count(tuple(a.extent for a in axes))
