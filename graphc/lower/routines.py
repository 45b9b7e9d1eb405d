"""Schedule -> Routines: one routine a kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from graphc.ir.equation import Equation
from graphc.ir.graph import Node
from graphc.ir.index import Index, axis_index, constant
from graphc.ir.loops import BlockSizes, Contraction, Parameter, Statement, TileProduct
from graphc.ir.routine import Body, Routine
from graphc.ir.scalar import Name
from graphc.ir.schedule import Buffer, KernelPlan, Schedule
from graphc.ir.show import equation_text
from graphc.lower.access import rename_axes
from graphc.lower.contraction import build_contraction
from graphc.lower.group import Group
from graphc.lower.names import Namer
from graphc.lower.nest import Array, NestPlan, Total, build_nest, make_stage
from graphc.lower.phases import split_phases
from graphc.lower.places import window_places
from graphc.lower.reduction import SUFFIXES, Stage
from graphc.lower.rows import build_rows, rename_rows
from graphc.lower.split import lane_values, recast, split_axes
from graphc.lower.tiles import build_tiles
from graphc.passes.classify import contraction_factors
from graphc.passes.sliding import sliding_product
from graphc.passes.sums import ArraySum, array_sum
from graphc.schedule.blocking import STREAMED_BYTES


def lower(schedule: Schedule, block: BlockSizes) -> tuple[Routine, ...]:
    """Routines of all kernels for a processor, in execution order."""
    return tuple(
        lower_kernel(plan, schedule, Namer(), lambda plan, group: _body(plan, group, block))
        for plan in schedule.kernels
    )


def lower_kernel(
    plan: KernelPlan, schedule: Schedule, namer: Namer, body: Callable[[KernelPlan, Group], Body]
) -> Routine:
    """The routine of one kernel; ``body`` makes of its nodes what the machine runs."""
    equations = _renamed(plan, namer)
    arrays, parameters = _parameters(plan, schedule, namer)
    values = {node: namer.name(f"{node.label}_value", SUFFIXES) for node in plan.nodes}

    def group_of(nodes: tuple[Node, ...]) -> Group:
        stored = tuple(node for node in plan.stored if node in nodes)
        axes = equations[nodes[0]].axes
        made = dict(plan.scattered)
        return Group(nodes, equations, values, arrays, stored, namer, axes, scattered=made)

    group = group_of(plan.unpooled)
    group = replace(
        group, pooled=group_of(plan.pooled) if plan.pooled else None,
        summed=array_sum(plan.summed) if plan.summed else None,
        placed=tuple(p for s in plan.placed for p in window_places(s, group.outputs, namer)),
    )  # fmt: skip
    return Routine(
        plan.name, _title(plan), parameters, body(plan, group), _flops(plan),
        _bytes(plan, schedule),
    )  # fmt: skip


def _body(
    plan: KernelPlan, group: Group, block: BlockSizes
) -> tuple[Statement, ...] | Contraction | TileProduct:
    leader = group.equations[plan.nodes[0]]
    if plan.strategy == "tiles":
        form = sliding_product(leader)
        assert form is not None
        return build_tiles(group, form, plan.algorithms, plan.tile_blocks, block)
    if plan.strategy == "rows":
        return build_rows(group)
    if plan.strategy == "nest":
        return build_nest(nest_plan(group))
    nest = nest_plan(in_phases(group) or group)
    factors = contraction_factors(nest.stages[0].equation)
    assert factors is not None
    return build_contraction(nest, factors, plan.contraction_blocks, block)


def _renamed(plan: KernelPlan, namer: Namer) -> dict[Node, Equation]:
    """Equations over the axis names of the leader, or of the first that is pooled; summed axes of
    different windows keep apart.
    """
    if plan.strategy == "rows":
        return rename_rows(plan.nodes, namer)
    common = {
        nodes[0].shape: [namer.axis(a.name) for a in nodes[0].op_equation().axes]
        for nodes in (plan.unpooled, plan.pooled) if nodes
    }  # fmt: skip
    windows: dict[object, dict[str, str]] = {}
    found = {}
    for node in (*plan.unpooled, *plan.pooled):
        equation = node.op_equation()
        names = {a.name: c for a, c in zip(equation.axes, common[node.shape], strict=True)}
        key = (equation.reduce_axes, equation.reads, node.inputs)
        if key not in windows:
            windows[key] = {a.name: namer.axis(a.name) for a in equation.reduce_axes}
        found[node] = rename_axes(equation, names | windows[key])
    return found


def _parameters(
    plan: KernelPlan, schedule: Schedule, namer: Namer
) -> tuple[dict[Node, Array], tuple[Parameter, ...]]:
    """Name and layout of every array that the kernel touches; one parameter for each buffer."""
    by_buffer: dict[int, str] = {}
    written = {schedule.places[node] for node in plan.stored}
    arrays: dict[Node, Array] = {}
    order: list[tuple[int, str]] = []
    touched = [o for o in plan.operands if o not in plan.nodes or o in plan.stored]
    read = {schedule.places[node] for node in touched}
    for node in dict.fromkeys([*touched, *plan.stored]):
        place = schedule.places[node]
        if place not in by_buffer:
            by_buffer[place] = namer.name(schedule.buffers[place].name)
            order.append((place, by_buffer[place]))
        streamed = place not in read and _is_streamed(schedule.buffers[place])
        arrays[node] = Array(by_buffer[place], schedule.layout(node), streamed)
    return arrays, tuple(
        Parameter(name, schedule.buffers[place].dtype, place in written) for place, name in order
    )


def _is_streamed(buffer: Buffer) -> bool:
    return buffer.storage == "arena" and buffer.bytes > STREAMED_BYTES


def kernel_parameters(plan: KernelPlan, schedule: Schedule, namer: Namer) -> tuple[Parameter, ...]:
    """One parameter for each array that a kernel touches, in the order of ``buffer_order``."""
    return _parameters(plan, schedule, namer)[1]


def buffer_order(plan: KernelPlan, schedule: Schedule) -> tuple[int, ...]:
    """Buffer numbers in the order of the routine's parameters."""
    touched = [o for o in plan.operands if o not in plan.nodes or o in plan.stored]
    places = [schedule.places[n] for n in (*touched, *plan.stored)]
    return tuple(dict.fromkeys(places))


def in_phases(group: Group) -> Group | None:
    """The group with its leader's strides split into phases, if it stays a contraction and a sum
    keeps whole axes.
    """
    leader = group.nodes[0]
    phased = split_phases(group.equations[leader], group.namer)
    if phased is None or contraction_factors(phased.equation) is None:
        return None
    kept = [group.outputs[d] for d in group.summed.kept] if group.summed is not None else []
    if any(phased.values.get(a.name, axis_index(a.name)) != axis_index(a.name) for a in kept):
        return None
    axes = phased.equation.axes
    equations = {
        node: recast(e, axes, e.reduce_axes, phased.values) for node, e in group.equations.items()
    }
    placed = tuple(
        replace(place, equation=recast(place.equation, axes, (), phased.values))
        for place in group.placed
    )
    return replace(
        group, equations=equations | {leader: phased.equation}, places=phased.values, placed=placed
    )


def nest_plan(
    group: Group, windows: Mapping[str, int] | None = None, names: Mapping[str, str] | None = None
) -> NestPlan:
    """Stages over axes that are split where an array lies in blocks of lanes, or in ``windows``
    whose inner axes have ``names``.
    """
    lanes = windows or _lane_counts(group)
    names = names or {axis: group.namer.axis(f"{axis}_lane") for axis in lanes}
    computed: dict[Node, str] = {}
    stages: list[Stage] = []
    for node in group.nodes:
        equation = split_axes(group.equations[node], lanes, names)
        value = group.values[node]
        stages.append(make_stage(node, equation, value, computed, group.arrays))
        computed[node] = value
    values = lane_values(lanes, names)
    index = tuple(
        axis_index(a.name).substitute(group.places).substitute(values) for a in group.outputs
    )
    split = stages[0].equation
    stores = [
        (
            group.arrays[node].name,
            group.arrays[node].layout.offset(index).simplify(split.extents),
            computed[node],
            node.dtype,
        )
        for node in group.stored
    ]
    for place in group.placed:
        equation, array = split_axes(place.equation, lanes, names), group.arrays[place.node]
        stages.append(make_stage(place.node, equation, place.value, computed, group.arrays))
        there = tuple(i.substitute(group.places).substitute(values) for i in place.index)
        offset = array.layout.offset(there).simplify(split.extents)
        stores.append((array.name, offset, place.value, place.node.dtype))
    streamed = frozenset(a.name for a in group.arrays.values() if a.streamed)
    total = _total(group, group.summed, index) if group.summed is not None else None
    return NestPlan(split.axes, stages, group.namer, stores, streamed, total)


def _total(group: Group, summed: ArraySum, index: tuple[Index, ...]) -> Total:
    """Where the sum of a value at an ``index`` of the leader's axes is stored."""
    node = summed.nodes[-1]
    array = group.arrays[node]
    zero = {a.name: constant(0) for a in group.outputs if a.extent == 1}
    kept = tuple(index[d].substitute(zero) for d in summed.kept)
    value = Name(group.values[summed.array], summed.array.dtype)
    return Total(value, array.name, array.layout.offset(kept), node.dtype)


def _lane_counts(group: Group) -> dict[str, int]:
    """Axes that run through the blocks of an array, and how many lanes these have."""
    found: dict[str, int] = {}
    for node in group.nodes:
        equation = group.equations[node]
        places = [(node, tuple(axis_index(a.name).substitute(group.places) for a in group.outputs))]
        places += [(node.inputs[r.operand], r.index) for r in equation.reads]
        for array, index in places:
            lanes = group.arrays[array].layout.lanes if array in group.arrays else None
            name = index[lanes[0]].single_name if lanes is not None else None
            if lanes is not None and name is not None:
                found.setdefault(name, lanes[1])
    extents = {
        a.name: a.extent for e in group.equations.values() for a in (*e.axes, *e.reduce_axes)
    }
    return {name: count for name, count in found.items() if extents[name] % count == 0}


def _title(plan: KernelPlan) -> tuple[str, ...]:
    """The formulas and the places in the user's program that the kernel comes from."""
    lines = []
    for node in (*(scatter for _, scatter in plan.scattered), *plan.nodes):
        lines.append(f"{equation_text(node)}    from {node.location}")
    return tuple(lines)


def _flops(plan: KernelPlan) -> int:
    """Scalar operations of all fused equations, counted on their bodies."""
    return sum(node_flops(node) for node in plan.nodes)


def node_flops(node: Node) -> int:
    """Operations of one equation: its body's and its reduction's, at every point."""
    equation = node.op_equation()
    operations = int(equation.body.count_ops()) + (0 if equation.is_map else 1)
    return operations * equation.points


def _bytes(plan: KernelPlan, schedule: Schedule) -> int:
    """Bytes of every array touched once."""
    written = {schedule.places[n] for n in plan.stored}
    total = 0
    for place in buffer_order(plan, schedule):
        buffer = schedule.buffers[place]
        read = any(schedule.places.get(o) == place for o in plan.operands if o not in plan.nodes)
        times = int(read) + int(place in written)
        total += times * buffer.bytes
    return total
