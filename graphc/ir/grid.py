"""What a device computes at once: nests and products spread over a grid of blocks of threads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from graphc.ir.index import Index
from graphc.ir.loops import Parameter, Statement
from graphc.ir.scalar import Condition, Scalar
from graphc.ir.types import Axis, DType, element_count

# Multiply-adds of the factors' own type, or the tensor cores' products of narrower factors.
Multiply = Literal["fma", "tf32", "bf16", "f16"]


@dataclass(frozen=True)
class Team:
    """Threads of a block: ``workers`` share the window of one output, ``outputs`` stand in a block.

    ``adjacent`` is what neighbouring threads are: workers of one output, or outputs.
    """

    workers: int
    outputs: int
    adjacent: Literal["workers", "outputs"]

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.workers * self.outputs


@dataclass(frozen=True)
class GridNest:
    """A nest for a grid of threads: no loop over outputs, which are counted row-major over axes.

    Attributes:
        axes: output axes, merged; where threads take several neighbours, the last counts vectors.
        team: how a block's threads share outputs and their windows.
        body: what every worker does for its output.
        finish: what the first worker does after it.
        wide: whether a place in an array may need 64 bits.
        reason: why this team, for people.
    """

    axes: tuple[Axis, ...]
    team: Team
    body: tuple[Statement, ...]
    finish: tuple[Statement, ...]
    wide: bool
    reason: str


@dataclass(frozen=True)
class GridPart:
    """A nest that runs beside others: a function of its own, called with ``arguments``."""

    name: str
    title: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    arguments: tuple[str, ...]
    nest: GridNest


@dataclass(frozen=True)
class GridParts:
    """Nests in one launch, one after the other in the grid; all their blocks are of equal size."""

    parts: tuple[GridPart, ...]


@dataclass(frozen=True)
class Operand:
    """One factor of a product, as it comes into the shared memory of a block.

    Attributes:
        axes: the axes M (or N) that its lines count, slowest first.
        along: what neighbours are in shared memory: of the depth, or "outer", of these axes.
        width: elements copied at once, 0 if each is computed from ``value`` and stored.
        buffer, offset, conditions: of a copied element; where a condition fails it is 0.
        value: the computed element, 0 where it does not exist.
    """

    axes: tuple[Axis, ...]
    along: Literal["depth", "outer"]
    width: int
    buffer: str
    offset: Index
    conditions: tuple[Condition, ...]
    value: Scalar


@dataclass(frozen=True)
class ProductTile:
    """What a block computes: ``rows`` x ``columns`` results, ``depth`` terms at a time.

    ``stages`` of these are in shared memory at once; a thread ("fma"), else a warp, holds
    ``own_rows`` x ``own_columns`` results in registers.
    """

    multiply: Multiply
    rows: int
    columns: int
    depth: int
    stages: int
    own_rows: int
    own_columns: int

    @property
    def threads(self) -> int:
        """Threads of a block."""
        parts = self.rows // self.own_rows * (self.columns // self.own_columns)
        return parts if self.multiply == "fma" else 32 * parts


@dataclass(frozen=True)
class GridWindows:
    """What follows finished results over windows, each of which is ``size`` neighbouring rows.

    Attributes:
        rows, columns: the axes that count windows, and those of N.
        statements: for one window and column; they read ``sums`` from the window's first ``place``.
    """

    size: int
    rows: tuple[Axis, ...]
    columns: tuple[Axis, ...]
    statements: tuple[Statement, ...]


@dataclass(frozen=True)
class TileSums:
    """Sums of finished results over one side of a product: over each tile, then over the tiles.

    Attributes:
        over: the side whose places are added up.
        axes: of the other side, all of which are kept.
        parts: partial sums of each result, from as many parts of tiles; they lie together.
        buffer: where the results are stored.
        nest: adds up the partial sums, and stores the results.
    """

    over: Literal["rows", "columns"]
    axes: tuple[Axis, ...]
    parts: int
    buffer: str
    nest: GridNest

    @property
    def partial_sums(self) -> int:
        """Of all results together."""
        return self.parts * element_count(tuple(axis.extent for axis in self.axes))


@dataclass(frozen=True)
class GridProduct:
    """out[batch, m, n] = epilogue(sum over k of rows[batch, m, k] * columns[batch, k, n]) by tiles.

    Attributes:
        batch, depth: axes in both factors that are kept, and that are summed.
        rows, columns: the factors, with the axes M and N.
        tile: what a block computes.
        pieces: parts of the depth that are summed by blocks of their own.
        out_rows, out_columns: M and N as the epilogue's memory accesses let them merge.
        lanes: neighbours along N that the epilogue computes together.
        epilogue: statements for the element, or the lanes, at ``row`` and ``column`` of the matrix,
            whose sums are the buffer ``sums`` at its ``place``.
        windows: what follows the epilogue, where windows of its values are reduced.
        sums: the same, where its values are added up over one side; then there are no pieces.
        finish: the sum of the pieces in order, and the real epilogue, if there are several.
        factor, dtype: the elements of the tiles, and of the sums.
        wide: whether a place in an array may need 64 bits.
        reason: why these tiles and pieces, for people.
    """

    batch: tuple[Axis, ...]
    depth: tuple[Axis, ...]
    rows: Operand
    columns: Operand
    tile: ProductTile
    pieces: int
    out_rows: tuple[Axis, ...]
    out_columns: tuple[Axis, ...]
    lanes: int
    epilogue: tuple[Statement, ...]
    windows: GridWindows | None
    sums: TileSums | None
    finish: GridNest | None
    factor: DType
    dtype: DType
    wide: bool
    reason: str
