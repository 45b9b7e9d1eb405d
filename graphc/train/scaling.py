"""Loss scaling for float16: gradients times a power of two, which adapts to what they can hold.

The gradient that starts the reverse walk is multiplied by ``scale``, so that small gradients of
activations are not flushed to zero (Micikevicius et al. 2018). A step with an infinite or missing
gradient changes nothing and halves the scale; after ``PATIENCE`` good steps in a row it doubles.
All of it is equations over two scalar states, so a run repeats bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from graphc.autodiff.backward import gradients
from graphc.ir.graph import Assignment, Node
from graphc.ops.compare import equal, greater_equal, less_equal, logical_not, where
from graphc.ops.elementwise import abs, add, cast, clip, minimum, multiply, reciprocal
from graphc.ops.leaves import state
from graphc.ops.reductions import sum as total

FIRST_SCALE = 2.0**16
LARGEST_SCALE = 2.0**24
PATIENCE = 2000  # good steps until the scale doubles
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class ScaledGradients:
    """Unscaled gradients, whether all of them are finite, and the states of the scale."""

    values: list[Node]
    finite: Node
    scale: Node
    streak: Node


def scaled_gradients(loss: Node, wrt: Sequence[Node]) -> ScaledGradients:
    """Gradients computed from a scaled loss and divided by the scale, exactly: a power of two."""
    scale = state("loss_scale", (), FIRST_SCALE)
    streak = state("loss_scale_streak", (), 0, "int32")
    back = reciprocal(scale)
    values = [
        multiply(slope, cast(back, slope.dtype))
        for slope in gradients(multiply(loss, cast(scale, loss.dtype)), wrt)
    ]
    return ScaledGradients(values, _all_finite(values), scale, streak)


def guarded(assignments: Sequence[Assignment], scaled: ScaledGradients) -> list[Assignment]:
    """Floating assignments that happen in good steps alone, and those of the scale."""
    kept = [
        Assignment(a.state, where(scaled.finite, a.value, a.state)) if a.state.dtype.is_float else a
        for a in assignments
    ]
    ended = greater_equal(scaled.streak, PATIENCE - 1)
    grown = where(ended, minimum(2.0 * scaled.scale, LARGEST_SCALE), scaled.scale)
    halved = clip(0.5 * scaled.scale, 1.0, LARGEST_SCALE)
    counted = where(ended, 0, scaled.streak + 1)
    return [
        *kept,
        Assignment(scaled.scale, where(scaled.finite, grown, halved)),
        Assignment(scaled.streak, where(scaled.finite, counted, 0)),
    ]


def _all_finite(values: Sequence[Node]) -> Node:
    """Whether no element is infinite or NaN, which is not below any bound."""
    wrong = [total(logical_not(less_equal(abs(value), LARGEST))) for value in values]
    return equal(reduce(add, wrong), 0)
