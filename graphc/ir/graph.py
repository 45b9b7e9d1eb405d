"""Typed, interned nodes and the frozen graph in topological order."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NoReturn

import numpy as np

from graphc.errors import UNKNOWN, CompilerBug, Location, user_error
from graphc.ir.equation import Equation
from graphc.ir.types import DType, Shape

Kind = Literal["input", "parameter", "state", "constant", "op"]
operators: dict[str, Callable[..., Node]] = {}  # filled by graphc.ops, used by Node's operators
Initializer = Callable[[Shape, np.random.Generator], np.ndarray]


@dataclass(frozen=True, eq=False)
class Node:
    """One value of the graph; equality is identity, equal ops are one node (see ``op_node``).

    ``label`` is for people: a parameter's name or what an op stands for; it never decides anything.
    ``layer`` is the layer or parameter that a node belongs to, used to name kernels.
    ``effects`` are assignments that belong to every step that computes the node.
    """

    kind: Kind
    label: str
    shape: Shape
    dtype: DType
    inputs: tuple[Node, ...] = ()
    equation: Equation | None = None
    init: Initializer | None = None
    value: np.ndarray | None = None
    layer: str = ""
    location: Location = UNKNOWN
    effects: list[Assignment] = field(default_factory=list)
    __array_ufunc__ = None  # array + node is the node's to add, not NumPy's

    def __repr__(self) -> str:
        """Label, type and shape on one line."""
        dims = ", ".join(map(str, self.shape))
        return f"{self.label}: {self.dtype.value}[{dims}]"

    def __add__(self, other: object) -> Node:
        """Elementwise sum."""
        return operators["add"](self, other)

    def __radd__(self, other: object) -> Node:
        """Elementwise sum."""
        return operators["add"](other, self)

    def __sub__(self, other: object) -> Node:
        """Elementwise difference."""
        return operators["subtract"](self, other)

    def __rsub__(self, other: object) -> Node:
        """Elementwise difference."""
        return operators["subtract"](other, self)

    def __mul__(self, other: object) -> Node:
        """Elementwise product."""
        return operators["multiply"](self, other)

    def __rmul__(self, other: object) -> Node:
        """Elementwise product."""
        return operators["multiply"](other, self)

    def __truediv__(self, other: object) -> Node:
        """Elementwise quotient."""
        return operators["divide"](self, other)

    def __rtruediv__(self, other: object) -> Node:
        """Elementwise quotient."""
        return operators["divide"](other, self)

    def __pow__(self, other: object) -> Node:
        """Elementwise power."""
        return operators["power"](self, other)

    def __rpow__(self, other: object) -> Node:
        """Elementwise power."""
        return operators["power"](other, self)

    def __neg__(self) -> Node:
        """Elementwise negation."""
        return operators["negative"](self)

    def __matmul__(self, other: object) -> Node:
        """Matrix product."""
        return operators["matmul"](self, other)

    def __lt__(self, other: object) -> Node:
        """Elementwise comparison, a bool array."""
        return operators["less"](self, other)

    def __le__(self, other: object) -> Node:
        """Elementwise comparison, a bool array."""
        return operators["less_equal"](self, other)

    def __gt__(self, other: object) -> Node:
        """Elementwise comparison, a bool array."""
        return operators["greater"](self, other)

    def __ge__(self, other: object) -> Node:
        """Elementwise comparison, a bool array."""
        return operators["greater_equal"](self, other)

    def __bool__(self) -> bool:
        """Refused: the elements are not known while the graph is declared."""
        raise user_error(
            f"`{self.label}` is neither true nor false while the graph is declared",
            f"it is {self!r}, from {self.location}",
            "to choose elements use gx.where(condition, a, b)",
        )

    def __iter__(self) -> NoReturn:
        """Refused: one node for each element is never what is meant."""
        raise user_error(
            f"`{self.label}` cannot be walked through",
            f"it is {self!r}, from {self.location}",
            "take parts with value[i] or gx.split(value, n), or put it in a list: [value]",
        )

    def __getitem__(self, key: object) -> Node:
        """Basic slicing: integers, slices with positive steps, ``...``."""
        return operators["getitem"](self, key)

    def op_equation(self) -> Equation:
        """The equation of an op node."""
        if self.equation is None:
            raise CompilerBug(f"{self!r} has no equation")
        return self.equation


_interned: weakref.WeakValueDictionary[tuple[object, ...], Node] = weakref.WeakValueDictionary()


def op_node(
    equation: Equation, inputs: tuple[Node, ...], dtype: DType, *,
    label: str, layer: str = "", location: Location = UNKNOWN,
) -> Node:  # fmt: skip
    """The node of an equation applied to inputs; the same call gives the same node.

    Operands that no read uses are dropped, so that equal mathematics is equal structure.
    """
    equation, inputs = _drop_unused(equation, inputs)
    key = (equation, tuple(map(id, inputs)), dtype)
    found = _interned.get(key)
    if found is not None:
        return found
    node = Node(
        "op", label, equation.shape, dtype, inputs, equation, layer=layer, location=location
    )
    _interned[key] = node
    return node


def _drop_unused(equation: Equation, inputs: tuple[Node, ...]) -> tuple[Equation, tuple[Node, ...]]:
    """Remove unread operands and merge operands that are the same node."""
    order: list[Node] = []
    place: dict[int, int] = {}
    for read in equation.reads:
        node = inputs[read.operand]
        number = next((i for i, n in enumerate(order) if n is node), len(order))
        if number == len(order):
            order.append(node)
        place[read.operand] = number
    if tuple(order) == inputs:
        return equation, inputs
    reads = tuple(type(r)(place[r.operand], r.index, r.fill) for r in equation.reads)
    shapes = tuple(node.shape for node in order)
    return (
        Equation(
            equation.axes, equation.reduction, equation.reduce_axes, shapes, reads,
            equation.positions, equation.guards, equation.body,
        ),
        tuple(order),
    )  # fmt: skip


@dataclass(frozen=True)
class Assignment:
    """After a step, ``state`` (a parameter or state node) takes the value of ``value``."""

    state: Node
    value: Node


@dataclass(frozen=True)
class Copy:
    """``state`` holds ``value``, a map of one parameter or state, before every step: assignments
    keep it so, and whoever writes that parameter from outside has to make it anew.
    """

    state: Node
    value: Node


@dataclass(frozen=True, eq=False)
class Graph:
    """Outputs, assignments, and every node they need, inputs before users."""

    outputs: tuple[Node, ...]
    assignments: tuple[Assignment, ...] = ()
    copies: tuple[Copy, ...] = ()
    nodes: tuple[Node, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Sort the nodes."""
        roots = [*self.outputs, *(n for a in self.assignments for n in (a.state, a.value))]
        roots += [n for c in self.copies for n in (c.state, *c.value.inputs)]
        object.__setattr__(self, "nodes", topological(roots))


def topological(roots: Iterable[Node]) -> tuple[Node, ...]:
    """Every node that the roots need, inputs first, in an order fixed by the graph alone."""
    order: list[Node] = []
    seen: set[int] = set()
    for root in roots:
        stack: list[tuple[Node, int]] = [(root, 0)]
        while stack:
            node, step = stack.pop()
            if id(node) in seen:
                continue
            if step < len(node.inputs):
                stack.append((node, step + 1))
                stack.append((node.inputs[step], 0))
                continue
            seen.add(id(node))
            order.append(node)
    return tuple(order)


def users(nodes: Sequence[Node]) -> dict[Node, list[Node]]:
    """For each node the nodes that read it, in order."""
    table: dict[Node, list[Node]] = {node: [] for node in nodes}
    for node in nodes:
        for operand in node.inputs:
            table[operand].append(node)
    return table
