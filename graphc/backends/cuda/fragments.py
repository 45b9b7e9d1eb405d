"""How threads and warps fetch their parts of a tile into registers, and where their sums belong."""

from __future__ import annotations

from graphc.backends.cuda.copies import outer_place
from graphc.backends.cuda.mapping import TYPES
from graphc.ir.grid import GridProduct, Operand


def fetch_lines(product: GridProduct, name: str) -> list[str]:
    """Registers of the factor ``name``, "rows" or "columns", for the next steps of the depth."""
    operand = product.rows if name == "rows" else product.columns
    if product.tile.multiply == "fma":
        return _fetch_fma(product, operand, name)
    if operand.along == "depth":
        return _matrices_by_depth(product, name)
    if product.factor.is_half:
        return _matrices_turned(product, name)
    return _words_turned(product, name)


def _fetch_fma(product: GridProduct, operand: Operand, name: str) -> list[str]:
    """A thread's own lines (or columns) of the tile, for LANES steps of the depth."""
    rows = name == "rows"
    letter, own, mine = ("a", "OWN_ROWS", "down") if rows else ("b", "OWN_COLUMNS", "across")
    others, size = ("DOWN", "ROWS") if rows else ("ACROSS", "COLUMNS")
    kind = TYPES[product.factor]
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


def _matrices_by_depth(product: GridProduct, name: str) -> list[str]:
    """Fragments of lines that run along the depth, 16 bytes of it at once."""
    size = product.factor.size
    step = f"(k + lane / 16 * {16 // size}) * {size}"
    turn = f"(k + lane / 8 % 2 * {16 // size}) * {size}"
    if name == "rows":
        lines = [
            "const int own = warp_row + i * 16 + lane % 16;",
            f"gc_ldmatrix_x4(a[i], rows_tile + gc_swizzle<128>(own * 128 + {step}));",
            *_rounded(product, "a[i]"),
        ]
        return _each("OWN_ROWS / 16", lines)
    lines = [
        "const int own = warp_column + i * 16 + lane % 8 + lane / 16 * 8;",
        "gc_uint32 two[4];",
        f"gc_ldmatrix_x4(two, columns_tile + gc_swizzle<128>(own * 128 + {turn}));",
        *_rounded(product, "two"),
        *_PAIRS,
    ]
    return _each("OWN_COLUMNS / 16", lines)


def _matrices_turned(product: GridProduct, name: str) -> list[str]:
    """Fragments of 16-bit lines that run along M (or N), transposed on the way."""
    if name == "rows":
        place = outer_place("depth", "own", "ROWS", 2)
        lines = [
            "const int own = warp_row + i * 16 + lane / 8 % 2 * 8;",
            "const int depth = k + lane % 8 + lane / 16 * 8;",
            f"gc_ldmatrix_x4_trans(a[i], rows_tile + {place} * 2);",
        ]
        return _each("OWN_ROWS / 16", lines)
    place = outer_place("depth", "own", "COLUMNS", 2)
    lines = [
        "const int own = warp_column + i * 16 + lane / 16 * 8;",
        "const int depth = k + lane % 8 + lane / 8 % 2 * 8;",
        "gc_uint32 two[4];",
        f"gc_ldmatrix_x4_trans(two, columns_tile + {place} * 2);",
        *_PAIRS,
    ]
    return _each("OWN_COLUMNS / 16", lines)


def _words_turned(product: GridProduct, name: str) -> list[str]:
    """Fragments of 32-bit lines that run along M (or N), word by word."""
    rows = name == "rows"
    line, count, words = ("ROWS", "OWN_ROWS / 16", 4) if rows else ("COLUMNS", "OWN_COLUMNS / 8", 2)
    own = "warp_column + i * 8 + lane / 4"
    if rows:
        own = "warp_row + i * 16 + lane / 4 + part % 2 * 8"
    step = "part / 2 * 4" if rows else "part * 4"
    letter, place = "a" if rows else "b", outer_place("depth", "own", line, 4)
    lines = [
        "#pragma unroll",
        f"for (int part = 0; part < {words}; part++) {{",
        f"  const int own = {own}, depth = k + lane % 4 + {step};",
        f"  const float *const found = (const float *){name}_tile;",
        f"  {letter}[i][part] = gc_to_tf32(found[{place}]);",
        "}",
    ]
    return _each(count, lines)


_PAIRS = [
    "#pragma unroll",
    "for (int part = 0; part < 4; part++) b[2 * i + part / 2][part % 2] = two[part];",
]


def _rounded(product: GridProduct, words: str) -> list[str]:
    """Four words of float32 rounded to the bits that a product reads."""
    if product.tile.multiply != "tf32":
        return []
    return [
        "#pragma unroll",
        "for (int part = 0; part < 4; part++)",
        f"  {words}[part] = gc_to_tf32(__uint_as_float({words}[part]));",
    ]


def _each(count: str, lines: list[str]) -> list[str]:
    body = [line if line.startswith("#") else f"  {line}" for line in lines]
    return ["#pragma unroll", f"for (int i = 0; i < {count}; i++) {{", *body, "}"]


def spill_lines(product: GridProduct) -> list[str]:
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
