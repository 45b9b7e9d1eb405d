"""What the rows of a product's task read, as one small array with zeros where windows overhang."""

from __future__ import annotations

from dataclasses import dataclass

from graphc.ir.index import Index, axis_index, constant
from graphc.ir.scalar import Condition
from graphc.ir.types import Axis, element_count


@dataclass(frozen=True)
class Span:
    """One dimension of a strip: position = row_step * row + depth_step * depth, from 0 on.

    Attributes:
        axis: its positions.
        row, depth: the axes of the product that walk along it; None for none.
        depth_start: where the depth is at position 0, its last place if it walks backwards.
        stride: elements of the array from one position to the next.
        inside: which positions the array has, counted from the task's first row; None for all.
    """

    axis: Axis
    row: str | None
    row_step: int
    depth: str | None
    depth_step: int
    depth_start: int
    stride: int
    inside: Condition | None


@dataclass(frozen=True)
class Strip:
    """Rows of one task are read from a copy of all that they share, or where they lie.

    Attributes:
        buffer: the array; ``offset`` its element at position 0 of every span.
        spans: dimensions of the copy, outermost first.
        copied: whether there is a copy; the array has all positions otherwise.
        box: rows of a task, along each axis of the rows.
        run: the depth axis whose elements lie side by side, or ``step`` apart.
    """

    buffer: str
    offset: Index
    spans: tuple[Span, ...]
    copied: bool
    box: tuple[Axis, ...]
    run: Axis

    @property
    def size(self) -> int:
        """Elements of the copy."""
        return element_count(tuple(span.axis.extent for span in self.spans)) if self.copied else 0

    @property
    def rows(self) -> int:
        """Rows of a task."""
        return element_count(tuple(axis.extent for axis in self.box))

    def steps(self) -> tuple[int, ...]:
        """Elements from one position of each span to the next."""
        if not self.copied:
            return tuple(span.stride for span in self.spans)
        sizes = [span.axis.extent for span in self.spans]
        return tuple(element_count(tuple(sizes[at + 1 :])) for at in range(len(sizes)))

    def row_offset(self) -> Index:
        """Where a row begins, in terms of the axes of ``box``."""
        total = constant(0)
        for span, step in zip(self.spans, self.steps(), strict=True):
            if span.row is not None:
                total += axis_index(span.row) * (span.row_step * step)
        return total

    def depth_offset(self) -> Index:
        """Where an element of a row lies, counted from the row's beginning."""
        total = constant(0)
        for span, step in zip(self.spans, self.steps(), strict=True):
            if span.depth is not None:
                place = axis_index(span.depth) - span.depth_start
                total += place * (span.depth_step * step)
        return total
