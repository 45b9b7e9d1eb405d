"""How a product is cut for caches and cores, by rules of its sizes, where tuning says nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from graphc.ir.blocks import ContractionBlocks, Resident, TileBlocks
from graphc.ir.loops import BlockSizes
from graphc.ir.tiles import TileAlgorithm
from graphc.ir.types import DType

TILE_DEPTH = 64  # tiles summed in registers before a filter gradient is touched in memory
_PRECISE_SIZE = 6  # of tiles whose sums over channels may be long
_CACHE = 1 << 20  # bytes of a core's own cache that transformed tiles may fill
_PLANE = 200 << 10  # bytes of one point's tiles that stay there while filters stream by
_ALL_TILES = 16 << 20  # bytes of all transformed tiles that stay in a shared cache
_PRODUCTS = 8 << 20  # bytes of products that wait to be transformed back
_GROUP = 128  # rows and columns of a filter gradient's task
_TASKS = 16  # enough to share among cores

STREAMED_BYTES = 32 << 20  # what is larger is written past the caches

DEPTH = 256  # rows of a packed panel, which stays in the second-level cache
_DOT_DEPTH = 2048
_DOT_COLUMNS = 16
RESIDENT_BYTES = 64 << 20  # a factor up to this size may be packed once and shared
_SMALL_BYTES = 4 << 20  # up to this size it always is; beyond, if more tasks would repeat it
_REPEATS = {"rows": 3, "columns": 5}  # shared rows are fetched ahead
_ROW_BLOCK = {"rows": 512, "columns": 128, "none": 256}
_PANELS = {"rows": 4, "columns": 16, "none": 8}
_MOST_PIECES = 16
STRIP_DEPTH = 1200  # of a block where lanes are read from a strip
_STRIP_LANES = 256  # of a task there
_STRIP_PANELS = 4
_PANELS_OF_COPY = 16


@dataclass(frozen=True)
class ProductSizes:
    """Extents of a contraction."""

    batch: int
    rows: int
    columns: int
    depth: int

    def smaller_factor(self, dtype: DType) -> tuple[Resident, int]:
        """Which factor has fewer bytes, and how many."""
        side: Resident = "rows" if self.rows <= self.columns else "columns"
        return side, min(self.rows, self.columns) * self.batch * self.depth * dtype.size


def dot_limits(limits: ContractionBlocks, width: int) -> ContractionBlocks:
    """Limits where vectors of the depth are multiplied as they lie, ``width`` columns a panel."""
    panels = limits.panels or max(1, _DOT_COLUMNS // width)
    return replace(limits, depth=limits.depth or _DOT_DEPTH, panels=panels)


def resident_factor(sizes: ProductSizes, dtype: DType, width: int) -> Resident:
    """The smaller factor, if it is small or would be packed again for many tasks."""
    side, size = sizes.smaller_factor(dtype)
    if size > RESIDENT_BYTES:
        return "none"
    repeats = (
        sizes.columns / (_PANELS["none"] * width)
        if side == "rows"
        else sizes.rows / _ROW_BLOCK["none"]
    )
    return "none" if size > _SMALL_BYTES and repeats <= _REPEATS[side] else side


def task_size(
    limits: ContractionBlocks, sizes: ProductSizes, resident: Resident, depth_blocks: int,
    height: int, width: int,
) -> tuple[int, int, int]:  # fmt: skip
    """Rows and column panels of one task, and in how many pieces the depth is summed.

    A panel has ``height`` rows or ``width`` columns. Tasks are as large as the limits allow, by
    default as caches do. Where that leaves too few to share among cores, a long depth is cut into
    pieces first, then tasks are made smaller.
    """
    row_panels = -(-sizes.rows // height)
    column_panels = -(-sizes.columns // width)
    row_block = min(row_panels, max(1, (limits.rows or _ROW_BLOCK[resident]) // height))
    panels = min(column_panels, limits.panels or _PANELS[resident])
    most = max(1, min(_MOST_PIECES, depth_blocks // 2))

    def tasks() -> int:
        return sizes.batch * -(-row_panels // row_block) * -(-column_panels // panels)

    while tasks() * most < _TASKS and (panels > 1 if resident == "rows" else row_block > 1):
        if resident == "rows":
            panels //= 2
        else:
            row_block //= 2
    pieces = min(most, -(-_TASKS // tasks())) if tasks() < _TASKS else 1
    return row_block * height, panels, pieces


def even_rows(block: BlockSizes, rows: int) -> BlockSizes:
    """A register block, a row higher or up to a quarter lower, that leaves the fewest rows over."""
    heights = [*range(block.rows, block.rows - block.rows // 4 - 1, -1)]
    if (block.rows + 1) * block.vectors + block.vectors < block.registers:
        heights.append(block.rows + 1)
    return replace(block, rows=min(heights, key=lambda height: -(-rows // height) * height))


def line_rows(block: BlockSizes, line: int) -> BlockSizes | None:
    """The highest register block whose rows lie in one line, higher than ``block``; None if none.

    A row of columns is then loaded for more products. One pointer reads all rows of a line, so that
    none of the registers of addresses is wanted for each.
    """
    most = (block.registers - 1 - block.vectors) // block.vectors
    height = next(height for height in range(most, 0, -1) if line % height == 0)
    return replace(block, rows=height) if height > block.rows else None


def even_columns(block: BlockSizes, columns: int) -> BlockSizes | None:
    """A register block of columns that leaves none over; None if it has to be far narrower."""
    widths = range(block.vectors, block.vectors // 2, -1)
    width = next((width for width in widths if columns % width == 0), None)
    return None if width is None else replace(block, vectors=width)


def line_columns(block: BlockSizes, vectors: int) -> BlockSizes:
    """A register block of columns that leaves few over in lines of so many vectors."""
    most = min(block.vectors, vectors)
    widths = range(most, most // 2, -1)
    return replace(block, vectors=min(widths, key=lambda width: -(-vectors // width) * width))


def strip_size(wanted: int | None, lanes: int, others: int, pieces: bool = False) -> int:
    """The most lanes of a strip that leave enough tasks, where ``others`` share each of them.

    With ``pieces`` the depth gives as many tasks as are wanted.
    """
    return min(wanted or _STRIP_LANES, lanes if pieces else lanes // -(-_TASKS // others))


def strip_pieces(tasks: int, blocks: int) -> int:
    """Pieces of ``blocks`` of the depth that make enough of few tasks."""
    return max(1, min(-(-_TASKS // tasks), blocks // 2))


def strip_panels(limits: ContractionBlocks, tasks: int, panels: int, once: bool) -> int:
    """Column panels of one task where strips leave ``tasks`` beside the columns.

    More where a strip is copied ``once`` for all panels of a task.
    """
    most, wanted = (_PANELS_OF_COPY, 2 * _TASKS) if once else (_STRIP_PANELS, _TASKS)
    count = min(panels, limits.panels or most)
    while tasks * -(-panels // count) < wanted and count > 1:
        count //= 2
    return count


def position_blocks(
    tiles: int, points: int, channels: int, columns: int, depth: int, dtype: DType,
    block: BlockSizes,
) -> TileBlocks:  # fmt: skip
    """Blocks of a tiled product whose result runs along positions; ``columns`` are elements, and
    ``depth`` channels are summed in registers.
    """
    lanes = block.lanes(dtype)
    vectors = _vector_count(columns // lanes, lanes)
    rows = register_rows(vectors, block)
    if _one_block(tiles, points, channels, columns, vectors * lanes, dtype):
        high = -(-tiles // -(-tiles // rows))
        return TileBlocks(tiles, vectors * lanes, depth, 1, high, vectors)
    row_bytes = channels * dtype.size
    fits = 2 * rows * points * row_bytes <= _CACHE + _CACHE // 10
    most = 2 * rows if fits else max(rows, _PLANE // row_bytes // rows * rows)
    tasks = -(-tiles // most)
    most = min(most, -(-tiles // tasks)) if tasks < _TASKS else most
    panel = vectors * lanes
    widths = [w for w in range(panel, columns + 1, panel) if columns % w == 0]
    small = [
        w for w in widths
        if w * most * points * dtype.size <= _PRODUCTS and tasks * columns >= _TASKS * w
    ]  # fmt: skip
    chunk = max([*small, widths[0]])
    return TileBlocks(most, chunk, depth, 1, min(rows, most), vectors)


def _one_block(
    tiles: int, points: int, channels: int, columns: int, panel: int, dtype: DType
) -> bool:
    """Whether all tiles stay near, so that filters, which are more, are transformed as needed."""
    per_channel = points * channels * dtype.size
    near = tiles * per_channel <= _ALL_TILES and 2 * tiles <= columns
    return near and columns // panel >= _TASKS


def channel_depth(algorithms: Sequence[TileAlgorithm], channels: int) -> int:
    """Channels of a tiled product that are summed in registers before the sums of others are added.

    Large tiles lose digits, of which shorter sums win back half; a block costs a visit to the sums.
    """
    if max(a.size for a in algorithms) <= _PRECISE_SIZE:
        return channels
    vector = math.gcd(channels, 16)
    depths = range(TILE_DEPTH, 0, -vector) if channels > TILE_DEPTH else (channels,)
    return next(depth for depth in depths if channels % depth == 0)


def register_rows(vectors: int, block: BlockSizes) -> int:
    """Rows of tiles that fit into registers beside their column vectors."""
    return min(28, (block.registers - 1 - vectors) // vectors)


def _vector_count(blocks: int, lanes: int) -> int:
    """Vectors of a register block: they must divide the result's."""
    order = (2, 3, 1) if lanes >= 8 else (4, 2, 3, 1)
    return next(v for v in order if blocks % v == 0)


def tap_blocks(tiles: int, rows: int, columns: int, dtype: DType, block: BlockSizes) -> TileBlocks:
    """Blocks of a tiled product whose result runs along taps; ``columns`` are vectors."""
    lanes = block.lanes(dtype)
    vectors = _vector_count(columns, lanes)
    most = (block.registers - 1 - vectors) // vectors
    high = next(r for r in (8, 4, 2, 1) if r <= most and lanes % r == 0)
    row_group = next(g for g in range(min(_GROUP, rows), 0, -1)
                     if rows % g == 0 and g % lanes == 0)  # fmt: skip
    panels = columns // vectors
    wide = next(p for p in range(panels, 0, -1)
                if panels % p == 0 and (p == 1 or p * vectors * lanes <= _GROUP))  # fmt: skip
    groups = rows // row_group * (panels // wide)
    pieces = 1 if groups >= _TASKS // 2 else min(-(-_TASKS // groups), -(-tiles // TILE_DEPTH))
    piece = -(-tiles // pieces)
    pieces = -(-tiles // piece)  # none of them empty
    depth = -(-piece // -(-piece // TILE_DEPTH))
    return TileBlocks(depth, wide * vectors * lanes, row_group, pieces, high, vectors)
