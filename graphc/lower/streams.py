"""Results larger than the caches leave in whole lines, which memory need not be read for first."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from graphc.ir.index import axis_index, constant
from graphc.ir.loops import Assign, Declare, LineStore, Statement, Store
from graphc.ir.scalar import Number
from graphc.ir.types import Axis
from graphc.lower.names import Namer

_LINES = (32, 64)  # bytes: a vector of the machine, which is a line of its cache or half of one


def stream_lines(
    body: Sequence[Statement], lane: Axis, streamed: Collection[str], namer: Namer
) -> tuple[list[Statement], tuple[LineStore, ...]]:
    """Statements of one element that fill lines of ``streamed`` arrays, and these lines.

    They are stored after all lanes. Arrays in which the lanes are no line are stored to as ever.
    """
    kept: list[Statement] = []
    lines: list[LineStore] = []
    for statement in body:
        if not isinstance(statement, Store) or not _fills_line(statement, lane, streamed):
            kept.append(statement)
            continue
        dtype = statement.value.dtype
        name = namer.name(f"line of {statement.buffer}")
        first = statement.offset.substitute({lane.name: constant(0)})
        array = Declare(name, dtype, Number(0.0, dtype), mutable=True, lanes=lane.extent)
        kept.append(Assign(name, statement.value, axis_index(lane.name)))
        lines.append(LineStore(array, statement.buffer, first))
    return kept, tuple(lines)


def _fills_line(store: Store, lane: Axis, streamed: Collection[str]) -> bool:
    """Whether the lanes are neighbours that start at a multiple of their number."""
    dtype = store.value.dtype
    if store.buffer not in streamed or not dtype.is_float or dtype.size != 4:
        return False
    rest = store.offset - axis_index(lane.name)
    whole = all(c % lane.extent == 0 for _, c in rest.terms) and rest.const % lane.extent == 0
    return whole and lane.name not in rest.names and lane.extent * dtype.size in _LINES
