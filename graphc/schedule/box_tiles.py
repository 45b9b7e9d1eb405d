"""Which tiles four warps at a time compute from boxes of tensors, and into how many pieces.

A block stays on its multiprocessor and takes one tile after the other; what counts is how many
tiles the busiest block takes, each as long as its steps at the rate that tiles of its size reach.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from graphc.ir.boxes import FINISHED_COLUMNS, GROUP_ROWS, LINE_BYTES, GroupTile
from graphc.schedule.product_tiles import MULTIPROCESSORS

DEPTH = 64  # of a step: a line of 128 bytes
SUMS_LINE = FINISHED_COLUMNS + 8  # floats: rows of what is finished start in different banks
_SHARED = 227 << 10  # bytes of shared memory that a block can have
_BARRIERS = 1 << 10  # of these, for barriers
_MOST_STAGES = 8
_MOST_PIECES = 64
_ROUNDS = 4
_LEAST_STEPS = 4  # of the depth in one piece
_ALONE = 0.9  # of its rate a tile reaches where a block has to read all of its columns
_FILLING = 3  # steps in the time in which a tile's first boxes arrive and its last are finished
# Multiply-adds in the time that one partial sum takes to be written and read: 8 bytes at 3.0 TB/s,
# while 132 multiprocessors add 2048 products a cycle each; half of it, as some stays in the cache.
_PARTIAL_COST = 600.0


@dataclass(frozen=True)
class TileSize:
    """Rows and columns of a tile, groups of four warps, and which part of the peak it reaches."""

    rows: int
    columns: int
    groups: int
    rate: float


TILE_SIZES = (
    TileSize(128, 256, 2, 1.0), TileSize(256, 128, 2, 1.0), TileSize(128, 192, 2, 0.95),
    TileSize(128, 128, 2, 0.85), TileSize(256, 64, 2, 0.75), TileSize(64, 256, 1, 0.75),
    TileSize(64, 192, 1, 0.7), TileSize(128, 64, 2, 0.6), TileSize(64, 128, 1, 0.6),
    TileSize(64, 64, 1, 0.4),
)  # fmt: skip


def finishing_bytes(groups: int) -> int:
    """Shared memory through which finished results go, so that neighbours are stored together."""
    return groups * GROUP_ROWS * SUMS_LINE * 4


@dataclass(frozen=True)
class TileCounts:
    """How a product can be cut: ``batch`` products, ``steps`` of the depth, and how many tiles of a
    size cover rows and columns; sizes that cannot be are left out.

    Tiles of ``halved`` columns can come in halves, one from each of two blocks of a cluster; the
    depth can be cut into pieces where that is ``divisible``.
    """

    batch: int
    rows: Mapping[int, int]
    columns: Mapping[int, int]
    halved: Collection[int]
    steps: int
    divisible: bool = True

    def fits(self, size: TileSize) -> bool:
        """Whether there are such tiles."""
        return size.rows in self.rows and size.columns in self.columns

    def tiles(self, size: TileSize) -> int:
        """Tiles of one piece."""
        return self.batch * self.rows[size.rows] * self.columns[size.columns]

    def pairs(self, size: TileSize) -> bool:
        """Whether two blocks can share columns, so that each reads only half of them."""
        return size.columns in self.halved and self.rows[size.rows] % 2 == 0


def choose_box_tile(sizes: Sequence[TileSize], counts: TileCounts) -> tuple[GroupTile, int, str]:
    """The tile and the number of pieces of least cost, and what they come to, for people."""
    candidates = [
        (size, pieces)
        for size in sizes if counts.fits(size)
        for pieces in (_pieces(counts.tiles(size), counts.steps) if counts.divisible else (1,))
    ]  # fmt: skip
    size, pieces = min(candidates, key=lambda one: _cost(one[0], one[1], counts))
    cluster = 2 if counts.pairs(size) else 1
    tile = GroupTile(size.rows, size.columns, DEPTH, _stages(size), size.groups, cluster)
    tiles = counts.tiles(size) * pieces
    cut = f" in {pieces} pieces of the depth" if pieces > 1 else ""
    shape = f"{size.rows} x {size.columns} x {DEPTH}"
    each = f"{tiles / MULTIPROCESSORS:.1f} for each of {MULTIPROCESSORS} blocks"
    pairs = ", which share columns in pairs" if cluster > 1 else ""
    return tile, pieces, f"by boxes, tiles of {shape}{cut}: {tiles} tiles, {each}{pairs}"


def _stages(size: TileSize) -> int:
    room = _SHARED - _BARRIERS - finishing_bytes(size.groups)
    return min(_MOST_STAGES, room // ((size.rows + size.columns) * LINE_BYTES))


def _pieces(tiles: int, steps: int) -> Sequence[int]:
    """Numbers of pieces of equal length, none of them empty, that leave every piece some steps:
    powers of two, and what fills all blocks a few times.
    """
    most = min(_MOST_PIECES, max(1, steps // _LEAST_STEPS))
    wanted = [1 << n for n in range(most.bit_length())]
    wanted += [MULTIPROCESSORS * rounds // tiles for rounds in range(1, _ROUNDS + 1)]
    return sorted({-(-steps // -(-steps // n)) for n in wanted if 1 <= n <= most})


def _cost(size: TileSize, pieces: int, counts: TileCounts) -> float:
    """Multiply-adds of one multiprocessor at its peak."""
    results, tiles = size.rows * size.columns, counts.tiles(size) * pieces
    rate = size.rate * (1.0 if counts.pairs(size) else _ALONE)
    work = results * DEPTH * (-(-counts.steps // pieces) + _FILLING) / rate
    partial = _PARTIAL_COST * results * tiles / MULTIPROCESSORS
    return -(-tiles // MULTIPROCESSORS) * work + (partial if pieces > 1 else 0.0)
