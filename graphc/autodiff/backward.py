"""Reverse mode over the graph: one walk over the nodes in reverse topological order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import sympy

from graphc.autodiff.adjoint import adjoint
from graphc.errors import user_error
from graphc.ir.equation import Equation, Read, read_symbol
from graphc.ir.graph import Node, op_node, topological
from graphc.ir.index import axis_index
from graphc.ir.types import Axis, DType, Shape, element_count
from graphc.ops.messages import check_values, describe, value_list


def gradients(loss: Node, wrt: Sequence[Node]) -> list[Node]:
    """Graph nodes of d loss / d w for every w.

    Args:
        loss: a floating scalar (shape ``()``).
        wrt: nodes that the loss depends on.

    Raises:
        UserError: the loss is no scalar, or does not depend on one of ``wrt``.
    """
    check_values("gradients", loss)
    wrt = value_list("gradients", wrt)
    if loss.shape != () or not loss.dtype.is_float:
        raise user_error(
            "gradients: the loss must be a floating scalar", *describe([loss], ["loss"]),
            "reduce it first: gx.mean(value) or gx.sum(value)",
        )  # fmt: skip
    nodes = topological([loss])
    _check_reachable(loss, wrt, nodes)
    wanted = _depending_on(wrt, nodes)
    paths: dict[Node, list[Node]] = {loss: [_one(loss)]}
    for node in reversed(nodes):
        if node in wanted and node in paths and node.equation is not None:
            for operand, path in _contributions(node, sum_of_paths(paths[node], node), wanted):
                paths.setdefault(operand, []).append(path)
    return [sum_of_paths(paths[w], w) if w in paths else _zeros(w) for w in wrt]


def _check_reachable(loss: Node, wrt: Sequence[Node], nodes: Sequence[Node]) -> None:
    known = set(nodes)
    for node in wrt:
        if node not in known:
            raise user_error(
                f"gradients: the loss does not depend on `{node.label}`",
                *describe((loss, node), ("loss", "value")),
                "only what the loss is computed from has a gradient; is it of another graph?",
            )
        if not node.dtype.is_float:
            raise user_error(
                f"gradients: {node.dtype.value} values have no gradient",
                *describe((loss, node), ("loss", "value")),
                "ask for the gradient of floating values",
            )


def _depending_on(wrt: Sequence[Node], nodes: Sequence[Node]) -> set[Node]:
    """Nodes through which a change of some w passes."""
    found = set(wrt)
    for node in nodes:
        if node.dtype.is_float and any(operand in found for operand in node.inputs):
            found.add(node)
    return found


def _one(loss: Node) -> Node:
    return Node("constant", "1", (), loss.dtype, value=np.ones((), loss.dtype.numpy))


def _zeros(node: Node) -> Node:
    value = np.zeros((), node.dtype.numpy)
    zero = Node("constant", "0", (), node.dtype, value=value)
    axes = tuple(Axis(f"i{d}", extent) for d, extent in enumerate(node.shape))
    equation = Equation(axes, "none", (), ((),), (Read(0, ()),), (), (), read_symbol(0))
    return op_node(equation, (zero,), node.dtype, label=f"d {node.label}", layer=node.layer)


def _contributions(node: Node, dout: Node, wanted: set[Node]) -> list[tuple[Node, Node]]:
    """(operand, path term) for every operand that matters."""
    found = []
    equation = node.op_equation()
    for number, operand in enumerate(node.inputs):
        if operand not in wanted:
            continue
        derived = adjoint(equation, number)
        inputs = (dout, *node.inputs)
        if derived.helper is not None:
            inputs = (*inputs, _helper_node(node, derived.helper))
        for gather in derived.gathers:
            term = op_node(
                gather, inputs, operand.dtype, label=f"d {operand.label}",
                layer=node.layer or operand.layer, location=node.location,
            )  # fmt: skip
            found.append((operand, term))
    return found


def _helper_node(node: Node, helper: Equation) -> Node:
    """The argmax (one byte where the window allows) or the partial products."""
    if helper.reduction == "prod":
        return op_node(
            helper, node.inputs, node.dtype, label=f"other factors of {node.label}",
            layer=node.layer, location=node.location,
        )  # fmt: skip
    window = element_count(tuple(a.extent for a in helper.reduce_axes))
    dtype = DType.uint8 if window <= 256 else DType.int32
    return op_node(
        helper, node.inputs, dtype, label=f"argmax of {node.label}",
        layer=node.layer, location=node.location,
    )  # fmt: skip


def sum_of_paths(terms: Sequence[Node], node: Node) -> Node:
    """The sum of the path terms of one value, kept as one visible node."""
    if len(terms) == 1:
        return terms[0]
    equation = _path_sum(node.shape, len(terms))
    return op_node(
        equation, tuple(terms), node.dtype, label=f"d {node.label} ({len(terms)} paths)",
        layer=node.layer, location=node.location,
    )  # fmt: skip


def _path_sum(shape: Shape, count: int) -> Equation:
    axes = tuple(Axis(f"i{d}", extent) for d, extent in enumerate(shape))
    index = tuple(axis_index(axis.name) for axis in axes)
    reads = tuple(Read(number, index) for number in range(count))
    body = sympy.Add(*(read_symbol(number) for number in range(count)))
    return Equation(axes, "none", (), (shape,) * count, reads, (), (), body)
