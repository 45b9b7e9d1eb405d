"""A grid product as a CUDA kernel: copies into stages of shared memory, products, an epilogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphc.backends.cuda.mapping import TYPES
from graphc.backends.cuda.nest import nest_text, parameter_list
from graphc.backends.cuda.printer import CudaPrinter, words
from graphc.backends.templating import render
from graphc.ir.grid import GridProduct, Operand, ProductTile, Team
from graphc.ir.index import Index, collect
from graphc.ir.loops import Parameter
from graphc.ir.routine import Routine
from graphc.ir.scalar import Condition
from graphc.ir.types import Axis, element_count
from graphc.lower.products import PARTIAL

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
    used = words([*epilogue, *(line for s in sides for line in (*s.prepare, *s.load))])
    grid = (-(-m // tile.rows) * -(-n // tile.columns), batch, product.pieces)
    sums = tile.rows * (tile.columns + 8) * dtype.size
    stages = tile.stages * (tile.rows + tile.columns) * _LINE
    text_of_finish, finish_blocks = _finish(routine, product)
    parameters = routine.parameters
    if product.finish is not None:
        parameters = (*_read(product, parameters), Parameter(PARTIAL, dtype, True))
    fma = tile.multiply == "fma"
    text = render(
        "cuda/product.cu.jinja", title=routine.title, reason=product.reason, name=routine.name,
        parameters=parameter_list(parameters), threads=tile.threads, tile=tile, type=TYPES[dtype],
        index=printer.index, column_tiles=-(-n // tile.columns), steps=steps,
        batch=_batch_lines(printer, product, used), pieces=product.pieces > 1,
        steps_of_piece=-(-steps // product.pieces), rows=sides[0], columns=sides[1], fma=fma,
        vector=16 // dtype.size, product=_multiplied(product), mma="gc_mma_tf32", mma_depth=8,
        sum_type=TYPES[dtype], spill=_spill_lines(product), lanes=product.lanes,
        edges=_edges(tile, m, n), epilogue=epilogue, finish=text_of_finish,
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


def _edges(tile: ProductTile, m: int, n: int) -> str:
    """What lies outside of the matrix, where tiles overhang."""
    tests = []
    if m % tile.rows:
        tests.append(f"row >= {m}")
    if n % tile.columns:
        tests.append(f"column >= {n}")
    return " || ".join(tests)


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
    copy = _Copy(
        printer, product, operand, name, size, extent, depth, width, chunks,
        tile.threads // chunks, passes,
    )  # fmt: skip
    fetch = _fetch_fma if tile.multiply == "fma" else _fetch_tf32
    words_ = {"depth": "neighbours of the depth", "outer": "neighbours along its own axes"}
    note = f"{width} {words_[operand.along]} at once" if width > 1 else "one element at once"
    return _SideLines(name, note, copy.prepare_lines(), copy.load_lines(), fetch(product, name))


@dataclass(frozen=True)
class _Copy:
    """How the threads of a block share the copies of one tile: ``passes`` each, lines apart."""

    printer: CudaPrinter
    product: GridProduct
    operand: Operand
    name: str
    size: int
    extent: int
    depth: int
    width: int
    chunks: int
    apart: int
    passes: int

    @property
    def by_depth(self) -> bool:
        """Whether a thread's copies are different lines of M (or N) at one place of the depth."""
        return self.operand.along == "depth"

    @property
    def own_names(self) -> set[str]:
        """The axes that do not change with the step."""
        return {a.name for a in (*self.operand.axes, *self.product.batch)}

    def prepare_lines(self) -> list[str]:
        """What does not change with the step: the own axes' part of every index."""
        name, index = self.name, self.printer.index
        place = f" * {self.width}" if self.width > 1 else ""
        lines = [
            f"const int {name}_line = thread / {self.chunks};",
            f"const int {name}_place = thread % {self.chunks}{place};",
        ]
        first = f"first_{name[:-1]}"
        count = f"[{self.passes}]" if self.by_depth else ""
        parts = self._own_parts()
        declared = [f"{index} {name}_own_{n}{count};" for n in range(len(parts))]
        inside = self._overhangs()
        inside = inside and bool(self.operand.width)
        if inside:
            declared.append(f"bool {name}_inside{count};")
        flat = f"{first} + {name}_place"
        if self.by_depth:
            flat = f"{first} + {name}_line + copy * {self.apart}"
        at = "[copy]" if self.by_depth else ""
        body = [f"const {index} {name}_flat = {flat};"]
        own = {a for part in parts for a in part.names}
        body += self.printer.decode_lines(f"{name}_flat", self.operand.axes, own, 0)
        body += [
            f"{name}_own_{n}{at} = {self.printer.index_text(part)};" for n, part in enumerate(parts)
        ]
        if inside:
            body.append(f"{name}_inside{at} = {name}_flat < {self.extent};")
        if not declared:
            return lines
        if self.by_depth:
            loop = f"for (int copy = 0; copy < {self.passes}; copy++) {{"
            return [*lines, *declared, "#pragma unroll", loop, *_indented(body), "}"]
        return [*lines, *declared, "{", *_indented(body), "}"]

    def _overhangs(self) -> bool:
        return self.extent % self.size != 0

    def _own_parts(self) -> list[Index]:
        """The parts of the offset and of each condition that the own axes make."""
        if not self.operand.width:
            return []
        indexes = [self.operand.offset, *(c.index for c in self.operand.conditions)]
        return [self._split(index)[0] for index in indexes]

    def _split(self, index: Index) -> tuple[Index, Index]:
        """The part of an index that stays, and the part that moves with the depth."""
        names = self.own_names
        stays = [t for t in index.terms if _names(t[0]) <= names]
        moves = [t for t in index.terms if not _names(t[0]) <= names]
        return collect(stays, index.const), collect(moves, 0)

    def load_lines(self) -> list[str]:
        """The copies of one step."""
        name, index = self.name, self.printer.index
        at = f"{name}_line + copy * {self.apart}"
        body: list[str] = []
        depth_place = f"{name}_place" if self.by_depth else f"({at})"
        start = "step * DEPTH" if index == "int" else f"({index})step * DEPTH"
        flat = f"const {index} {name}_depth = {start} + {depth_place};"
        copied = self._copied if self.operand.width else self._computed
        moving = copied(at)
        used = words(moving)
        decode = self.printer.decode_lines(f"{name}_depth", self.product.depth, used, 0)
        placed = [flat, *decode] if decode or f"{name}_depth" in used else []
        body = [*moving] if self.by_depth else [*placed, *moving]
        loop = f"for (int copy = 0; copy < {self.passes}; copy++) {{"
        lines = ["#pragma unroll", loop, *_indented(body), "}"]
        return ["{", *_indented([*placed, *lines] if self.by_depth else lines), "}"]

    def _copied(self, at: str) -> list[str]:
        """An asynchronous copy, of zeros where a condition fails."""
        name = self.name
        own = "[copy]" if self.by_depth else ""
        tests = [f"{name}_inside{own}"] if self._overhangs() else []
        if self.depth % self.product.tile.depth:
            tests.append(f"{name}_depth < {self.depth}")
        for number, condition in enumerate(self.operand.conditions, 1):
            tests += self._tests(condition, f"{name}_own_{number}{own}")
        moving = self._split(self.operand.offset)[1]
        offset = f"{name}_own_0{own}"
        if moving.terms:
            offset += f" + {self.printer.index_text(moving)}"
        source, target = self.operand.buffer, self._target(at)
        size = self.width * self.product.dtype.size
        if not tests:
            return [f"gc_cp_async{size}({target}, {source} + {offset});"]
        return [
            f"const bool valid = {' && '.join(tests)};",
            f"gc_cp_async{size}({target}, valid ? {source} + {offset} : {source}, valid);",
        ]

    def _tests(self, condition: Condition, own: str) -> list[str]:
        moving = self._split(condition.index)[1]
        value = f"{own} + {self.printer.index_text(moving)}" if moving.terms else own
        tests = []
        if condition.lower is not None:
            tests.append(f"{value} >= {condition.lower}")
        if condition.upper is not None:
            tests.append(f"{value} < {condition.upper}")
        return tests

    def _computed(self, at: str) -> list[str]:
        """An element that is computed and stored; it is seen after the next barrier."""
        name, tests = self.name, []
        flat = f"first_{name[:-1]} + " + (f"({at})" if self.by_depth else f"{name}_place")
        kind, printer = TYPES[self.product.dtype], self.printer
        if self._overhangs():
            tests.append(f"{name}_flat < {self.extent}")
        if self.depth % self.product.tile.depth:
            tests.append(f"{name}_depth < {self.depth}")
        value = printer.scalar_text(self.operand.value)
        own = printer.decode_lines(f"{name}_flat", self.operand.axes, words([value]), 0)
        lines = [f"const {printer.index} {name}_flat = {flat};"] if own or tests else []
        text = f"{' && '.join(tests)} ? {value} : {kind}(0)" if tests else value
        return [*lines, *own, f"*({kind} *)({self._target(at)}) = {text};"]

    def _target(self, at: str) -> str:
        size = self.product.dtype.size
        if self.by_depth:
            return f"{self.name}_tile + gc_swizzle<128>(({at}) * 128 + {self.name}_place * {size})"
        place = _outer_place(f"({at})", f"{self.name}_place", self.size)
        return f"{self.name}_tile + {place} * {size}"


def _outer_place(depth: str, own: str, size: int) -> str:
    """The element of a tile whose own axes run along a line; four lines lie in different banks."""
    return f"({depth} * {size} + ({own} ^ ({depth} % 4 * 8)))"


def _fetch_fma(product: GridProduct, name: str) -> list[str]:
    """A thread's own lines (or columns) of the tile, for LANES steps of the depth."""
    rows = name == "rows"
    operand = product.rows if rows else product.columns
    letter, own, mine = ("a", "OWN_ROWS", "down") if rows else ("b", "OWN_COLUMNS", "across")
    others, size = ("DOWN", "ROWS") if rows else ("ACROSS", "COLUMNS")
    kind = TYPES[product.dtype]
    if operand.along == "depth":
        place = f"({mine} + i * {others}) * 128 + k * (int)sizeof({kind})"
        source = f"(const {kind} *)({name}_tile + gc_swizzle<128>({place}))"
        return [
            "#pragma unroll",
            f"for (int i = 0; i < {own}; i++)",
            f"  {letter}[i] = gc_load_lanes<LANES>({source});",
        ]
    turned = f"((i * {others} + {mine}) * LANES) ^ ((k + lane) % 4 * 8)"
    place = f"(k + lane) * {size} + ({turned})"
    return [
        "#pragma unroll",
        "for (int lane = 0; lane < LANES; lane++)",
        "#pragma unroll",
        f"  for (int i = 0; i < {own} / LANES; i++) {{",
        f"    const gc_lanes<{kind}, LANES> found =",
        f"        gc_load_lanes<LANES>((const {kind} *){name}_tile + {place});",
        "#pragma unroll",
        f"    for (int own = 0; own < LANES; own++) {letter}[i * LANES + own][lane] = found[own];",
        "  }",
    ]


def _multiplied(product: GridProduct) -> str:
    return "a[i][lane] * b[j][lane]"


def _fetch_tf32(product: GridProduct, name: str) -> list[str]:
    """A warp's fragments of the tile for 8 steps of the depth, rounded to 10 bits."""
    rows = name == "rows"
    operand = product.rows if rows else product.columns
    if operand.along == "depth":
        return _FRAGMENTS_BY_DEPTH[name]
    size = "ROWS" if rows else "COLUMNS"
    count, words_ = ("OWN_ROWS / 16", 4) if rows else ("OWN_COLUMNS / 8", 2)
    own = (
        "warp_row + i * 16 + lane / 4 + part % 2 * 8" if rows else "warp_column + i * 8 + lane / 4"
    )
    step = "part / 2 * 4" if rows else "part * 4"
    letter = "a" if rows else "b"
    return [
        "#pragma unroll",
        f"for (int i = 0; i < {count}; i++)",
        "#pragma unroll",
        f"  for (int part = 0; part < {words_}; part++) {{",
        f"    const int own = {own}, depth = k + lane % 4 + {step};",
        f"    const float *const found = (const float *){name}_tile;",
        f"    {letter}[i][part] = gc_to_tf32(found[depth * {size} + (own ^ (lane % 4 * 8))]);",
        "  }",
    ]


_FRAGMENTS_BY_DEPTH = {
    "rows": [
        "#pragma unroll",
        "for (int i = 0; i < OWN_ROWS / 16; i++) {",
        "  const int own = warp_row + i * 16 + lane % 16;",
        "  gc_ldmatrix_x4(a[i], rows_tile + gc_swizzle<128>(own * 128 + (k + lane / 16 * 4) * 4));",
        "#pragma unroll",
        "  for (int part = 0; part < 4; part++)",
        "    a[i][part] = gc_to_tf32(__uint_as_float(a[i][part]));",
        "}",
    ],
    "columns": [
        "#pragma unroll",
        "for (int i = 0; i < OWN_COLUMNS / 16; i++) {",
        "  const int own = warp_column + i * 16 + lane % 8 + lane / 16 * 8;",
        "  gc_uint32 two[4];",
        "  gc_ldmatrix_x4(two,",
        "                 columns_tile + gc_swizzle<128>(own * 128 + (k + lane / 8 % 2 * 4) * 4));",
        "#pragma unroll",
        "  for (int part = 0; part < 4; part++)",
        "    b[2 * i + part / 2][part % 2] = gc_to_tf32(__uint_as_float(two[part]));",
        "}",
    ],
}


def _spill_lines(product: GridProduct) -> list[str]:
    """A thread's sums into the finished tile."""
    if product.tile.multiply != "fma":
        return [
            "#pragma unroll",
            "for (int i = 0; i < OWN_ROWS / 16; i++)",
            "#pragma unroll",
            "  for (int j = 0; j < OWN_COLUMNS / 8; j++)",
            "#pragma unroll",
            "    for (int part = 0; part < 4; part++) {",
            "      const int tile_row = warp_row + i * 16 + lane / 4 + part / 2 * 8;",
            "      const int tile_column = warp_column + j * 8 + lane % 4 * 2 + part % 2;",
            "      sums[tile_row * SUMS_LINE + tile_column] = sum[i][j][part];",
            "    }",
        ]
    row = _own_place(product.rows, "i", "down", "DOWN")
    column = _own_place(product.columns, "j", "across", "ACROSS")
    return [
        "#pragma unroll",
        "for (int i = 0; i < OWN_ROWS; i++)",
        "#pragma unroll",
        "  for (int j = 0; j < OWN_COLUMNS; j++)",
        f"    sums[({row}) * SUMS_LINE + {column}] = sum[i][j];",
    ]


def _own_place(operand: Operand, number: str, mine: str, others: str) -> str:
    if operand.along == "depth":
        return f"{mine} + {number} * {others}"
    return f"({number} / LANES * {others} + {mine}) * LANES + {number} % LANES"


def _epilogue_lines(printer: CudaPrinter, product: GridProduct) -> list[str]:
    """What happens to finished elements, with the axes that it names."""
    lines = printer.statement_lines(product.epilogue, 2)
    used = words(lines)
    decoded = printer.decode_lines("row", product.out_rows, used, 2)
    decoded += printer.decode_lines("column", product.out_columns, used, 2)
    return [*decoded, *lines]


def _names(atom: object) -> frozenset[str]:
    return frozenset({atom}) if isinstance(atom, str) else atom.inner.names  # type: ignore[attr-defined]


def _indented(lines: Sequence[str]) -> list[str]:
    return [line if line.startswith("#") else f"  {line}" for line in lines]


def _extent(axes: Sequence[Axis]) -> int:
    return element_count(tuple(a.extent for a in axes))
