"""How the threads of a block share outputs, and long windows."""

from __future__ import annotations

from collections.abc import Sequence

from graphc.ir.grid import Team
from graphc.ir.types import Axis, element_count
from graphc.lower.access import Access, Merged
from graphc.lower.names import Namer
from graphc.lower.reduction import Stage, merge_window
from graphc.schedule.side_by_side import FEW_TERMS

BLOCK = 256  # threads of a block
WARP = 32
_MANY = 1 << 16  # outputs that fill a device with one thread each
_LONG = 1 << 10  # terms that a whole block shares


def one_each(count: int) -> Team:
    """Whole warps, a thread for each of ``count`` outputs, as far as they fit into a block."""
    return Team(1, min(BLOCK, -(-count // WARP) * WARP), "outputs")


def along_terms(terms: int, results: int) -> tuple[Team, str]:
    """Threads for sums each of whose terms lie together, with the reason."""
    if terms <= FEW_TERMS:
        return one_each(results), "a thread for each output"
    workers = WARP if terms <= _LONG or results >= _MANY else BLOCK
    team = Team(workers, min(BLOCK // workers, _power_above(results)), "workers")
    return team, f"{workers} threads share the {terms} terms of an output, neighbours in memory"


def choose_team(
    blocks: Sequence[Sequence[Stage]], merged: Merged, namer: Namer
) -> tuple[Team, str]:
    """How many threads share a window, and what neighbouring threads are, with the reason.

    Neighbouring threads should touch neighbouring elements: workers where the window's last axis
    runs through memory, outputs where theirs does.
    """
    results = _extent(merged.axes)
    reductions = [b for b in blocks if not b[0].equation.is_map]
    terms = max((_terms(b[0]) for b in reductions), default=1)
    if terms <= FEW_TERMS:
        return one_each(results), "a thread for each output"
    along_window, along_outputs = _unit_steps(reductions, merged, namer)
    if along_window >= along_outputs:
        return along_terms(terms, results)
    if results >= _MANY:
        return one_each(results), "a thread for each output, neighbours in memory"
    workers = 8 if terms <= _LONG else 32
    team = Team(workers, WARP, "outputs")
    return team, f"{workers} threads share the {terms} terms of an output, 32 outputs side by side"


def _unit_steps(
    reductions: Sequence[Sequence[Stage]], merged: Merged, namer: Namer
) -> tuple[int, int]:
    """How many reads walk memory along the window's last axis, and along the outputs'."""
    along_window = along_outputs = 0
    for block in reductions:
        inner = merge_window(block[0], merged, namer)
        for read in block[0].reads:
            if not isinstance(read, Access):
                continue
            offset = read.offset.substitute(merged.values).substitute(inner.values)
            along_window += bool(inner.axes) and abs(offset.coefficient(inner.axes[-1].name)) == 1
            along_outputs += bool(merged.axes) and offset.coefficient(merged.axes[-1].name) == 1
    return along_window, along_outputs


def _terms(stage: Stage) -> int:
    return _extent(stage.equation.reduce_axes)


def _extent(axes: Sequence[Axis]) -> int:
    return element_count(tuple(a.extent for a in axes))


def _power_above(count: int) -> int:
    return 1 << max(0, count - 1).bit_length()
