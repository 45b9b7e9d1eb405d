"""Chains of equations that work row by row: reductions of a row, maps over it, reductions again.

Softmax, its cross-entropy, layer normalisation and their gradients are such chains. Whether nodes
form one is read off their index maps: every value that one of them takes from another stands in the
same row, and in the same column if it has columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from graphc.ir.equation import Read
from graphc.ir.graph import Node
from graphc.ir.types import Axis, Shape, element_count

MOST_COLUMNS = 1 << 14  # a row stays in the nearest cache while it is walked again
LEAST_COLUMNS = 8  # where rows are many; else a vector of neighbours along the rows is faster
_FEW = 1 << 16


@dataclass(frozen=True)
class RowChain:
    """Nodes over common rows.

    Attributes:
        rows, columns: extents of the axes that a row's number, and a position in it, consist of.
        roles: for every node the number of each of its axes that is longer than 1: those of
            ``rows`` first, then those of ``columns``.
    """

    rows: Shape
    columns: Shape
    roles: Mapping[Node, Mapping[str, int]]

    def has_columns(self, node: Node) -> bool:
        """Whether a node has a value for every column, not one for the whole row."""
        axes = node.op_equation().axes
        return any(self.roles[node].get(a.name, -1) >= len(self.rows) for a in axes)


def row_chain(nodes: Sequence[Node]) -> RowChain | None:
    """The chain that nodes, each after its operands, form; None if they form none."""
    seed = next((n for n in nodes if not n.op_equation().is_map), None)
    if seed is None:
        return None
    rows, columns = _long(seed.op_equation().axes), _long(seed.op_equation().reduce_axes)
    count = element_count(_extents(columns))
    least = LEAST_COLUMNS if count * element_count(_extents(rows)) > _FEW else 2
    if not rows or not least <= count <= MOST_COLUMNS:
        return None
    roles = {axis.name: number for number, axis in enumerate((*rows, *columns))}
    found = _Roles(_extents(rows), _extents(columns), set(nodes), {seed: roles})
    if not found.spread(nodes):
        return None
    chain = RowChain(found.rows, found.columns, found.roles)
    return chain if all(_fits(node, chain) for node in nodes) and _lies_together(seed) else None


@dataclass
class _Roles:
    """What is known of the nodes' axes so far."""

    rows: Shape
    columns: Shape
    members: set[Node]
    roles: dict[Node, dict[str, int]] = field(default_factory=dict)

    def spread(self, nodes: Sequence[Node]) -> bool:
        """From the seed to the nodes that read it, to what these read, and so on."""
        waiting = [node for node in nodes if node not in self.roles]
        while waiting:
            left = [node for node in waiting if not self._resolve(node, nodes)]
            if len(left) == len(waiting):
                return False
            waiting = left
        return True

    def _resolve(self, node: Node, nodes: Sequence[Node]) -> bool:
        """A node's roles from a member that it reads, or from one that reads it."""
        known: dict[str, int] = {}
        for operand, read in member_reads(node, self.members):
            if operand in self.roles:
                known |= _carried(operand, read, self.roles[operand], down=True)
        for reader in nodes:
            for operand, read in member_reads(reader, self.members):
                if operand is node and reader in self.roles:
                    known |= _carried(node, read, self.roles[reader], down=False)
        if not known:
            return False
        rest = [a for a in _all_long(node) if a.name not in known]
        if rest:
            free = [n for n in range(len(self.rows) + len(self.columns))
                    if n not in known.values()]  # fmt: skip
            extents = (*self.rows, *self.columns)
            if [a.extent for a in rest] != [extents[n] for n in free]:
                return False
            known |= {a.name: n for a, n in zip(rest, free, strict=True)}
        self.roles[node] = known
        return True


def member_reads(node: Node, members: set[Node]) -> Iterator[tuple[Node, Read]]:
    """The reads that take another member's value."""
    for read in node.op_equation().reads:
        if node.inputs[read.operand] in members:
            yield node.inputs[read.operand], read


def _carried(operand: Node, read: Read, roles: Mapping[str, int], *, down: bool) -> dict[str, int]:
    """Roles through one read: ``down`` from the operand's axes to the reader's, else back."""
    found = {}
    for axis, index in zip(operand.op_equation().axes, read.index, strict=True):
        name = index.single_name
        if axis.extent == 1 or name is None:
            continue
        source, target = (axis.name, name) if down else (name, axis.name)
        if source in roles:
            found[target] = roles[source]
    return found


def _fits(node: Node, chain: RowChain) -> bool:
    """Whether a node is a map or a reduction of whole rows, and takes members' values in place."""
    equation, roles = node.op_equation(), chain.roles[node]
    rows, whole = len(chain.rows), len(chain.rows) + len(chain.columns)
    extents = (*chain.rows, *chain.columns)
    if any(roles.get(a.name) is None or extents[roles[a.name]] != a.extent
           for a in _all_long(node)):  # fmt: skip
        return False
    out = [roles[a.name] for a in _long(equation.axes)]
    summed = [roles[a.name] for a in _long(equation.reduce_axes)]
    if out not in (list(range(rows)), list(range(whole))):
        return False
    if not equation.is_map and (len(out) != rows or summed != list(range(rows, whole))):
        return False
    members = set(chain.roles)
    return all(_in_place(o, read, chain, roles) for o, read in member_reads(node, members))


def _in_place(operand: Node, read: Read, chain: RowChain, roles: Mapping[str, int]) -> bool:
    theirs = chain.roles[operand]
    for axis, index in zip(operand.op_equation().axes, read.index, strict=True):
        if axis.extent == 1:
            if index.terms or index.const:
                return False
            continue
        name = index.single_name
        if name is None or roles.get(name) != theirs[axis.name]:
            return False
    return True


def _lies_together(seed: Node) -> bool:
    """Whether neighbours of a row are neighbours in an array that the first reduction reads."""
    equation = seed.op_equation()
    last = _long(equation.reduce_axes)[-1]
    for read in equation.reads:
        shape = equation.operands[read.operand]
        long = [d for d, extent in enumerate(shape) if extent > 1]
        if long and read.index[long[-1]].coefficient(last.name) == 1:
            return True
    return False


def _all_long(node: Node) -> tuple[Axis, ...]:
    equation = node.op_equation()
    return _long((*equation.axes, *equation.reduce_axes))


def _long(axes: Sequence[Axis]) -> tuple[Axis, ...]:
    return tuple(a for a in axes if a.extent > 1)


def _extents(axes: Sequence[Axis]) -> Shape:
    return tuple(a.extent for a in axes)
