"""Schedule -> Routines for a device: nests spread over a grid of threads.

Every output has one owner, so nothing is added atomically. Long windows are shared by a team of
threads; what its workers found is combined pairwise in an order that the shape fixes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from graphc.errors import CompilerBug
from graphc.ir.boxes import BoxProduct
from graphc.ir.grid import GridNest, GridPart, GridParts, GridProduct, Team
from graphc.ir.loops import Combine, Statement, TeamLoop
from graphc.ir.routine import Body, Routine
from graphc.ir.schedule import KernelPlan, Schedule
from graphc.ir.types import Axis, element_count
from graphc.lower.access import Merged
from graphc.lower.box_products import build_box_product
from graphc.lower.group import Group
from graphc.lower.lanes import in_lanes, in_padded_lanes
from graphc.lower.names import RESERVED_ON_DEVICE, Namer
from graphc.lower.nest import (
    NestPlan,
    map_statement,
    merge_outputs,
    stage_statements,
    store_statements,
)
from graphc.lower.padding import with_padding
from graphc.lower.products import build_product
from graphc.lower.reduction import (
    Parts,
    Stage,
    combine_statements,
    merge_window,
    reduction_parts,
    sibling_blocks,
)
from graphc.lower.routines import (
    buffer_order,
    in_phases,
    kernel_parameters,
    lower_kernel,
    nest_plan,
)
from graphc.lower.row_windows import RowWindows, row_windows
from graphc.lower.rows import grid_rows
from graphc.lower.teams import BLOCK, choose_team, one_each
from graphc.passes.classify import contraction_factors
from graphc.schedule.product_tiles import MOST_BATCHES

_MANY_PRODUCTS = 1 << 12  # here neighbours share what they read, so that caches serve them
_WIDE = 1 << 31  # places from here on need 64 bits


def lower_to_grid(
    schedule: Schedule, *, tf32: bool = False, boxes: bool = False
) -> tuple[Routine, ...]:
    """Routines of all kernels for a device, in execution order, then those of the copies.

    ``tf32`` lets products of float32 take tensor cores, which read 10 bits of each factor. With
    ``boxes`` a copy engine brings the factors of a product wherever it can.
    """

    def body(plan: KernelPlan, group: Group) -> Body:
        if plan.strategy == "rows":
            return grid_rows(group, _WIDE)
        product = grid_product(group, tf32, boxes) if plan.strategy == "contraction" else None
        return product or grid_nest(plan, group)

    return tuple(
        _side_by_side(plan, schedule, body) if plan.parts
        else lower_kernel(plan, schedule, Namer(RESERVED_ON_DEVICE), body)
        for plan in (*schedule.kernels, *schedule.copies)
    )  # fmt: skip


def _side_by_side(
    plan: KernelPlan, schedule: Schedule, body: Callable[[KernelPlan, Group], Body]
) -> Routine:
    """Kernels that run in one launch: each as a function, all in blocks of the same size."""
    namer = Namer(RESERVED_ON_DEVICE)
    parameters = kernel_parameters(plan, schedule, namer)
    places = buffer_order(plan, schedule)
    names = {place: p.name for place, p in zip(places, parameters, strict=True)}
    parts: list[GridPart] = []
    routines = [
        lower_kernel(part, schedule, Namer(RESERVED_ON_DEVICE), body) for part in plan.parts
    ]
    for part, one in zip(plan.parts, routines, strict=True):
        if not isinstance(one.body, GridNest) or one.body.team.workers > 1:
            raise CompilerBug(f"{part.name} cannot run beside other kernels")
        nest = replace(one.body, team=Team(1, BLOCK, "outputs"))
        arguments = tuple(names[place] for place in buffer_order(part, schedule))
        parts.append(GridPart(f"{part.name}_part", one.title, one.parameters, arguments, nest))
    return Routine(
        plan.name, tuple(line for one in routines for line in one.title), parameters,
        GridParts(tuple(parts)), sum(one.flops for one in routines),
        sum(one.bytes for one in routines),
    )  # fmt: skip


def grid_product(group: Group, tf32: bool, boxes: bool) -> GridProduct | BoxProduct | None:
    """The product of a kernel's leader; None where its type has none, or a grid too few blocks."""
    if not group.nodes[0].dtype.is_float:
        return None
    windows = row_windows(group)
    found = _box_product(group, windows) if boxes else None
    if isinstance(found, BoxProduct):
        return found
    if windows is not None:
        nest = nest_plan(group, windows.sizes, windows.names)
    else:
        nest = nest_plan(in_phases(group) or group)
    plain = windows is None and nest.total is None  # nothing follows that counts all results
    nest, inside = with_padding(nest, group.arrays, results=plain)
    factors = contraction_factors(nest.stages[0].equation)
    assert factors is not None
    if _extent(factors.batch) > MOST_BATCHES:
        return None
    product = build_product(nest, factors, _sizes(group), tf32, windows, inside)
    if found is None:
        return product
    return replace(product, reason=f"{product.reason}; not by boxes: {found}")


def _box_product(group: Group, windows: RowWindows | None) -> BoxProduct | str:
    """The product by boxes, whose rows are the elements of windows as they lie; or why not so."""
    nest = nest_plan(group if windows is not None else in_phases(group) or group)
    factors = contraction_factors(nest.stages[0].equation)
    assert factors is not None
    return build_box_product(nest, factors, _sizes(group), windows)


def _sizes(group: Group) -> list[int]:
    return [array.layout.size for array in group.arrays.values()]


def grid_nest(plan: KernelPlan, group: Group) -> GridNest:
    """The nest of a kernel's nodes."""
    nest = _by_memory(nest_plan(group))
    merged = merge_outputs(nest)
    blocks = sibling_blocks(nest.stages)
    wide = max([_extent(merged.axes), *_sizes(group)]) >= _WIDE
    team, reason = choose_team(blocks, merged, nest.namer)
    if plan.strategy == "contraction" and _extent(merged.axes) >= _MANY_PRODUCTS:
        team, reason = one_each(_extent(merged.axes)), "a thread for each sum of products"
    if team.workers > 1:
        body, finish = _shared(nest, merged, blocks)
        return GridNest(merged.axes, team, body, finish, wide, reason)
    whole = in_padded_lanes(nest, merged, blocks, _padded(group))
    if whole is not None:
        axes, body, axis = whole
        reason = f"a thread for {axis.extent} neighbours and the zeros beside them"
        return GridNest(axes, one_each(_extent(axes)), body, (), wide, reason)
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


def _padded(group: Group) -> dict[str, int]:
    """Arrays that are stored with zeros beside their fastest dimension, and its places."""
    stored = [group.arrays[node] for node in group.stored]
    return {
        array.name: array.layout.padding[1] for array in stored if array.layout.padding is not None
    }


def _by_memory(nest: NestPlan) -> NestPlan:
    """Outputs in the order in which they lie, so that neighbouring threads store neighbours."""
    offset = nest.stores[0][1]
    if not offset.is_affine:
        return nest
    axes = sorted(nest.axes, key=lambda axis: -abs(offset.coefficient(axis.name)))
    return replace(nest, axes=tuple(axes))


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
        parts = reduction_parts(block, merged, merge_window(block[0], merged, plan.namer))
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


def _extent(axes: Sequence[Axis]) -> int:
    return element_count(tuple(a.extent for a in axes))
