"""A sum of a product's results over one of its sides: of each tile first, then of the tiles."""

from __future__ import annotations

from collections.abc import Sequence

from graphc.ir.grid import GridNest, TileSums
from graphc.ir.index import axis_index
from graphc.ir.layout import row_major
from graphc.ir.loops import Assign, Combine, Declare, Loop, Statement, Store, TeamLoop
from graphc.ir.scalar import Call, Load, Name, Number
from graphc.ir.types import Axis, DType, element_count
from graphc.lower.freeze import as_type
from graphc.lower.nest import Total
from graphc.lower.reduction import other
from graphc.lower.teams import along_terms
from graphc.schedule.side_by_side import FEW_TERMS

PARTIAL, PART = "partial", "tile"  # the array of partial sums, and what counts those of a result


def sums_over_rows(total: Total, columns: Sequence[Axis]) -> bool:
    """Whether it is the columns that a sum keeps."""
    return any(axis.name in total.offset.names for axis in columns)


def tile_sums(total: Total, kept: Sequence[Axis], parts: int, *, over_rows: bool) -> TileSums:
    """The sum that keeps axes of a product, from so many partial sums in float32 for each result.

    ``total`` is in terms of these axes.
    """
    axes, part = tuple(kept), Axis(PART, parts)
    place = row_major((*(a.extent for a in axes), parts)).offset(
        tuple(axis_index(axis.name) for axis in (*axes, part))
    )
    wide = parts > FEW_TERMS or total.dtype.is_half
    found = Name("total", DType.float64 if wide else DType.float32)
    term = as_type(Load(PARTIAL, place, DType.float32), found.dtype)
    begin = Declare(found.name, found.dtype, Number(0.0, found.dtype), mutable=True)
    add = Assign(found.name, Call("add", (found, term), found.dtype))
    results = element_count(tuple(axis.extent for axis in axes))
    team, reason = along_terms(parts, results)
    store: Statement = Store(total.buffer, total.offset, as_type(found, total.dtype))
    body: tuple[Statement, ...] = (begin, Loop(part, (add,)), store)
    finish: tuple[Statement, ...] = ()
    if team.workers > 1:
        theirs = Call("add", (found, other(found)), found.dtype)
        combine = Combine((found,), (other(found),), (Assign(found.name, theirs),))
        body, finish = (begin, TeamLoop((part,), (add,)), combine), (store,)
    nest = GridNest(axes, team, body, finish, results * parts >= 1 << 31, reason)
    return TileSums("rows" if over_rows else "columns", axes, parts, total.buffer, nest)
