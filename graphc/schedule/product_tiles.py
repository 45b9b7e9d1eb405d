"""Which tiles compute a product of matrices on a device, and into how many pieces its depth is cut.

A block computes one tile; what counts is how many rounds of blocks the multiprocessors take, each
as long as the work of a tile at the rate that tiles of its size reach.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from graphc.ir.grid import Multiply, ProductTile
from graphc.ir.types import DType

MULTIPROCESSORS = 132  # of an H100; others change how well the last round is filled, not results
MOST_BATCHES = (1 << 16) - 1  # blocks along y
ROWS = 64  # every tile has a multiple of so many
_LINE = 128  # bytes of one line of a tile
_MOST_PIECES = 128
_LEAST_STEPS = 4  # of the depth in one piece
_PARTIAL_COST = 24.0  # multiply-adds in the time that one partial sum takes to be written and read
_WORDS: dict[Multiply, str] = {
    "fma": "multiply-adds of its own type", "tf32": "tensor cores, factors of 10 bits",
    "bf16": "tensor cores, bfloat16", "f16": "tensor cores, float16",
}  # fmt: skip


@dataclass(frozen=True)
class _Candidate:
    """A tile, and which part of the peak rate it reaches while it runs."""

    tile: ProductTile
    rate: float


def _candidates(multiply: Multiply, factor: DType) -> tuple[_Candidate, ...]:
    depth = _LINE // factor.size
    if multiply != "fma":
        return tuple(
            _Candidate(ProductTile(multiply, rows, columns, depth, 3, own_rows, 32), rate)
            for rows, columns, own_rows, rate in (
                (128, 128, 64, 1.0), (128, 64, 64, 0.85), (64, 128, 32, 0.85), (64, 64, 32, 0.7),
            )
        )  # fmt: skip
    if factor is DType.float64:
        return (_Candidate(ProductTile("fma", 64, 64, depth, 3, 4, 4), 1.0),)
    return tuple(
        _Candidate(ProductTile("fma", rows, columns, depth, 3, 8, 8), rate)
        for rows, columns, rate in ((128, 128, 1.0), (128, 64, 0.9), (64, 128, 0.9), (64, 64, 0.8))
    )


def choose_tile(
    batch: int, rows: int, columns: int, depth: int, multiply: Multiply, factor: DType,
    *, divisible: bool = True,
) -> tuple[ProductTile, int, str]:  # fmt: skip
    """The tile and the number of pieces of least cost, and what they come to, for people.

    The depth may be cut into several pieces where it is ``divisible``.
    """
    _, tile, pieces, rounds = min(
        (_cost(one, pieces, batch, rows, columns, depth)
         for one in _candidates(multiply, factor)
         for pieces in (_pieces(one.tile, depth) if divisible else (1,))),
        key=lambda found: found[0],
    )  # fmt: skip
    steps = _parts(_parts(depth, tile.depth), pieces)
    tile = replace(tile, stages=min(tile.stages, max(2, steps)))  # one is filled, one is read
    blocks = batch * _parts(rows, tile.rows) * _parts(columns, tile.columns) * pieces
    shape = f"{tile.rows} x {tile.columns} x {tile.depth}"
    cut = f" in {pieces} pieces of the depth" if pieces > 1 else ""
    text = (
        f"batch {batch}, M {rows}, N {columns}, K {depth} by tiles of {shape}{cut}: "
        f"{blocks} blocks, {rounds:.1f} rounds of {MULTIPROCESSORS}; {_WORDS[tile.multiply]}"
    )
    return tile, pieces, text


def _pieces(tile: ProductTile, depth: int) -> list[int]:
    """Powers of two that leave every piece some steps."""
    most = min(_MOST_PIECES, max(1, _parts(depth, tile.depth) // _LEAST_STEPS))
    return [1 << n for n in range(most.bit_length()) if 1 << n <= most]


def _cost(
    one: _Candidate, pieces: int, batch: int, rows: int, columns: int, depth: int
) -> tuple[float, ProductTile, int, float]:
    """Multiply-adds of one multiprocessor at its peak, tile, pieces, and rounds of blocks."""
    tile = one.tile
    blocks = batch * _parts(rows, tile.rows) * _parts(columns, tile.columns) * pieces
    rounds = _parts(blocks, MULTIPROCESSORS)
    steps = _parts(_parts(depth, tile.depth), pieces)
    # One step more: the first copies of a block are waited for.
    work = tile.rows * tile.columns * tile.depth * (steps + 1) / one.rate
    partial = _PARTIAL_COST * batch * rows * columns * pieces / MULTIPROCESSORS
    cost = rounds * work + (partial if pieces > 1 else 0.0)
    return cost, tile, pieces, blocks / MULTIPROCESSORS


def _parts(whole: int, part: int) -> int:
    return -(-whole // part)
