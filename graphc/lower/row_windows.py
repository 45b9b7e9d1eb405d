"""Windows of a device's product: rows in an order in which those of a window are neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphc.ir.grid import GridNest, GridWindows
from graphc.ir.index import Index, axis_index
from graphc.ir.layout import row_major
from graphc.ir.loops import Assign, Declare, Loop, Statement
from graphc.ir.scalar import Number
from graphc.ir.types import Axis, DType, element_count
from graphc.lower.group import Group
from graphc.lower.pooled import pooled_statements, pooled_value
from graphc.lower.teams import one_each
from graphc.passes.windows import window_sizes


@dataclass(frozen=True)
class RowWindows:
    """The nodes over windows of a product's results.

    Attributes:
        pooled: these nodes; the leader's axes count windows where there are any.
        sizes: of the windows, by axis of the leader.
        inner: the places in a window, which the innermost rows count.
        leader: the axes of the leader.
    """

    pooled: Group
    sizes: Mapping[str, int]
    inner: tuple[Axis, ...]
    leader: tuple[Axis, ...]

    @property
    def names(self) -> dict[str, str]:
        """The inner axis of each axis that counts windows."""
        return {old: new.name for old, new in zip(self.sizes, self.inner, strict=True)}

    @property
    def count(self) -> int:
        """Elements of a window."""
        return element_count(tuple(axis.extent for axis in self.inner))

    @property
    def flat(self) -> Index:
        """The number of a place in its window."""
        return self._flat(tuple(axis_index(axis.name) for axis in self.inner))

    def _flat(self, places: tuple[Index, ...]) -> Index:
        return row_major(tuple(axis.extent for axis in self.inner)).offset(places)

    def outer(self, axes: Sequence[Axis]) -> tuple[Axis, ...]:
        """Those axes that are not within windows."""
        return tuple(axis for axis in axes if axis not in self.inner)

    def statements(
        self, axes: Sequence[Axis], buffer: str, first: Index, step: int
    ) -> tuple[Statement, ...]:
        """What happens to one window, whose values are ``step`` elements of a buffer apart."""
        values = {
            own.name: axis_index(old.name)
            for own, old in zip(self.pooled.outputs, self.leader, strict=True)
        }

        def element(index: tuple[Index, ...]) -> Index:
            places = tuple(
                one - axis_index(axis.name) * self.sizes[axis.name]
                for one, axis in zip(index, self.leader, strict=True)
                if axis.name in self.sizes
            )
            return first + self._flat(places) * step

        return pooled_statements(self.pooled, axes, values, buffer, element)


def row_windows(group: Group) -> RowWindows | None:
    """The windows of a group's results, if it has some."""
    if group.pooled is None:
        return None
    sizes = window_sizes(group.pooled.nodes[0].op_equation())
    assert sizes is not None
    found = {a.name: n for a, n in zip(group.outputs, sizes, strict=True) if n > 1}
    inner = tuple(Axis(group.namer.axis(f"{a}_in_window"), n) for a, n in found.items())
    return RowWindows(group.pooled, found, inner, group.outputs)


def grid_windows(
    windows: RowWindows, batch: Sequence[Axis], rows: Sequence[Axis], columns: Sequence[Axis],
    sums: str, place: Index, line: int,
) -> GridWindows:  # fmt: skip
    """What follows a tile of sums whose lines are ``line`` elements apart."""
    outer = windows.outer(rows)
    statements = windows.statements((*batch, *outer, *columns), sums, place, line)
    return GridWindows(windows.count, outer, tuple(columns), statements)


def finish_windows(
    windows: RowWindows, axes: Sequence[Axis], element: Sequence[Statement], dtype: DType,
    wide: bool, reason: str,
) -> GridNest:  # fmt: skip
    """A thread for each window: ``element`` makes each of its values, which a local array keeps."""
    kept = windows.pooled.namer.name("window")
    value = pooled_value(windows.pooled)
    body: tuple[Statement, ...] = (*element, Assign(kept, value, windows.flat))
    for axis in reversed(windows.inner):
        body = (Loop(axis, body, unroll=True),)
    outer = windows.outer(axes)
    statements = (
        Declare(kept, dtype, Number(0.0, dtype), mutable=True, lanes=windows.count), *body,
        *windows.statements(outer, kept, Index(), 1),
    )  # fmt: skip
    count = element_count(tuple(axis.extent for axis in outer))
    return GridNest(outer, one_each(count), statements, (), wide, reason)
