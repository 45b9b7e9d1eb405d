"""Schedule -> Routines for a device: nests spread over a grid of threads.

Every output has one owner, so nothing is added atomically. Long windows are shared by a team of
threads; what its workers found is combined pairwise in an order that the shape fixes.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.errors import CompilerBug
from graphc.ir.loops import Combine, GridNest, Routine, Statement, Team, TeamLoop
from graphc.ir.schedule import KernelPlan, Schedule
from graphc.ir.types import Axis, element_count
from graphc.lower.access import Access, Merged
from graphc.lower.lanes import in_lanes
from graphc.lower.names import RESERVED_ON_DEVICE, Namer
from graphc.lower.nest import (
    NestPlan,
    map_statement,
    merge_outputs,
    stage_statements,
    store_statements,
)
from graphc.lower.reduction import (
    Parts,
    Stage,
    combine_statements,
    merge_window,
    reduction_parts,
    sibling_blocks,
)
from graphc.lower.routines import lower_kernel, nest_plan
from graphc.lower.tiles import Group

BLOCK = 256  # threads of a block
WARP = 32
_FEW_TERMS = 2 * WARP  # a thread adds so many alone
_MANY = 1 << 16  # outputs that fill a device with one thread each
_MANY_PRODUCTS = 1 << 12  # here neighbours share what they read, so that caches serve them
_LONG = 1 << 10  # terms that a whole block shares
_WIDE = 1 << 31  # places from here on need 64 bits


def lower_to_grid(schedule: Schedule) -> tuple[Routine, ...]:
    """Routines of all kernels for a device, in execution order."""
    return tuple(
        lower_kernel(plan, schedule, Namer(RESERVED_ON_DEVICE), grid_nest)
        for plan in schedule.kernels
    )


def grid_nest(plan: KernelPlan, group: Group) -> GridNest:
    """The nest of a kernel's nodes."""
    nest = nest_plan(group)
    merged = merge_outputs(nest)
    blocks = sibling_blocks(nest.stages)
    places = [element_count(array.layout.shape) for array in group.arrays.values()]
    wide = max([_extent(merged.axes), *places]) >= _WIDE
    team, reason = choose_team(blocks, merged, nest.namer)
    if plan.strategy == "contraction" and _extent(merged.axes) >= _MANY_PRODUCTS:
        team, reason = one_each(_extent(merged.axes)), "a thread for each sum of products"
    if team.workers > 1:
        body, finish = _shared(nest, merged, blocks)
        return GridNest(merged.axes, team, body, finish, wide, reason)
    lanes = in_lanes(nest, merged, blocks)
    if lanes is not None:
        axes, body, count = lanes
        reason = f"a thread for {count} neighbours"
        return GridNest(axes, one_each(_extent(axes)), body, (), wide, reason)
    statements: list[Statement] = []
    for block in blocks:
        statements += stage_statements(block, merged, nest.namer)
    statements += store_statements(nest, merged)
    return GridNest(merged.axes, team, tuple(statements), (), wide, reason)


def one_each(count: int) -> Team:
    """Whole warps, a thread for each of ``count`` outputs, as far as they fit into a block."""
    return Team(1, min(BLOCK, -(-count // WARP) * WARP), "outputs")


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
    if terms <= _FEW_TERMS:
        return one_each(results), "a thread for each output"
    along_window, along_outputs = _unit_steps(reductions, merged, namer)
    if along_window >= along_outputs:
        workers = WARP if terms <= _LONG or results >= _MANY else BLOCK
        outputs = min(BLOCK // workers, _power_above(results))
        team = Team(workers, outputs, "workers")
        return team, f"{workers} threads share the {terms} terms of an output, neighbours in memory"
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


def _shared(
    plan: NestPlan, merged: Merged, blocks: Sequence[Sequence[Stage]]
) -> tuple[tuple[Statement, ...], tuple[Statement, ...]]:
    """Every worker's share of each window, combined; then the first worker's maps and stores."""
    body: list[Statement] = []
    finish: list[Statement] = []
    for block in blocks:
        if block[0].equation.is_map:
            finish.append(map_statement(block[0], merged))
            continue
        parts = reduction_parts(block, merged, plan.namer)
        _check_apart(block[0], plan)
        names, others, combined = combine_statements(block)
        body += [*parts.before, _team_loop(parts), Combine(names, others, combined)]
        finish += parts.after
    return tuple(body), (*finish, *store_statements(plan, merged))


def _team_loop(parts: Parts) -> TeamLoop:
    return TeamLoop(parts.window.axes, parts.inside)


def _check_apart(stage: Stage, plan: NestPlan) -> None:
    """Fusion lets no reduction read a value of its own kernel, which only one worker has."""
    values = {s.value for s in plan.stages}
    if any(isinstance(read, str) and read in values for read in stage.reads):
        raise CompilerBug(f"{stage.node!r} reduces over a value of its own kernel")


def _terms(stage: Stage) -> int:
    return _extent(stage.equation.reduce_axes)


def _extent(axes: Sequence[Axis]) -> int:
    return element_count(tuple(a.extent for a in axes))


def _power_above(count: int) -> int:
    return 1 << max(0, count - 1).bit_length()
