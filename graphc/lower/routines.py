"""Schedule -> Routines: one routine a kernel."""

from __future__ import annotations

from collections.abc import Mapping

from graphc.ir.equation import Equation
from graphc.ir.graph import Node
from graphc.ir.index import axis_index
from graphc.ir.loops import BlockSizes, Parameter, Routine
from graphc.ir.schedule import KernelPlan, Schedule
from graphc.ir.show import equation_text
from graphc.ir.types import element_count
from graphc.lower.access import rename_axes
from graphc.lower.contraction import build_contraction
from graphc.lower.names import Namer
from graphc.lower.nest import SUFFIXES, NestPlan, Stage, build_nest, make_stage
from graphc.passes.classify import contraction_factors, flat_offset


def lower(schedule: Schedule, block: BlockSizes) -> tuple[Routine, ...]:
    """Routines of all kernels, in execution order."""
    return tuple(lower_kernel(plan, schedule, block) for plan in schedule.kernels)


def lower_kernel(plan: KernelPlan, schedule: Schedule, block: BlockSizes) -> Routine:
    """The routine of one kernel."""
    namer = Namer()
    equations = _renamed(plan, namer)
    names, parameters = _parameters(plan, schedule, namer)
    nest = _nest_plan(plan, equations, names, namer)
    leader = plan.nodes[0]
    body = (
        build_contraction(nest, _factors(equations[leader]), block)
        if plan.strategy == "contraction"
        else build_nest(nest)
    )
    return Routine(plan.name, _title(plan), parameters, body, _flops(plan), _bytes(plan, schedule))


def _factors(equation: Equation):  # type: ignore[no-untyped-def]
    factors = contraction_factors(equation)
    assert factors is not None
    return factors


def _renamed(plan: KernelPlan, namer: Namer) -> dict[Node, Equation]:
    """Equations over the leader's axis names; summed axes of different windows keep apart."""
    leader = plan.nodes[0].op_equation()
    common = [namer.axis(a.name) for a in leader.axes]
    windows: dict[object, dict[str, str]] = {}
    found = {}
    for node in plan.nodes:
        equation = node.op_equation()
        names = {a.name: c for a, c in zip(equation.axes, common, strict=True)}
        key = (equation.reduce_axes, equation.reads, node.inputs)
        if key not in windows:
            windows[key] = {a.name: namer.axis(a.name) for a in equation.reduce_axes}
        found[node] = rename_axes(equation, names | windows[key])
    return found


def _parameters(
    plan: KernelPlan, schedule: Schedule, namer: Namer
) -> tuple[dict[Node, str], tuple[Parameter, ...]]:
    """A name for every array that the kernel touches; one parameter for each buffer."""
    by_buffer: dict[int, str] = {}
    written = {schedule.places[node] for node in plan.stored}
    names: dict[Node, str] = {}
    order: list[tuple[int, str]] = []
    touched = [
        o for node in plan.nodes for o in node.inputs if o not in plan.nodes or o in plan.stored
    ]
    for node in dict.fromkeys([*touched, *plan.stored]):
        place = schedule.places[node]
        if place not in by_buffer:
            by_buffer[place] = namer.name(schedule.buffers[place].name)
            order.append((place, by_buffer[place]))
        names[node] = by_buffer[place]
    return names, tuple(
        Parameter(name, schedule.buffers[place].dtype, place in written) for place, name in order
    )


def buffer_order(plan: KernelPlan, schedule: Schedule) -> tuple[int, ...]:
    """Buffer numbers in the order of the routine's parameters."""
    touched = [
        o for node in plan.nodes for o in node.inputs if o not in plan.nodes or o in plan.stored
    ]
    places = [schedule.places[n] for n in (*touched, *plan.stored)]
    return tuple(dict.fromkeys(places))


def _nest_plan(
    plan: KernelPlan, equations: Mapping[Node, Equation], names: dict[Node, str], namer: Namer
) -> NestPlan:
    computed: dict[Node, str] = {}
    stages: list[Stage] = []
    for node in plan.nodes:
        value = namer.name(f"{node.label}_value", SUFFIXES)
        stages.append(make_stage(node, equations[node], value, computed, names))
        computed[node] = value
    axes = equations[plan.nodes[0]].axes
    index = tuple(axis_index(a.name) for a in axes)
    extents = equations[plan.nodes[0]].extents
    stores = [
        (names[node], flat_offset(index, node.shape).simplify(extents), computed[node], node.dtype)
        for node in plan.stored
    ]
    return NestPlan(axes, stages, namer, stores)


def _title(plan: KernelPlan) -> tuple[str, ...]:
    """The formulas and the places in the user's program that the kernel comes from."""
    lines = []
    for node in plan.nodes:
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
        read = any(
            schedule.places.get(o) == place
            for n in plan.nodes
            for o in n.inputs
            if o not in plan.nodes
        )
        times = int(read) + int(place in written)
        total += times * element_count(buffer.shape) * buffer.dtype.size
    return total
