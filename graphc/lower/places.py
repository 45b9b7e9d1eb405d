"""Scatters through an argmax of values that their own kernel makes: one of the places of a window
gets its value, the others 0.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from graphc.errors import CompilerBug
from graphc.ir.equation import Equation
from graphc.ir.graph import Node
from graphc.ir.index import Index, axis_index
from graphc.ir.types import Axis
from graphc.lower.names import Namer
from graphc.lower.split import recast
from graphc.passes.scatters import window_scatter
from graphc.passes.windows import window_sizes


@dataclass(frozen=True)
class Place:
    """The element of a scatter at one place of every window.

    Attributes:
        node: the scatter.
        value: the name of the element.
        equation: the scatter's, over the axes that count windows.
        index: of the element, in terms of these axes.
    """

    node: Node
    value: str
    equation: Equation
    index: tuple[Index, ...]


def window_places(scatter: Node, windows: tuple[Axis, ...], namer: Namer) -> tuple[Place, ...]:
    """All places of a window that the axes ``windows`` count, in order."""
    found = window_scatter(scatter)
    sizes = window_sizes(found[0].op_equation()) if found is not None else None
    if sizes is None:
        raise CompilerBug(f"{scatter!r} puts no values at places of windows")
    equation = scatter.op_equation()
    places = []
    for inside in itertools.product(*map(range, sizes)):
        index = tuple(
            axis_index(axis.name) * size + place
            for axis, size, place in zip(windows, sizes, inside, strict=True)
        )
        values = {axis.name: i for axis, i in zip(equation.axes, index, strict=True)}
        moved = recast(equation, windows, (), values)
        places.append(Place(scatter, namer.name(f"{scatter.label}_value"), moved, index))
    return tuple(places)
