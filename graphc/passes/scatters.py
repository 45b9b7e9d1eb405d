"""Scatters through an argmax: d[w] goes to the place of the maximum of window w, all else is 0.

Such a map is ``select(argmax[w(o)] = r(o), value, 0)`` over positions o = A(w, r), where A is the
index at which the maximum read. Three things are known of it, each a pass of its own:

1. where the argmax of y points to o, y[o] is max[w(o)], so that nobody reads y for it;
2. what then depends on w alone is a map over windows, computed once a window;
3. windows that do not overlap have one maximum each, so a sum over positions is one over windows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sympy

from graphc.ir.equation import Equation, Guard, Read, position_symbol, read_symbol, tidy
from graphc.ir.graph import Graph, Node, op_node
from graphc.ir.index import Floor, Index, Mod, axis_index, collect
from graphc.ir.scalar_functions import select
from graphc.ir.types import Axis, element_count
from graphc.passes.rewrite import rebuild, with_inputs


@dataclass(frozen=True)
class _Choice:
    """A body that is 0 where ``test`` fails: read ``read`` of ``argmax`` equals a position."""

    test: sympy.Eq
    read: int
    position: Index
    argmax: Node

    def equation(self) -> Equation:
        """That of the argmax: one read, taken as it is."""
        return self.argmax.op_equation()


def read_maxima(graph: Graph) -> Graph:
    """``f(y[o])`` becomes ``f(max[w(o)])`` where all of a body is 0 away from the argmax of y.

    Exact, but for f(y) that is infinite or NaN beside a maximum: times 0 it was NaN, and is 0.
    """
    maxima = {_window(n): n for n in graph.nodes if _reduces(n, ("max", "min"))}

    def rewrite(node: Node, inputs: tuple[Node, ...]) -> Node:
        equation = node.op_equation()
        choice = _choice(equation, inputs)
        if choice is not None:
            found = maxima.get(_window(choice.argmax))
            if found is not None and found.dtype == choice.argmax.inputs[0].dtype:
                equation, inputs = _with_maximum(equation, inputs, choice, found)
        return with_inputs(node, equation, inputs)

    return rebuild(graph, rewrite)


def factor_scatters(graph: Graph) -> Graph:
    """What a scatter computes of values of its window becomes a map over windows. Exact."""

    def rewrite(node: Node, inputs: tuple[Node, ...]) -> Node:
        equation = node.op_equation()
        choice = _choice(equation, inputs)
        value = _window_value(equation, choice) if choice is not None else None
        if choice is None or value is None or value.body == read_symbol(0):
            return with_inputs(node, equation, inputs)
        factored = op_node(
            value, inputs, node.dtype, label=f"{node.label} at maxima", layer=node.layer,
            location=node.location,
        )  # fmt: skip
        return with_inputs(node, _scatter(equation, choice), (choice.argmax, factored))

    return rebuild(graph, rewrite)


def sum_windows(graph: Graph) -> Graph:
    """The sum of a scatter over all positions becomes the sum over its windows.

    Reassociates: zeros between the terms are left out, so that partial sums end elsewhere.
    """

    def rewrite(node: Node, inputs: tuple[Node, ...]) -> Node:
        equation = node.op_equation()
        scatter = _summed(equation, inputs)
        choice = _choice(scatter.op_equation(), scatter.inputs) if scatter is not None else None
        if scatter is None or choice is None:
            return with_inputs(node, equation, inputs)
        whole = _sum_over_windows(equation, scatter, choice)
        if whole is None:
            return with_inputs(node, equation, inputs)
        return with_inputs(node, *whole)

    return rebuild(graph, rewrite)


def window_scatter(node: Node) -> tuple[Node, Node] | None:
    """Argmax and value of a scatter that does nothing else, over windows without overlap."""
    if node.equation is None:
        return None
    choice = _choice(node.equation, node.inputs)
    value = _window_value(node.equation, choice) if choice is not None else None
    if choice is None or value is None or value.body != read_symbol(0):
        return None
    [read] = value.reads
    plain = read.fill is None and value.reads_identically(0)
    return (choice.argmax, node.inputs[read.operand]) if plain else None


def _reduces(node: Node, kinds: tuple[str, ...]) -> bool:
    """Whether a node is the extreme, or its place, of values that it reads as they are."""
    equation = node.equation
    return (
        equation is not None
        and equation.reduction in kinds
        and equation.body == read_symbol(0)
        and not equation.guards
    )


def _window(node: Node) -> tuple[object, ...]:
    """What a maximum and its argmax share; a minimum's differs."""
    equation = node.op_equation()
    least = equation.reduction.endswith("min")
    return node.inputs, equation.reads, equation.axes, equation.reduce_axes, least


def _choice(equation: Equation, inputs: tuple[Node, ...]) -> _Choice | None:
    """The argmax without which the body is 0, if there is one."""
    numbers = {read_symbol(n): n for n in range(len(equation.reads))}
    places = {position_symbol(n): index for n, index in enumerate(equation.positions)}
    for test in sorted(equation.body.atoms(sympy.Eq), key=str):
        reads = [numbers[side] for side in test.args if side in numbers]
        positions = [places[side] for side in test.args if side in places]
        if len(reads) != 1 or len(positions) != 1:
            continue
        read = equation.reads[reads[0]]
        argmax = inputs[read.operand]
        plain = _reduces(argmax, ("argmax", "argmin")) and read.fill is None
        if plain and _vanishes(equation.body, test):
            return _Choice(test, reads[0], positions[0], argmax)
    return None


def _vanishes(value: sympy.Basic, test: sympy.Eq) -> bool:
    """Whether a body is 0 wherever the test fails."""
    if isinstance(value, sympy.Piecewise):
        return all(
            pair.cond == test
            or test in sympy.And.make_args(pair.cond)
            or _vanishes(pair.expr, test)
            for pair in value.args
        )
    if isinstance(value, sympy.Mul):
        return any(_vanishes(factor, test) for factor in value.args)
    if isinstance(value, sympy.Add):
        return all(_vanishes(term, test) for term in value.args)
    return bool(value == 0)


def _with_maximum(
    equation: Equation, inputs: tuple[Node, ...], choice: _Choice, maximum: Node
) -> tuple[Equation, tuple[Node, ...]]:
    """The equation with reads of y at the argmax's own place taken from the maximum."""
    here = equation.reads[choice.read].index
    place = _place(choice, here, equation.extents)
    y = choice.argmax.inputs[0]
    reads = tuple(
        Read(len(inputs), here) if inputs[r.operand] is y and r.index == place else r
        for r in equation.reads
    )
    if reads == equation.reads:
        return equation, inputs
    moved = Equation(
        equation.axes, equation.reduction, equation.reduce_axes,
        (*equation.operands, maximum.shape), reads, equation.positions,
        _guards(equation, choice), equation.body,
    )  # fmt: skip
    return tidy(moved), (*inputs, maximum)


def _guards(equation: Equation, choice: _Choice) -> tuple[Guard, ...]:
    """Those of the equation, and that there is a window: where there is none, the body is 0."""
    here = equation.reads[choice.read].index
    found = [*equation.guards]
    for index, extent in zip(here, choice.argmax.shape, strict=True):
        low, high = index.bounds(equation.extents)
        if low < 0 or high >= extent:
            found.append(Guard(index, 0, extent))
    return tuple(dict.fromkeys(found))


def _place(
    choice: _Choice, window: tuple[Index, ...], extents: Mapping[str, int]
) -> tuple[Index, ...]:
    """The element of y that a window (an index of the argmax) has at the tested position."""
    made = choice.equation()
    values = {a.name: index for a, index in zip(made.axes, window, strict=True)}
    rest = choice.position
    for axis in reversed(made.reduce_axes):
        values[axis.name] = (rest % axis.extent).simplify(extents)
        rest = (rest // axis.extent).simplify(extents)
    return tuple(recombined(index.substitute(values)) for index in made.reads[0].index)


def recombined(index: Index) -> Index:
    """The index with ``d*floor(e/d) + e mod d`` written as e, also where e is a remainder."""
    for atom, coefficient in index.terms:
        if not isinstance(atom, Mod):
            continue
        whole = Floor(atom.inner, atom.divisor)
        if index.coefficient(whole) == coefficient * atom.divisor:
            others = [t for t in index.terms if t[0] not in (atom, whole)]
            return recombined(collect(others, index.const) + atom.inner * coefficient)
    return index


def _window_value(equation: Equation, choice: _Choice) -> Equation | None:
    """The value at the maximum as a map over windows; None if it depends on more."""
    made = choice.equation()
    if not equation.is_map or equation.shape != made.operands[made.reads[0].operand]:
        return None
    extents = made.extents
    values = {a.name: i for a, i in zip(equation.axes, made.reads[0].index, strict=True)}

    def moved(index: Index) -> Index:
        return index.substitute(values).simplify(extents)

    windows = tuple(axis_index(a.name) for a in made.axes)
    same = tuple(map(moved, equation.reads[choice.read].index)) == tuple(
        index.simplify(extents) for index in windows
    )
    if not same or moved(choice.position) != _flat(made.reduce_axes).simplify(extents):
        return None
    if not all(_holds(guard, moved(guard.index), made) for guard in equation.guards):
        return None
    positions = tuple(map(moved, equation.positions))
    known = {choice.test: sympy.true} | _certain(equation.body, positions, extents)
    value = tidy(Equation(
        made.axes, "none", (), equation.operands,
        tuple(Read(r.operand, tuple(map(moved, r.index)), r.fill) for r in equation.reads),
        positions, (), equation.body.xreplace(known),
    ))  # fmt: skip
    used = {n for r in value.reads for i in r.index for n in i.names}
    used |= {n for i in value.positions for n in i.names}
    return value if used <= {a.name for a in made.axes} else None


def _certain(
    body: sympy.Expr, positions: tuple[Index, ...], extents: Mapping[str, int]
) -> dict[sympy.Basic, sympy.Basic]:
    """The bounds of positions that always hold, as truths."""
    bounds = {position_symbol(n): index.bounds(extents) for n, index in enumerate(positions)}
    kinds = (sympy.Ge, sympy.Gt, sympy.Le, sympy.Lt)
    return {
        test: sympy.true
        for test in body.atoms(*kinds)
        if test.lhs in bounds and all(test.func(end, test.rhs) == True for end in bounds[test.lhs])  # noqa: E712
    }


def _flat(axes: tuple[Axis, ...]) -> Index:
    """Row-major number of a place in a window."""
    flat = Index()
    for axis in axes:
        flat = flat * axis.extent + axis_index(axis.name)
    return flat


def _holds(guard: Guard, index: Index, made: Equation) -> bool:
    low, high = index.bounds(made.extents)
    above = guard.lower is None or low >= guard.lower
    below = guard.upper is None or high < guard.upper
    return above and below and guard.divisor == 1


def _scatter(equation: Equation, choice: _Choice) -> Equation:
    """select(argmax[w] = r, value[w], 0) of the operands (argmax, value)."""
    here = equation.reads[choice.read].index
    body = select(sympy.Eq(read_symbol(0), position_symbol(0)), read_symbol(1), sympy.Integer(0))
    shape = choice.argmax.shape
    return Equation(
        equation.axes, "none", (), (shape, shape), (Read(0, here), Read(1, here)),
        (choice.position,), _guards(equation, choice), body,
    )  # fmt: skip


def _summed(equation: Equation, inputs: tuple[Node, ...]) -> Node | None:
    """The map that an equation adds up as it is, over whole axes."""
    if equation.reduction != "sum" or equation.body != read_symbol(0) or equation.guards:
        return None
    (read,) = equation.reads
    node = inputs[read.operand]
    shape = equation.operands[read.operand]
    long = [i.single_name for i, n in zip(read.index, shape, strict=True) if i != Index() or n > 1]
    if read.fill is not None or None in long or len(set(long)) < len(long):
        return None
    return node if node.equation is not None and node.equation.is_map else None


def _sum_over_windows(
    equation: Equation, scatter: Node, choice: _Choice
) -> tuple[Equation, tuple[Node, ...]] | None:
    """The sum with its axes running through windows, of the value at the maximum."""
    made, scattered = choice.equation(), scatter.op_equation()
    value = _window_value(scattered, choice)
    if value is None or value.body != read_symbol(0) or value.positions:
        return None
    if not _inside(made) or not _misses_nothing(scattered, made):
        return None
    summed = {a.name for a in equation.reduce_axes}
    extents = equation.extents
    renamed: dict[str, Index] = {}  # the argmax's axes in terms of the sum's
    windows_of: dict[str, int] = {}  # new extents of the sum's axes
    for index, own in zip(made.reads[0].index, equation.reads[0].index, strict=True):
        name = own.single_name
        windows = [a for a in made.axes if index.coefficient(a.name)]
        if len(windows) != 1 or windows[0].name in renamed:
            return None
        renamed[windows[0].name] = own
        if name is not None and windows[0].extent != extents[name]:
            if name not in summed:
                return None
            windows_of[name] = windows[0].extent
    if len(renamed) != len(made.axes):
        return None
    read = value.reads[0]
    moved = Equation(
        equation.axes, "sum",
        tuple(Axis(a.name, windows_of.get(a.name, a.extent)) for a in equation.reduce_axes),
        value.operands, (Read(read.operand, tuple(i.substitute(renamed) for i in read.index)),),
        (), (), read_symbol(0),
    )  # fmt: skip
    return moved, scatter.inputs


def _inside(made: Equation) -> bool:
    """Whether every window lies whole within the array whose maxima are taken."""
    shape = made.operands[made.reads[0].operand]
    bounds = (index.bounds(made.extents) for index in made.reads[0].index)
    return all(
        low >= 0 and high < extent for (low, high), extent in zip(bounds, shape, strict=True)
    )


def _misses_nothing(scattered: Equation, made: Equation) -> bool:
    """Whether positions that are in no window are guarded, or there are none."""
    covered = element_count(made.shape) * element_count(tuple(a.extent for a in made.reduce_axes))
    if covered == element_count(scattered.shape):
        return True
    for axis, index in zip(scattered.axes, made.reads[0].index, strict=True):
        low, high = index.bounds(made.extents)
        if low != 0 or (high + 1 < axis.extent and not _fails_from(scattered, axis, high + 1)):
            return False
    return True


def _fails_from(scattered: Equation, axis: Axis, first: int) -> bool:
    """Whether some guard fails for all of an axis from a place on."""
    extents = {**scattered.extents, axis.name: axis.extent - first}
    for guard in scattered.guards:
        moved = guard.index.substitute({axis.name: axis_index(axis.name) + first})
        low, high = moved.bounds(extents)
        if guard.upper is not None and low >= guard.upper:
            return True
        if guard.lower is not None and high < guard.lower:
            return True
    return False
