"""Graph -> Schedule: fused kernels in order, every array's place, the arena planned to the byte."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from graphc.ir.graph import Copy, Graph, Node
from graphc.ir.layout import Layout, reshaped, row_major
from graphc.ir.loops import BlockSizes
from graphc.ir.schedule import Buffer, KernelPlan, Schedule
from graphc.ir.types import element_count
from graphc.passes.classify import memory_bases
from graphc.passes.rows import RowChain, row_chain
from graphc.passes.scatters import window_scatter
from graphc.passes.sums import ArraySum, array_sums
from graphc.passes.windows import window_sizes
from graphc.schedule.channels import padding_note
from graphc.schedule.fuse import Group, fuse
from graphc.schedule.layout import assign_layouts
from graphc.schedule.memory import place_arena
from graphc.schedule.products import Products, product_factors
from graphc.schedule.rows import chain_rows
from graphc.schedule.scatters import read_scatters
from graphc.schedule.side_by_side import side_by_side


def make_schedule(
    graph: Graph, block: BlockSizes | None = None, *, exact: bool = False
) -> Schedule:
    """Schedule a graph whose passes have run.

    Without a register ``block`` it is for a device: channels run fastest, sums are as they stand.
    ``exact`` keeps every sum of products as it stands: no tiled (Winograd) convolution.
    """
    products = Products(graph, block, exact)
    groups = fuse(graph, products.refusal)
    stored = _stored_nodes(graph, [group.members for group in groups])
    single = _kernels(graph, groups, stored, products)
    layouts, places = _layouts(graph, single, block)
    if block is None:
        single = tuple(
            replace(k, reason=k.reason + padding_note(k, graph, single, places, layouts))
            for k in single
        )
    kernels = _chained(graph, single, layouts)
    kernels = read_scatters(graph, _explained(graph, kernels, products))
    if block is None:
        kernels = side_by_side(graph, kernels)
    buffers, places = _buffers(graph, kernels)
    buffers = [replace(b, layout=layouts[b.node]) for b in buffers]
    offsets, total = place_arena(graph, kernels, buffers, places)
    placed = tuple(replace(b, offset=offsets.get(number, 0)) for number, b in enumerate(buffers))
    used = {kernel.name: 1 for kernel in kernels}
    copies = tuple(_copy_kernel(copy, used) for copy in graph.copies)
    places |= {copy.value: places[copy.state] for copy in graph.copies}
    return Schedule(graph, kernels, placed, places, total, copies)


def _layouts(
    graph: Graph, kernels: Sequence[KernelPlan], block: BlockSizes | None
) -> tuple[dict[Node, Layout], dict[Node, int]]:
    """How the elements of every node that is stored lie, and in which buffer."""
    buffers, places = _buffers(graph, kernels)
    buffers = assign_layouts(graph, kernels, buffers, places, block)
    found = {node: reshaped(buffers[place].layout, node.shape) for node, place in places.items()}
    return {node: layout for node, layout in found.items() if layout is not None}, places


def _chained(
    graph: Graph, kernels: Sequence[KernelPlan], layouts: Mapping[Node, Layout]
) -> tuple[KernelPlan, ...]:
    """The kernels, those that are chains of rows as one, all with names in their new order."""
    scattered = {node for node, layout in layouts.items() if layout != row_major(node.shape)}
    groups = chain_rows(graph, kernels, scattered)
    stored = _stored_nodes(graph, groups)
    updated = {memory_bases(graph)[a.value]: a.state for a in graph.assignments}
    plans = {plan.nodes: plan for plan in kernels}
    used: dict[str, int] = {}
    found = []
    for group in groups:
        name = _fresh(kernel_name(group, updated), used)
        if group in plans:
            found.append(replace(plans[group], name=name))
            continue
        chain = row_chain(group)
        assert chain is not None
        keep = tuple(node for node in group if node in stored)
        found.append(KernelPlan(name, group, keep, "rows", _rows_reason(group, chain)))
    return tuple(found)


def _copy_kernel(copy: Copy, used: dict[str, int]) -> KernelPlan:
    """What makes a copy anew."""
    name = _fresh(f"{_word(copy.state.label)}_copy", used)
    return KernelPlan(name, (copy.value,), (copy.value,), "nest", _nest_reason(copy.value))


def _stored_nodes(graph: Graph, groups: Sequence[Collection[Node]]) -> set[Node]:
    """Values that leave their kernel."""
    bases = memory_bases(graph)
    home = {node: number for number, group in enumerate(groups) for node in group}
    found = {bases[n] for n in (*graph.outputs, *(a.value for a in graph.assignments))}
    for node in graph.nodes:
        for operand in node.inputs:
            base = bases[operand]
            crosses = home.get(base) != home.get(node)
            if crosses or base is not operand:
                found.add(base)
    return {node for node in found if node.equation is not None}


def _kernels(
    graph: Graph, groups: Sequence[Group], stored: set[Node], products: Products
) -> tuple[KernelPlan, ...]:
    bases = memory_bases(graph)
    updated = {bases[a.value]: a.state for a in graph.assignments}
    used: dict[str, int] = {}
    plans: list[KernelPlan] = []
    for group in groups:
        nodes = (*group.nodes, *group.pooled, *group.summed, *group.placed)
        keep = tuple(node for node in nodes if node in stored)
        if not keep:
            continue
        name = _fresh(kernel_name(nodes, updated), used)
        plan = _planned(name, nodes, keep, products)
        if group.pooled:
            sizes = window_sizes(group.pooled[0].op_equation()) or ()
            reason = f"{plan.reason}; reduces {_window_text(sizes)} of its results"
            plan = replace(plan, reason=reason, pooled=tuple(group.pooled))
        if group.total is not None:
            reason = f"{plan.reason}; sums {group.total.array.label} in its tiles"
            plan = replace(plan, reason=reason, summed=tuple(group.summed))
        if group.placed:
            plan = replace(plan, reason=plan.reason + _placed_text(group.placed))
            plan = replace(plan, placed=tuple(group.placed))
        plans.append(plan)
    return tuple(plans)


def _window_text(sizes: Sequence[int]) -> str:
    return f"windows of {' x '.join(str(size) for size in sizes if size > 1)}"


def _explained(
    graph: Graph, kernels: tuple[KernelPlan, ...], products: Products
) -> tuple[KernelPlan, ...]:
    """The kernels, nests with the reason why they are not in the kernel of a product."""
    totals = array_sums(graph)
    return tuple(
        replace(p, reason=p.reason + _apart(p.nodes[0], kernels, products, totals.get(p.nodes[0])))
        if p.strategy == "nest" else p
        for p in kernels
    )  # fmt: skip


def _placed_text(scatters: Sequence[Node]) -> str:
    """Which scatters a kernel makes, and what their windows are."""
    found = ""
    for node in scatters:
        scatter = window_scatter(node)
        sizes = window_sizes(scatter[0].op_equation()) if scatter is not None else None
        found += f"; puts {node.label} in place by {_window_text(sizes or ())}"
    return found


def _apart(
    leader: Node, plans: Sequence[KernelPlan], products: Products, total: ArraySum | None
) -> str:
    """Why a product's results are reduced, or a device's put in place, by a kernel of its own;
    nothing if they are not.
    """
    scatter = window_scatter(leader) if products.block is None else None
    if total is None and scatter is None and window_sizes(leader.op_equation()) is None:
        return ""
    value = leader.inputs[0] if scatter is None else scatter[1]
    made = next((p for p in plans if value in p.nodes), None)
    product = made is not None and product_factors(made.nodes[0]) is not None
    if made is None or (scatter is None and not (product and value in made.unpooled)):
        return ""
    refusal = products.refusal(made.nodes[0], total or leader) or "it reduces others"
    if value not in made.unpooled:
        refusal = "there its values are made of windows"
    return f"; not in {made.name}: {refusal}"


def _planned(
    name: str, group: tuple[Node, ...], keep: tuple[Node, ...], products: Products
) -> KernelPlan:
    """The kernel of a group with the way in which its leader is computed."""
    leader = group[0]
    equation = leader.op_equation()
    factors = product_factors(leader)
    if factors is None:
        return KernelPlan(name, group, keep, "nest", _nest_reason(leader))
    sizes = [
        element_count(tuple(a.extent for a in axes))
        for axes in (factors.batch, factors.row_axes, factors.column_axes, equation.reduce_axes)
    ]
    reason = "sum of products: batch {}, M {}, N {}, K {}".format(*sizes)
    choice = products.choice(leader)
    if choice is not None:
        reason = f"{reason}; {choice.reason}"
    if choice is not None and choice.algorithms:
        return KernelPlan(name, group, keep, "tiles", reason, choice.algorithms)
    return KernelPlan(name, group, keep, "contraction", reason)


def _rows_reason(group: Sequence[Node], chain: RowChain) -> str:
    reductions = [node.op_equation().reduction for node in group]
    found = [one for one in reductions if one != "none"]
    maps = len(reductions) - len(found)
    parts = [*found, f"{maps} map{'s' if maps > 1 else ''}"] if maps else found
    rows, columns = element_count(chain.rows), element_count(chain.columns)
    return f"{rows} rows of {columns}: {', '.join(parts)}"


def _nest_reason(leader: Node) -> str:
    equation = leader.op_equation()
    if equation.is_map:
        return f"map over {element_count(leader.shape)} elements"
    terms = equation.points // max(1, element_count(leader.shape))
    return f"{equation.reduction} of {terms} terms"


def _fresh(base: str, used: dict[str, int]) -> str:
    """The name, numbered if it is used already; ``used`` counts the uses of each name."""
    name = base
    while name in used:
        used[base] += 1
        name = f"{base}_{used[base]}"
    used[name] = 1
    return name


def kernel_name(group: Sequence[Node], updated: dict[Node, Node]) -> str:
    """What runs, for people: conv1_1_forward, conv1_1_dinput, conv1_1_weight_update."""
    states = [updated[node] for node in group if node in updated]
    if states:
        owner = next((s for s in states if s.kind == "parameter"), states[0])
        return f"{_word(owner.label)}_update"
    return _role(group[0].label, group[0].layer)


def _role(label: str, layer: str) -> str:
    """The name of a value by its label: a gradient, a partial sum, or a forward value."""
    if label.startswith("partial sums of "):
        return f"{_role(label.removeprefix('partial sums of '), layer)}_partial"
    if not label.startswith("d "):
        return f"{_word(layer or label)}_forward"
    of = re.sub(r" \(\d+ paths\)$", "", label[2:])
    owner, _, last = of.rpartition(".")
    if owner:
        return f"{_word(owner)}_d{_word(last)}"
    return f"{_word(layer)}_dinput" if layer not in ("", of) else f"d_{_word(of)}"


def _word(text: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_").lower()[:40].strip("_")
    return plain if plain and not plain[0].isdigit() else f"v{plain}"


def _buffers(graph: Graph, kernels: Sequence[KernelPlan]) -> tuple[list[Buffer], dict[Node, int]]:
    """A buffer for each leaf and stored node; reshapes share one, updates their state's."""
    bases = memory_bases(graph)
    direct = _updates_in_place(graph, kernels, bases)
    buffers: list[Buffer] = []
    places: dict[Node, int] = {}
    outputs = {bases[n] for n in graph.outputs}
    stored = {node for kernel in kernels for node in kernel.stored}
    storages = {
        "input": "feed",
        "parameter": "persistent",
        "state": "persistent",
        "constant": "constant",
    }
    for node in graph.nodes:
        base = bases[node]
        if node is not base:
            if base in places:
                places[node] = places[base]
            continue
        if node in direct:
            continue
        if node.equation is not None and node not in stored:
            continue
        kind = storages.get(node.kind) or ("output" if node in outputs else "arena")
        places[node] = len(buffers)
        buffers.append(Buffer(node.label, row_major(node.shape), node.dtype, kind, node))  # type: ignore[arg-type]
    for node, state in direct.items():
        places[node] = places[state]
    for node in graph.nodes:
        if node not in places and bases[node] in places:
            places[node] = places[bases[node]]
    return buffers, places


def _updates_in_place(
    graph: Graph, kernels: Sequence[KernelPlan], bases: Mapping[Node, Node]
) -> dict[Node, Node]:
    """Assigned values that may overwrite their state: every other reader has run before.

    Inside the writing kernel each element is loaded before it is stored. A state whose old value
    is an output or another state's next value is read after all kernels, and keeps it until then.
    """
    read_last = {bases[n] for n in (*graph.outputs, *(a.value for a in graph.assignments))}
    number = {node: k for k, kernel in enumerate(kernels) for node in kernel.nodes}
    last_reader = {bases[o]: k for k, kernel in enumerate(kernels) for o in kernel.operands}
    found: dict[Node, Node] = {}
    counts: dict[Node, int] = {}
    for assignment in graph.assignments:
        value = bases[assignment.value]
        counts[value] = counts.get(value, 0) + 1
    for assignment in graph.assignments:
        value, state = bases[assignment.value], assignment.state
        if value not in number or counts[value] > 1 or value in graph.outputs or state in read_last:
            continue
        read_before = last_reader.get(state, -1) <= number[value]
        if read_before and _reads_in_place(state, kernels[number[value]], bases):
            found[value] = state
    return found


def _reads_in_place(state: Node, kernel: KernelPlan, bases: Mapping[Node, Node]) -> bool:
    return all(
        node.op_equation().reads_identically(k)
        for node in kernel.nodes
        for k, read in enumerate(node.op_equation().reads)
        if bases[node.inputs[read.operand]] is state
    )
