"""Mixed precision: large values between kernels become 16-bit nodes, all else stays float32.

Which values these are is read off the structure of the graph alone:

1. what a contraction reads (its factors), by itself or through views and windows that choose one
   element (max pooling): a 16-bit node, or a rounded copy of a value that must stay float32;
2. what leaves the kernel of a contraction: its result, or the maps of it in place that need
   nothing else computed from it; such maps' operands stay in registers and are not rounded;
3. views, maxima and other choices among values of 16 bits, which are exact.

Never so: parameters, inputs and states; outputs; what an assignment takes, through maps back to
the contraction or sum that they start from (weight gradients and their updates); sums that are no
contractions and maps of them (losses, statistics, softmax), but for rule 1. Contractions
accumulate in float32 whatever they read. Not exact: each such node rounds once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import sympy

from graphc.errors import user_error
from graphc.ir.equation import Equation, Read, read_symbol
from graphc.ir.graph import Graph, Node, op_node, users
from graphc.ir.index import axis_index
from graphc.ir.types import Axis, DType
from graphc.ops.messages import brief
from graphc.passes.classify import contraction_factors, is_view
from graphc.passes.rewrite import rebuild

# What `precision` may be: the type of the values that are stored in 16 bits, None for none.
PRECISIONS: Mapping[str, DType | None] = {
    "fp32": None, "tf32": None, "bf16": DType.bfloat16, "fp16": DType.float16,
}  # fmt: skip


def legal_precision(what: str, precision: str) -> DType | None:
    """The 16-bit type that a precision stores, None without; a UserError lists the legal names."""
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise user_error(
            f"{what}: unknown precision {brief(precision)}",
            f"expected one of {', '.join(PRECISIONS)}",
        )
    return PRECISIONS[precision]


def store_narrow(graph: Graph, narrow: DType) -> Graph:
    """The graph with the values that rules 1 to 3 name in the type ``narrow``."""
    chosen = narrow_nodes(graph)
    copies: dict[Node, Node] = {}

    def rewrite(node: Node, inputs: tuple[Node, ...]) -> Node:
        if _is_contraction(node):
            inputs = tuple(
                copies.setdefault(o, _rounded(o, narrow)) if o.dtype is DType.float32 else o
                for o in inputs
            )
        return op_node(
            node.op_equation(), inputs, narrow if node in chosen else node.dtype,
            label=node.label, layer=node.layer, location=node.location,
        )  # fmt: skip

    return rebuild(graph, rewrite)


def narrow_nodes(graph: Graph) -> set[Node]:
    """The float32 ops of a graph whose values are stored in 16 bits."""
    kept = {*graph.outputs, *_updates(graph)}
    able = {
        n for n in graph.nodes if n.equation is not None and n.dtype is DType.float32
    } - kept  # fmt: skip
    found = (_factors(graph) | _leaving(graph, kept)) & able
    for node in graph.nodes:
        if node in able and node not in found and _chooses(node):
            floats = [o for o in node.inputs if o.dtype.is_float]
            if floats and all(operand in found for operand in floats):
                found.add(node)
    return found


def _is_contraction(node: Node) -> bool:
    return node.dtype is DType.float32 and contraction_factors(node.op_equation()) is not None


def _updates(graph: Graph) -> set[Node]:
    """What assignments take, through maps back to the sums that these start from."""
    found: set[Node] = set()
    pending = [assignment.value for assignment in graph.assignments]
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending += node.inputs if node.equation is not None and node.equation.is_map else ()
    return found


def _factors(graph: Graph) -> set[Node]:
    """What contractions read, and what that is a view of or chosen from elsewhere."""
    found: set[Node] = set()
    for node in reversed(graph.nodes):
        if node.equation is None:
            continue
        moved = is_view(node.equation) or not _in_place(node, set(node.inputs))
        if _is_contraction(node) or (node in found and moved and _chooses(node)):
            found.update(node.inputs)
    return found


def _leaving(graph: Graph, kept: set[Node]) -> set[Node]:
    """What leaves the kernels of contractions: the ends of the chains of maps in place."""
    table = users(graph.nodes)
    home: dict[Node, Node] = {}  # the contraction in whose kernel a value is computed
    behind: dict[Node, int] = {}  # a bit for every contraction that a value depends on
    bits: dict[Node, int] = {}
    for node in graph.nodes:
        behind[node] = 0
        for operand in node.inputs:
            behind[node] |= behind[operand]
        if node.equation is None or node in kept:
            continue
        if _is_contraction(node):
            home[node], bits[node] = node, 1 << len(bits)
            behind[node] |= bits[node]
        elif node.equation.is_map:
            leader = _leader(node, home, behind, bits)
            if leader is not None:
                home[node] = leader
    return {
        node for node, leader in home.items()
        if any(home.get(reader) is not leader for reader in table[node])
    }  # fmt: skip


def _leader(
    node: Node, home: Mapping[Node, Node], behind: Mapping[Node, int], bits: Mapping[Node, int]
) -> Node | None:
    """The last contraction that the map can follow in place: all else it reads is there before."""
    leaders = [home[operand] for operand in node.inputs if operand in home]
    for leader in reversed(leaders):
        inside = {operand for operand in node.inputs if home.get(operand) is leader}
        before = all(not behind[o] & bits[leader] for o in node.inputs if o not in inside)
        if leader.shape == node.shape and before and _in_place(node, inside):
            return leader
    return None


def _in_place(node: Node, operands: set[Node]) -> bool:
    equation = node.op_equation()
    return all(
        equation.reads_identically(number)
        for number, read in enumerate(equation.reads)
        if node.inputs[read.operand] in operands
    )


def _chooses(node: Node) -> bool:
    """Whether every element is one of the operands' elements, or 0."""
    equation = node.op_equation()
    if equation.reduction not in ("none", "max", "min"):
        return False
    reads = {read_symbol(number) for number in range(len(equation.reads))}
    fills = {read.fill for read in equation.reads} <= {None, 0.0, -math.inf, math.inf}
    return fills and _is_choice(equation.body, reads)


def _is_choice(value: sympy.Basic, reads: set[sympy.Symbol]) -> bool:
    """Whether a body is one of its reads or 0, masks of 0 and 1 included."""
    if isinstance(value, sympy.Piecewise):
        return all(_is_choice(pair.expr, reads) for pair in value.args)
    if isinstance(value, sympy.Mul):
        rest = [factor for factor in value.args if not _is_mask(factor)]
        return len(rest) == 1 and _is_choice(rest[0], reads)
    return value in reads or value == 0


def _is_mask(value: sympy.Basic) -> bool:
    return isinstance(value, sympy.Piecewise) and all(pair.expr in (0, 1) for pair in value.args)


def _rounded(node: Node, narrow: DType) -> Node:
    """A rounded copy of a float32 value that must stay what it is."""
    if node.kind == "constant" and node.value is not None:
        value = np.asarray(node.value, narrow.numpy)
        return Node("constant", node.label, node.shape, narrow, value=value)
    axes = tuple(Axis(f"i{d}", extent) for d, extent in enumerate(node.shape))
    read = Read(0, tuple(axis_index(axis.name) for axis in axes))
    equation = Equation(axes, "none", (), (node.shape,), (read,), (), (), read_symbol(0))
    return op_node(
        equation, (node,), narrow, label=f"{narrow.value} of {node.label}",
        layer=f"{node.label}.{narrow.value}", location=node.location,
    )  # fmt: skip
