"""Products whose factors come as boxes of tensors, which a copy engine brings by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from graphc.ir.grid import GridNest, TileSums
from graphc.ir.index import Index
from graphc.ir.loops import Statement
from graphc.ir.types import Axis, DType, element_count

LINE_BYTES = 128  # of a tile in shared memory
GROUP_ROWS = 64  # of the result that four warps multiply at once
GROUP_THREADS = 128
FINISHED_COLUMNS = 32  # of the result that four warps finish at once


@dataclass(frozen=True)
class Span:
    """``size`` neighbours along an axis, from the one on that the variable ``first`` names."""

    axis: Axis
    size: int
    first: str

    @property
    def tiles(self) -> int:
        """How many spans cover the axis; the last may overhang."""
        return -(-self.axis.extent // self.size)


@dataclass(frozen=True)
class Dimension:
    """A dimension of a tensor as copies see it: ``extent`` elements, ``stride`` elements apart.

    A copy takes ``box`` of them from ``start`` on; those outside of the tensor are 0.
    """

    extent: int
    stride: int
    start: Index
    box: int


@dataclass(frozen=True)
class BoxOperand:
    """One factor of a product, as it comes into shared memory.

    Attributes:
        spans: what a tile takes of the axes M (or N), slowest first.
        along: what neighbours are in a line of the tile: of the depth, or "outer", of these axes.
        buffer, offset: the array, and its element with which the tensor starts.
        tensor_map: what the kernel calls its description.
        parts: in which a tile is cut at its first span that is longer than 1; each block of a
            cluster brings one of them to all.
        dimensions: slowest first; a box is one line of the tile long.
    """

    spans: tuple[Span, ...]
    along: Literal["depth", "outer"]
    buffer: str
    offset: int
    tensor_map: str
    parts: int
    dimensions: tuple[Dimension, ...]

    @property
    def cut(self) -> Span:
        """Where a tile is cut into parts."""
        return first_long(self.spans)

    @property
    def tiles(self) -> int:
        """How many tiles cover the axes."""
        return element_count(tuple(span.tiles for span in self.spans))


def first_long(spans: tuple[Span, ...]) -> Span:
    """The slowest span that is longer than 1."""
    return next(span for span in spans if span.size > 1)


@dataclass(frozen=True)
class GroupTile:
    """What a block computes at once: ``rows`` x ``columns`` results, ``depth`` terms a step.

    ``stages`` steps are in shared memory; each of ``groups`` of four warps multiplies its part of
    the rows, and one more brings the factors. ``cluster`` blocks that follow each other along the
    rows share their columns: each brings a part of them to all.
    """

    rows: int
    columns: int
    depth: int
    stages: int
    groups: int
    cluster: int

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return GROUP_THREADS * (self.groups + 1)


@dataclass(frozen=True)
class BoxWindows:
    """What follows finished results over windows of a tile's rows, as its axes M count them.

    Attributes:
        sizes: of the windows along each of these axes, 1 where they are single elements.
        axes: those that count windows instead.
        statements: for one window and column; they read ``sums`` from the window's first ``place``.
    """

    sizes: tuple[int, ...]
    axes: tuple[Axis, ...]
    statements: tuple[Statement, ...]

    @property
    def count(self) -> int:
        """Elements of a window."""
        return element_count(self.sizes)


@dataclass(frozen=True)
class BoxProduct:
    """out[batch, m, n] = epilogue(sum over k of rows[batch, m, k] * columns[batch, k, n]) by tiles.

    A tile is a patch of the axes M by a patch of the axes N, in which the last axes run fastest.

    Attributes:
        batch: axes in both factors that are kept.
        depth: what a step takes of the axes that are summed.
        rows, columns: the factors.
        tile: what a block computes at once; blocks take one tile after the other.
        pieces: parts of the depth that are summed as tiles of their own.
        steps: of the depth, in one piece; the last may have fewer.
        lanes: neighbours along N that the epilogue computes together.
        epilogue: statements for the element, or the lanes, at a place of the axes M and N, whose
            sums are the buffer ``sums`` at ``place``.
        windows: what follows the epilogue, where windows of its values are reduced.
        sums: the same, where its values are added up over one side; then there are no pieces.
        finish: the sum of the pieces in order, and the real epilogue, if there are several.
        factor, dtype: the elements of the tiles, 16 bits each, and of the sums.
        wide: whether a place in an array may need 64 bits.
        reason: why these tiles and pieces, for people.
    """

    batch: tuple[Axis, ...]
    depth: tuple[Span, ...]
    rows: BoxOperand
    columns: BoxOperand
    tile: GroupTile
    pieces: int
    steps: int
    lanes: int
    epilogue: tuple[Statement, ...]
    windows: BoxWindows | None
    sums: TileSums | None
    finish: GridNest | None
    factor: DType
    dtype: DType
    wide: bool
    reason: str
