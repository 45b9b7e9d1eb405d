"""Which scatters through an argmax are never stored: products by tiles put values in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from graphc.ir.graph import Graph, Node
from graphc.ir.schedule import KernelPlan
from graphc.ir.tiles import TileAlgorithm
from graphc.ir.types import DType, element_count
from graphc.passes.classify import memory_bases
from graphc.passes.scatters import window_scatter
from graphc.passes.sliding import sliding_product
from graphc.passes.windows import window_sizes

LEAST_BYTES = 1 << 20  # smaller arrays cost next to nothing to write and to read


def read_scatters(graph: Graph, kernels: tuple[KernelPlan, ...]) -> tuple[KernelPlan, ...]:
    """The kernels without those of scatters that everybody who reads them can make from windows.

    What this saves is writing the array and reading it: of each reader's loads a quarter is left,
    and a byte a window, where windows are 2 x 2. Exact: the same numbers are multiplied.
    """
    bases = memory_bases(graph)
    kept = {bases[n] for n in (*graph.outputs, *(a.value for a in graph.assignments))}
    plans = list(kernels)
    for kernel in kernels:
        scatter = kernel.nodes[0]
        alone = kernel.nodes == (scatter,) and scatter not in kept
        if not alone or not _worth(scatter, kept, bases):
            continue
        readers = [p for p in plans if any(bases[o] is scatter for o in p.operands)]
        operands = [_operand(plan, scatter, bases) for plan in readers]
        if not readers or None in operands:
            continue
        changed = {
            id(plan): _reading(plan, operand, scatter)
            for plan, operand in zip(readers, operands, strict=True) if operand is not None
        }  # fmt: skip
        plans = [changed.get(id(p), p) for p in plans if p.nodes[0] is not scatter]
    return tuple(plans)


def _worth(scatter: Node, kept: set[Node], bases: Mapping[Node, Node]) -> bool:
    """Whether a node is a large scatter of arrays that no user sees or changes."""
    if element_count(scatter.shape) * scatter.dtype.size < LEAST_BYTES:
        return False
    found = window_scatter(scatter)
    if found is None or window_sizes(found[0].op_equation()) is None:
        return False
    argmax, value = found
    hidden = all(bases[o].equation is not None and bases[o] not in kept for o in found)
    return hidden and argmax.dtype is DType.uint8 and value.dtype is scatter.dtype


def _operand(plan: KernelPlan, scatter: Node, bases: Mapping[Node, Node]) -> Node | None:
    """The one operand of a product by tiles that is the scatter, if its patches allow that."""
    leader, *others = plan.nodes
    found = {o for o in plan.operands if bases[o] is scatter}
    inside = {o for node in others for o in node.inputs} | {m for _, m in plan.scattered}
    if len(found) != 1 or found & inside or plan.strategy != "tiles" or leader.dtype.is_half:
        return None
    [operand] = found
    if operand.shape != scatter.shape or operand.dtype is not leader.dtype:
        return None
    return operand if scatter_fits(leader, operand, scatter, plan.algorithms) else None


def scatter_fits(
    leader: Node, operand: Node, scatter: Node, algorithms: Sequence[TileAlgorithm]
) -> bool:
    """Whether each tile of a leader's product begins with a window of its scattered operand."""
    equation = leader.op_equation()
    form, found = sliding_product(equation), window_scatter(scatter)
    numbers = [n for n, r in enumerate(equation.reads) if leader.inputs[r.operand] is operand]
    if form is None or found is None or len(numbers) != 1:
        return False
    [number] = numbers
    outputs: dict[int, int] = {}
    for window, algorithm in zip(form.windows, algorithms, strict=True):
        names = [index.single_name for index in equation.reads[number].index]
        if number == form.sliding:
            outputs[window.dimension] = algorithm.outputs
        elif form.result == "taps":
            outputs[names.index(window.position.name)] = algorithm.outputs
    sizes = window_sizes(found[0].op_equation()) or ()
    return bool(outputs) and all(
        outputs.get(dimension, 1) % size == 0 for dimension, size in enumerate(sizes)
    )


def _reading(plan: KernelPlan, operand: Node, scatter: Node) -> KernelPlan:
    """The plan that puts the scatter's values in place as it reads them."""
    found = window_scatter(scatter)
    assert found is not None
    size = element_count(scatter.shape) * scatter.dtype.size
    text = f"reads {found[1].label} and places instead of {size / 1e6:.3g} MB"
    scattered = (*plan.scattered, (operand, scatter))
    return replace(plan, reason=f"{plan.reason}; {text}", scattered=scattered)
