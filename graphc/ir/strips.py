"""What rows or columns of a product read, as a small array with zeros where windows overhang."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from graphc.ir.index import Index, axis_index, constant
from graphc.ir.scalar import Condition
from graphc.ir.types import Axis, element_count


@dataclass(frozen=True)
class Span:
    """One dimension of a strip: position = lane_step * lane + depth_step * depth, from 0 on.

    Attributes:
        axis: its positions.
        lane, depth: the axes of the product that walk along it; None for none.
        depth_start: where the depth is at position 0, its last place if it walks backwards.
        stride: elements of the array from one position to the next.
        inside: which positions the array has, counted from the task's first lane; None for all.
    """

    axis: Axis
    lane: str | None
    lane_step: int
    depth: str | None
    depth_step: int
    depth_start: int
    stride: int
    inside: Condition | None


@dataclass(frozen=True)
class Strip:
    """One task's lanes, rows or columns, are read from a copy of all that they share, or in place.

    Attributes:
        buffer: the array; ``offset`` its element at position 0 of every span.
        spans: dimensions of the copy, outermost first.
        copied: whether there is a copy; the array has all positions otherwise.
        box: lanes of a task, along each of their axes.
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
    def lanes(self) -> int:
        """Rows or columns of a task."""
        return element_count(tuple(axis.extent for axis in self.box))

    def substitute(self, values: Mapping[str, Index]) -> Strip:
        """The strip of other first lanes, or of another block of the depth."""
        spans = tuple(
            replace(span, inside=replace(span.inside, index=span.inside.index.substitute(values)))
            if span.inside is not None
            else span
            for span in self.spans
        )
        return replace(self, offset=self.offset.substitute(values), spans=spans)

    def steps(self) -> tuple[int, ...]:
        """Elements from one position of each span to the next."""
        if not self.copied:
            return tuple(span.stride for span in self.spans)
        sizes = [span.axis.extent for span in self.spans]
        return tuple(element_count(tuple(sizes[at + 1 :])) for at in range(len(sizes)))

    def lane_offset(self) -> Index:
        """Where a lane begins, in terms of the axes of ``box``."""
        total = constant(0)
        for span, step in zip(self.spans, self.steps(), strict=True):
            if span.lane is not None:
                total += axis_index(span.lane) * (span.lane_step * step)
        return total

    def depth_offset(self) -> Index:
        """Where an element of a lane lies, counted from the lane's beginning."""
        total = constant(0)
        for span, step in zip(self.spans, self.steps(), strict=True):
            if span.depth is not None:
                place = axis_index(span.depth) - span.depth_start
                total += place * (span.depth_step * step)
        return total
