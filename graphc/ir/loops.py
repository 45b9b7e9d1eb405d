"""The loop IR: structured statements of a generated routine, independent of the output language."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from graphc.ir.index import Index
from graphc.ir.scalar import Condition, Scalar
from graphc.ir.types import Axis, DType


@dataclass(frozen=True)
class Declare:
    """A local scalar; mutable if it is assigned again."""

    name: str
    dtype: DType
    value: Scalar
    mutable: bool = False


@dataclass(frozen=True)
class Assign:
    """name = value."""

    name: str
    value: Scalar


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


Statement = Declare | Assign | Store | When | Loop


@dataclass(frozen=True)
class Parameter:
    """An array argument of a routine."""

    name: str
    dtype: DType
    written: bool


@dataclass(frozen=True)
class Pack:
    """How one factor of a contraction is gathered into panels: value(lane axes, depth axes).

    ``lanes`` and ``depth`` are the axes that the panel's columns and rows run through;
    ``along`` tells which of the two the inner loop follows (the one that is contiguous in memory).
    """

    lanes: tuple[Axis, ...]
    value: Scalar
    conditions: tuple[Condition, ...]
    along: Literal["lanes", "depth"]


@dataclass(frozen=True)
class Contraction:
    """out[batch, m, n] = epilogue(sum over k of A[batch, m, k] * B[batch, k, n]).

    Attributes:
        batch, depth: axes in both factors that are kept, and that are summed.
        rows, columns: A's and B's packing; their lanes are the axes M and N.
        split: position in ``depth`` whose axis is cut into pieces of ``piece``; axes before it are
            walked one by one, axes after it run whole: one block of the depth.
        row_block, column_panels: rows and column panels of one task.
        epilogue_rows, epilogue_columns: M and N as the epilogue's memory accesses let them merge.
        epilogue: statements for one finished element, which reads the scalar ``sum``.
    """

    batch: tuple[Axis, ...]
    depth: tuple[Axis, ...]
    rows: Pack
    columns: Pack
    split: int
    piece: int
    row_block: int
    column_panels: int
    epilogue_rows: tuple[Axis, ...]
    epilogue_columns: tuple[Axis, ...]
    epilogue: tuple[Statement, ...]
    dtype: DType


@dataclass(frozen=True)
class Routine:
    """One generated function."""

    name: str
    title: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    body: tuple[Statement, ...] | Contraction
    flops: int
    bytes: int


@dataclass(frozen=True)
class BlockSizes:
    """The register block of a machine: rows x (vectors x lanes)."""

    rows: int
    vectors: int
    vector_bytes: int

    def columns(self, dtype: DType) -> int:
        """Columns of the register block for an element type."""
        return self.vectors * self.vector_bytes // dtype.size
