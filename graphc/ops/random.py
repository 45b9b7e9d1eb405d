"""Randomness: every number is a function of a seed, the training step, a stream and a position."""

from __future__ import annotations

import zlib
from functools import lru_cache

import sympy

from graphc.errors import user_error
from graphc.ir.graph import Node, topological
from graphc.ir.index import Index
from graphc.ir.scalar_functions import select, uniform
from graphc.ops.broadcasting import axis_names
from graphc.ops.define import Definition, Operand, axes, current_layer, define, op, position
from graphc.ops.effects import assign
from graphc.ops.elementwise import add, floating, sympy_number
from graphc.ops.leaves import state
from graphc.ops.messages import brief, check_flag, check_values, describe


@op
def dropped(x: Operand, step: Operand, *, rate: float, seed: int, stream: int) -> Definition:
    """out[i] = x[i] / (1 - rate) where the uniform number of element i is at least rate, else 0."""
    i = axes(" ".join(axis_names(len(x.shape))))
    flat = Index()
    for name, extent in zip(i, x.shape, strict=True):
        flat = flat * extent + name
    number = uniform(seed, step[()], stream, position(flat))
    kept = x[i] / (1 - sympy_number(rate))
    return define[i](select(number >= sympy_number(rate), kept, sympy.Integer(0)))


@lru_cache(maxsize=1)
def step_counter() -> Node:
    """The one state "step", an int64 scalar: how many training steps were done."""
    return state("step", (), 0, "int64")


def dropout(
    x: Node, rate: float = 0.5, *, training: bool, seed: int = 0, stream: int | None = None
) -> Node:
    """Zero each element with probability ``rate`` and scale the rest by 1 / (1 - rate).

    The mask depends on seed, step, stream and the element's position alone, so that it is the
    same on every machine, and is drawn again in the backward pass instead of being stored. A
    training step that holds a dropout counts the state "step" up.

    Args:
        x: floating, any shape.
        rate: probability of a zero, 0 <= rate < 1.
        training: False returns x.
        seed: the experiment's seed.
        stream: number that tells this dropout from the others of a model; by default it follows
            from how x was computed.
    """
    check_values("dropout", x)
    floating("dropout", x)
    check_flag("dropout", "training", training)
    if not isinstance(rate, int | float) or not 0 <= rate < 1:
        raise user_error(
            f"dropout: rate is {brief(rate)}", *describe([x], "x"),
            "expected the probability of a zero, 0 <= rate < 1",
        )  # fmt: skip
    for name, number in (("seed", seed), ("stream", stream)):
        if not isinstance(number, int) and not (name == "stream" and number is None):
            raise user_error(f"dropout: {name} is {brief(number)}", "expected an integer")
    if not training or rate == 0:
        return x
    number = default_stream(x) if stream is None else stream
    step = step_counter()
    result: Node = dropped(x, step, rate=rate, seed=seed, stream=number)
    assign(step, add(step, 1), when=result)
    return result


def default_stream(x: Node) -> int:
    """A number that follows from the layer and the names of all that x is computed from."""
    names = [current_layer(), *(f"{node.layer} {node.label}" for node in topological([x]))]
    return zlib.crc32("\n".join(names).encode()) & 0x7FFFFFFF
