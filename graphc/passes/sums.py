"""Sums of an array as it is over some of its dimensions, at once or by way of partial sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphc.ir.equation import Equation, Guard, read_symbol
from graphc.ir.graph import Graph, Node, users
from graphc.ir.index import Index
from graphc.ir.types import element_count


@dataclass(frozen=True)
class ArraySum:
    """The last of ``nodes`` adds up ``array`` over all dimensions but ``kept``, its own in order.

    Where there are two nodes, the first holds partial sums, which only the last reads.
    """

    array: Node
    kept: tuple[int, ...]
    nodes: tuple[Node, ...]


def array_sums(graph: Graph) -> dict[Node, ArraySum]:
    """For each node that such a sum is computed by, which one; partial sums belong to the whole."""
    readers = users(graph.nodes)
    seen = {*graph.outputs, *(assignment.value for assignment in graph.assignments)}
    found: dict[Node, ArraySum] = {}
    for node in graph.nodes:
        if node.equation is None or node.equation.reduction != "sum":
            continue
        partial = node.inputs[0]
        hidden = readers[partial] == [node] and partial not in seen
        whole = array_sum((partial, node)) if hidden else None
        whole = whole or array_sum((node,))
        if whole is not None:
            found |= dict.fromkeys(whole.nodes, whole)
    return found


def array_sum(nodes: Sequence[Node]) -> ArraySum | None:
    """The sum that one node is, or two are together; None if they are none."""
    *before, last = nodes
    outer = _counting(last)
    if outer is None or any(len(axes) > 1 for axes in outer):
        return None
    own = [axis.name for axis in last.op_equation().axes]
    of_last = {axes[0]: d for d, axes in enumerate(outer) if axes and axes[0] in own}
    if set(of_last) != set(own):
        return None
    kept = [of_last[name] for name in own]
    if not before:
        return ArraySum(last.inputs[0], tuple(kept), (last,))
    (partial,) = before
    inner = _counting(partial)
    if inner is None:
        return None
    axes = partial.op_equation().axes
    place = {counting: d for d, counting in enumerate(inner)}
    names = [(axes[d].name,) for d in kept]
    if any(name not in place for name in names):
        return None  # a dimension that is kept was summed in pieces
    return ArraySum(partial.inputs[0], tuple(place[n] for n in names), (partial, last))


def _counting(node: Node) -> tuple[tuple[str, ...], ...] | None:
    """The axes that together count each dimension of the one array that a node adds up as it is.

    None if it does something else, or if an element is not added up exactly once.
    """
    equation = node.equation
    if equation is None or equation.reduction != "sum" or equation.body != read_symbol(0):
        return None
    if len(equation.reads) != 1 or equation.reads[0].fill is not None or equation.positions:
        return None
    guards = set(equation.guards)
    found = []
    for index, extent in zip(equation.reads[0].index, equation.operands[0], strict=True):
        axes = _axes_of(index, extent, equation.extents, guards)
        if axes is None:
            return None
        found.append(axes)
    used = [name for axes in found for name in axes]
    once = len(used) == len(set(used)) and not guards
    return tuple(found) if once and _points(equation, used) == equation.points else None


def _points(equation: Equation, names: Sequence[str]) -> int:
    return element_count(tuple(equation.extents[name] for name in names))


def _axes_of(
    index: Index, extent: int, extents: Mapping[str, int], guards: set[Guard]
) -> tuple[str, ...] | None:
    """One axis, or a piece and a place in it, whose guard is taken out of ``guards``."""
    if extent == 1 and index == Index():
        return ()
    name = index.single_name
    if name is not None:
        return (name,) if extents[name] == extent else None
    terms = sorted((factor, atom) for atom, factor in index.terms if isinstance(atom, str))
    if index.const or len(terms) != 2 or len(index.terms) != 2:
        return None
    (one, place), (size, piece) = terms
    covered = extents[piece] * size
    if one != 1 or extents[place] != size or covered < extent:
        return None
    guard = Guard(index, 0, extent)
    if covered > extent and guard not in guards:
        return None
    guards.discard(guard)
    return piece, place
