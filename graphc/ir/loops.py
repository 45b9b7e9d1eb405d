"""The loop IR: structured statements of a generated routine, independent of the output language."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from graphc.ir.blocks import Resident, TileBlocks
from graphc.ir.index import Index
from graphc.ir.scalar import Condition, Load, Name, Scalar
from graphc.ir.strips import Strip
from graphc.ir.tiles import LinearProgram
from graphc.ir.types import Axis, DType


@dataclass(frozen=True)
class Declare:
    """A local scalar, or an array of ``lanes`` zeros; mutable if it is assigned again."""

    name: str
    dtype: DType
    value: Scalar
    mutable: bool = False
    lanes: int = 0


@dataclass(frozen=True)
class Assign:
    """name = value, or name[at] = value."""

    name: str
    value: Scalar
    at: Index | None = None


@dataclass(frozen=True)
class Store:
    """buffer[offset] = value."""

    buffer: str
    offset: Index
    value: Scalar


@dataclass(frozen=True)
class When:
    """Statements that run where all conditions hold."""

    conditions: tuple[Condition, ...]
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class Loop:
    """for 0 <= axis < extent. A parallel loop includes the next ``collapse - 1`` loops inside it.

    ``sums`` names the accumulators that a simd loop adds up in lanes; ``unroll`` marks windows.
    """

    axis: Axis
    body: tuple[Statement, ...]
    parallel: bool = False
    collapse: int = 1
    simd: bool = False
    sums: tuple[str, ...] = ()
    unroll: bool = False


@dataclass(frozen=True)
class LoadLanes:
    """name = the ``lanes`` neighbours at buffer[offset], which is a multiple of ``lanes``."""

    name: str
    dtype: DType
    lanes: int
    buffer: str
    offset: Index


@dataclass(frozen=True)
class StoreLanes:
    """The ``lanes`` neighbours at buffer[offset], a multiple of ``lanes``, = the array name."""

    buffer: str
    offset: Index
    name: str
    lanes: int


@dataclass(frozen=True)
class LineStore:
    """The neighbours at buffer[offset] = the local ``array``, past the caches."""

    array: Declare
    buffer: str
    offset: Index


@dataclass(frozen=True)
class FinishLines:
    """Other threads see what this one has stored past the caches."""


@dataclass(frozen=True)
class Fetch:
    """``count`` neighbours at buffer[offset], if they exist, are soon read or ``written``."""

    buffer: str
    offset: Index
    count: int
    dtype: DType
    written: bool


@dataclass(frozen=True)
class TeamLoop:
    """for all positions of ``axes``: each worker of a team takes its share, in order."""

    axes: tuple[Axis, ...]
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class Combine:
    """Accumulators of a team's workers become one, pairwise in a fixed order, at the first worker.

    ``body`` adds what ``others`` hold of another worker to one's own ``names``. With ``everywhere``
    all workers get the result.
    """

    names: tuple[Name, ...]
    others: tuple[Name, ...]
    body: tuple[Statement, ...]
    everywhere: bool = False


Statement = (
    Declare | Assign | Store | When | Loop | LoadLanes | StoreLanes | LineStore | FinishLines
    | Fetch | TeamLoop | Combine
)  # fmt: skip


@dataclass(frozen=True)
class Parameter:
    """An array argument of a routine."""

    name: str
    dtype: DType
    written: bool


@dataclass(frozen=True)
class Pack:
    """How one factor of a contraction is gathered into panels: value(lane axes, depth axes).

    ``lanes`` are the axes that run through the panel's rows or columns. ``order`` is how elements
    are moved: "lanes": runs of neighbouring lanes; "vectors": vectors of neighbouring depth, kept
    as they are; "transposed": such vectors, turned; "depth": one by one.
    """

    lanes: tuple[Axis, ...]
    value: Scalar
    conditions: tuple[Condition, ...]
    order: Literal["lanes", "vectors", "transposed", "depth"]


@dataclass(frozen=True)
class InPlace:
    """A factor of few products, read where it lies: packing would cost more than it saves.

    ``first`` is its element at a column and a depth, which are axes of its offset; ``step`` the
    elements from one run of neighbours to the next, which is the next depth, and ``across`` those
    from one vector of columns to the next.
    """

    first: Load
    step: int
    across: int = 0


@dataclass(frozen=True)
class BlockSizes:
    """The register block of a machine: rows x (vectors x lanes).

    ``pairs``: one instruction adds two products of bfloat16 numbers to a float, in every lane.
    """

    rows: int
    vectors: int
    vector_bytes: int
    registers: int = 16
    pairs: bool = False

    def lanes(self, dtype: DType) -> int:
        """Elements of one vector."""
        return self.vector_bytes // dtype.size

    def columns(self, dtype: DType) -> int:
        """Columns of the register block for an element type."""
        return self.vectors * self.vector_bytes // dtype.size


@dataclass(frozen=True)
class Contraction:
    """out[batch, m, n] = epilogue(sum over k of A[batch, m, k] * B[batch, k, n]).

    Attributes:
        batch, depth: axes in both factors that are kept, and that are summed.
        rows, columns: A's and B's packing; their lanes are the axes M and N.
        split: position in ``depth`` whose axis is cut into blocks of ``cut``; axes before it are
            walked one by one, axes after it run whole: one block of the depth.
        skip: blocks where one of these fails add nothing.
        resident: the factor that is packed once, whole, and shared by all tasks.
        row_block, column_panels: rows and column panels of one task.
        in_place: the columns, where they are not packed; whole vectors of them beside a strip.
        strip: what the rows read, where they are not packed; its box is the rows of a task. Where
            the columns are packed as "vectors" or there are ``line_panels``, what these read.
        pieces: parts of the depth that are summed on their own, then in order.
        panel: elements of packed panels: ``dtype``, or bfloat16 in pairs of neighbouring depth.
        line_panels: column panels of one line of the strip, the last of which may be in part; 0
            where columns are panels throughout.
        epilogue_rows, epilogue_columns: M and N as the epilogue's memory accesses let them merge.
        epilogue: statements for one finished element, which reads the scalar ``sum``.
        lines: what the elements of the last epilogue column fill, stored after them.
        register: the block of rows and vectors that registers hold; vectors of depth, one a column,
            where the columns are packed as "vectors".
    """

    batch: tuple[Axis, ...]
    depth: tuple[Axis, ...]
    rows: Pack
    columns: Pack
    split: int
    cut: int
    skip: tuple[Condition, ...]
    resident: Resident
    in_place: InPlace | None
    strip: Strip | None
    row_block: int
    column_panels: int
    pieces: int
    epilogue_rows: tuple[Axis, ...]
    epilogue_columns: tuple[Axis, ...]
    epilogue: tuple[Statement, ...]
    lines: tuple[LineStore, ...]
    register: BlockSizes
    panel: DType
    dtype: DType
    line_panels: int = 0

    @property
    def columns_in_strip(self) -> bool:
        """Whether the columns, not the rows, are read from the strip."""
        return self.strip is not None and (self.columns.order == "vectors" or self.line_panels > 0)

    @property
    def copies_rows(self) -> bool:
        """Whether rows are copied to a strip, once for all column panels of a task."""
        strip = None if self.columns_in_strip or self.in_place is not None else self.strip
        return strip is not None and strip.copied

    @property
    def register_columns(self) -> int:
        """Columns of the register block."""
        if self.columns.order == "vectors":
            return self.register.vectors
        return self.register.columns(self.dtype)


@dataclass(frozen=True)
class PatchWindows:
    """The windows that a patch touches, each with a value for one of its places; others are 0.

    Attributes:
        axes: count windows from the patch's first, along each of its positions.
        sizes: of a window.
        offsets: how far inside its first window the patch begins.
        first: number of the first window along each dimension of the array, which may lie outside.
        extents: how many windows there are along each.
        value, place: the elements of the first window in lane 0: its value, and which place has it.
        value_steps, place_steps: elements to the next window along each axis, and to the next lane.
    """

    axes: tuple[Axis, ...]
    sizes: tuple[int, ...]
    offsets: tuple[int, ...]
    first: tuple[Index, ...]
    extents: tuple[int, ...]
    value: Load
    place: Load
    value_steps: tuple[int, ...]
    place_steps: tuple[int, ...]


@dataclass(frozen=True)
class Patch:
    """A small block of an operand, with one vector of lanes at each position, and its transform.

    Attributes:
        transform: applied along each of the positions.
        positions: the axes that run through the patch.
        lane: the axis of the lanes.
        value: the element, 0 outside the operand, in the type of the operand's array.
        inside: the tiles whose whole patch lies inside the operand.
        first: where lanes are neighbours in memory, the element at the patch's origin, else None.
        steps: elements from one position to the next, for each axis, where ``first`` is given.
        windows: where no array holds the operand, the windows that it is scattered from.
    """

    transform: tuple[LinearProgram, ...]
    positions: tuple[Axis, ...]
    lane: Axis
    value: Scalar
    inside: tuple[Condition, ...]
    first: Load | None
    steps: tuple[int, ...]
    windows: PatchWindows | None = None


@dataclass(frozen=True)
class TileWindows:
    """What follows a tile of results over its windows.

    Attributes:
        axes: the windows of a tile, along each dimension.
        limits: how many windows there are along each dimension; the last tile may overhang.
        statements: for one window and lane; they read the tile as the array ``results``.
        arrays: what the lanes fill.
        after: what is done with it after the lanes.
    """

    axes: tuple[Axis, ...]
    limits: tuple[int, ...]
    statements: tuple[Statement, ...]
    arrays: tuple[Declare, ...]
    after: tuple[Statement, ...]


@dataclass(frozen=True)
class ColumnSums:
    """Sums over all positions of the values that the epilogue leaves in ``results``, one for each
    column; ``store`` takes the scalar ``sum``, a float64.
    """

    store: Store


@dataclass(frozen=True)
class TileProduct:
    """A sliding product by tiles: transform, multiply point by point, transform back.

    ``result`` "positions": at each point p, M[p][tile, column] = sum over channels of
    V[p][tile, channel] * U[p][channel, column], where V are the transformed tiles and U the
    transformed filters; each M transforms back into a tile of positions. ``result`` "taps":
    M[p][row, column] = sum over tiles of U[p][tile, row] * V[p][tile, column], which transforms
    back into the taps of one filter.

    Attributes:
        tiles: outer axes, then the number of the tile along each dimension.
        limits: how many positions there are along each dimension; the last tile may overhang.
        columns, rows: blocks of lanes along the result's vectors; the other axis of the product:
            blocks of channels ("positions"), or results one by one ("taps").
        channel: one channel ("positions"), one block of rows ("taps").
        left: the patch that gives U; right: the patch that gives V.
        restore: the transform back, along each dimension.
        results: positions in a tile, or taps; the lanes of the result.
        epilogue_axes: how the epilogue walks the results: positions, then lanes, or lanes and
            taps merged where arrays let them.
        epilogue: statements for one finished element, which reads the scalar ``sum``.
        lines: what the lanes of a position fill, stored after them.
        stream_filters: transformed filters are stored past the caches too.
        note: what is computed, for readers of the source.
        windows: what follows the epilogue, where windows of its values are reduced.
        sums: what follows it, where its values are added up; a task's in its own order, then tasks.
    """

    result: Literal["positions", "taps"]
    tiles: tuple[Axis, ...]
    limits: tuple[int, ...]
    columns: Axis
    rows: Axis
    channel: Axis
    left: Patch
    right: Patch
    restore: tuple[LinearProgram, ...]
    results: tuple[Axis, ...]
    lane: Axis
    epilogue_axes: tuple[Axis, ...]
    epilogue: tuple[Statement, ...]
    lines: tuple[LineStore, ...]
    stream_filters: bool
    blocks: TileBlocks
    dtype: DType
    note: tuple[str, ...]
    windows: TileWindows | None = None
    sums: ColumnSums | None = None
